"""Parametric UMAP: the loss is its definition in float64, edges come by their weights, and an encoder learns."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mathai.learners import parametric_umap
from mathai.learners.base import train
from mathai.reduction.umap import FuzzyGraph
from tests.learners.test_umap import curve_by_least_squares

CONFIG = parametric_umap.Config(num_neighbors=3, hidden_sizes=(16,), batch_size=30, num_updates=150, learning_rate=1e-2)
KEY = jax.random.key(0)


class Plane(nn.Module):
    """The identity on two features, times a parameter."""

    @nn.compact
    def __call__(self, x):
        return x[:, :2] * self.param("scale", nn.initializers.ones, ())


@pytest.fixture(scope="module")
def inputs():
    """Three groups of ten points, less than 2 apart."""
    centers = 6 * jax.random.normal(jax.random.key(0), (3, 4))
    return 0.1 * (jnp.repeat(centers, 10, axis=0) + jax.random.normal(jax.random.key(1), (30, 4)))


@pytest.fixture(scope="module")
def neighbors(inputs):
    return parametric_umap.prepare(CONFIG, inputs)


def batch_of(size):
    generator = np.random.default_rng(0)
    return parametric_umap.Batch(*(jnp.asarray(generator.normal(size=(size, 2)), jnp.float32) for _ in range(2)))


def loss_by_definition(batch, shift, num_negatives, *, spread=1.0, min_dist=0.1, scale=1.0):
    """mean −log q of the edges + m · mean −log (1 − q) of the pairs that a shift makes; a thousandth is added to d²."""
    here, there = (scale * np.float64(ends) for ends in batch)
    a, b = curve_by_least_squares(spread, min_dist)

    def power(differences):
        return a * (np.sum(differences**2, axis=1) + 1e-3) ** b

    attraction = np.mean(np.log1p(power(here - there)))
    return attraction + num_negatives * np.mean(np.log1p(1 / power(here - np.roll(there, shift, axis=0))))


@pytest.mark.parametrize("curve", [{}, {"spread": 2.0, "min_dist": 0.5}])
def test_the_loss_of_two_edges_is_its_definition(curve):
    """Each has but one other edge, which pushes m times."""
    config = parametric_umap.Config(num_negatives=3, batch_size=2, **curve)
    learner = parametric_umap.make(config, jnp.zeros((9, 2)), model=Plane())
    state, batch = learner.init(KEY), batch_of(2)
    expected = loss_by_definition(batch, 1, 3, **curve)
    np.testing.assert_allclose(jax.jit(learner.evaluate)(KEY, state, batch)["loss"], expected, rtol=1e-4)
    _, metrics = jax.jit(learner.update)(state, batch)
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-4)
    step = 1e-5
    slope = (loss_by_definition(batch, 1, 3, scale=1 + step, **curve) - expected) / step
    np.testing.assert_allclose(metrics["gradient_norm"], abs(slope), rtol=1e-3)


def test_every_other_edge_of_a_batch_pushes_sooner_or_later_and_an_edge_never_itself():
    learner = parametric_umap.make(parametric_umap.Config(num_negatives=1), jnp.zeros((9, 2)), model=Plane())
    state, batch = learner.init(KEY), batch_of(5)
    losses = jax.jit(jax.vmap(lambda key: learner.evaluate(key, state, batch)["loss"]))(jax.random.split(KEY, 64))
    expected = np.array([loss_by_definition(batch, shift, 1) for shift in range(5)])
    gaps = np.abs(np.asarray(losses)[:, None] - expected) / expected
    assert set(gaps.argmin(1)) == {1, 2, 3, 4}  # of 4 shifts one is missing in 64 draws once in 2e7 times
    assert gaps.min(1).max() < 1e-4


def test_updates_push_with_new_pairs_each_time_and_stop_when_the_rate_is_0():
    config = parametric_umap.Config(num_negatives=1, num_updates=2, learning_rate=0.1)
    learner = parametric_umap.make(config, jnp.zeros((9, 2)), model=Plane())
    batch, scales = batch_of(20), [1.0]
    state, update = learner.init(KEY), jax.jit(learner.update)
    for _ in range(4):
        state, _ = update(state, batch)
        scales.append(float(state.params["params"]["scale"]))
    assert int(state.updates) == 4
    np.testing.assert_allclose(abs(scales[1] - scales[0]), 0.1, rtol=1e-4)  # Adam's first step is η
    assert scales[2] != scales[1]
    assert scales[4] == scales[3] == scales[2]  # η fell to 0 after two
    losses = jax.vmap(lambda n: update(state._replace(updates=n), batch)[1]["loss"])(jnp.arange(8))
    assert len(set(losses.tolist())) > 1


WEIGHTS = np.array([0.0, 1.0, 0.0, 0.25, 0.5, 0.05, 0.0, 0.7, 0.0, 0.0])
ROWS, COLUMNS = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4]), np.array([0, 1, 1, 2, 0, 4, 3, 1, 4, 4])


@pytest.fixture(scope="module")
def edges():
    """Ten entries, of which those with weight 0 fill up; each example is its own number."""
    ends = jnp.asarray(ROWS, jnp.int32), jnp.asarray(COLUMNS, jnp.int32)
    return parametric_umap.edges_of(jnp.arange(5.0)[:, None], FuzzyGraph(*ends, jnp.asarray(WEIGHTS, jnp.float32)))


def assert_proportional(counts, weights):
    """Pearson's χ² below its one-in-a-million quantile; what weighs nothing never comes."""
    is_edge = weights > 0
    assert counts[~is_edge].sum() == 0
    expected = counts.sum() * weights[is_edge] / weights.sum()
    assert np.sum((counts[is_edge] - expected) ** 2 / expected) < stats.chi2.isf(1e-6, is_edge.sum() - 1)


