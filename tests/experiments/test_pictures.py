"""Pictures of a run: a PNG each, with labels, the numbers that they were given, and what the eye is to find."""

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
def figures(monkeypatch):
    """The figures that are made, in order."""
    made, make = [], pictures.Figure

    def make_and_keep(**options):
        made.append(make(**options))
        return made[-1]

    monkeypatch.setattr(pictures, "Figure", make_and_keep)
    return made


@pytest.fixture
def draw(tmp_path, figures):
    """Draw rows; returns the path and the axes."""

    def picture(rows, metric="episode_return"):
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        path = pictures.learning_curves(tmp_path, (metric,), "ppo on CartPole-v1")
        return path, figures[-1].axes[0] if figures else None

    return picture


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


# What a classifier gets wrong

IMAGES = np.arange(5 * 2 * 3).reshape(5, 2, 3) / 29
LABELS = np.array([0, 0, 1, 2, 2])
# right; taken for 1; right; taken for 0 by far; taken for 1
PROBABILITIES = np.array([[0.8, 0.1, 0.1], [0.3, 0.7, 0.0], [0.0, 1.0, 0.0], [0.9, 0.1, 0.0], [0.1, 0.5, 0.4]])
CLASSES = ("cat", "dog", "bird")


def is_drawn(path):
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert matplotlib.image.imread(path)[..., :3].std() > 0.01
    return [other.name for other in path.parent.iterdir()] == [path.name]  # nothing else is left


def test_a_confusion_matrix_shows_the_counts_and_their_shares(tmp_path, figures):
    path = pictures.confusion_matrix(tmp_path, PROBABILITIES, LABELS, CLASSES)
    assert path == tmp_path / "confusion_matrix.png"
    assert is_drawn(path)
    panel = figures[0].axes[0]
    np.testing.assert_array_equal(panel.images[0].get_array(), [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0]])
    # texts lie at (column, row); zeros are left out
    texts = {text.get_position(): text.get_text() for text in panel.texts}
    assert texts == {(0, 0): "1", (1, 0): "1", (1, 1): "1", (0, 2): "1", (1, 2): "1"}


def test_a_confusion_matrix_is_labelled(tmp_path, figures):
    pictures.confusion_matrix(tmp_path, PROBABILITIES, LABELS, CLASSES)
    panel = figures[0].axes[0]
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("predicted class", "true class")
    assert panel.get_title() == "accuracy 0.4000 on 5 examples"
    for axis in (panel.xaxis, panel.yaxis):
        assert [label.get_text() for label in axis.get_ticklabels()] == list(CLASSES)
    assert panel.yaxis_inverted()  # the first class is on top
    assert figures[0].axes[1].get_ylabel() == "share of the true class"


def test_a_class_without_examples_leaves_its_row_empty(tmp_path, figures):
    pictures.confusion_matrix(tmp_path, PROBABILITIES[:3], LABELS[:3], CLASSES)
    np.testing.assert_array_equal(figures[0].axes[0].images[0].get_array()[2], [0.0, 0.0, 0.0])


@pytest.mark.parametrize(("num_classes", "has_numbers"), [(30, True), (31, False)])
def test_many_classes_are_drawn_without_numbers(tmp_path, figures, num_classes, has_numbers):
    names = tuple(map(str, range(num_classes)))
    path = pictures.confusion_matrix(tmp_path, np.eye(num_classes), np.arange(num_classes), names)
    assert is_drawn(path)
    panel = figures[0].axes[0]
    assert panel.get_title() == f"accuracy 1.0000 on {num_classes} examples"
    assert len(panel.texts) == (num_classes if has_numbers else 0)


def shown(figure):
    """Titles and images of the panels of a figure, as drawn."""
    panels = [panel for panel in figure.axes if panel.images]
    return [panel.get_title() for panel in panels], [np.asarray(panel.images[0].get_array()) for panel in panels]


def test_the_worst_mistakes_come_first_with_their_probabilities(tmp_path, figures):
    path = pictures.worst_mistakes(tmp_path, IMAGES, PROBABILITIES, LABELS, CLASSES)
    assert path == tmp_path / "worst_mistakes.png"
    assert is_drawn(path)
    titles, images = shown(figures[0])
    # the label of example 3 had probability 0, that of 1 had 0.3, that of 4 had 0.4
    assert titles == ["bird (0.0%)\nnot cat (90.0%)", "cat (30.0%)\nnot dog (70.0%)", "bird (40.0%)\nnot dog (50.0%)"]
    np.testing.assert_array_equal(images, IMAGES[[3, 1, 4]])
    assert figures[0].get_suptitle() == "3 of 5 wrong; the 3 worst"


def test_no_more_mistakes_are_drawn_than_there_is_room_for(tmp_path, figures):
    pictures.worst_mistakes(tmp_path, IMAGES, PROBABILITIES, LABELS, CLASSES, rows=1, columns=2)
    assert len(shown(figures[0])[0]) == 2
    assert figures[0].get_suptitle() == "3 of 5 wrong; the 2 worst"
    pictures.worst_mistakes(tmp_path, IMAGES, PROBABILITIES, LABELS, CLASSES, rows=5, columns=2)
    assert len(figures[1].axes) == 4  # two rows, the last of which is half empty
    assert not any(panel.axison for panel in figures[1].axes)


@pytest.mark.parametrize(("channels", "drawn"), [(1, (2, 3)), (3, (2, 3, 3)), (4, (2, 3, 4))])
def test_images_with_channels_are_drawn_in_grey_or_colour(tmp_path, figures, channels, drawn):
    images = np.repeat(IMAGES[..., None], channels, -1)
    assert is_drawn(pictures.worst_mistakes(tmp_path, images, PROBABILITIES, LABELS, CLASSES))
    assert {image.shape for image in shown(figures[0])[1]} == {drawn}


def test_where_all_is_right_there_is_no_picture_and_none_of_before(tmp_path):
    pictures.worst_mistakes(tmp_path, IMAGES, PROBABILITIES, LABELS, CLASSES)
    assert (tmp_path / "worst_mistakes.png").exists()
    assert pictures.worst_mistakes(tmp_path, IMAGES, np.eye(3)[LABELS], LABELS, CLASSES) is None
    assert list(tmp_path.iterdir()) == []
