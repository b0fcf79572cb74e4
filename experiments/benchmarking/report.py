"""What a row of the benchmark says on the terminal, and how near it comes to what the device can do."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.benchmarking.peaks import Peaks

LEAST_GROWTH = 32 * 2**20


def fractions(row: dict[str, Any], peaks: Peaks) -> dict[str, float]:
    """Return which part of the peaks a row reaches: `gemm_fraction` of products, `copy_fraction` of bytes.

    Above 1 the work stays in a cache that the copied array was too large for.
    """
    found, seconds = {}, row.get("median_seconds")
    if seconds and row["flops"]:
        found["gemm_fraction"] = row["flops"] / seconds / (peaks.flops_per_second * row["num_devices"])
    if seconds and row["bytes"]:
        found["copy_fraction"] = row["bytes"] / seconds / (peaks.bytes_per_second * row["num_devices"])
    return found


def median_interval(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float]:
    """The narrowest interval between ordered values that holds the median with this confidence, whatever their law.

    The k-th smallest and the k-th largest of n hold it unless fewer than k values fall on one side, P = 2 Σ_{i<k}
    (n over i) / 2ⁿ. Of fewer than six values it is the whole range, whose confidence is 1 − 2^{1−n}: 94 % of five, 75 %
    of three.

    >>> median_interval([3.0, 1.0, 2.0])
    (1.0, 3.0)
    >>> median_interval(range(9))
    (1.0, 7.0)
    """
    ordered, count, cut = sorted(map(float, values)), len(values), 0
    while 2 * sum(math.comb(count, i) for i in range(cut + 2)) / 2**count <= 1 - confidence:
        cut += 1
    return ordered[cut], ordered[-1 - cut]


def header() -> str:
    """Return the line above the rows of a suite."""
    return (
        f"{'case':<40} {'contestant':<16} {'score':>7} {'compile':>8} {'first':>8} {'median':>8}  {'quartiles':<20} "
        f"{'rate':>18}  {'of peak':<9} {'memory':>9}  ours is faster by"
    )


def line(row: dict[str, Any]) -> str:
    """Return one row of the table."""
    score = "" if row["score"] is None else f"{row['score']:.4g}"
    text = f"{row['case']:<40} {row['contestant']:<16} {score:>7} "
    if row["error"]:
        return f"{text}failed: {row['error']}"
    if not row["is_right"]:
        return f"{text}wrong result (below {row['least_score']:g}): no time"
    low, high = row["quartiles_seconds"]
    return (
        f"{text}{duration(row['compile_seconds']):>8} {duration(row['first_call_seconds']):>8} "
        f"{duration(row['median_seconds']):>8}  {duration(low) + ' to ' + duration(high):<20} "
        f"{rate(row['work_per_second'], row['unit']):>18}  {_of_peak(row):<9} {size(memory(row)):>9}  {ratio(row)}"
    ).rstrip()


def ratio(row: dict[str, Any]) -> str:
    """Return how many times as fast ours is, with the interval of the median; empty for ours."""
    ratios = row.get("ours_is_faster_by")
    if not ratios:
        return ""
    low, high = median_interval(ratios)
    return f"{statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})"


def _of_peak(row: dict[str, Any]) -> str:
    """The larger of the two fractions, and of which peak it is."""
    found = {name: row[f"{name}_fraction"] for name in ("gemm", "copy") if f"{name}_fraction" in row}
    if not found:
        return ""
    name = max(found, key=lambda name: found[name])
    return f"{found[name]:.0%} {name}" if found[name] >= 0.01 else f"{found[name]:.1%} {name}"


def memory(row: dict[str, Any]) -> int | None:
    """Return bytes of temporaries as the compiler says, or by which the process grew; None where neither is known.

    Growth by less than 32 MiB is not known: it may come out of what the process has freed and kept.
    """
    if row["temporary_bytes"] is not None:
        return row["temporary_bytes"]
    grown = row["resident_bytes"]
    return grown if grown is not None and grown >= LEAST_GROWTH else None


def rate(per_second: float, unit: str) -> str:
    """Write a speed for a person.

    >>> rate(2.05e9, "FLOP"), rate(123.4, "env_steps"), rate(45_678.0, "images")
    ('2.05 G FLOP/s', '123 env steps/s', '45.7 k images/s')
    """
    for prefix, factor in (("T ", 1e12), ("G ", 1e9), ("M ", 1e6), ("k ", 1e3), ("", 1.0)):
        if per_second >= factor or not prefix:
            value = per_second / factor
            digits = max(0, 2 - int(np.log10(max(value, 1))))
            return f"{value:.{digits}f} {prefix}{unit.replace('_', ' ')}/s"
    raise AssertionError("the last factor takes every rate")


def duration(seconds: float | None) -> str:
    """Write a time for a person.

    >>> duration(2.5), duration(0.0123), duration(4.5e-5), duration(None)
    ('2.50 s', '12.3 ms', '45 µs', '')
    """
    if seconds is None:
        return ""
    if seconds >= 100:
        return f"{seconds:.0f} s"
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{1e3 * seconds:.3g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.3g} µs"


def size(num_bytes: float | None) -> str:
    """Write an amount of memory for a person.

    >>> size(3 * 2**20), size(2**31), size(100), size(None)
    ('3.0 MiB', '2.0 GiB', '0.1 KiB', '')
    """
    if num_bytes is None:
        return ""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes / 2**10:.1f} KiB"
