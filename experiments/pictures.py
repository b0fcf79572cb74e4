"""Pictures of a run."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from experiments import metrics
from experiments.statistics import bootstrap_interval, interquartile_mean
from mathai.nn import scores

AXES = {
    "env_steps": "environment steps (per seed)",
    "examples": "training examples (per seed)",
    "tokens": "training tokens (per seed)",
    "step": "updates",
}
MOST_CLASSES = 30  # beyond, a confusion matrix has no room for numbers


def learning_curves(workdir: pathlib.Path, names: Sequence[str], title: str) -> pathlib.Path | None:
    """Draw metrics over the run, a panel each: training and evaluation, with a band over seeds.

    With several seeds the line is the interquartile mean and the band its 95 % bootstrap interval. A metric that no
    row has gets no panel; None where that leaves none.
    """
    rows = metrics.read(workdir)
    axis = next(name for name in AXES if name == "step" or any(name in row for row in rows))
    names = [name for name in names if any(name in row or f"evaluation/{name}" in row for row in rows)]
    if not names:
        return None

    def draw(figure):
        panels = figure.subplots(len(names), sharex=True, squeeze=False)[:, 0]
        for panel, name in zip(panels, names, strict=True):
            _panel(panel, rows, axis, name)
        panels[0].set_title(title)
        panels[-1].set_xlabel(AXES[axis])
        panels[-1].xaxis.set_major_formatter(EngFormatter(sep=""))

    return save(workdir / "learning_curve.png", draw, (7, 1.2 + 3 * len(names)))


def confusion_matrix(
    workdir: pathlib.Path, probabilities: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> pathlib.Path:
    """Draw how often each class was taken for each other one; colours are shares of the true class."""
    num_classes = len(class_names)
    counts = np.asarray(scores.confusion_matrix(probabilities, labels))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)

    def draw(figure):
        panel = figure.subplots()
        image = panel.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        figure.colorbar(image, label="share of the true class", shrink=0.8)
        panel.set_title(f"accuracy {counts.trace() / counts.sum():.4f} on {counts.sum():,} examples")
        panel.set_xlabel("predicted class")
        panel.set_ylabel("true class")
        if num_classes > MOST_CLASSES:
            return
        panel.set_xticks(range(num_classes), class_names, rotation=45 if max(map(len, class_names)) > 2 else 0)
        panel.set_yticks(range(num_classes), class_names)
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                panel.text(column, row, count, ha="center", va="center", fontsize=7, color=colour)

    return save(workdir / "confusion_matrix.png", draw, (6.6, 5.6))


def worst_mistakes(
    workdir: pathlib.Path,
    images: np.ndarray,
    probabilities: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    rows: int = 4,
    columns: int = 6,
) -> pathlib.Path | None:
    """Draw the misclassified images whose true class had the least probability, worst first; None where all are right.

    Args:
      workdir: where the picture goes.
      images: [n, height, width] or [n, height, width, channels].
      probabilities: [n, classes].
      labels: [n].
      class_names: of the classes.
      rows: at most so many rows,
      columns: of so many images.
    """
    path = workdir / "worst_mistakes.png"
    images = images[..., 0] if images.ndim == 4 and images.shape[-1] == 1 else images
    predicted = probabilities.argmax(-1)
    of_label = np.take_along_axis(probabilities, labels[:, None], 1)[:, 0]
    mistakes = np.flatnonzero(predicted != labels)
    worst = mistakes[np.argsort(of_label[mistakes], kind="stable")][: rows * columns]
    if not len(worst):
        path.unlink(missing_ok=True)
        return None

    def draw(figure):
        figure.suptitle(f"{len(mistakes)} of {len(labels):,} wrong; the {len(worst)} worst")
        panels = figure.subplots(-(-len(worst) // columns), columns, squeeze=False).ravel()
        for panel in panels:
            panel.axis("off")
        for panel, index in zip(panels, worst, strict=False):
            panel.imshow(images[index], cmap="gray_r" if images.ndim == 3 else None)
            panel.set_title(
                f"{class_names[labels[index]]} ({of_label[index]:.1%})\nnot {class_names[predicted[index]]} "
                f"({probabilities[index].max():.1%})",
                fontsize=7,
            )

    return save(path, draw, (1.5 * columns, 0.5 + 1.75 * -(-len(worst) // columns)))


def attention_maps(workdir: pathlib.Path, weights: Mapping[str, np.ndarray], labels: Sequence[str]) -> pathlib.Path:
    """Draw attention, a panel for each head: rows are tokens that look, columns tokens that are looked at."""
    columns = min(3, len(weights))
    labels = [repr(label)[1:-1] if label.isspace() else label for label in labels]

    def draw(figure):
        figure.suptitle("attention of each token (row) to those before it (columns)")
        panels = figure.subplots(-(-len(weights) // columns), columns, squeeze=False).ravel()
        for panel in panels[len(weights) :]:
            panel.axis("off")
        for panel, (name, p) in zip(panels, weights.items(), strict=False):
            image = panel.imshow(p, cmap="magma", vmin=0, vmax=1)
            panel.set_title(name, fontsize=9)
            panel.set_xticks(range(len(labels)), labels, fontsize=5)
            panel.set_yticks(range(len(labels)), labels, fontsize=5)
        figure.colorbar(image, ax=list(panels), label="weight", shrink=0.6)

    return save(workdir / "attention_maps.png", draw, (1 + 4 * columns, 0.8 + 4 * -(-len(weights) // columns)))


def position_encoding(workdir: pathlib.Path, encoding: np.ndarray) -> pathlib.Path:
    """Draw the encoding [positions, features] as a heat map."""

    def draw(figure):
        panel = figure.subplots()
        image = panel.imshow(encoding, cmap="RdBu", vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
        figure.colorbar(image, label="value")
        panel.set_title("sinusoidal position encoding")
        panel.set_xlabel("feature (sines at even, cosines at odd ones)")
        panel.set_ylabel("position")

    return save(workdir / "position_encoding.png", draw, (7, 5))


def _panel(panel: Any, rows: Sequence[dict[str, Any]], axis: str, name: str) -> None:
    for key, label, style in (
        (name, "training", {"color": "tab:blue", "linewidth": 1.2}),
        (f"evaluation/{name}", "evaluation", {"color": "tab:orange", "marker": "o", "markersize": 4}),
    ):
        kept = [row for row in rows if key in row and (label != "training" or np.min(row.get("episodes", 1)) > 0)]
        if kept:
            _curve(panel, [np.max(row[axis]) for row in kept], [row[key] for row in kept], label, style)
    panel.set_ylabel(name.replace("_", " "))
    panel.grid(alpha=0.3)
    panel.legend(loc="best")


def _curve(panel: Any, x: Sequence[float], values: Sequence[Any], label: str, style: dict[str, Any]) -> None:
    values = [np.atleast_1d(np.asarray(value, float)) for value in values]
    if len(values[0]) == 1:
        panel.plot(x, [value[0] for value in values], label=label, **style)
        return
    panel.plot(x, [interquartile_mean(value) for value in values], label=f"{label}, {len(values[0])} seeds", **style)
    low, high = zip(*(bootstrap_interval(value, num_resamples=500) for value in values), strict=True)
    panel.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)


def save(path: pathlib.Path, draw: Callable[[Any], None], size: tuple[float, float]) -> pathlib.Path:
    """Draw a figure into a file that is there whole or not at all."""
    figure = Figure(figsize=size, layout="constrained")
    draw(figure)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=130, format="png")
    temporary.replace(path)
    return path