def test_edges_are_drawn_in_proportion_to_their_weights(edges):
    batch = parametric_umap.draw(KEY, edges, 0, batch_size=50_000)
    counts, weights = np.zeros((5, 5), int), np.zeros((5, 5))
    np.add.at(counts, tuple(np.asarray(ends)[:, 0].astype(int) for ends in batch), 1)
    np.add.at(weights, (ROWS, COLUMNS), WEIGHTS)
    assert_proportional(counts, weights)


def test_numbers_below_a_large_one_are_products_in_64_bits():
    a = np.random.default_rng(0).integers(0, 2**32, 1000, dtype=np.uint64)
    for b in (1, 2**16 - 1, 2**16 + 1, 4_252_017_623, 2**32 - 1):
        found = parametric_umap._high_half(jnp.asarray(a, jnp.uint32), jnp.uint32(b))
        np.testing.assert_array_equal(np.asarray(found, np.uint64), a * np.uint64(b) >> np.uint64(32))


def test_a_batch_depends_on_key_and_step_alone(edges):
    draw = lambda key, step: parametric_umap.draw(key, edges, step, batch_size=40)  # noqa: E731
    batch = draw(KEY, 3)
    again = jax.jit(draw)(KEY, jnp.int32(3))
    np.testing.assert_array_equal(batch.here, again.here)
    np.testing.assert_array_equal(batch.there, again.there)
    for other in (draw(KEY, 4), draw(jax.random.key(1), 3)):
        assert not np.array_equal(np.concatenate(batch), np.concatenate(other))


def test_of_many_points_no_edge_leads_from_a_point_to_itself():
    """A million edges of a graph in which one entry in three fills up."""
    X = jax.random.normal(KEY, (1500, 2))
    edges = parametric_umap.prepare(parametric_umap.Config(), X)
    batch = parametric_umap.draw(KEY, edges, 0, batch_size=1_000_000)
    assert np.sum(np.all(np.asarray(batch.here) == np.asarray(batch.there), axis=1)) == 0


