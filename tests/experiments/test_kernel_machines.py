"""Tasks of support vector machines: what a search chooses, what is refused, and what is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import data, kernel_machines, kernel_pictures
from experiments.configuration import make_config
from experiments.errors import UserError
from experiments.tasks import at_once, make_task
from mathai.learners import svm, svm_head
from mathai.learners.base import train

GRID = {"gammas": (0.5, 0.1, 0.2), "prices": (3.0, 1.0)}  # in no order


def config_of(search=None, learner=None, **fields):
    return make_config("svm", data={"name": "digits", **fields}, search=search or {}, learner=learner)


@pytest.fixture
def accuracies(monkeypatch):
    """What cross-validation would find: [gammas, prices, folds], ascending."""
    found = np.zeros((3, 2, 2))

    def cross_validate(X, y, *, gammas, Cs, folds, **_):
        assert (len(X), len(y), folds) == (100, 100, 5)
        np.testing.assert_array_equal(gammas, [0.1, 0.2, 0.5])
        np.testing.assert_array_equal(Cs, [1.0, 3.0])
        return found

    monkeypatch.setattr(kernel_machines, "cross_validate", cross_validate)
    return found


@pytest.fixture
def figures(figures_of):
    return figures_of(kernel_pictures)


# The search


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({(1, 1): (0.8, 0.9), (2, 0): (1.0, 0.6)}, "gamma 0.2, C 3, accuracy 0.8500"),  # 0.85 against 0.8
        ({(2, 1): (0.9, 0.9), (1, 0): (0.8, 1.0)}, "gamma 0.2, C 1, accuracy 0.9000"),  # a tie: the wider
        ({(1, 1): (0.9, 0.9), (1, 0): (0.8, 1.0)}, "gamma 0.2, C 1, accuracy 0.9000"),  # a tie: the cheaper
        ({(0, 0): (np.nan, 1.0), (2, 1): (0.1, 0.1)}, "gamma 0.5, C 3, accuracy 0.1000"),  # one fold failed
    ],
)
def test_the_highest_mean_accuracy_is_chosen(accuracies, capsys, values, expected):
    for place, value in values.items():
        accuracies[place] = value
    make_task(config_of(GRID, num_train=100))
    said = capsys.readouterr().out
    assert "12 fits" in said
    assert expected in said


def test_widths_and_prices_may_be_whole_numbers_and_nothing_but_numbers(accuracies):
    make_task(config_of({"gammas": (0.1, 0.2, 0.5), "prices": (1, 3)}, num_train=100))
    with pytest.raises(
        UserError, match=r"config\.search\.prices is \('a',\); it must be of type tuple, as \(1\.0,\) is"
    ):
        make_task(config_of({**GRID, "prices": ("a",)}, num_train=100))


def test_the_learner_has_what_the_search_chose(accuracies):
    """Of two far points β = 1 each, unless the price is lower; gamma makes k(x, z) = e^(−4γ)."""
    accuracies[1, 0] = 1.0  # γ = 0.2, C = 1
    task = make_task(config_of(GRID, num_train=100))
    assert task.evaluation_data[0] is task.data
    config = task.pictures.args[0]
    assert (config.gamma, config.C) == (0.2, 1.0)
    state, _ = jax.jit(task.learner.update)(task.learner.init(jax.random.key(0)), task.data)
    assert 0.99 < float(jnp.abs(state.beta).max()) <= 1.0  # some example is at the price


def test_without_a_search_the_config_says_it_all(monkeypatch):
    monkeypatch.setattr(kernel_machines, "cross_validate", None)
    task = make_task(config_of(learner={"gamma": 0.03, "C": 7.0}, num_train=100))
    config = task.pictures.args[0]
    assert (config.gamma, config.C) == (0.03, 7.0)
    assert at_once(config_of()) == 1
    assert at_once(config_of(GRID)) == 6


@pytest.mark.parametrize(
    ("search", "learner", "message"),
    [
        ({"gammas": (0.1,)}, {}, "needs both gammas and prices"),
        ({"prices": (1.0,)}, {}, "needs both gammas and prices"),
        (GRID, {"kernel": "linear"}, "of the kernel 'rbf'"),
        (GRID, {"strategy": "one_vs_rest"}, "the strategy 'one_vs_one'"),
        ({**GRID, "gammas": (0.0, 0.1)}, {}, "gammas is"),
        ({**GRID, "prices": (-1.0, 0.1)}, {}, "Cs is"),
        ({**GRID, "folds": 1}, {}, "folds is 1"),
        ({}, {"kernel": "cubic"}, "kernel 'cubic' is unknown"),
        ({}, {"C": -1.0}, "C is -1"),
    ],
)
def test_a_search_or_a_learner_that_cannot_be_is_refused(search, learner, message):
    with pytest.raises(UserError, match=message):
        make_task(config_of(search, learner, num_train=100))


def test_a_search_in_which_nothing_converges_is_refused(accuracies):
    accuracies[:] = np.nan
    with pytest.raises(UserError, match=r"no fit of config\.search converged"):
        make_task(config_of(GRID, num_train=100))


def test_a_search_belongs_to_a_support_vector_machine():
    assert "search" not in make_config("classifier", data={"name": "digits"})
    with pytest.raises(UserError, match=r"config\.search has no field 'gamma' \(did you mean 'gammas'\?\)"):
        config_of({"gamma": (1.0,)})


# Data, training, pictures


def test_training_examples_can_be_the_first_few():
    fields = {"name": "digits", "directory": "", "evaluate_on": "test"}
    whole, few = data.load(fields), data.load({**fields, "num_train": 7})
    np.testing.assert_array_equal(few.train.inputs, whole.train.inputs[:7])
    np.testing.assert_array_equal(few.train.labels, whole.train.labels[:7])
    np.testing.assert_array_equal(few.test.labels, whole.test.labels)
    for num_train in (-1, 1439):
        with pytest.raises(UserError, match=r"num_train is .*; it must be from 1 to 1438, or 0 for all"):
            data.load({**fields, "num_train": num_train})


def test_two_moons_are_learned_and_drawn(figures, tmp_path):
    task = make_task(make_config("svm", data={"name": "moons", "num_train": 60}, learner={"gamma": 2.0, "block": 16}))
    learn = jax.jit(lambda: train(task.learner, jax.random.key(0), lambda _: task.data, 20))
    state, metrics = learn()
    assert metrics["converged"][-1] == 1
    drawn = task.pictures(tmp_path, state)
    assert {path.name for path in drawn} == {"confusion_matrix.png", "boundaries.png"}
    figure = figures["boundaries.png"]
    titles = [panel.get_title() for panel in figure.axes]
    assert [title.split(",")[0].split("\n")[0] for title in titles] == ["linear", "polynomial", "RBF"]
    supports = int(metrics["support_vectors"][-1])
    assert f"{supports} support vectors" in titles[2]  # the learner's kernel is that of the third panel
    for panel, title in zip(figure.axes, titles, strict=True):
        assert panel.get_xlabel() == "$x_1$"
        ringed = len(panel.collections[-1].get_offsets())
        assert f" {ringed} support vectors" in title


def test_the_map_frames_the_best_and_shows_where_fits_failed(figures, tmp_path):
    accuracies = np.array([[[0.5, 0.7], [0.9, 0.8]], [[np.nan, 0.9], [0.8, 0.8]]])
    kernel_pictures.accuracy_map(tmp_path, np.array([0.1, 0.2]), np.array([1.0, 3.0]), accuracies)
    panel = figures["accuracy_map.png"].axes[0]
    (frame,) = panel.patches
    assert (frame.get_x() + 0.5, frame.get_y() + 0.5) == (1, 0)  # C = 3, γ = 0.1
    assert "best 0.8500" in panel.get_title()
    texts = {text.get_position(): text.get_text() for text in panel.texts}
    assert texts == {(0, 0): "0.600", (1, 0): "0.850", (0, 1): "nan", (1, 1): "0.800"}
    assert [label.get_text() for label in panel.get_xticklabels()] == ["1", "3"]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["0.1", "0.2"]


def test_a_head_is_scored_on_machines_fitted_to_the_training_examples():
    config = make_config("svm_head", data={"name": "digits", "num_train": 100}, learner={"batch_size": 20})
    task = make_task(config)
    assert isinstance(task.pictures.args[0], data.DataSet)
    assert (len(task.evaluation_data[0].labels), len(task.evaluation_data[1].labels)) == (100, 359)
    assert task.num_updates == svm_head.Config.num_epochs * 5
    assert svm.Config.kernel == "rbf"
