"""What the updates of a chunk are fed: data that lie on the devices, or batches that a stream reads from disk."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from experiments.errors import UserError


@dataclasses.dataclass(frozen=True)
class Streamed:
    """Batches that come from disk.

    Attributes:
      source: the examples, of `experiments.streaming`.
      batch_size: examples of a batch, over all processes.
      batch_of: (inputs [k, batch, …], labels [k, batch]) → what the learner takes, likewise.
    """

    source: Any
    batch_size: int
    batch_of: Callable[[Any, Any], PyTree]

    def shapes(self, length: int, place: Any = None) -> PyTree:
        """Of so many batches, where they lie."""
        shape = (length, self.batch_size)
        inputs = jax.ShapeDtypeStruct((*shape, *self.source.example_shape), self.source.example_dtype, sharding=place)
        return self.batch_of(inputs, jax.ShapeDtypeStruct(shape, jnp.int32, sharding=place))


class Feed:
    """Gives a chunk its data: the same at every call, since they lie on the devices."""

    def __init__(self, data: PyTree):
        self._data = data

    def shapes(self, length: int) -> PyTree:
        """What a chunk of so many updates is compiled for."""
        del length
        return self._data

    def next(self, length: int) -> PyTree:
        """What the next so many updates take."""
        del length
        return self._data

    def state(self) -> dict[str, Any] | None:
        """Where it stands, as JSON."""
        return None

    def seek(self, step: int, state: dict[str, Any] | None) -> None:
        """Go where the update after `step` finds it; `state` is what a checkpoint has kept."""

    def close(self) -> None:
        """Read no further."""


class StreamFeed(Feed):
    """Gives a chunk its batches [updates, batch, …], read ahead; each process reads its own part of every batch.

    Args:
      streamed: what is read.
      seed: of the order.
      part: (index, count) of this process's part of a batch.
      put: one process's part → the array on the devices.
      shapes: number of updates → what `put` makes of their batches.
    """

    def __init__(
        self,
        streamed: Streamed,
        seed: int,
        part: tuple[int, int],
        put: Callable[[np.ndarray], jax.Array],
        shapes: Callable[[int], PyTree],
    ):
        from experiments.streaming import Stream  # here, because it needs an extra

        index, count = part
        self._streamed, self._put, self.shapes = streamed, put, shapes
        self._stream = Stream(
            streamed.source, seed=seed, batch_size=streamed.batch_size, process_index=index, process_count=count
        )

    def next(self, length: int) -> PyTree:
        return jax.tree.map(self._put, self._streamed.batch_of(*self._stream.next(length)))

    def state(self) -> dict[str, Any]:
        return self._stream.state()

    def seek(self, step: int, state: dict[str, Any] | None) -> None:
        if state is not None and state.get("step") != step:
            raise UserError(f"the checkpoint of update {step} holds the stream at {state.get('step')!r}.")
        self._stream.restore(state or {**self._stream.state(), "step": step})

    def close(self) -> None:
        self._stream.close()
