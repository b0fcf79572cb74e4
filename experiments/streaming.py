"""An endless stream of shuffled batches from shards on disk, by google/grain, that resumes byte for byte.

    source = open_source("shards", "train-*.npz")
    with contextlib.closing(Stream(source, seed=0, batch_size=128)) as stream:
        inputs, labels = stream.next(50)  # [50, 128, …] and [50, 128]
        state = stream.state()            # goes into a checkpoint; stream.restore(state) continues behind it

The stream is one sequence: epoch after epoch of all examples, each in an order of its own. Batch t is its items t · B
to (t + 1) · B − 1, so that the batch in which an epoch ends is filled up from the next one, and nothing is left out.
Of every batch, process p of P takes the p-th of P equal parts: joined in order of p they are what one process gets.
"""

import functools
import operator
import sys
from typing import Any

import numpy as np

from experiments.errors import UserError
from experiments.streaming_sources import Source, open_source, write_array_record

__all__ = ["Source", "Stream", "open_source", "write_array_record"]

NUM_ROUNDS = 4
NUM_THREADS = 2
IDENTITY = ("num_examples", "fingerprint", "seed", "batch_size")


class Stream:
    """One process's part of a stream of batches; batches are read ahead by threads.

    Args:
      source: the examples.
      seed: of the epochs' orders, from 0.
      batch_size: over all processes; from 1 to the number of examples.
      process_index: which part of every batch to take.
      process_count: in how many parts; divides batch_size.
      prefetch: how many batches to read ahead; 0 reads them when they are asked for.

    Raises:
      UserError: one of these is out of its range, or grain is not installed.
    """

    def __init__(
        self,
        source: Source,
        *,
        seed: int,
        batch_size: int,
        process_index: int = 0,
        process_count: int = 1,
        prefetch: int = 16,
    ):
        _check(source, seed, batch_size, process_index, process_count, prefetch)
        self._grain = _import_grain()
        part = batch_size // process_count
        self._identity = dict(zip(IDENTITY, (len(source), source.fingerprint, int(seed), int(batch_size)), strict=True))
        self._step = 0
        batches = _Batches(source, seed, batch_size, part, process_index * part)
        options = self._grain.ReadOptions(num_threads=min(NUM_THREADS, prefetch), prefetch_buffer_size=prefetch)
        self._iterator = iter(self._grain.MapDataset.source(batches).to_iter_dataset(options))

    def next(self, num_batches: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the next batches: inputs [num_batches, batch_size / process_count, …] and labels, int32.

        Raises:
          UserError: an example cannot be read; the stream stays where it was.
        """
        if num_batches < 1:
            raise UserError(f"num_batches is {num_batches}; it must be at least 1.")
        try:
            inputs, labels = zip(*(next(self._iterator) for _ in range(num_batches)), strict=True)
        except BaseException:
            self._seek(self._step)
            raise
        self._step += num_batches
        return np.stack(inputs), np.stack(labels)

    def state(self) -> dict[str, Any]:
        """Return where the stream stands, as JSON holds it: behind what `next` returned, whatever was read ahead.

        It is the same in all processes, and fits any number of them.
        """
        return {"step": self._step, **self._identity}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where another stream of the same batches stood.

        Raises:
          UserError: it is no such state, or one of other data, another seed or another batch size.
        """
        step = state.get("step") if isinstance(state, dict) else None
        if not isinstance(step, int) or step < 0 or set(state) != {"step", *IDENTITY}:
            raise UserError(f"{state!r} is no state of a stream; give what Stream.state() returned.")
        for name, here in self._identity.items():
            if state[name] != here:
                raise UserError(
                    f"the state is of a stream with {name} {state[name]!r}, this one has {here!r}; "
                    "resume with the same shards, seed and batch size, or start anew."
                )
        self._seek(step)

    def close(self) -> None:
        """Stop reading ahead."""
        self._iterator.close()

    def _seek(self, step: int) -> None:
        self._grain.experimental.set_next_index(self._iterator, step)
        self._step = step


class _Batches:
    """Random access to one process's part of every batch."""

    def __init__(self, source: Source, seed: int, batch_size: int, part: int, offset: int):
        self._source, self._seed, self._batch_size, self._part, self._offset = source, seed, batch_size, part, offset

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        start = operator.index(step) * self._batch_size + self._offset
        return self._source.read(_examples(self._seed, len(self._source), start, start + self._part))


def _examples(seed: int, num_examples: int, start: int, stop: int) -> np.ndarray:
    """Which examples are the items start … stop − 1 of the stream."""
    parts = []
    for epoch in range(start // num_examples, (stop - 1) // num_examples + 1):
        first = epoch * num_examples
        positions = np.arange(max(start - first, 0), min(stop - first, num_examples), dtype=np.uint64)
        parts.append(_permuted(_round_keys(seed, epoch), positions, num_examples))
    return np.concatenate(parts).astype(np.int64)


@functools.lru_cache(maxsize=64)
def _round_keys(seed: int, epoch: int) -> np.ndarray:
    return np.random.SeedSequence([seed, epoch]).generate_state(2 * NUM_ROUNDS, np.uint64)


def _permuted(keys: np.ndarray, positions: np.ndarray, length: int) -> np.ndarray:
    """Places of a pseudorandom permutation of 0 … length − 1, as `mathai.learners.batches.permuted`, in host memory.

    Whole batches at once: grain's own shuffle, an index at a time in Python, takes ten times as long as the reading,
    and neighbours in its orders correlate by 0.1.
    """
    columns = np.uint64(max(round(length**0.5), 1))
    rows = np.uint64(-(-length // int(columns)))

    def shuffle(index: np.ndarray) -> np.ndarray:
        left, right = np.divmod(index, columns)
        for number in range(NUM_ROUNDS):
            left = (left + _mix(right ^ keys[2 * number]) % rows) % rows
            right = (right + _mix(left ^ keys[2 * number + 1]) % columns) % columns
        return left * columns + right

    index = shuffle(positions)
    while (outside := index >= length).any():
        index[outside] = shuffle(index[outside])
    return index


def _mix(x: np.ndarray) -> np.ndarray:
    """Spread every input bit over all output bits (the finalizer of SplitMix64, public domain)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _check(source: Source, seed: int, batch_size: int, process_index: int, process_count: int, prefetch: int) -> None:
    if seed < 0:
        raise UserError(f"the seed of a stream is {seed}; it must be at least 0.")
    if not 1 <= batch_size <= len(source):
        raise UserError(f"batch_size is {batch_size}; it must be from 1 to {len(source)}, the number of examples.")
    if process_count < 1 or not 0 <= process_index < process_count:
        raise UserError(f"process_index is {process_index} of process_count {process_count}; it must be below it.")
    if batch_size % process_count:
        raise UserError(f"batch_size is {batch_size}; it must be a multiple of the {process_count} processes.")
    if prefetch < 0:
        raise UserError(f"prefetch is {prefetch}; it must be at least 0.")


def _import_grain() -> Any:
    try:
        import grain
    except ImportError as error:
        raise UserError("streams need the extra grain: pip install 'mathai[grain]'.") from error
    return grain
