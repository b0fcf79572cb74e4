"""What a sweep found, as a picture: a curve, a heat map, a row of curves, or a row of points that were drawn."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle

from experiments.pictures import save
from experiments.statistics import format_score
from experiments.sweeping.outcomes import Search, format_values, short_names
from experiments.sweeping.search_space import Axis

PICTURE = "sweep.png"
WIDE = 10  # ratio of numbers from which their axis is logarithmic
MOST_TICKS = 8  # that name the values themselves
MOST_CELLS = (18, 15)  # of a heat map, down and across, that have room for numbers; of more, so many are labelled
BEST = {"color": "tab:red", "marker": "*", "markersize": 15, "linestyle": "none", "label": "best", "zorder": 5}
LOST = {"color": "gray", "marker": "x", "linestyle": "none", "label": "diverged", "clip_on": False, "zorder": 4}


class _Scale:
    """Where the values of one field lie on an axis of a panel: numbers by size, anything else side by side."""

    def __init__(self, axis: Axis, name: str, rows: Sequence[Mapping[str, Any]]):
        self._path, self._range, self.name = axis.path, axis.range, name.replace("_", " ")
        values = list(axis.values) or [row["point"][axis.path] for row in rows]
        self.are_numbers = all(_is_number(value) for value in values)
        self.values = sorted(set(values)) if self.are_numbers else values

    def at(self, row: Mapping[str, Any]) -> float:
        """The place of a row."""
        value = row["point"][self._path]
        return float(value) if self.are_numbers else float(self.values.index(value))

    def place(self, value: Any) -> float:
        """The place of a value."""
        return self.at({"point": {self._path: value}})

    def label(self, panel: Any, most_letters: int) -> None:
        """Set the scale, the ticks and the label of a panel's horizontal axis; more letters than that are turned."""
        panel.set_xlabel(self.name)
        if self.are_numbers and (self._range is None or self._range.law == "log_uniform"):
            _set_scale(panel, self.values)
        if not self.are_numbers or len(self.values) <= MOST_TICKS:
            labels = format_values(self.values)
            turned = {"rotation": 30, "ha": "right"} if sum(map(len, labels)) > most_letters else {}
            panel.set_xticks([self.place(value) for value in self.values], labels, **turned)
            panel.minorticks_off()
        if not self.are_numbers:
            panel.set_xlim(-0.5, len(self.values) - 0.5)


def draw(
    workdir: pathlib.Path, axes: Sequence[Axis], rows: Sequence[dict[str, Any]], title: str, search: Search
) -> pathlib.Path:
    """Draw the score of every point by its values, the best one marked.

    A grid over one field is a curve with its interval, over two a heat map, over more a curve for each: the best and
    the median over all values of the others. Points that were drawn are drawn as points. What diverged has no score
    and is marked at the foot; an interval that diverged seeds make infinite goes to the panel's edge.
    """
    scales = [_Scale(axis, name, rows) for axis, name in zip(axes, short_names([a.path for a in axes]), strict=True)]
    best = (max if search.mode == "max" else min)(rows, key=lambda row: row["score"])
    score = search.metric.replace("_", " ") + (" (interquartile mean)" if search.num_seeds > 1 else "")
    is_grid = len(rows) == math.prod(len(axis.values) for axis in axes)
    if is_grid and len(axes) == 2:
        return _heat_map(workdir / PICTURE, scales, rows, best, title, score, search.mode)
    panel_of = (_curve if len(axes) == 1 else _marginal) if is_grid else _scatter

    def draw_panels(figure):
        figure.suptitle(title)
        panels = figure.subplots(1, len(scales), sharey=True, squeeze=False)[0]
        for panel, scale in zip(panels, scales, strict=True):
            panel_of(panel, scale, rows, search)
            if math.isfinite(best["score"]):
                panel.plot([scale.at(best)], [best["score"]], **BEST)
            scale.label(panel, 48 if len(scales) == 1 else 16)
            panel.grid(alpha=0.3)
        panels[0].set_ylabel(score)
        entries = (zip(*panel.get_legend_handles_labels(), strict=True) for panel in panels)
        shown = {label: handle for of_panel in entries for handle, label in of_panel}
        panels[-1].legend(shown.values(), shown.keys(), loc="best", fontsize=8)

    return save(workdir / PICTURE, draw_panels, (7, 4.5) if len(scales) == 1 else (1 + 3.6 * len(scales), 4.2))


def _curve(panel: Any, scale: _Scale, rows: Sequence[dict[str, Any]], search: Search) -> None:
    """The score of each value, and its interval: a band between numbers, bars beside one another for what is none."""
    rows = sorted(rows, key=scale.at)
    x = np.array([scale.at(row) for row in rows])
    score = _finite([row["score"] for row in rows])
    low, high = _to_the_edges(panel, score, np.array([row["interval_95"] for row in rows], float).T)
    _mark_lost(panel, x[np.isnan(score)])
    if scale.are_numbers:
        panel.plot(x, score, color="tab:blue", marker="o", markersize=4)
        if search.num_seeds > 1:
            panel.fill_between(x, low, high, color="tab:blue", alpha=0.2, linewidth=0, label="95 % interval")
    else:
        length = np.nan_to_num([score - low, high - score])
        panel.errorbar(x, score, length, color="tab:blue", fmt="o", capsize=4, label="95 % interval")


