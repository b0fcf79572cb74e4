"""Parametric t-SNE: the loss is the divergence of a batch, and an encoder learns to lower it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mathai.learners import parametric_tsne
from mathai.learners.base import train
from mathai.learners.batches import Examples
from mathai.reduction import tsne

CONFIG = parametric_tsne.Config(perplexity=4.0, hidden_sizes=(16,), batch_size=30, learning_rate=1e-2)


@pytest.fixture(scope="module")
def inputs():
    centers = 6 * jax.random.normal(jax.random.key(0), (3, 4))
    return jnp.repeat(centers, 10, axis=0) + jax.random.normal(jax.random.key(1), (30, 4))


def test_the_loss_is_the_divergence_of_the_batch(inputs):
    """P and Q by their definitions, from the formulas' own tests; the encoder is the identity on two features."""

    class Plane(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x[:, :2] * self.param("scale", nn.initializers.ones, ())

    learner = parametric_tsne.make(CONFIG, inputs, model=Plane())
    state = learner.init(jax.random.key(0))
    squares = np.sum((np.asarray(inputs)[:, None] - np.asarray(inputs)[None]) ** 2, axis=-1)
    P = tsne.joint_affinities(tsne.conditional_affinities(jnp.asarray(squares), 4.0))
    expected = tsne.kl_divergence(P, inputs[:, :2])
    _, metrics = learner.update(state, Examples(inputs, jnp.zeros(30, jnp.int32)))
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(learner.evaluate(None, state, inputs)["kl_divergence"], expected, rtol=1e-5)
    assert int(metrics["examples"]) == 30


def test_an_encoder_learns_and_places_new_points_near_their_group(inputs):
    learner = parametric_tsne.make(CONFIG, inputs)
    state, metrics = train(learner, jax.random.key(0), lambda step: inputs, 150)
    assert metrics["loss"][-1] < 0.5 * metrics["loss"][0]
    place = parametric_tsne.embedding(CONFIG, state)
    Y = np.asarray(place(inputs)).reshape(3, 10, 2)
    new = np.asarray(place(inputs.reshape(3, 10, 4).mean(1)))
    nearest = np.linalg.norm(new[:, None] - Y.mean(1)[None], axis=-1).argmin(1)
    np.testing.assert_array_equal(nearest, [0, 1, 2])


def test_what_is_out_of_range_is_refused(inputs):
    with pytest.raises(ValueError, match=r"perplexity is 40.0; it must lie between 1.0 and 28.0"):
        parametric_tsne.make(parametric_tsne.Config(perplexity=40.0, batch_size=30), inputs)
    with pytest.raises(ValueError, match="num_epochs is 0"):
        parametric_tsne.make(parametric_tsne.Config(num_epochs=0), inputs)
    learner = parametric_tsne.make(CONFIG, inputs)
    with pytest.raises(ValueError, match="third argument"):
        learner.evaluate(None, learner.init(jax.random.key(0)))
