"""Did ours become slower? The rows of two benchmarks, case by case, beyond the noise of both."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments import progress
from experiments.benchmarking.report import duration
from experiments.errors import UserError

TOLERANCE = 0.10  # by which a median may grow: two runs of the same program on a quiet machine differ by as much
SAME = ("suite", "case", "contestant", "dtype", "size", "work")
MOST_DRIFT = 1.3  # of the machine itself, that is allowed for


def read(path: str) -> list[dict[str, Any]]:
    """Return the measurements of a results.jsonl.

    Raises:
      UserError: it cannot be read, or holds none.
    """
    try:
        rows = [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]
        rows = [row for row in rows if row.get("kind") == "measurement"]
    except (OSError, json.JSONDecodeError, AttributeError) as error:
        raise UserError(f"--compare={path} cannot be read ({error}); give a results.jsonl of this program.") from error
    if not rows:
        raise UserError(f"--compare={path} holds no measurement; give a results.jsonl of this program.")
    return rows


def compare(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare ours in two benchmarks.

    A case is slower where its median grew by more than a tenth and the quartiles of the two do not meet; faster
    likewise. Where the machine itself was seen to be slower, by that of its peaks which the case is nearer to, times
    may grow as much again, up to 1.3. Of several rows of one case the last counts.

    Returns:
      For each case of both, its name, both medians, their ratio and a verdict: "slower", "faster", "equal", "wrong"
      where the new result has no time, or "other device" where the two machines differ.
    """
    old = {_key(row): row for row in before if row["is_ours"] and row["seconds"]}
    found = []
    for row in {_key(row): row for row in after if row["is_ours"]}.values():
        if _key(row) in old:
            then = old[_key(row)]
            median = float(np.median(row["seconds"])) if row["seconds"] else None
            earlier = float(np.median(then["seconds"]))
            found.append(
                {
                    "case": f"{row['suite']}: {row['case']}",
                    "before_seconds": earlier,
                    "after_seconds": median,
                    "ratio": None if median is None else median / earlier,
                    "verdict": _verdict(then, row),
                }
            )
    return found


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in SAME)


def _drift(before: dict[str, Any], after: dict[str, Any]) -> tuple[float, float]:
    """How much slower the machine became, at least 1, and which part of its time it still needs, at most 1."""
    is_bound_by_copies = after.get("copy_fraction", 0.0) > after.get("gemm_fraction", 0.0)
    name = "bytes_per_second" if is_bound_by_copies else "flops_per_second"
    ratio = min(max(before["peaks"][name] / after["peaks"][name], 1 / MOST_DRIFT), MOST_DRIFT)
    return max(1.0, ratio), min(1.0, ratio)


def _machine(row: dict[str, Any]) -> tuple[Any, ...]:
    """What must be equal for times to be comparable; JAX's devices on a CPU are as many as a program wants."""
    device = row["device"]
    count = None if device["platform"] == "cpu" else device["count"]
    return device["platform"], device["kind"], count, row["host"]


def _verdict(before: dict[str, Any], after: dict[str, Any]) -> str:
    if not after["seconds"]:
        return "wrong"
    if _machine(before) != _machine(after):
        return "other device"
    low, median, high = np.quantile(after["seconds"], [0.25, 0.5, 0.75])
    old_low, old_median, old_high = np.quantile(before["seconds"], [0.25, 0.5, 0.75])
    slowed, sped = _drift(before, after)
    if median > (1 + TOLERANCE) * slowed * old_median and low > old_high:
        return "slower"
    return "faster" if sped * old_median > (1 + TOLERANCE) * median and old_low > high else "equal"


def report(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> bool:
    """Print how two benchmarks compare; return whether ours became slower, or wrong, anywhere.

    Raises:
      UserError: they have no case in common.
    """
    found = compare(before, after)
    if not found:
        raise UserError("--compare: the two benchmarks have no case in common; run the same suites and sizes.")
    print(f"{'case':<46} {'before':>10} {'now':>10} {'now/before':>11}")
    for row in found:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        print(
            f"{row['case']:<46} {duration(row['before_seconds']):>10} {duration(row['after_seconds']):>10} "
            f"{ratio:>11}  {row['verdict']}"
        )
    if any(row["verdict"] == "other device" for row in found):
        progress.say("warning", "measured on another device or processor: no verdict there")
    bad = [row["case"] for row in found if row["verdict"] in ("slower", "wrong")]
    progress.say("compared", f"{len(found)} cases: {len(bad)} slower or wrong{': ' if bad else ''}{'; '.join(bad)}")
    return bool(bad)
