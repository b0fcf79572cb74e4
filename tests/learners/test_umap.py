"""UMAP as a learner: the epochs of `embed`, a state that resumes, labels that count, and errors that say what is wrong.

The curve 1 / (1 + a d²ᵇ) is fitted again here, by SciPy in float64, so that the loss is held against its definition.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import curve_fit

from mathai.learners import umap
from mathai.learners.base import train
from mathai.reduction import umap as formulas

CONFIG = umap.Config(num_neighbors=6, num_epochs=100)
GROUPS = np.repeat(np.arange(3), 20)
KEY = jax.random.key(2)


def curve_by_least_squares(spread, min_dist):
    """(a, b) by definition 11 of the paper, on umap-learn's 300 distances."""
    d = np.linspace(0, 3 * spread, 300)
    target = np.where(d < min_dist, 1, np.exp(-(d - min_dist) / spread))
    return curve_fit(lambda d, a, b: 1 / (1 + a * d ** (2 * b)), d, target)[0]


@pytest.fixture(scope="module")
def inputs():
    """Three groups of twenty points."""
    centers = 10 * jax.random.normal(jax.random.key(0), (3, 4))
    return jnp.repeat(centers, 20, axis=0) + jax.random.normal(jax.random.key(1), (60, 4))


@pytest.fixture(scope="module")
def batch(inputs):
    return umap.prepare(CONFIG, inputs)


@pytest.fixture(scope="module")
def learner(inputs, batch):
    return umap.make(CONFIG, inputs, batch=batch)


@pytest.fixture(scope="module")
def run(learner):
    """(state, how many, batch) → the state after so many updates, and their metrics; one program for all runs."""
    update = jax.jit(learner.update)

    def go(state, num_updates, batch):
        metrics = []
        for _ in range(num_updates):
            state, measured = update(state, batch)
            metrics.append(measured)
        return state, {name: np.array([one[name] for one in metrics]) for name in metrics[0]}

    return go


