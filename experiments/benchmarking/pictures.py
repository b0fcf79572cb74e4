"""Pictures of a benchmark: the roofline, ratios to peers, growth."""

import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import EngFormatter, FuncFormatter, NullFormatter

from experiments.benchmarking.peaks import Peaks
from experiments.benchmarking.report import median_interval
from experiments.benchmarking.scaling import fit
from experiments.pictures import save

MARKERS = "osD^vP*XhdH"
MOST_BARS = 120


def draw(directory: pathlib.Path, rows: Sequence[dict[str, Any]], *, is_scaling: bool) -> list[pathlib.Path]:
    """Draw what the rows allow: roofline.png, ratios.png, scaling.png."""
    drawn = [roofline(directory, rows), ratios(directory, rows)]
    return [path for path in (*drawn, growth(directory, rows) if is_scaling else None) if path is not None]


def roofline(directory: pathlib.Path, rows: Sequence[dict[str, Any]]) -> pathlib.Path | None:
    """Draw operations per second against operations per byte, under what the device was measured to reach.

    Cases without a count of bytes stand at the right edge, in a column of their own: only the upper roof is theirs.
    """
    shown = [row for row in rows if row["is_ours"] and row.get("median_seconds") and row["flops"]]
    if not shown:
        return None
    peaks = _best_peaks(shown)
    known = [row["flops"] / row["bytes"] for row in shown if row["bytes"]]
    high = max([p.flops_per_second / p.bytes_per_second for p in peaks])
    left, right = min([*known, high / 10]) / 3, 10 * max([*known, high])
    edge = right * 2

    def paint(figure):
        panel = figure.subplots()
        intensities = np.geomspace(left, right, 200)
        labels = []
        for p, style in zip(peaks, ("-", "--", ":", "-."), strict=False):
            roof = np.minimum(p.flops_per_second, intensities * p.bytes_per_second)
            panel.loglog(intensities, roof, style, color="black", linewidth=1, label=f"peaks, {p.dtype}")
            labels.append(
                f"measured in {p.dtype}: {p.flops_per_second / 1e9:,.0f} GFLOP/s of products, "
                f"{p.bytes_per_second / 1e9:,.0f} GB/s of copies"
            )
        panel.text(0.01, 0.98, "\n".join(labels), transform=panel.transAxes, va="top", fontsize=7)
        suites = list(dict.fromkeys(row["suite"] for row in shown))
        for index, suite in enumerate(suites):
            mine = [row for row in shown if row["suite"] == suite]
            x = [row["flops"] / row["bytes"] if row["bytes"] else edge for row in mine]
            y = [row["flops"] / row["median_seconds"] for row in mine]
            panel.scatter(x, y, marker=MARKERS[index % len(MARKERS)], s=28, alpha=0.8, label=suite)
        if any(not row["bytes"] for row in shown):
            panel.axvspan(right * 1.2, edge * 1.7, color="black", alpha=0.06, linewidth=0)
            panel.text(
                edge * 1.6,
                0.02,
                "bytes not counted",
                transform=panel.get_xaxis_transform(),
                rotation=90,
                ha="right",
                fontsize=7,
            )
        panel.set_title(f"ours on {_device(rows)}")
        panel.set_xlabel("operations per byte that must move (FLOP/B)")
        panel.set_ylabel("operations per second (FLOP/s)")
        panel.yaxis.set_major_formatter(EngFormatter(sep=""))
        panel.grid(alpha=0.3, which="both", linewidth=0.5)
        panel.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=4)

    return save(directory / "roofline.png", paint, (8, 6.5))


def _best_peaks(rows: Sequence[dict[str, Any]]) -> list[Peaks]:
    """The highest of each dtype, since each suite measured them anew."""
    found: dict[str, Peaks] = {}
    for given in [Peaks(**row["peaks"]) for row in rows]:
        best = found.get(given.dtype, given)
        found[given.dtype] = given._replace(
            flops_per_second=max(given.flops_per_second, best.flops_per_second),
            bytes_per_second=max(given.bytes_per_second, best.bytes_per_second),
        )
    return list(found.values())


