"""Contestants take turns at the same work, are checked, and are timed."""

import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

NUM_SEEDS = 8  # of a case that trains several
SHORTEST = 0.1  # seconds that one measurement lasts at least


class Contestant(NamedTuple):
    """One way to do a case's work.

    Attributes:
      name: whose it is.
      program: key, or the case's arguments → result; jitted here.
      score: result → the number that shows that the work was done.
      compiles: False for a program that is called as it is; what its first call takes beyond the others is reported
        as compilation.
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
    """

    name: str
    contestants: list[Contestant]
    work: float
    unit: str
    least_score: float
    arguments: tuple[Any, ...] | None = None


def run_case(case: Case, repeats: int) -> list[dict[str, Any]]:
    """Time every contestant of a case, in turns; a short program runs several times in one measurement."""

    def arguments(repeat):
        return (jax.random.PRNGKey(repeat),) if case.arguments is None else case.arguments

    compiled, compile_seconds, calls, scores = [], [], [], []
    for contestant in case.contestants:
        began = time.perf_counter()
        is_compiled = contestant.compiles
        compiled.append(
            jax.jit(contestant.program).lower(*arguments(0)).compile() if is_compiled else contestant.program
        )
        compile_seconds.append(time.perf_counter() - began)
        result = jax.block_until_ready(compiled[-1](*arguments(0)))  # the first call is discarded
        first = time.perf_counter() - began
        scores.append([contestant.score(result)])
        once = _seconds(compiled[-1], arguments(0), 1)[0]
        if not is_compiled:
            compile_seconds[-1] = max(first - once, 0.0)
        calls.append(math.ceil(SHORTEST / once))
    seconds: list[list[float]] = [[] for _ in compiled]
    for repeat in range(1, repeats + 1):
        for index, program in enumerate(compiled):
            duration, result = _seconds(program, arguments(repeat), calls[index])
            seconds[index].append(duration)
            if case.arguments is None:
                scores[index].append(case.contestants[index].score(result))
    return [
        {
            "case": case.name,
            "contestant": contestant.name,
            "compile_seconds": compile_seconds[index],
            "seconds": seconds[index],
            "temporary_bytes": compiled[index].memory_analysis().temp_size_in_bytes if contestant.compiles else None,
            f"{case.unit}_per_second": case.work / statistics.median(seconds[index]),
            "unit": case.unit,
            "score": statistics.median(scores[index]),
            "is_right": statistics.median(scores[index]) >= case.least_score,
            "ours_is_faster_by": [theirs / mine for mine, theirs in zip(seconds[0], seconds[index], strict=True)],
        }
        for index, contestant in enumerate(case.contestants)
    ]


def _seconds(program: Callable[..., Any], arguments: tuple[Any, ...], calls: int) -> tuple[float, Any]:
    """Seconds of one call, on average, and the last result."""
    began = time.perf_counter()
    for _ in range(calls):
        result = jax.block_until_ready(program(*arguments))
    return (time.perf_counter() - began) / calls, result


def describe(row: dict[str, Any]) -> str:
    """Return one row of the report."""
    ratios, seconds = sorted(row["ours_is_faster_by"]), sorted(row["seconds"])
    text = f"{row['case']:<38} {row['contestant']:<15} compile {row['compile_seconds']:5.1f} s  "
    text += f"score {row['score']:6.1f}  "
    if not row["is_right"]:
        return f"{text}wrong result: no time"
    median = statistics.median(seconds)
    return (
        f"{text}{row[row['unit'] + '_per_second']:>13,.0f} {row['unit'].replace('_', ' ')}/s  "
        f"run {_duration(median)} ({_duration(seconds[0])} to {_duration(seconds[-1])})  "
        f"ours is {statistics.median(ratios):.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.2f} ms"