def same_among_neighbors(Y, labels, k=4):
    """Share of the k nearest points that are of a point's own class."""
    distances = np.linalg.norm(np.asarray(Y)[:, None] - np.asarray(Y)[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    return np.mean(labels[np.argsort(distances, axis=1)[:, :k]] == labels[:, None])


def test_updates_are_the_epochs_of_embed(inputs):
    """Rounding, which the order of compiled sums decides, grows with every epoch; so these are two."""
    config = umap.Config(num_neighbors=6, min_dist=0.3, learning_rate=0.5, num_epochs=2)
    batch = umap.prepare(config, inputs)
    learner = umap.make(config, inputs, batch=batch)
    state, _ = train(learner, KEY, lambda step: batch, 2)
    found = formulas.embed(KEY, inputs, num_neighbors=6, min_dist=0.3, learning_rate=0.5, num_epochs=2)
    assert np.abs(found.Y - learner.init(KEY).Y).max() > 0.1  # they move
    np.testing.assert_allclose(umap.embedding(state), found.Y, atol=1e-4)


def test_the_learning_rate_falls_linearly_and_the_span_is_the_largest_extent(learner, batch, run):
    state, metrics = run(learner.init(KEY), 100, batch)
    np.testing.assert_allclose(metrics["learning_rate"], 1 - np.arange(100) / 100, atol=1e-6)
    np.testing.assert_allclose(metrics["span"][-1], np.ptp(state.Y, axis=0).max(), rtol=1e-6)
    assert int(state.epoch) == 100
    still, metrics = run(state, 1, batch)  # one too many: α is 0
    assert metrics["learning_rate"] == 0
    np.testing.assert_array_equal(still.Y, state.Y)


def test_a_run_in_two_parts_is_the_run_in_one(learner, batch, run):
    whole, _ = run(learner.init(KEY), 40, batch)
    half, _ = run(learner.init(KEY), 20, batch)
    assert not np.array_equal(half.Y, whole.Y)
    saved = jax.random.key_data(half.key), np.asarray(half.Y), np.asarray(half.epoch)  # through a file, say
    resumed = umap.State(jax.random.wrap_key_data(saved[0]), jnp.asarray(saved[1]), jnp.asarray(saved[2]))
    np.testing.assert_array_equal(run(resumed, 20, batch)[0].Y, whole.Y)


def test_seeds_differ(learner, batch, run):
    one, other = (run(learner.init(key), 4, batch)[0].Y for key in (KEY, jax.random.key(3)))
    assert np.abs(one - other).max() > 0.01


def test_the_loss_falls_and_groups_come_together(inputs, batch, run):
    """From a random start, in which they are mixed."""
    learner = umap.make(umap.Config(num_neighbors=6, num_epochs=100, init="random"), inputs, batch=batch)
    first = learner.init(KEY)
    last, _ = run(first, 100, batch)
    evaluate = jax.jit(learner.evaluate)
    before, after = (evaluate(KEY, state, batch)["loss"] for state in (first, last))
    assert after < 0.7 * before
    assert same_among_neighbors(first.Y, GROUPS) < 0.5
    assert same_among_neighbors(last.Y, GROUPS) > 0.9


@pytest.mark.parametrize(("spread", "min_dist"), [(1.0, 0.1), (2.0, 0.5)])
def test_the_loss_of_edges_is_its_definition(inputs, batch, spread, min_dist):
    """Σ w log (1 + a d²ᵇ) / Σ w in float64; a thousandth is added to d²."""
    config = umap.Config(num_neighbors=6, num_negatives=0, spread=spread, min_dist=min_dist, init="random")
    learner = umap.make(config, inputs, batch=batch)
    state = learner.init(KEY)
    rows, columns, w = (np.asarray(part) for part in batch.graph)
    squares = np.sum(np.float64(state.Y[rows] - state.Y[columns]) ** 2, axis=1)
    a, b = curve_by_least_squares(spread, min_dist)
    expected = np.sum(w * np.log1p(a * (squares + 1e-3) ** b)) / np.sum(w, dtype=np.float64)
    np.testing.assert_allclose(learner.evaluate(None, state, batch)["loss"], expected, rtol=1e-4)


def test_the_loss_of_pushes_is_its_definition():
    """Corners of a regular tetrahedron: whichever pairs are drawn, they are √8 apart."""
    corners = jnp.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    config = umap.Config(num_neighbors=3, num_components=3, init="random", num_negatives=3)
    X = jnp.arange(4.0)[:, None] ** 2
    batch = umap.prepare(config, X)
    loss = umap.make(config, X, batch=batch).evaluate(None, umap.State(KEY, corners, jnp.int32(0)), batch)["loss"]
    a, b = curve_by_least_squares(1.0, 0.1)
    power = a * (8 + 1e-3) ** b
    np.testing.assert_allclose(loss, np.log1p(power) + 3 * np.log1p(1 / power), rtol=1e-4)


def test_labels_that_the_data_do_not_show_pull_classes_together_if_asked(run):
    """One cloud, in which each point's class is a coin toss."""
    X = jax.random.normal(jax.random.key(4), (60, 4))
    labels = np.random.default_rng(0).integers(0, 2, 60)

    def share(**change):
        config = umap.Config(num_neighbors=6, num_epochs=100, **change)
        batch = umap.prepare(config, X, labels)
        learner = umap.make(config, X, labels=labels, batch=batch)
        return same_among_neighbors(run(learner.init(KEY), 100, batch)[0].Y, labels)

    by_chance = same_among_neighbors(X, labels)  # 0.5 but for 60 tosses
    assert abs(share() - by_chance) < 0.15
    assert share(supervised=True) > 0.85


def test_labels_cut_edges_between_classes_and_only_if_asked(inputs):
    labels = np.arange(60) % 2
    is_between = lambda graph: labels[graph.rows] != labels[graph.columns]  # noqa: E731
    graph = umap.prepare(umap.Config(num_neighbors=6, supervised=True, target_weight=1.0), inputs, labels).graph
    assert np.all(np.asarray(graph.weights)[is_between(graph)] == 0)
    assert np.any(np.asarray(graph.weights) > 0)
    plain, ignored = (umap.prepare(umap.Config(num_neighbors=6), inputs, given).graph for given in (None, labels))
    assert np.any(np.asarray(plain.weights)[is_between(plain)] > 0)
    np.testing.assert_array_equal(plain.weights, ignored.weights)


def test_a_supervised_run_needs_labels(inputs):
    for function in (umap.prepare, umap.make):
        with pytest.raises(ValueError, match="supervised is True, and there are no labels"):
            function(umap.Config(num_neighbors=6, supervised=True), inputs)


def test_distances_are_taken_on_principal_components_if_asked():
    """Points along a line, far apart in three features of noise: neighbours on the line, by NumPy's decomposition."""
    rng = np.random.default_rng(0)
    X = np.concatenate([np.arange(60.0)[:, None], 3 * rng.normal(size=(60, 3))], axis=1).astype(np.float32)
    config = umap.Config(num_input_components=1, num_neighbors=6)
    centred = np.float64(X) - np.float64(X).mean(0)
    along = centred @ np.linalg.svd(centred)[2][0]
    nearest = np.argsort(np.abs(along[:, None] - along[None]), axis=1)[:, 1:6]
    expected = {pair for i, row in enumerate(nearest.tolist()) for j in row for pair in ((i, j), (j, i))}

    def edges(config):
        rows, columns, weights = (np.asarray(part) for part in umap.prepare(config, X).graph)
        return set(zip(rows[weights > 0].tolist(), columns[weights > 0].tolist(), strict=True))

    assert edges(config) == expected
    assert edges(umap.Config(num_neighbors=6)) != expected
    kept = np.asarray(umap.vectors(config, X))[:, 0]
    np.testing.assert_allclose(kept * np.sign(kept[-1]), along * np.sign(along[-1]), atol=1e-4)
    np.testing.assert_allclose(umap.projection(config, X)(X[:3])[:, 0], kept[:3], atol=1e-4)


def test_bytes_of_images_are_shares_of_255():
    images = np.random.default_rng(0).integers(0, 256, (5, 2, 3), np.uint8)
    np.testing.assert_allclose(umap.vectors(umap.Config(), images), images.reshape(5, 6) / 255, rtol=1e-6)


@pytest.mark.parametrize(("given", "num_points", "expected"), [(0, 10_000, 500), (0, 10_001, 200), (7, 10_001, 7)])
def test_the_number_of_epochs_is_that_of_the_paper_unless_given(given, num_points, expected):
    assert umap.num_epochs(umap.Config(num_epochs=given), num_points) == expected


def test_rates_and_curves_are_traced_and_seeds_are_batched(inputs):
    choices = {"num_neighbors": 6, "num_epochs": 2, "init": "pca"}
    batch = umap.prepare(umap.Config(**choices), inputs)

    def last(key, rate, min_dist):
        config = umap.Config(**choices, learning_rate=rate, min_dist=min_dist)
        return train(umap.make(config, inputs, batch=batch), key, lambda step: batch, 2)[0].Y

    arguments = [(KEY, 1.0, 0.1), (KEY, 0.5, 0.1), (KEY, 1.0, 0.8), (jax.random.key(3), 1.0, 0.1)]
    keys, rates, dists = (jnp.stack(list(map(jnp.asarray, column))) for column in zip(*arguments, strict=True))
    several = jax.vmap(last)(keys, rates, dists)
    for (key, rate, min_dist), Y in zip(arguments, several, strict=True):
        found = formulas.embed(key, inputs, **choices, learning_rate=rate, min_dist=min_dist)
        np.testing.assert_allclose(Y, found.Y, atol=1e-4)
    for other in several[1:]:
        assert np.abs(several[0] - other).max() > 0.01


@pytest.mark.parametrize("function", [umap.make, umap.prepare])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "euclid"}, "metric 'euclid' is unknown; use one of euclidean"),
        ({"neighbor_search": "tree"}, "neighbor_search 'tree' is unknown; use one of auto, exact, approximate"),
        ({"init": "middle"}, "init 'middle' is unknown; use one of spectral, pca, random"),
        ({"num_components": 0}, "num_components is 0; it must be at least 1"),
        ({"num_neighbors": 1}, "num_neighbors is 1; it must be at least 2"),
        ({"num_input_components": -1}, "num_input_components is -1; it must be at least 0"),
        ({"num_epochs": -1}, "num_epochs is -1; it must be at least 0"),
        ({"num_negatives": -1}, "num_negatives is -1; it must be at least 0"),
        ({"min_dist": -0.1}, "min_dist is -0.1; it must lie between 0.0 and inf"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0; it must lie"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; it must lie"),
        ({"repulsion_strength": -2.0}, "repulsion_strength is -2.0; it must lie"),
        ({"target_weight": 1.5}, "target_weight is 1.5; it must lie between 0.0 and 1.0"),
    ],
)
def test_what_is_out_of_range_is_refused(inputs, function, change, message):
    with pytest.raises(ValueError, match=message):
        function(umap.Config(**change), inputs)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"spread": 0.0}, "spread is 0.0; it must be above 0"), ({"min_dist": 2.0}, "min_dist is 2.0 and spread 1.0")],
)
def test_a_curve_that_cannot_be_is_refused(inputs, batch, change, message):
    with pytest.raises(ValueError, match=message):
        umap.make(umap.Config(**change), inputs, batch=batch)


def test_too_few_points_points_that_are_no_numbers_and_a_missing_batch_are_refused(inputs, learner):
    with pytest.raises(ValueError, match="umap: X has 3 points; an embedding needs at least 4"):
        umap.prepare(CONFIG, inputs[:3])
    with pytest.raises(ValueError, match="umap: X: 1 of 60 rows hold NaN"):
        umap.prepare(CONFIG, inputs.at[0, 0].set(jnp.nan))
    with pytest.raises(ValueError, match="umap: evaluate takes the batch of `prepare` as its third argument"):
        learner.evaluate(jax.random.key(0), learner.init(KEY))
