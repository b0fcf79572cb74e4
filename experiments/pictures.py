"""Pictures of a run."""

import pathlib
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import EngFormatter

from experiments import metrics
from experiments.statistics import bootstrap_interval, interquartile_mean


def learning_curve(workdir: pathlib.Path, metric: str, title: str) -> pathlib.Path | None:
    """Draw a metric over the run: training and evaluation, with a band over seeds; None where no row has it.

    With several seeds the line is the interquartile mean and the band its 95 % bootstrap interval.
    """
    rows = metrics.read(workdir)
    axis = "env_steps" if any("env_steps" in row for row in rows) else "step"
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    drawn = False
    for name, label, style in (
        (metric, "training", {"color": "tab:blue", "linewidth": 1.2}),
        (f"evaluation/{metric}", "evaluation", {"color": "tab:orange", "marker": "o", "markersize": 4}),
    ):
        kept = [row for row in rows if name in row and (label != "training" or np.min(row.get("episodes", 1)) > 0)]
        if kept:
            drawn = True
            _curve(axes, [np.max(row[axis]) for row in kept], [row[name] for row in kept], label, style)
    if not drawn:
        plt.close(figure)
        return None
    axes.set_xlabel({"env_steps": "environment steps (per seed)", "step": "updates"}[axis])
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_ylabel(metric.replace("_", " "))
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(loc="best")
    path = workdir / "learning_curve.png"
    temporary = path.with_name(".learning_curve.png")
    figure.savefig(temporary, dpi=130, format="png")
    plt.close(figure)
    temporary.replace(path)
    return path


def _curve(axes: Any, x: Sequence[float], values: Sequence[Any], label: str, style: dict[str, Any]) -> None:
    values = [np.atleast_1d(np.asarray(value, float)) for value in values]
    if len(values[0]) == 1:
        axes.plot(x, [value[0] for value in values], label=label, **style)
        return
    axes.plot(x, [interquartile_mean(value) for value in values], label=f"{label}, {len(values[0])} seeds", **style)
    low, high = zip(*(bootstrap_interval(value, num_resamples=500) for value in values), strict=True)
    axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)