def test_the_edges_of_a_data_set_are_its_fuzzy_graph(inputs, neighbors):
    """Of three neighbours, the point counted, the others are sure by 1 and by log₂ 3 − 1; images are vectors."""
    squares = np.sum((np.asarray(inputs)[:, None] - np.asarray(inputs)[None]) ** 2, axis=-1)
    P = np.zeros((30, 30))
    for column, sure in ((1, 1.0), (2, np.log2(3) - 1)):
        P[np.arange(30), np.argsort(squares, axis=1)[:, column]] = sure
    weights = P + P.T - P * P.T
    batch = parametric_umap.draw(KEY, neighbors, 0, batch_size=20_000)
    number = {tuple(row): i for i, row in enumerate(np.asarray(inputs).tolist())}
    counts = np.zeros((30, 30), int)
    np.add.at(counts, tuple([number[tuple(row)] for row in np.asarray(ends).tolist()] for ends in batch), 1)
    assert_proportional(counts, weights)
    np.testing.assert_array_equal(parametric_umap.prepare(CONFIG, inputs.reshape(30, 2, 2)).inputs, inputs)


def test_an_encoder_learns_and_places_new_points_near_their_group(inputs, neighbors):
    learner = parametric_umap.make(CONFIG, inputs)
    draw = lambda step: parametric_umap.draw(jax.random.key(1), neighbors, step, batch_size=30)  # noqa: E731
    first, (last, _) = learner.init(KEY), train(learner, KEY, draw, 150)
    many = parametric_umap.draw(jax.random.key(2), neighbors, 0, batch_size=3000)
    evaluate = jax.jit(learner.evaluate)
    before, after = (evaluate(KEY, state, many)["loss"] for state in (first, last))
    assert after < 0.5 * before
    middles = inputs.reshape(3, 10, 4).mean(1)
    placed = np.asarray(jax.jit(parametric_umap.embedding(CONFIG, last))(jnp.concatenate([inputs, middles])))
    centers, new = placed[:30].reshape(3, 10, 2).mean(1), placed[30:]
    distances = np.linalg.norm(new[:, None] - centers[None], axis=-1)
    assert np.diag(distances).max() < 0.5
    assert distances[~np.eye(3, dtype=bool)].min() > 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_components": 0}, "num_components is 0; it must be at least 1"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"batch_size": 1}, "batch_size is 1; pairs that push need at least 2 edges"),
        ({"num_updates": 0}, "num_updates is 0; it must be at least 1"),
        ({"num_negatives": 0}, "num_negatives is 0; it must be at least 1"),
        ({"hidden_sizes": (8, 0)}, r"hidden_sizes is \(8, 0\); every number must be at least 1"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0; it must lie between 0.0 and inf"),
        ({"spread": -1.0}, "spread is -1.0; it must be above 0"),
        ({"min_dist": 2.0}, "min_dist is 2.0 and spread 1.0; min_dist must not be above spread"),
    ],
)
def test_what_is_out_of_range_is_refused(inputs, change, message):
    with pytest.raises(ValueError, match=message):
        parametric_umap.make(parametric_umap.Config(**change), inputs)


def test_data_without_neighborhoods_and_a_missing_batch_are_refused(inputs):
    with pytest.raises(ValueError, match="parametric_umap: X has 3 points; an embedding needs at least 4"):
        parametric_umap.prepare(CONFIG, inputs[:3])
    with pytest.raises(ValueError, match="parametric_umap: X: 1 of 30 rows hold NaN"):
        parametric_umap.prepare(CONFIG, inputs.at[0, 0].set(jnp.nan))
    with pytest.raises(ValueError, match="num_neighbors is 1; it counts the point itself and is at least 2"):
        parametric_umap.prepare(parametric_umap.Config(num_neighbors=1), inputs)
    with pytest.raises(ValueError, match="metric 'euclid' is unknown"):
        parametric_umap.prepare(parametric_umap.Config(metric="euclid"), inputs)
    learner = parametric_umap.make(CONFIG, inputs)
    with pytest.raises(ValueError, match="parametric_umap: evaluate takes a batch of `draw` as its third argument"):
        learner.evaluate(KEY, learner.init(KEY))
