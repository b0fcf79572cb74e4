"""How cost grows: exponents of time and memory in the size of the work."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.benchmarking.report import duration, memory, size


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> tuple[float, float | None]:
    """Fit cost ∝ size^b by least squares of the logarithms; return b and its standard error, None for two sizes.

    >>> b, error = exponent([1, 2, 4], [3, 12, 48])
    >>> round(b, 6), round(error, 6)
    (2.0, 0.0)
    >>> exponent([1, 10], [1, 1])
    (0.0, None)
    """
    x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(costs, float))
    x = x - x.mean()
    slope = float(x @ y / (x @ x))
    if len(x) < 3:
        return slope, None
    residuals = y - y.mean() - slope * x
    return slope, float(np.sqrt(residuals @ residuals / (len(x) - 2) / (x @ x)))


def fit(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fit the growth of every family of cases that was measured at two sizes or more, for every contestant.

    Returns:
      A row for each: the sizes, median seconds and bytes at each, `time_exponent` and `memory_exponent` with their
      standard errors, and `last_time_exponent`, that between the two largest sizes, which tells where a constant
      cost hides the growth of the rest.
    """
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if row["variable"] and row["seconds"]:
            key = row["suite"], row["family"], row["variable"], row["contestant"], row["dtype"]
            groups.setdefault(key, []).append(row)
    found = []
    for (suite, family, variable, contestant, dtype), group in groups.items():
        group = sorted(group, key=lambda row: row["size"])
        sizes = [row["size"] for row in group]
        if len(set(sizes)) < 2 or len(set(sizes)) < len(sizes):
            continue
        seconds, used = [row["median_seconds"] for row in group], [memory(row) for row in group]
        result = {"suite": suite, "family": family, "variable": variable, "contestant": contestant, "dtype": dtype}
        result |= {"sizes": sizes, "seconds": seconds, "bytes": used}
        result["time_exponent"], result["time_exponent_error"] = exponent(sizes, seconds)
        result["last_time_exponent"] = exponent(sizes[-2:], seconds[-2:])[0]
        if all(used):
            result["memory_exponent"], result["memory_exponent_error"] = exponent(sizes, used)
        found.append(result)
    return found


def line(row: dict[str, Any]) -> str:
    """Return one fit as a line of the table."""
    text = f"{row['suite'] + ': ' + row['family']:<52} {row['contestant']:<15} "
    text += f"{row['variable']} {row['sizes'][0]:,} to {row['sizes'][-1]:,}: "
    text += f"time {duration(row['seconds'][0])} to {duration(row['seconds'][-1])} ∝ N^{row['time_exponent']:.2f}"
    if row["time_exponent_error"] is not None:
        text += f" (± {row['time_exponent_error']:.2f}; at the end {row['last_time_exponent']:.2f})"
    if "memory_exponent" in row:
        text += f", memory {size(row['bytes'][0])} to {size(row['bytes'][-1])} ∝ N^{row['memory_exponent']:.2f}"
    return text