def ratios(directory: pathlib.Path, rows: Sequence[dict[str, Any]]) -> pathlib.Path | None:
    """Draw a bar for each peer's time over ours, with the interval of the median; None without peers."""
    shown = [row for row in rows if row.get("ours_is_faster_by")]
    if not shown:
        return None
    left_out = max(len(shown) - MOST_BARS, 0)
    shown = shown[:MOST_BARS]

    def paint(figure):
        panel = figure.subplots()
        places = np.arange(len(shown))[::-1]
        medians = [statistics.median(row["ours_is_faster_by"]) for row in shown]
        intervals = [median_interval(row["ours_is_faster_by"]) for row in shown]
        peers = list(dict.fromkeys(row["contestant"] for row in shown))
        colours = [f"C{peers.index(row['contestant']) % 10}" for row in shown]
        for place, median, (low, high), colour in zip(places, medians, intervals, colours, strict=True):
            panel.barh(place, median - 1, left=1, color=colour, alpha=0.7)
            panel.plot([low, high], [place, place], color="black", linewidth=1)
            panel.text(max(high, 1) * 1.04, place, f"{median:.2f}", va="center", fontsize=7)
        panel.axvline(1, color="black", linewidth=1)
        panel.set_xscale("log")
        low, high = panel.get_xlim()
        low, high = min(low, 0.7), max(high * 1.2, 1.5)
        panel.set_xlim(low, high)
        decades = [factor * 10.0**power for power in range(-3, 5) for factor in (1, 2, 5)]
        panel.set_xticks([tick for tick in decades if low <= tick <= high])
        panel.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_ylim(-0.7, len(shown) - 0.3)
        panel.set_yticks(places, [f"{row['suite']}: {row['case']}, {row['contestant']}" for row in shown], fontsize=7)
        panel.set_xlabel("time of the peer / time of ours (to the right of 1 ours is faster; lines hold the median)")
        left = f"; {left_out} more in results.jsonl" if left_out else ""
        panel.set_title(f"beside peers on {_device(rows)}{left}", fontsize=10)
        panel.grid(alpha=0.3, axis="x", which="both", linewidth=0.5)

    return save(directory / "ratios.png", paint, (9, 1.5 + 0.19 * len(shown)))


def growth(directory: pathlib.Path, rows: Sequence[dict[str, Any]]) -> pathlib.Path | None:
    """Draw time against size for every family, a panel for each variable."""
    fits = fit(rows)
    variables = list(dict.fromkeys(row["variable"] for row in fits))
    if not variables:
        return None

    def paint(figure):
        figure.suptitle(f"how time grows on {_device(rows)}")
        panels = figure.subplots(len(variables), squeeze=False)[:, 0]
        for panel, variable in zip(panels, variables, strict=True):
            for row in (row for row in fits if row["variable"] == variable):
                style = "-" if row["contestant"] == "mathai" else "--"
                label = f"{row['suite']}: {row['family']}, {row['contestant']}: N^{row['time_exponent']:.2f}"
                panel.loglog(row["sizes"], row["seconds"], style, marker="o", markersize=3, label=label)
            panel.set_xlabel(variable.replace("_", " "))
            panel.set_ylabel("seconds")
            panel.grid(alpha=0.3, which="both", linewidth=0.5)
            panel.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1, 1))

    return save(directory / "scaling.png", paint, (9, 0.6 + 3.4 * len(variables)))


def _device(rows: Sequence[dict[str, Any]]) -> str:
    device, host = rows[0]["device"], rows[0]["host"]
    if device["platform"] == "cpu":
        return f"{host['cores']} cores of {host['processor']}"
    return f"{device['kind']} x {device['count']}"
