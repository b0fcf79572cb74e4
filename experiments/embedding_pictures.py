"""Pictures of dimensionality reduction: what components explain, embeddings by class, several side by side."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.data import DataSet, Split
from experiments.pictures import save
from mathai.reduction.neighbors import k_nearest
from mathai.reduction.pca import choose_num_components

THRESHOLD = 0.95  # of the variance, where a line is drawn
NUM_OUTLIERS = 12  # examples shown as images
NUM_NEIGHBORS = 10  # that tell whether an example lies among its own
PALETTE = "tab10"


def scree(workdir: pathlib.Path, ratios: np.ndarray) -> pathlib.Path:
    """Draw the variance that each component explains, and how many explain 95 % of it."""
    total = np.cumsum(ratios)
    enough = int(choose_num_components(ratios, THRESHOLD))
    number = np.arange(1, len(ratios) + 1)

    def draw(figure):
        panel = figure.subplots()
        panel.bar(number, 100 * ratios, color="tab:blue", label="of one component")
        panel.plot(number, 100 * total, color="tab:orange", label="of all up to it")
        panel.axhline(100 * THRESHOLD, color="black", linewidth=0.8, linestyle="--")
        panel.axvline(enough, color="black", linewidth=0.8, linestyle="--")
        panel.set_title(f"{enough} of {len(ratios)} components explain {THRESHOLD:.0%} of the variance")
        panel.set_xlabel("component")
        panel.set_ylabel("explained variance, %")
        panel.set_xlim(0, min(len(ratios), 3 * enough + 5) + 1)
        panel.set_ylim(0, 101)
        panel.legend(loc="center right")

    return save(workdir / "scree.png", draw, (7.5, 4.5))


def classes(
    workdir: pathlib.Path,
    Y: np.ndarray,
    examples: Split,
    data_set: DataSet,
    axes: tuple[str, str] = ("first coordinate", "second coordinate"),
) -> pathlib.Path:
    """Draw an embedding coloured by class; examples that lie among others' are shown as images where they are."""
    labels = examples.labels
    strangers = outliers(Y, labels)
    shape = examples.inputs.shape[1:]
    is_image = len(shape) in (2, 3) and min(shape[:2]) > 1

    def draw(figure):
        panel = figure.subplots()
        _scatter(panel, Y, labels, data_set.class_names)
        panel.set_xlabel(axes[0])
        panel.set_ylabel(axes[1])
        panel.set_aspect("equal", adjustable="datalim")
        panel.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=3, frameon=False)
        panel.set_title(f"{len(Y)} examples" + (f"; images: {len(strangers)} outliers" if is_image else ""))
        if is_image:
            for index in strangers:
                _thumbnail(panel, Y[index], examples.inputs[index], labels[index])

    return save(workdir / "embedding.png", draw, (9.5, 8))


def sweep(
    workdir: pathlib.Path, Y: np.ndarray, divergences: np.ndarray, perplexities: Sequence[float], labels: np.ndarray
) -> pathlib.Path:
    """Draw embeddings [perplexities, n, 2] side by side."""
    titles = [
        f"perplexity {perplexity:g}, KL {divergence:.3f}"
        for perplexity, divergence in zip(perplexities, divergences, strict=True)
    ]
    return side_by_side(workdir / "perplexities.png", titles, Y, labels)


def side_by_side(
    path: pathlib.Path, titles: Sequence[str], embeddings: Sequence[np.ndarray], labels: np.ndarray
) -> pathlib.Path:
    """Draw embeddings [n, 2] of the same points beside one another, in rows of three."""
    columns = min(len(titles), 3)
    rows = -(-len(titles) // columns)

    def draw(figure):
        panels = np.ravel(figure.subplots(rows, columns, squeeze=False))
        for panel, title, Y in zip(panels, titles, embeddings, strict=False):
            _scatter(panel, Y, labels, [str(label) for label in range(labels.max() + 1)])
            panel.set_title(title, fontsize=10)
            panel.set_xticks([])
            panel.set_yticks([])
            panel.set_aspect("equal", adjustable="datalim")
        for panel in panels[len(titles) :]:
            panel.set_visible(False)
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right center", markerscale=3, frameon=False)

    return save(path, draw, (4.2 * columns + 0.6, 4.2 * rows))


def outliers(Y: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Examples with the fewest of their own class among their neighbours, the loneliest first."""
    k = min(NUM_NEIGHBORS, len(Y) - 1)
    own = np.mean(labels[np.asarray(k_nearest(Y, k)[0])] == labels[:, None], axis=1)
    order = np.argsort(own, kind="stable")[:NUM_OUTLIERS]
    return order[own[order] < 0.5]


def _scatter(panel: Any, Y: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> None:
    from matplotlib import colormaps

    size = float(np.clip(20_000 / len(Y), 1.5, 12))
    for label in np.unique(labels):
        colour = colormaps[PALETTE](label % 10)
        panel.scatter(*Y[labels == label].T, s=size, color=colour, linewidths=0, label=names[label], rasterized=True)


def _thumbnail(panel: Any, place: np.ndarray, image: np.ndarray, label: int) -> None:
    from matplotlib import colormaps
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    picture = OffsetImage(np.squeeze(image), zoom=22 / image.shape[0], cmap="gray_r")
    frame = {"edgecolor": colormaps[PALETTE](label % 10), "linewidth": 1.5, "boxstyle": "square,pad=0.1"}
    panel.add_artist(AnnotationBbox(picture, place, bboxprops=frame, pad=0.1))