def _marginal(panel: Any, scale: _Scale, rows: Sequence[dict[str, Any]], search: Search) -> None:
    """The best and the median score of each value over all values of the other fields."""
    scores = [[row["score"] for row in rows if scale.at(row) == scale.place(value)] for value in scale.values]
    x = np.array([scale.place(value) for value in scale.values])
    style = {"markersize": 4, "linestyle": "-" if scale.are_numbers else "none"}
    most = max if search.mode == "max" else min
    best = _finite([most(found) for found in scores])
    panel.plot(x, best, "o", color="tab:blue", **style, label="best over the others")
    medians = _finite([np.median(found) for found in scores])
    panel.plot(x, medians, "s", color="tab:orange", **style, label="median over the others")
    _mark_lost(panel, x[np.isnan(best)])


def _scatter(panel: Any, scale: _Scale, rows: Sequence[dict[str, Any]], search: Search) -> None:
    """Every point by one of its values."""
    x, score = np.array([scale.at(row) for row in rows]), _finite([row["score"] for row in rows])
    panel.plot(x, score, "o", color="tab:blue", markersize=5, alpha=0.7, label=f"{len(rows)} points")
    _mark_lost(panel, x[np.isnan(score)])


def _heat_map(
    path: pathlib.Path,
    scales: Sequence[_Scale],
    rows: Sequence[dict[str, Any]],
    best: Mapping[str, Any],
    title: str,
    score: str,
    mode: str,
) -> pathlib.Path:
    """The score of each pair as a colour, brighter where it is better, and as a number; the best one framed."""
    down, across = scales
    place = {
        id(row): tuple(s.values.index(v) for s, v in zip(scales, row["point"].values(), strict=True)) for row in rows
    }
    values = np.full((len(down.values), len(across.values)), np.nan)
    for row in rows:
        values[place[id(row)]] = row["score"]
    values = _finite(values)
    labels = [format_values(scale.values) for scale in scales]
    ticks = [range(0, n, math.ceil(n / most)) for n, most in zip(values.shape, MOST_CELLS, strict=True)]

    def draw_cells(figure):
        panel = figure.subplots()
        image = panel.imshow(values, cmap="viridis" if mode == "max" else "viridis_r", aspect="auto")
        figure.colorbar(image, label=score)
        panel.set_facecolor("lightgray")
        panel.set_title(title, fontsize=10)
        panel.set_ylabel(down.name)
        panel.set_yticks(ticks[0], [labels[0][place] for place in ticks[0]])
        panel.set_xlabel(across.name)
        shown = [labels[1][place] for place in ticks[1]]
        panel.set_xticks(ticks[1], shown, **({"rotation": 30, "ha": "right"} if sum(map(len, shown)) > 60 else {}))
        if all(n <= most for n, most in zip(values.shape, MOST_CELLS, strict=True)):
            for (row, column), value in np.ndenumerate(values):
                text = "diverged" if np.isnan(value) else format_score(value)
                colour = "black" if np.isnan(value) or sum(image.cmap(image.norm(value))[:3]) > 1.5 else "white"
                panel.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
        if math.isfinite(best["score"]):
            row, column = place[id(best)]
            panel.add_patch(
                Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="tab:red", linewidth=3, clip_on=False)
            )

    num_down, num_across = map(min, values.shape, MOST_CELLS)
    return save(path, draw_cells, (3 + 0.85 * max(num_across, 4), 1.6 + 0.55 * max(num_down, 3)))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _set_scale(panel: Any, values: Sequence[float]) -> None:
    """A logarithmic axis where numbers lie far apart; one that begins at 0 is linear up to its smallest number."""
    positive = [value for value in values if value > 0]
    is_wide = bool(positive) and max(positive) >= WIDE * min(positive)
    if is_wide and len(positive) == len(values):
        panel.set_xscale("log")
    elif is_wide and min(values) == 0:
        panel.set_xscale("symlog", linthresh=min(positive))


def _finite(values: Any) -> np.ndarray:
    """Infinite scores, of what diverged, as NaN, which is not drawn."""
    values = np.array(values, float)
    return np.where(np.isfinite(values), values, np.nan)


def _to_the_edges(panel: Any, score: np.ndarray, interval: np.ndarray) -> np.ndarray:
    """Intervals [2, values] whose infinite ends, beside a finite score, lie at the edges of the panel."""
    interval = np.where(np.isfinite(score), interval, np.nan)
    if not np.isinf(interval).any():
        return interval
    ends = interval[np.isfinite(interval)].tolist() + score[np.isfinite(score)].tolist()
    margin = 0.1 * (max(ends) - min(ends) or 1.0)
    bottom, top = panel.set_ylim(min(ends) - margin, max(ends) + margin)
    return np.clip(interval, bottom, top)


def _mark_lost(panel: Any, x: np.ndarray) -> None:
    """Crosses at the foot of a panel."""
    if len(x):
        panel.plot(x, np.zeros(len(x)), transform=panel.get_xaxis_transform(), **LOST)
