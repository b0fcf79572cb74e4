"""What `--over` says: values of a field's type, points of a grid or drawn by their law, groups that share a program."""

import itertools
import math

import numpy as np
import pytest

from experiments.configuration import make_config
from experiments.errors import UserError
from experiments.sweeping import search_space


@pytest.fixture(scope="module")
def config():
    return make_config("ppo", environment="CartPole-v1", learner={"learning_rate": 0.01})


@pytest.fixture
def points(config):
    """The points of `--over` texts."""
    return lambda *texts, num=None, seed=0: search_space.points_of(search_space.read(config, texts), num, seed)


# Reading


@pytest.mark.parametrize(
    ("text", "path", "values"),
    [
        ("learner.learning_rate=1e-4,3e-4,1", "learner.learning_rate", (0.0001, 0.0003, 1.0)),
        ("config.learner.learning_rate=1e-4", "learner.learning_rate", (0.0001,)),
        ("learner.max_kl=inf, 0.1", "learner.max_kl", (math.inf, 0.1)),
        ("learner.num_envs=2,4", "learner.num_envs", (2, 4)),
        ("learner.shared_torso=True,false", "learner.shared_torso", (True, False)),
        ("learner.activation=tanh,'relu'", "learner.activation", ("tanh", "relu")),
        ("learner.hidden_sizes=(32,32),(64,),[8, 8]", "learner.hidden_sizes", ((32, 32), (64,), (8, 8))),
        ("environment=CartPole-v1,Acrobot-v1", "environment", ("CartPole-v1", "Acrobot-v1")),
        ("run.num_updates=10,20", "run.num_updates", (10, 20)),
    ],
)
def test_values_have_the_type_of_their_field(config, text, path, values):
    (axis,) = search_space.read(config, [text])
    assert (axis.path, axis.values, axis.range) == (path, values, None)
    assert [type(value) for value in axis.values] == [type(value) for value in values]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["learner.lerning_rate=1"], r"no field 'learner.lerning_rate' \(did you mean 'learner.learning_rate'\?\)"),
        (["learning_rate=1"], r"did you mean 'learner.learning_rate'\?"),
        (["learner=1"], "learner is a section of the config; name one of its fields, as learner."),
        (["learner.learning_rate"], "gives no value; write --over=learner.learning_rate=VALUE,VALUE"),
        (["learner.learning_rate="], "gives no value"),
        (["learner.learning_rate=1,,2"], "has an empty value"),
        (["learner.learning_rate=0.001,1e-3"], "gives 0.001 twice"),
        (["learner.learning_rate=1", "learner.learning_rate=2"], "names learner.learning_rate twice; give all of"),
        (["learner.learning_rate=fast"], "'fast' is not a number, as 0.00025 is"),
        (["learner.learning_rate=nan"], "'nan' is not a number"),
        (["learner.num_envs=1.5"], "'1.5' is not a whole number, as 4 is"),
        (["learner.shared_torso=1"], "'1' is not True or False"),
        (["learner.hidden_sizes=64"], r"'64' is not a tuple, as \(64, 64\) is"),
        (["learner.hidden_sizes=(0.5,)"], r"hidden_sizes is \(0.5,\); it must be of type tuple"),
        (["learner.hidden_sizes=(64,64"], "a bracket is not closed"),
        (["learner.activation='tanh"], "a quote is not closed"),
        (["learner.learning_rate=loguniform:1..2"], r"law 'loguniform' is unknown \(did you mean 'log_uniform'\?\)"),
        (["learner.learning_rate=uniform:2..1"], "must go from a number to a larger one"),
        (["learner.learning_rate=uniform:0..inf"], "must go from a number to a larger one"),
        (["learner.learning_rate=log_uniform:0..1"], "a logarithm needs numbers above 0; use uniform"),
        (["learner.num_envs=uniform:0.5..2"], "'0.5' is not a whole number"),
        (["learner.activation=uniform:1..2"], "is a range, and the field holds no number"),
        (["run.seed=0,1"], "run.seed cannot be swept: seeds are those of --seeds"),
        (["run.best_metric=a,b"], "cannot be swept: points are compared by it"),
        (["data.evaluate_on=test,validation"], "cannot be swept: points are compared on the same examples"),
        (["algorithm=ppo,dqn"], "cannot be swept: another algorithm has other hyperparameters"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_mistake_is_named(config, texts, message):
    with pytest.raises(UserError, match=message) as caught:
        search_space.read(config, texts)
    assert "\n" not in str(caught.value)


# Points


def test_a_grid_is_the_product_of_all_values(points):
    found = points("learner.learning_rate=1,2,3", "learner.activation=tanh,relu")
    expected = itertools.product((1.0, 2.0, 3.0), ("tanh", "relu"))
    assert found == [{"learner.learning_rate": rate, "learner.activation": name} for rate, name in expected]


def test_a_range_has_no_grid(points):
    with pytest.raises(UserError, match=r"uniform:1\.\.2 is a range, which a grid has no points of; .* --points=N"):
        points("learner.learning_rate=uniform:1..2")


@pytest.mark.parametrize(("law", "forward"), [("uniform", np.array), ("log_uniform", np.log)])
def test_numbers_are_drawn_by_their_law(points, law, forward):
    low, high, num = 1e-5, 10.0, 600
    found = [point["learner.learning_rate"] for point in points(f"learner.learning_rate={law}:1e-5..10", num=num)]
    assert len(set(found)) == num
    share = np.sort((forward(np.array(found)) - forward(low)) / (forward(high) - forward(low)))
    assert share.min() >= 0
    assert share.max() <= 1
    # Kolmogorov and Smirnov: of 1000 such samples one lies further from the law
    assert np.max(np.abs(share - (np.arange(num) + 0.5) / num)) < 1.95 / math.sqrt(num)


@pytest.mark.parametrize("law", ["uniform", "log_uniform"])
def test_whole_numbers_have_their_fair_share_at_the_ends_too(config, law):
    (axis,) = search_space.read(config, [f"learner.num_envs={law}:1..4"])
    generator = np.random.default_rng(0)
    counts = np.bincount([axis.range.draw(generator) for _ in range(4000)], minlength=5)[1:]
    expected = {  # log (k + ½) / (k − ½) is what the law gives to the numbers that round to k
        "uniform": np.full(4, 0.25),
        "log_uniform": np.array([math.log((2 * k + 1) / (2 * k - 1)) for k in range(1, 5)]) / math.log(9),
    }[law]
    np.testing.assert_allclose(counts / 4000, expected, atol=4 * 0.5 / math.sqrt(4000))


def test_one_of_a_list_is_drawn_with_equal_chances(points):
    found = points("learner.activation=tanh,relu", "learner.learning_rate=uniform:0..1", num=400)
    num_relu = sum(point["learner.activation"] == "relu" for point in found)
    assert abs(num_relu - 200) < 4 * 10  # four standard deviations


def test_points_depend_on_the_seed_alone_and_more_of_them_begin_alike(points):
    text = "learner.learning_rate=log_uniform:1e-5..1e-2"
    assert points(text, num=5) == points(text, num=5) == points(text, num=9)[:5]
    assert points(text, num=5) != points(text, num=5, seed=1)


def test_drawn_numbers_can_be_typed(points):
    for point in points("learner.learning_rate=log_uniform:1e-5..1e-2", num=50):
        assert float(f"{point['learner.learning_rate']:.4g}") == point["learner.learning_rate"]


def test_no_point_is_drawn_twice(points):
    texts = "learner.num_envs=uniform:1..3", "learner.activation=tanh,relu"
    found = points(*texts, num=6)
    assert len({tuple(point.values()) for point in found}) == 6
    with pytest.raises(UserError, match="--points=7 asks for more points than --over has: 6 different ones"):
        points(*texts, num=7)


# Groups


def test_only_floats_of_the_learner_share_a_program(config, points):
    found = points(
        "learner.learning_rate=1,2", "learner.hidden_sizes=(8,),(16,)", "learner.discount=0.9,1", "run.num_updates=4"
    )
    groups = search_space.groups_of(config, found)
    assert [group.number for group in groups] == [0, 1]
    assert [group.values["learner.hidden_sizes"] for group in groups] == [(8,), (16,)]
    assert {group.traced for group in groups} == {("learning_rate", "discount")}
    assert sorted(number for group in groups for number in group.points) == list(range(8))
    for group in groups:
        assert all(found[number].items() >= group.values.items() for number in group.points)


@pytest.mark.parametrize(
    ("algorithm", "sections", "text", "is_shared"),
    [
        ("tsne", {"data": {}}, "learner.perplexity=5,10", False),
        ("tsne", {"data": {}}, "learner.learning_rate=50,100", True),
        ("umap", {"data": {}}, "learner.target_weight=0.1,0.5", False),
        ("umap", {"data": {}}, "learner.min_dist=0.1,0.5", True),
        ("svm", {"data": {}}, "learner.C=1,10", True),
        ("svm", {"data": {}}, "learner.tolerance=1e-3,1e-2", True),
        ("svm", {"data": {}, "search": {"gammas": (0.1,), "prices": (1.0,)}}, "learner.tolerance=1e-3,1e-2", False),
        ("classifier", {"data": {}}, "learner.dropout_rate=0,0.5", True),
        ("classifier", {"data": {}}, "data.num_train=100,200", False),
    ],
)
def test_what_a_task_uses_outside_its_program_takes_one_for_each_value(algorithm, sections, text, is_shared):
    config = make_config(algorithm, **sections)
    found = search_space.points_of(search_space.read(config, [text]), None, 0)
    assert len(search_space.groups_of(config, found)) == (1 if is_shared else 2)


SEARCHED = {"gammas": (0.1,), "prices": (1.0,)}


@pytest.mark.parametrize(
    ("search", "texts"),
    [
        (SEARCHED, ["learner.C=1,10"]),
        (SEARCHED, ["config.learner.gamma=log_uniform:0.1..10"]),
        ({}, ["search.gammas=(),(0.1,)", "search.prices=(),(1.0,)", "learner.C=1,10"]),
        ({"gammas": (0.1,)}, ["learner.C=1,10", "search.prices=(1.0,),(1.0,2.0)"]),
    ],
)
def test_what_a_search_chooses_is_not_swept(search, texts):
    config = make_config("svm", data={}, search=search)
    with pytest.raises(
        UserError, match=r"learner\.(C|gamma) cannot be swept: config.search chooses it .* leave them emp"
    ):
        search_space.read(config, texts)


def test_without_a_search_at_any_point_its_fields_are_swept():
    config = make_config("svm", data={}, search=SEARCHED)
    axes = search_space.read(config, ["search.gammas=()", "search.prices=()", "learner.C=1,10"])
    (group,) = search_space.groups_of(config, search_space.points_of(axes, None, 0))
    assert group.traced == ("C",)


def test_a_float_that_a_search_reads_at_some_points_takes_a_program_at_all():
    config = make_config("svm", data={})
    texts = ["search.gammas=(),(0.1,)", "search.prices=(),(1.0,)", "learner.tolerance=1e-3,1e-2"]
    groups = search_space.groups_of(config, search_space.points_of(search_space.read(config, texts), None, 0))
    assert (len(groups), {group.traced for group in groups}) == (8, {()})


def test_the_config_of_a_point_has_its_values_and_leaves_the_other_as_it_was(config):
    point = {"learner.hidden_sizes": (8,), "environment": "Acrobot-v1", "run.num_updates": 3}
    changed = search_space.at(config, point)
    assert changed.learner.hidden_sizes == (8,)
    assert (changed.environment, changed.run.num_updates) == ("Acrobot-v1", 3)
    assert changed.learner.learning_rate == 0.01
    assert (config.environment, config.run.num_updates, config.learner.hidden_sizes) == ("CartPole-v1", None, (64, 64))
