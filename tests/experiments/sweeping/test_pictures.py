"""Pictures of a sweep: the numbers that they were given, the best marked, labels that say what is shown."""

import math

import numpy as np
import pytest

from experiments.configuration import make_config
from experiments.sweeping import pictures, search_space
from experiments.sweeping.outcomes import Search


@pytest.fixture
def picture(tmp_path, figures_of):
    """(texts of `--over`, point → score) → the figure that is drawn."""
    drawn = figures_of(pictures)

    def draw(texts, score_of, *, num=None, num_seeds=4, mode="max", interval=lambda s: [s - 1, s + 2]):
        config = make_config("ppo", environment="CartPole-v1")
        axes = search_space.read(config, texts)
        points = search_space.points_of(axes, num, 0)
        scores = [score_of(*point.values()) for point in points]
        rows = [{"point": p, "score": s, "interval_95": interval(s)} for p, s in zip(points, scores, strict=True)]
        search = Search(points, [], num_seeds, 0, "episode_return", mode)
        assert pictures.draw(tmp_path, axes, rows, "ppo on CartPole-v1", search) == tmp_path / "sweep.png"
        return drawn["sweep.png"]

    return draw


def line(panel, label):
    return next(found for found in panel.get_lines() if found.get_label() == label)


def stars(figure):
    return [line(panel, "best").get_xydata().tolist() for panel in figure.axes]


def test_one_field_is_a_curve_with_its_interval_and_the_best_marked(picture):
    figure = picture(["learner.learning_rate=1e-2,1e-4,1e-3"], lambda rate: -abs(math.log10(rate) + 3))
    (panel,) = figure.axes
    assert panel.get_lines()[0].get_xydata().tolist() == [[1e-4, -1.0], [1e-3, 0.0], [1e-2, -1.0]]
    assert stars(figure) == [[[1e-3, 0.0]]]
    band = panel.collections[0].get_paths()[0].vertices
    assert {tuple(corner) for corner in band[band[:, 0] == 1e-3]} == {(1e-3, -1.0), (1e-3, 2.0)}
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("learning rate", "episode return (interquartile mean)")
    assert panel.get_xscale() == "log"
    assert [label.get_text() for label in panel.get_xticklabels()] == ["0.0001", "0.001", "0.01"]
    assert figure.get_suptitle() == "ppo on CartPole-v1"


@pytest.mark.parametrize(
    ("text", "scale"),
    [
        ("learner.learning_rate=0.0001,0.01", "log"),
        ("learner.discount=0.9,0.99,1", "linear"),
        ("learner.entropy_coefficient=0,0.001,0.1", "symlog"),
        ("learner.activation=tanh,relu", "linear"),
        ("learner.max_kl=0.01,inf", "linear"),  # no place on an axis of numbers
    ],
)
def test_the_axis_suits_the_values(picture, text, scale):
    (panel,) = picture([text], lambda value: 1.0).axes
    assert panel.get_xscale() == scale
    names = text.partition("=")[2].split(",")
    assert [label.get_text() for label in panel.get_xticklabels()] == names


def test_one_seed_has_no_band(picture):
    (panel,) = picture(["learner.learning_rate=1,2"], lambda rate: rate, num_seeds=1).axes
    assert not panel.collections
    assert panel.get_ylabel() == "episode return"


def test_names_lie_side_by_side_with_bars(picture):
    figure = picture(["learner.hidden_sizes=(8,),(64,64)"], len)
    assert stars(figure) == [[[1.0, 2.0]]]
    (bars,) = figure.axes[0].containers
    assert bars.lines[0].get_xydata().tolist() == [[0.0, 1.0], [1.0, 2.0]]


