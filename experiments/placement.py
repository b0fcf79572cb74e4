"""Where a run's arrays lie on a mesh of devices: batches and environments over `data`, parameters over `model`.

Most of a program is partitioned by the compiler: it is told where the state and the batch of every update lie, and adds
the communication. What would cost it the whole data set, drawing rows of it, is written out.
"""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding
from jaxtyping import PyTree

from experiments import devices, processes
from experiments.feed import Feed, StreamFeed
from experiments.tasks import Rows, Task
from mathai.learners.base import DATA_AXIS

DATA, MODEL = DATA_AXIS, "model"
ENVIRONMENTS = ("observation", "env_state", "episodes", "reward_scale")  # fields of a state: one row per environment
OPTIMIZER_VECTORS = ("mu", "nu")  # of an Adam that joins all parameters into one vector
SMALLEST_SHARDED = 1024  # numbers of an array that `shard_parameters` cuts: smaller ones cost more to gather


class OneDevice:
    """No mesh: one run lies on the first device, several lie as `devices` spreads them."""

    mesh: Mesh | None = None

    @property
    def width(self) -> int | None:
        """Devices over which rows are spread; None leaves that open."""
        return None

    def describe(self) -> str:
        """The mesh, for the terminal."""
        return ""

    def recorded_in(self, origin: dict[str, Any]) -> dict[str, Any]:
        """What a result depends on, with the mesh where there is one."""
        return origin

    def context(self) -> Any:
        """What a program of one run is traced in."""
        return contextlib.nullcontext()

    def batch(self, batch: PyTree) -> PyTree:
        """A batch, where it lies."""
        return batch

    def state(self, state: PyTree) -> PyTree:
        """The state of one run, where it lies."""
        return state

    def gathered(self, state: PyTree) -> PyTree:
        """The state of one run, as an update reads it."""
        return state

    def states(self, state: PyTree) -> PyTree:
        """The states of several runs, where they lie."""
        return state

    def everywhere(self, metrics: PyTree) -> PyTree:
        """Values that every process reads."""
        return metrics

    def over_runs(self, function: Callable[..., PyTree], count: int) -> Callable[..., PyTree]:
        """Map a function over several runs."""
        return devices.over_seeds(function, count)

    def place(self, task: Task, count: int | None) -> Task:
        """The task with its data on the devices, for so many runs side by side; None is one alone."""
        del count
        return task._replace(data=jax.tree.map(jnp.asarray, task.data))

    def put(self, tree: PyTree) -> PyTree:
        """What is the same for all."""
        return tree

    def feed(self, task: Task, seed: int) -> Feed:
        """What the updates of a task are fed."""
        if task.stream is None:
            return Feed(task.data)
        shapes = functools.partial(self.shapes, task)
        return StreamFeed(task.stream, seed, self._part(), self._put_batches, shapes)

    def shapes(self, task: Task, length: int) -> PyTree:
        """What a chunk of so many updates is compiled for: data, or a batch for each of them."""
        return task.data if task.stream is None else task.stream.shapes(length, self._batches)

    @property
    def _batches(self) -> NamedSharding | None:
        """Where batches [updates, batch, …] lie."""
        return None

    def _part(self) -> tuple[int, int]:
        """Which part of a batch this process reads: (index, count)."""
        return 0, 1

    def _put_batches(self, x: np.ndarray) -> jax.Array:
        """The part that this process has read, on the devices."""
        return jax.device_put(x)

    def targets(self, shapes: PyTree, count: int | None) -> PyTree:
        """Shapes of a state, of so many runs, with the places where it lies; None is one alone."""
        sharding: Any = None if count is None else devices.seed_sharding(count)
        sharding = sharding or SingleDeviceSharding(jax.local_devices()[0])
        return jax.tree.map(lambda _: sharding, shapes)


