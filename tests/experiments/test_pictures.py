"""The learning curve: a PNG with labels, the numbers of the log, and a band over seeds."""

import json

import matplotlib.image
import numpy as np
import pytest

from experiments import pictures
from experiments.statistics import bootstrap_interval

ONE_SEED = [
    {"step": 4, "env_steps": 64, "episodes": 0, "episode_return": 0.0},  # no episode has ended: nothing to draw
    {"step": 8, "env_steps": 128, "episodes": 3, "episode_return": 20.0},
    {"step": 12, "env_steps": 192, "episodes": 7, "episode_return": 30.0, "evaluation/episode_return": 35.0},
]
FIVE_SEEDS = [
    {"step": 4, "env_steps": [64] * 5, "episodes": [1] * 5, "episode_return": [1.0, 2.0, 3.0, 4.0, 50.0]},
    {"step": 8, "env_steps": [128] * 5, "episodes": [2] * 5, "episode_return": [2.0, 4.0, 6.0, 8.0, 0.0]},
]


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Draw rows; returns the path and the axes."""
    closed, close = [], pictures.plt.close
    monkeypatch.setattr(pictures.plt, "close", closed.append)

    def picture(rows, metric="episode_return"):
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        path = pictures.learning_curves(tmp_path, (metric,), "ppo on CartPole-v1")
        return path, closed[-1].axes[0]

    yield picture
    for figure in closed:
        close(figure)


def test_the_picture_is_a_png_with_something_on_it(tmp_path, draw):
    path, _ = draw(ONE_SEED)
    assert path == tmp_path / "learning_curve.png"
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    pixels = matplotlib.image.imread(path)
    assert pixels.shape[0] > 400
    assert pixels.shape[1] > 600
    assert pixels[..., :3].std() > 0.01
    assert [other.name for other in tmp_path.iterdir() if other.suffix == ".png"] == ["learning_curve.png"]


def test_axes_title_and_lines_are_labelled(draw):
    _, axes = draw(ONE_SEED)
    assert axes.get_xlabel() == "environment steps (per seed)"
    assert axes.get_ylabel() == "episode return"
    assert axes.get_title() == "ppo on CartPole-v1"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["training", "evaluation"]


def test_the_lines_are_the_rows_of_the_log(draw):
    _, axes = draw(ONE_SEED)
    training, evaluation = (line.get_xydata().tolist() for line in axes.get_lines())
    assert training == [[128.0, 20.0], [192.0, 30.0]]
    assert evaluation == [[192.0, 35.0]]


def test_without_env_steps_the_axis_counts_updates(draw):
    _, axes = draw([{"step": 4, "loss": 2.0}, {"step": 8, "loss": 1.0}], "loss")
    assert axes.get_xlabel() == "updates"
    assert axes.get_lines()[0].get_xydata().tolist() == [[4.0, 2.0], [8.0, 1.0]]


def test_seeds_are_drawn_as_their_interquartile_mean_with_its_interval(draw):
    _, axes = draw(FIVE_SEEDS)
    (line,) = axes.get_lines()
    assert line.get_xydata().tolist() == [[64.0, 3.0], [128.0, 4.0]]  # one value cut at each end of five
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices
    for x, row in zip((64.0, 128.0), FIVE_SEEDS, strict=True):
        edge = corners[corners[:, 0] == x][:, 1]
        interval = bootstrap_interval(row["episode_return"])
        np.testing.assert_allclose([edge.min(), edge.max()], interval, atol=0.1 * np.ptp(interval))
    assert "5 seeds" in axes.get_legend().get_texts()[0].get_text()


def test_an_infinite_value_leaves_the_rest_of_the_curve(draw):
    _, axes = draw([{"step": 4, "loss": "inf"}, {"step": 8, "loss": 1.0}], "loss")
    assert axes.get_lines()[0].get_xydata().tolist() == [[4.0, np.inf], [8.0, 1.0]]


def test_a_metric_that_no_row_has_gives_no_picture(tmp_path, draw):
    path, _ = draw(ONE_SEED, "score")
    assert path is None
    assert not (tmp_path / "learning_curve.png").exists()
