"""Pictures of support vector machines: accuracy over widths and prices, boundaries with margins in the plane."""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.data import DataSet
from experiments.pictures import save
from mathai.kernel import kernels
from mathai.kernel.svm import SVMModel, decisions, fit, predict
from mathai.learners import svm

PIXELS = 200  # of a side of a map of decisions
MOST_NUMBERS = 144  # cells beyond which a heat map has no room for them
COLOURS = ("tab:blue", "tab:orange")


def accuracy_map(workdir: pathlib.Path, gammas: np.ndarray, prices: np.ndarray, accuracies: np.ndarray) -> pathlib.Path:
    """Draw mean accuracies [gammas, prices, folds] as a heat map, the best one framed; white where a fit failed."""
    means = accuracies.mean(-1)
    row, column = np.unravel_index(np.nan_to_num(means, nan=-np.inf).argmax(), means.shape)

    def draw(figure):
        panel = figure.subplots()
        image = panel.imshow(means, cmap="viridis", aspect="auto", origin="lower")
        figure.colorbar(image, label="accuracy on the examples left out")
        panel.set_title(
            f"{accuracies.shape[-1]} folds; best {means[row, column]:.4f} "
            f"at $\\gamma$ = {gammas[row]:.3g}, C = {prices[column]:.3g}"
        )
        panel.set_xticks(range(len(prices)), [f"{price:.3g}" for price in prices], rotation=45)
        panel.set_yticks(range(len(gammas)), [f"{gamma:.3g}" for gamma in gammas])
        panel.set_xlabel("price of slack, C")
        panel.set_ylabel(r"width of the kernel, $\gamma$")
        panel.add_patch(_frame(column, row))
        if means.size > MOST_NUMBERS:
            return
        middle = (np.nanmin(means) + np.nanmax(means)) / 2
        for (y, x), mean in np.ndenumerate(means):
            colour = "black" if not mean <= middle else "white"
            panel.text(x, y, f"{mean:.3f}", ha="center", va="center", fontsize=7, color=colour)

    return save(workdir / "accuracy_map.png", draw, (1.8 + 0.65 * len(prices), 1.6 + 0.5 * len(gammas)))


def boundaries(workdir: pathlib.Path, hyperparameters: svm.Config, data_set: DataSet) -> pathlib.Path:
    """Draw the decisions of three kernels at one price: boundary, margins, and support vectors as circles."""
    polynomial = functools.partial(
        kernels.polynomial, degree=hyperparameters.degree, c=hyperparameters.constant, gamma=hyperparameters.gamma
    )
    panels = [
        ("linear", kernels.linear),
        (f"polynomial, degree {hyperparameters.degree}", polynomial),
        (f"RBF, $\\gamma$ = {hyperparameters.gamma:.3g}", functools.partial(kernels.rbf, gamma=hyperparameters.gamma)),
    ]
    X, y = data_set.train
    machines = [
        (name, fit(X, y, kernel=kernel, C=hyperparameters.C, tolerance=hyperparameters.tolerance))
        for name, kernel in panels
    ]
    low, high = X.min(0), X.max(0)
    border = 0.15 * (high - low)
    axes = [np.linspace(a, b, PIXELS) for a, b in zip(low - border, high + border, strict=True)]
    points = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2).astype(np.float32)

    def draw(figure):
        figure.suptitle(
            f"decisions at C = {hyperparameters.C:.3g}: boundary solid, margins dashed, support vectors ringed"
        )
        for panel, (name, model) in zip(figure.subplots(1, len(machines), sharey=True), machines, strict=True):
            accuracy = np.mean(np.asarray(predict(model, data_set.test.inputs)) == data_set.test.labels)
            # A machine decides above 0 for the first of its two classes.
            values = -np.asarray(decisions(model, jnp.asarray(points)))[:, 0].reshape(PIXELS, PIXELS)
            _decisions_panel(panel, axes, values, X, y, np.asarray(_supports(model)), data_set.class_names)
            panel.set_title(
                f"{name}\ntest accuracy {accuracy:.4f}, {int(_supports(model).sum())} support vectors", fontsize=9
            )
        figure.axes[0].set_ylabel("$x_2$")
        figure.axes[0].legend(loc="lower left", fontsize=7)

    return save(workdir / "boundaries.png", draw, (12.5, 4.4))


def _decisions_panel(
    panel: Any,
    axes: Sequence[np.ndarray],
    values: np.ndarray,
    X: np.ndarray,
    y: np.ndarray,
    is_support: np.ndarray,
    class_names: Sequence[str],
) -> None:
    panel.contourf(
        *axes, values, levels=[-np.inf, -1, 0, 1, np.inf], colors=["#9ecae1", "#deebf7", "#fee6ce", "#fdae6b"]
    )
    panel.contour(*axes, values, levels=[-1, 0, 1], colors="black", linewidths=1, linestyles=["--", "-", "--"])
    for label, colour in enumerate(COLOURS):
        mine = y == label
        panel.scatter(*X[mine].T, s=8, color=colour, label=class_names[label])
    panel.scatter(*X[is_support].T, s=34, facecolors="none", edgecolors="black", linewidths=0.7, label="support vector")
    panel.set_xlabel("$x_1$")


def _supports(model: SVMModel) -> Any:
    return jnp.any(model.weights != 0, axis=0)


def _frame(column: int, row: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="red", linewidth=2)
