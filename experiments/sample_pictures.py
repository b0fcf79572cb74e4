"""Pictures of what generative models make: grids of images, rows of pairs, the way from noise, points in the plane."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.pictures import save


def image_grid(path: pathlib.Path, images: np.ndarray, title: str, *, columns: int = 10) -> pathlib.Path:
    """Draw images [n, height, width (, channels)] in [0, 1], row by row."""
    return image_rows(path, [("", images[i : i + columns]) for i in range(0, len(images), columns)], title)


def image_rows(path: pathlib.Path, named: Sequence[tuple[str, np.ndarray]], title: str) -> pathlib.Path:
    """Draw named rows of images [n, height, width (, channels)] in [0, 1]."""
    columns = max(len(images) for _, images in named)

    def draw(figure):
        figure.suptitle(title)
        panels = figure.subplots(len(named), columns, squeeze=False)
        for panel in panels.ravel():
            panel.set_xticks([])
            panel.set_yticks([])
            panel.set_frame_on(False)
        for (name, images), row in zip(named, panels, strict=True):
            row[0].set_ylabel(name, fontsize=8, rotation=0, ha="right", va="center")
            for panel, image in zip(row, images, strict=False):
                image = image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image
                panel.imshow(np.clip(image, 0, 1), cmap="gray_r", vmin=0, vmax=1)

    return save(path, draw, (1.2 + 0.75 * columns, 0.6 + 0.78 * len(named)))


def point_panels(
    path: pathlib.Path, panels: Sequence[tuple[str, np.ndarray]], title: str, limits: tuple[float, float, float, float]
) -> pathlib.Path:
    """Draw points in the plane as densities, a named panel each, all on the same axes.

    Args:
      path: of the picture.
      panels: names and points [n, 2].
      title: of the whole.
      limits: left, right, bottom, top.
    """

    def draw(figure):
        figure.suptitle(title)
        for panel, (name, points) in zip(
            figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True
        ):
            _density(panel, points, limits)
            outside = np.mean(
                (points[:, 0] < limits[0])
                | (points[:, 0] > limits[1])
                | (points[:, 1] < limits[2])
                | (points[:, 1] > limits[3])
            )
            panel.set_title(name + (f"\n{outside:.0%} outside" if outside >= 0.005 else ""), fontsize=9)
            panel.set_xlabel("$x_1$")
        figure.axes[0].set_ylabel("$x_2$")

    return save(path, draw, (0.8 + 2.6 * len(panels), 3.9))


def _density(panel: Any, points: np.ndarray, limits: tuple[float, float, float, float]) -> None:
    left, right, bottom, top = limits
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=120, range=[[left, right], [bottom, top]])
    panel.imshow(
        np.sqrt(counts.T), origin="lower", extent=limits, cmap="magma", aspect="equal", interpolation="nearest"
    )