def test_two_fields_are_a_heat_map_with_numbers_and_the_best_framed(picture):
    figure = picture(
        ["learner.learning_rate=2,1", "learner.entropy_coefficient=0,3,7"],
        lambda rate, entropy: math.inf if entropy == 7 else 10 * rate + entropy,
        mode="min",
    )
    panel = figure.axes[0]
    cells = np.ma.filled(panel.images[0].get_array(), np.nan)
    np.testing.assert_array_equal(cells, [[10, 13, np.nan], [20, 23, np.nan]])
    texts = {text.get_position(): text.get_text() for text in panel.texts}
    assert texts == {
        **{(0, 0): "10.00", (1, 0): "13.00", (2, 0): "diverged"},
        **{(0, 1): "20.00", (1, 1): "23.00", (2, 1): "diverged"},
    }
    (frame,) = panel.patches
    assert (frame.get_x(), frame.get_y()) == (-0.5, -0.5)
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("entropy coefficient", "learning rate")
    assert [label.get_text() for label in panel.get_yticklabels()] == ["1", "2"]
    assert figure.axes[1].get_ylabel() == "episode return (interquartile mean)"


def test_three_fields_are_the_best_and_the_median_over_the_others(picture):
    figure = picture(
        ["learner.learning_rate=1,2,3", "learner.entropy_coefficient=0,1", "learner.activation=tanh,relu"],
        lambda rate, entropy, name: 100 * rate + 10 * entropy + (name == "relu"),
    )
    rate, entropy, name = figure.axes
    assert line(rate, "best over the others").get_xydata().tolist() == [[1, 111], [2, 211], [3, 311]]
    assert line(rate, "median over the others").get_xydata().tolist() == [[1, 105.5], [2, 205.5], [3, 305.5]]
    assert line(entropy, "best over the others").get_xydata().tolist() == [[0, 301], [1, 311]]
    assert line(name, "median over the others").get_xydata().tolist() == [[0, 205], [1, 206]]
    assert stars(figure) == [[[3, 311]], [[1, 311]], [[1, 311]]]


def test_drawn_points_are_points_by_each_of_their_values(picture):
    figure = picture(
        ["learner.learning_rate=log_uniform:1e-5..1e-2", "learner.entropy_coefficient=uniform:0..1"],
        lambda rate, entropy: entropy,
        num=12,
    )
    rate, entropy = figure.axes
    found = line(entropy, "12 points").get_xydata()
    assert len(found) == 12
    np.testing.assert_array_equal(found[:, 0], found[:, 1])
    assert stars(figure)[1] == [[found.max(), found.max()]]
    assert (rate.get_xscale(), entropy.get_xscale()) == ("log", "linear")


def test_what_diverged_is_marked_at_the_foot_and_not_on_the_curve(picture):
    (panel,) = picture(["learner.learning_rate=1,2,3"], lambda rate: -math.inf if rate == 2 else rate).axes
    lost = line(panel, "diverged")
    assert lost.get_xydata().tolist() == [[2.0, 0.0]]
    assert lost.get_transform() == panel.get_xaxis_transform()
    np.testing.assert_array_equal(panel.get_lines()[1].get_ydata(), [1, np.nan, 3])


def test_where_all_diverged_there_is_no_best(picture):
    figure = picture(["learner.learning_rate=1,2"], lambda rate: -math.inf)
    assert "best" not in {found.get_label() for found in figure.axes[0].get_lines()}


def test_a_heat_map_where_all_diverged_is_gray_and_frames_nothing(tmp_path, picture):
    texts = ["learner.learning_rate=1,2", "learner.entropy_coefficient=0,1"]
    panel = picture(texts, lambda rate, entropy: math.inf, mode="min").axes[0]
    assert np.ma.getmaskarray(np.ma.masked_invalid(panel.images[0].get_array())).all()
    assert [text.get_text() for text in panel.texts] == ["diverged"] * 4
    assert not panel.patches


@pytest.mark.parametrize(("down", "across", "has_numbers"), [(18, 15, True), (2, 16, False), (19, 2, False)])
def test_a_large_heat_map_does_not_outgrow_a_screen(picture, down, across, has_numbers):
    texts = [f"learner.num_envs={','.join(map(str, range(1, down + 1)))}"]
    texts += [f"learner.num_steps={','.join(map(str, range(1, across + 1)))}"]
    figure = picture(texts, lambda envs, steps: envs + steps)
    panel = figure.axes[0]
    assert len(panel.texts) == (down * across if has_numbers else 0)
    rows, columns = panel.get_yticklabels(), panel.get_xticklabels()
    assert len(rows) == (down if down <= 18 else 10)  # every second of 19
    assert len(columns) == (across if across <= 15 else 8)
    assert [int(label.get_text()) - 1 for label in rows] == panel.get_yticks().tolist()
    assert [int(label.get_text()) - 1 for label in columns] == panel.get_xticks().tolist()