@dataclasses.dataclass(frozen=True)
class Placement(OneDevice):
    """A mesh, and what is spread over it.

    Attributes:
      mesh: devices with the axes `data` and `model`.
      shard_parameters: whether parameters and optimizer state are spread over `data` too.
    """

    mesh: Mesh
    shard_parameters: bool = False

    @property
    def width(self) -> int | None:
        return self.mesh.shape[DATA]

    @property
    def replicated(self) -> NamedSharding:
        """The same on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def by_rows(self) -> NamedSharding:
        """The first axis over `data`."""
        return NamedSharding(self.mesh, PartitionSpec(DATA))

    @property
    def _batches(self) -> NamedSharding:
        """The second axis over `data`."""
        return NamedSharding(self.mesh, PartitionSpec(None, DATA))

    def describe(self) -> str:
        sharded = ", parameters over data too" if self.shard_parameters else ""
        return f", mesh {self._written}{sharded}"

    @property
    def _written(self) -> str:
        return ",".join(f"{name}:{size}" for name, size in self.mesh.shape.items() if size > 1 or name == DATA)

    def recorded_in(self, origin: dict[str, Any]) -> dict[str, Any]:
        """What a result depends on, with the mesh."""
        place = {"mesh": self._written, "shard_parameters": self.shard_parameters}
        return {**origin, "device": {**origin["device"], **place}}

    def context(self) -> Any:
        return jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh)

    def batch(self, batch: PyTree) -> PyTree:
        return jax.lax.with_sharding_constraint(batch, self.by_rows)

    def state(self, state: PyTree) -> PyTree:
        return jax.lax.with_sharding_constraint(state, self.of_state(state))

    def gathered(self, state: PyTree) -> PyTree:
        """With its parameters whole on each device of `data`, leaf by leaf, but not the moments of an optimizer.

        Left to itself the compiler keeps the parts of the parameters where they are and sums activations instead, which
        are many times larger.
        """
        return jax.lax.with_sharding_constraint(state, self.of_state(state, gathered=True))

    def states(self, state: PyTree) -> PyTree:
        return jax.lax.with_sharding_constraint(state, self.by_rows)

    def everywhere(self, metrics: PyTree) -> PyTree:
        return jax.lax.with_sharding_constraint(metrics, self.replicated)

    def over_runs(self, function: Callable[..., PyTree], count: int) -> Callable[..., PyTree]:
        del count
        return devices.over_axis(function, self.mesh, DATA)

    def put(self, tree: PyTree) -> PyTree:
        return jax.tree.map(lambda x: _put(x, self.replicated), tree)

    def _put_batches(self, x: np.ndarray) -> jax.Array:
        is_whole = self._part()[1] == 1
        return _put(x, self._batches) if is_whole else jax.make_array_from_process_local_data(self._batches, x)

    def _part(self) -> tuple[int, int]:
        """Which part of a batch lies on this process's devices; the whole where it is no contiguous one."""
        count, index = processes.number(), jax.process_index()
        grid = self.mesh.devices.reshape(self.mesh.shape[DATA], -1)
        mine = [row for row, found in enumerate(grid) if any(device.process_index == index for device in found)]
        rows, rest = divmod(len(grid), count)
        return (index, count) if not rest and mine == [*range(index * rows, (index + 1) * rows)] else (0, 1)

    def targets(self, shapes: PyTree, count: int | None) -> PyTree:
        return self.of_state(shapes) if count is None else jax.tree.map(lambda _: self.by_rows, shapes)

    def of_state(self, shapes: PyTree, *, gathered: bool = False) -> PyTree:
        """The sharding of every leaf of one run's state, or of what an update reads."""

        def sharding(path, leaf):
            names = names_of(path)
            is_cut = self.shard_parameters and not (gathered and "optimizer" not in "".join(names[:1]))
            return NamedSharding(self.mesh, self._spec(names, leaf, over_data=is_cut))

        return jax.tree_util.tree_map_with_path(sharding, shapes)

    def _spec(self, names: list[str], leaf: Any, *, over_data: bool) -> PartitionSpec:
        sizes, spec = self.mesh.shape, [None] * leaf.ndim
        if names[:1] and names[0] in ENVIRONMENTS:
            return PartitionSpec(DATA) if leaf.ndim and leaf.shape[0] % sizes[DATA] == 0 else PartitionSpec()
        axis = model_axis(names, leaf.ndim)
        if axis is not None and leaf.shape[axis] % sizes[MODEL] == 0:
            spec[axis] = MODEL
        if over_data and jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.size >= SMALLEST_SHARDED:
            free = [i for i, name in enumerate(spec) if name is None and leaf.shape[i] % sizes[DATA] == 0]
            if free:
                spec[max(free, key=lambda i: leaf.shape[i])] = DATA
        return PartitionSpec(*spec)

    def place(self, task: Task, count: int | None) -> Task:
        """With data spread by rows where one run's batches are rows, else the same on each device."""
        task = task._replace(evaluation_data=self.put(task.evaluation_data))
        if count is not None:
            return task._replace(data=self.put(task.data))
        if task.over_devices is not None:
            task = task._replace(learner=task.over_devices(self.mesh, DATA))
        if task.data is None or not isinstance(task.draw, Rows):
            return task._replace(data=self.put(task.data))
        num_rows, num_devices = len(jax.tree.leaves(task.data)[0]), self.mesh.shape[DATA]

        def spread(x):
            x = np.asarray(x)
            rest = np.zeros((-num_rows % num_devices, *x.shape[1:]), x.dtype)
            return _put(np.concatenate([x, rest]), self.by_rows)

        def draw(key, data, step):
            return self.take(data, task.draw.choose(key, num_rows, step))

        return task._replace(data=jax.tree.map(spread, task.data), draw=draw)

    def take(self, data: PyTree, indices: jax.Array) -> PyTree:
        """Rows of data that are spread by rows, as a batch that is spread likewise.

        Each device gives what it has of the batch and nothing of the rest; their sum is the batch, of which each keeps
        its part. So B rows travel, whatever the size of the data, and come out bit for bit as on one device.
        """

        def on_each(data, indices):
            def rows(x):
                place = indices - jax.lax.axis_index(DATA) * len(x)
                found = jnp.take(x, place, axis=0, mode="clip")
                is_mine = ((place >= 0) & (place < len(x))).reshape(place.shape + (1,) * (found.ndim - place.ndim))
                bits = jnp.where(is_mine, _bits(found), 0)  # whose sum with nothing is exact, of −0 and NaN too
                total = jax.lax.psum_scatter(bits, DATA, scatter_dimension=0, tiled=True)
                return jax.lax.bitcast_convert_type(total, x.dtype) if total.dtype != x.dtype else total

            return jax.tree.map(rows, data)

        specs = PartitionSpec(DATA), PartitionSpec()
        return jax.shard_map(on_each, mesh=self.mesh, in_specs=specs, out_specs=specs[0], check_vma=False)(
            data, indices
        )


