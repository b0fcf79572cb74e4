"""The learner of principal components against scikit-learn on all data at once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import decomposition
from sklearn.datasets import load_digits

from mathai.learners import pca
from mathai.learners.base import train
from mathai.learners.batches import Examples, minibatch

CONFIG = pca.Config(num_components=10, batch_size=180)
NUM_EXAMPLES = 1620  # nine batches


def digits():
    X, y = load_digits(return_X_y=True)
    return Examples(
        jnp.asarray(X[:NUM_EXAMPLES], jnp.float32).reshape(-1, 8, 8), jnp.asarray(y[:NUM_EXAMPLES], jnp.int32)
    )


def learned(data, config=CONFIG):
    learner = pca.make(config, 64)
    draw = lambda step: minibatch(jax.random.key(1), data, step, batch_size=config.batch_size)  # noqa: E731
    return learner, *train(learner, jax.random.key(0), draw, len(data.inputs) // config.batch_size)


def test_one_pass_ends_at_the_components_of_all_data():
    data = digits()
    learner, state, metrics = learned(data)
    X = np.asarray(data.inputs, np.float64).reshape(-1, 64)
    peer = decomposition.PCA(10, svd_solver="full").fit(X)
    model = pca.as_model(CONFIG, state)
    scale = peer.explained_variance_[0]
    np.testing.assert_allclose(model.explained_variance, peer.explained_variance_, rtol=0, atol=1e-5 * scale)
    assert np.abs(np.sum(model.components * peer.components_, axis=1)).min() >= 0.99999
    np.testing.assert_array_equal(metrics["examples"], 180 * np.arange(1, 10))
    np.testing.assert_allclose(metrics["total_variance"][-1], X.var(0, ddof=1).sum(), rtol=1e-5)
    evaluation = jax.jit(learner.evaluate)(jax.random.key(0), state, data)
    np.testing.assert_allclose(evaluation["explained_variance"], peer.explained_variance_.sum(), rtol=1e-5)
    np.testing.assert_allclose(evaluation["explained_variance_ratio"], peer.explained_variance_ratio_.sum(), rtol=1e-5)
    error = X - peer.inverse_transform(peer.transform(X))
    np.testing.assert_allclose(evaluation["reconstruction_error"], (error**2).sum(1).mean(), rtol=1e-4)


def test_metrics_have_their_names_and_are_numbers_from_the_start():
    learner = pca.make(CONFIG, 64)
    start = learner.init(jax.random.key(0))
    assert learner.evaluate(jax.random.key(0), start) == {"explained_variance": 0, "explained_variance_ratio": 0}
    _, metrics = jax.jit(learner.update)(start, digits().inputs[:1])
    assert set(metrics) == {"examples", "total_variance"}
    assert jnp.issubdtype(metrics["examples"].dtype, jnp.integer)
    assert (metrics["examples"], metrics["total_variance"]) == (1, 0)


def test_batches_of_any_size_and_kind_are_the_same_examples():
    """Arrays and `Examples`; images and vectors; bytes are pixels from 0 to 1."""
    images = np.asarray(digits().inputs[:100]).astype(np.uint8)
    learner = pca.make(CONFIG, 64)
    update = jax.jit(learner.update)
    state = learner.init(jax.random.key(0))
    labels = jnp.zeros(100, jnp.int32)
    for batch in (images[:3], Examples(images[3:50], labels[3:50]), images[50:].reshape(-1, 64) / np.float32(255)):
        state, _ = update(state, batch)
    X = images.reshape(-1, 64) / 255
    np.testing.assert_allclose(state.moments.mean, X.mean(0), atol=1e-7)
    np.testing.assert_allclose(state.moments.scatter, 99 * np.cov(X.T), atol=1e-6)


def test_the_state_keeps_its_shapes_and_types_and_goes_on_to_the_bit():
    data = digits()
    learner = pca.make(CONFIG, 64)
    update = jax.jit(learner.update)
    state, _ = update(learner.init(jax.random.key(0)), data.inputs[:50])
    assert jax.eval_shape(learner.update, state, data)[0] == jax.eval_shape(lambda: state)
    resumed = state._replace(moments=jax.tree.map(lambda x: jnp.asarray(np.array(x)), state.moments))
    jax.tree.map(
        np.testing.assert_array_equal,
        update(state, data.inputs[50:])[0].moments,
        update(resumed, data.inputs[50:])[0].moments,
    )


def test_seeds_in_a_batch_are_the_same_components():
    data = digits()
    models = jax.vmap(lambda key: pca.as_model(CONFIG, _trained(key, data)))(jax.random.split(jax.random.key(3), 2))
    np.testing.assert_allclose(models.explained_variance[0], models.explained_variance[1], rtol=1e-5)


def _trained(key, data):
    draw = lambda step: minibatch(key, data, step, batch_size=CONFIG.batch_size)  # noqa: E731
    return train(pca.make(CONFIG, 64), key, draw, 9)[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_components": 0}, "num_components is 0; it must be at least 1"),
        ({"num_components": 65}, "num_components is 65; it must be at most 64"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
    ],
)
def test_a_config_that_is_none_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        pca.make(dataclasses.replace(CONFIG, **changes), 64)