def test_the_heat_map_of_ten_thousand_points_is_as_large_as_one_of_270(picture):
    values = ",".join(map(str, range(1, 101)))
    figure = picture([f"learner.num_envs={values}", f"learner.num_steps={values}"], lambda envs, steps: envs)
    assert figure.get_size_inches().tolist() == pytest.approx([3 + 0.85 * 15, 1.6 + 0.55 * 18])


def test_a_value_diverged_only_where_all_its_points_did(picture):
    # of the rate 2 two in three diverge: its median is lost, its best is not; of the rate 3 all do
    figure = picture(
        ["learner.learning_rate=1,2,3", "learner.entropy_coefficient=0,1,2", "learner.activation=tanh"],
        lambda rate, entropy, name: -math.inf if rate == 3 or (rate == 2 and entropy) else rate,
    )
    panel = figure.axes[0]
    np.testing.assert_array_equal(line(panel, "best over the others").get_ydata(), [1, 2, np.nan])
    np.testing.assert_array_equal(line(panel, "median over the others").get_ydata(), [1, np.nan, np.nan])
    assert line(panel, "diverged").get_xdata().tolist() == [3]


@pytest.mark.parametrize(("mode", "sign"), [("max", 1), ("min", -1)])
def test_an_interval_without_an_end_goes_to_the_edge_of_the_panel(picture, mode, sign):
    lost = {2.0: sign * -math.inf}
    interval = lambda s: sorted([lost.get(abs(s), s - sign), s + sign * 2])  # noqa: E731
    figure = picture(["learner.learning_rate=1,2,3"], lambda rate: sign * rate, mode=mode, interval=interval)
    (panel,) = figure.axes
    bottom, top = panel.get_ylim()
    band = panel.collections[0].get_paths()[0].vertices
    edge = bottom if mode == "max" else top
    assert {tuple(corner) for corner in band[band[:, 0] == 2]} == {(2.0, edge), (2.0, sign * 4.0)}
    assert {tuple(corner) for corner in band[band[:, 0] == 3]} == {(3.0, sign * 2.0), (3.0, sign * 5.0)}
    assert bottom < min(0, sign * 5)
    assert top > max(0, sign * 5)


def test_a_bar_without_an_end_goes_to_the_edge_of_the_panel(picture):
    figure = picture(
        ["learner.activation=tanh,relu"],
        lambda name: {"tanh": 1.0, "relu": 2.0}[name],
        interval=lambda s: [-math.inf if s == 1 else s - 1, s + 2],
    )
    (panel,) = figure.axes
    (segments,) = (found.get_segments() for found in panel.collections)
    np.testing.assert_allclose(segments, [[[0, panel.get_ylim()[0]], [0, 3]], [[1, 1], [1, 4]]])


def test_ticks_tell_values_apart(picture):
    (panel,) = picture(["learner.discount=0.99999,0.999995"], lambda value: value).axes
    assert [label.get_text() for label in panel.get_xticklabels()] == ["0.99999", "0.999995"]


@pytest.mark.parametrize("texts", [["learner.num_envs=1,2"], ["learner.num_envs=1,2", "learner.num_steps=1,2"]])
@pytest.mark.parametrize("sign", [1, -math.inf], ids=["scores", "all diverged"])
def test_the_picture_is_a_png(tmp_path, texts, sign):
    axes = search_space.read(make_config("ppo", environment="CartPole-v1"), texts)
    points = search_space.points_of(axes, None, 0)
    rows = [{"point": point, "score": sign * 2.0, "interval_95": [sign * 2.0, sign * 2.0]} for point in points]
    search = Search(points, [], 2, 0, "episode_return", "max")
    path = pictures.draw(tmp_path, axes, rows, "title", search)
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert [found.name for found in tmp_path.iterdir()] == ["sweep.png"]
