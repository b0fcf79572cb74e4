"""t-SNE as a learner: the iterations of `embed`, a state that resumes, and errors that say what is wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mathai.learners import tsne
from mathai.learners.base import train
from mathai.reduction import tsne as formulas

CONFIG = tsne.Config(perplexity=5.0, num_early_iterations=8, num_iterations=8)


@pytest.fixture(scope="module")
def inputs():
    """Three groups of twenty points."""
    centers = 10 * jax.random.normal(jax.random.key(0), (3, 4))
    return jnp.repeat(centers, 20, axis=0) + jax.random.normal(jax.random.key(1), (60, 4))


@pytest.fixture(scope="module")
def trained(inputs):
    batch = tsne.prepare(CONFIG, inputs)
    learner = tsne.make(CONFIG, inputs)
    state, metrics = train(learner, jax.random.key(2), lambda step: batch, 16)
    return learner, batch, state, metrics


def test_updates_are_the_iterations_of_embed(inputs, trained):
    learner, batch, state, _ = trained
    found = formulas.embed(jax.random.key(2), inputs, perplexity=5.0, num_early_iterations=8, num_iterations=8)
    np.testing.assert_allclose(tsne.embedding(state), found.Y, rtol=1e-3, atol=1e-3 * float(jnp.abs(found.Y).max()))
    evaluation = learner.evaluate(jax.random.key(0), state, batch)
    np.testing.assert_allclose(evaluation["kl_divergence"], found.kl_divergence, rtol=1e-3)


def test_metrics_say_which_phase_it_is_and_how_far_the_points_reach(trained):
    _, _, state, metrics = trained
    np.testing.assert_array_equal(metrics["exaggeration"], [12.0] * 8 + [1.0] * 8)
    np.testing.assert_allclose(metrics["span"][-1], np.ptp(state.iterate.Y, axis=0).max(), rtol=1e-6)
    assert np.all(np.asarray(metrics["gradient_norm"]) > 0)
    assert int(state.iterate.iteration) == 16


def test_a_run_in_two_parts_is_the_run_in_one(inputs, trained):
    learner, batch, whole, _ = trained
    update = jax.jit(lambda state, batch: jax.lax.scan(lambda s, _: learner.update(s, batch), state, length=8)[0])
    state = update(update(learner.init(jax.random.key(2)), batch), batch)
    again = update(update(learner.init(jax.random.key(2)), batch), batch)
    np.testing.assert_array_equal(state.iterate.Y, again.iterate.Y)
    np.testing.assert_allclose(state.iterate.Y, whole.iterate.Y, rtol=1e-3, atol=1e-4)


def test_rates_are_traced_and_seeds_are_batched(inputs, trained):
    _, batch, _, _ = trained

    def last(key, rate):
        config = tsne.Config(perplexity=5.0, num_early_iterations=2, num_iterations=2, learning_rate=rate)
        return train(tsne.make(config, inputs), key, lambda step: batch, 4)[0].iterate.Y

    keys = jax.random.split(jax.random.key(0), 2)
    found = jax.vmap(last)(keys, jnp.array([10.0, 20.0]))
    np.testing.assert_allclose(found[1], last(keys[1], 20.0), rtol=1e-3, atol=1e-6)
    assert not np.allclose(found[0], found[1])


def test_distances_are_taken_on_principal_components_if_asked():
    """Two features of variance 4 and 1 and noise far below: two components keep all distances but the noise."""
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(40, 2)) * [2, 1], 1e-3 * rng.normal(size=(40, 5))], 1).astype(np.float32)
    config = tsne.Config(num_input_components=2, perplexity=5.0)
    kept = np.asarray(tsne.vectors(config, X))
    assert kept.shape == (40, 2)
    expected = np.linalg.norm(X[:, None] - X[None], axis=-1)
    np.testing.assert_allclose(np.linalg.norm(kept[:, None] - kept[None], axis=-1), expected, atol=2e-2)
    new = tsne.projection(config, X)(X[:3])
    np.testing.assert_allclose(new, kept[:3], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "euclid"}, "metric 'euclid' is unknown"),
        ({"method": "tree"}, "method 'tree' is unknown"),
        ({"init": "spectral"}, "init 'spectral' is unknown"),
        ({"momentum": 1.5}, "momentum is 1.5"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"num_early_iterations": -1}, "num_early_iterations is -1"),
        ({"num_components": 0}, "num_components is 0"),
    ],
)
def test_what_is_out_of_range_is_refused(inputs, change, message):
    with pytest.raises(ValueError, match=message):
        tsne.make(tsne.Config(**change), inputs)


def test_a_perplexity_too_large_for_the_data_and_a_missing_batch_are_refused(inputs, trained):
    with pytest.raises(ValueError, match=r"perplexity is 100.0; it must be at least 1 and less than .* 59"):
        tsne.prepare(tsne.Config(perplexity=100.0), inputs)
    learner, _, state, _ = trained
    with pytest.raises(ValueError, match="third argument"):
        learner.evaluate(jax.random.key(0), state)
