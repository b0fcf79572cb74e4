"""Contestants take turns at the same work, are checked, and are timed."""

import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.benchmarking import memory

SHORTEST = 0.1  # seconds that one measurement lasts at least
LONG = 20.0  # seconds of a first call that need no second one to know that one call is enough for a measurement
FEWEST_TURNS = 3
MOST_SECONDS = 120.0  # of a case's turns; begun ones end, and the fewest are always made


class Contestant(NamedTuple):
    """One way to do a case's work.

    Attributes:
      name: whose it is.
      program: key, or the case's arguments → result; jitted here.
      score: result → the number that shows that the work was done.
      compiles: False for a program that is called as it is.
    """

    name: str
    program: Callable[..., Any]
    score: Callable[[Any], float]
    compiles: bool = True


class Case(NamedTuple):
    """Work that several contestants do alike.

    Attributes:
      name: of the work.
      contestants: the first is ours; ratios are to it.
      work: how much of `unit` one run does.
      unit: what is counted.
      least_score: the score below which a result counts as wrong.
      arguments: what every call gets; None gives each a key of its own.
      flops: floating-point operations of the work by its own formula; None where nobody can say.
      bytes: that it must read and write at the least; None likewise.
      dtype: of its numbers.
      family: what cases that differ only in size have in common.
      variable: what that size counts.
      size: the size.
      num_devices: accelerators that ours spreads the work over.
    """

    name: str
    contestants: list[Contestant]
    work: float
    unit: str
    least_score: float
    arguments: tuple[Any, ...] | None = None
    flops: float | None = None
    bytes: float | None = None
    dtype: str = "float32"
    family: str = ""
    variable: str = ""
    size: int = 0
    num_devices: int = 1


class _Entry:
    """A contestant on its way through a case; what goes wrong ends its way and is kept."""

    def __init__(self, case: Case, contestant: Contestant):
        self.case, self.contestant = case, contestant
        self.compile_seconds = self.first_seconds = None
        self.temporary_bytes = self.resident_bytes = None
        self.seconds: list[float] = []
        self.scores: list[float] = []
        self.error: str | None = None
        self.calls = 1
        self.guard(self._prepare)

    def guard(self, step: Callable[[], None]) -> None:
        """Make a step of the way, and end the way where it fails."""
        try:
            step()
        except Exception as error:
            self.error = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"

    def _arguments(self, repeat: int) -> tuple[Any, ...]:
        return (jax.random.PRNGKey(repeat),) if self.case.arguments is None else self.case.arguments

    def _prepare(self) -> None:
        """Compile, call for the first time, and look how often a call fits a measurement."""
        self.program, began = self.contestant.program, time.perf_counter()
        if self.contestant.compiles:
            self.program = jax.jit(self.program).lower(*self._arguments(0)).compile()
            self.compile_seconds = time.perf_counter() - began
            analysis = self.program.memory_analysis()
            self.temporary_bytes = None if analysis is None else analysis.temp_size_in_bytes
        result = _wait(self.program(*self._arguments(0)))
        self.first_seconds = time.perf_counter() - began
        self._keep_score(result)
        if self.takes_part and self.first_seconds < LONG:
            self.calls = max(1, math.ceil(SHORTEST / self._time(self._arguments(0))[0]))

    def turn(self, repeat: int) -> None:
        """Measure once; the first time also the memory."""
        measure = lambda: self._time(self._arguments(repeat))  # noqa: E731
        if repeat == 1:
            (duration, result), self.resident_bytes = memory.peak_of(measure)
        else:
            duration, result = measure()
        self.seconds.append(duration)
        if self.case.arguments is None:
            self._keep_score(result)

    def _time(self, arguments: tuple[Any, ...]) -> tuple[float, Any]:
        """Seconds of one call, on average, and the last result; an accelerator gets the calls one behind the other."""
        is_queued, began = jax.default_backend() != "cpu", time.perf_counter()
        for _ in range(self.calls):
            result = self.program(*arguments)
            if not is_queued:
                _wait(result)
        _wait(result)
        return (time.perf_counter() - began) / self.calls, result

    def _keep_score(self, result: Any) -> None:
        self.scores.append(float(self.contestant.score(result)))

    @property
    def takes_part(self) -> bool:
        """Whether its times can count: wrong results are wrong at once where all calls have the same arguments."""
        return self.error is None and (self.is_right or self.case.arguments is None)

    @property
    def is_right(self) -> bool:
        """Whether the results so far are right, by their median score."""
        return self.error is None and bool(statistics.median(self.scores) >= self.case.least_score)


def _wait(result: Any) -> Any:
    """Return a result when the device has it, be it JAX's or PyTorch's."""
    if jax.default_backend() == "gpu" and "torch" in sys.modules:
        sys.modules["torch"].cuda.synchronize()
    return jax.block_until_ready(result)


def run_case(case: Case, repeats: int) -> list[dict[str, Any]]:
    """Time every contestant of a case, in turns (A B A B …); a short program runs several times in one measurement.

    Args:
      case: what to run.
      repeats: turns; fewer where a case is long, but at least three, so that quartiles mean something.

    Returns:
      A row for each contestant. One whose result is wrong, or that failed, has no time and no ratio.
    """
    jax.clear_caches()  # so that no first call finds what another case has compiled
    entries = [_Entry(case, contestant) for contestant in case.contestants]
    began = time.perf_counter()
    for repeat in range(1, repeats + 1):
        if repeat > FEWEST_TURNS and time.perf_counter() - began > MOST_SECONDS:
            break
        for entry in entries:
            if entry.takes_part:
                entry.guard(lambda entry=entry, repeat=repeat: entry.turn(repeat))
    return [_row(case, entry, entries[0]) for entry in entries]


def _row(case: Case, entry: _Entry, ours: _Entry) -> dict[str, Any]:
    seconds = entry.seconds if entry.is_right else []
    row = {
        "case": case.name,
        "contestant": entry.contestant.name,
        "family": case.family or case.name,
        "variable": case.variable,
        "size": case.size,
        "dtype": case.dtype,
        "shapes": [list(leaf.shape) for leaf in jax.tree.leaves(case.arguments)],
        "work": case.work,
        "unit": case.unit,
        "flops": case.flops,
        "bytes": case.bytes,
        "num_devices": case.num_devices,
        "is_ours": entry is ours,
        "compile_seconds": entry.compile_seconds,
        "first_call_seconds": entry.first_seconds,  # from nothing to the first result
        "seconds": seconds,
        "temporary_bytes": entry.temporary_bytes,
        "resident_bytes": entry.resident_bytes,
        "score": statistics.median(entry.scores) if entry.scores else None,
        "least_score": case.least_score if math.isfinite(case.least_score) else None,
        "is_right": entry.is_right,
        "error": entry.error,
    }
    if seconds:
        first, median, third = np.quantile(seconds, [0.25, 0.5, 0.75])
        row |= {"median_seconds": float(median), "quartiles_seconds": [float(first), float(third)]}
        row["work_per_second"] = case.work / float(median)
    if seconds and ours.is_right and entry is not ours:
        row["ours_is_faster_by"] = [theirs / mine for mine, theirs in zip(ours.seconds, seconds, strict=False)]
    return row