def names_of(path: Any) -> list[str]:
    """The names along a path of a tree; places in tuples have none.

    >>> names_of(jax.tree_util.tree_leaves_with_path({"a": [1]})[0][0])
    ['a']
    """
    return [str(getattr(key, "name", getattr(key, "key", ""))) for key in path if not hasattr(key, "idx")]


def model_axis(names: list[str], ndim: int) -> int | None:
    """Which axis of a parameter, or of its moments in an optimizer, lies over `model`; None where none does.

    Attention is cut by heads. Linear layers are cut in pairs, the first by its outputs and the second by its inputs, so
    that between them nothing travels; the embedding by tokens.

    >>> model_axis(["params", "Linear_0", "weight"], 2), model_axis(["params", "Linear_1", "weight"], 2)
    (0, 1)
    """
    last = names[-1] if names else ""
    if last in ("query", "key", "value", "output") and ndim == 3:
        return 0 if last == "output" else 1
    if last == "embedding":
        return 0
    if last in OPTIMIZER_VECTORS and ndim == 1:
        return 0
    if ndim == 0:
        return None
    numbered = re.fullmatch(r"(?:Linear|Dense)_(\d+)/(weight|kernel|bias)", "/".join(names[-2:]))
    torso = re.fullmatch(r"(kernel|bias)_(\d+)", last)  # of several torsos side by side
    if numbered:
        number, kind = int(numbered[1]), numbered[2]
    elif torso:
        number, kind = int(torso[2]), torso[1]
    else:
        return None
    is_first = number % 2 == 0
    if kind == "bias":
        return ndim - 1 if is_first else None
    outputs, inputs = (ndim - 2, ndim - 1) if kind == "weight" else (ndim - 1, ndim - 2)
    return outputs if is_first else inputs


def _bits(x: jax.Array) -> jax.Array:
    """The same bits as unsigned integers, of floats; what is none already stays."""
    is_float = jnp.issubdtype(x.dtype, jnp.floating)
    return jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}") if is_float else x


def _put(x: Any, sharding: NamedSharding) -> jax.Array:
    """One array that every process has, or a key."""
    if jnp.issubdtype(getattr(x, "dtype", None), jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_put(jax.random.key_data(x), sharding), impl=jax.random.key_impl(x))
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
