"""The VAE: a linear one is probabilistic PCA, bounds are ordered, and what it minimizes is what the formulas say."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from mathai.learners import vae
from mathai.learners.base import Learner, train
from mathai.learners.batches import minibatch

KEY = jax.random.key(0)
CONFIG = vae.Config(num_latents=2, hidden_sizes=(8,), batch_size=10, num_epochs=3, num_draws=4)
IMAGES = jax.random.uniform(jax.random.key(1), (30, 2, 3))


def make(**changes):
    return Learner(*map(jax.jit, vae.make(dataclasses.replace(CONFIG, **changes), IMAGES, IMAGES)))


def test_without_information_the_loss_is_that_of_coins():
    # all parameters 0: q is the prior, every pixel has probability ½
    learner = make()
    state = learner.init(KEY)
    state = state._replace(params=jax.tree.map(jnp.zeros_like, state.params))
    scores = learner.evaluate(KEY, state)
    np.testing.assert_allclose(scores["kl"], 0, atol=1e-7)
    for name in ("negative_elbo", "reconstruction", "negative_log_likelihood"):
        np.testing.assert_allclose(scores[name], 6 * math.log(2), rtol=1e-5)
    _, metrics = learner.update(state, IMAGES[:10])
    np.testing.assert_allclose(metrics["loss"], 6 * math.log(2), rtol=1e-6)
    assert metrics["examples"] == 10


def test_beta_weighs_the_divergence_in_training_alone():
    (one, _), (four, _) = ((learner := make(beta=beta), learner.init(KEY)) for beta in (1.0, 4.0))
    state = one.init(KEY)
    (_, a), (_, b) = one.update(state, IMAGES[:10]), four.update(state, IMAGES[:10])
    np.testing.assert_allclose(b["loss"] - a["loss"], 3 * a["kl"], rtol=1e-4)
    assert one.evaluate(KEY, state)["negative_elbo"] == four.evaluate(KEY, state)["negative_elbo"]


def test_more_draws_give_a_tighter_bound():
    state = make().init(jax.random.key(3))
    inputs = jnp.tile(IMAGES, (20, 1, 1))
    bounds = [float(make(num_draws=k).evaluate(KEY, state, inputs)["negative_log_likelihood"]) for k in (1, 5, 50)]
    elbo = float(make(num_draws=50).evaluate(KEY, state, inputs)["negative_elbo"])
    assert bounds[0] > bounds[1] + 0.01 > bounds[2] + 0.02
    assert abs(bounds[0] - elbo) < 0.3


def test_dynamic_binarization_draws_anew_at_every_use():
    config = dataclasses.replace(CONFIG, binarization="dynamic")
    first, second = (vae.prepare(config, jax.random.key(k), IMAGES) for k in (11, 12))
    assert set(np.unique(first)) == {0.0, 1.0}
    assert not np.array_equal(first, second)
    many = jax.vmap(lambda key: vae.prepare(config, key, IMAGES))(jax.random.split(KEY, 2000))
    np.testing.assert_allclose(jnp.mean(many, 0), IMAGES.reshape(30, 6), atol=0.06)


def test_dequantization_fills_the_gaps_between_values():
    config = dataclasses.replace(CONFIG, likelihood="gaussian", dequantization=0.25)
    x = jnp.floor(4 * IMAGES) / 4
    found = jax.vmap(lambda key: vae.prepare(config, key, x))(jax.random.split(KEY, 500))
    np.testing.assert_array_equal(jnp.floor(4 * found) / 4, jnp.broadcast_to(x.reshape(1, 30, 6), found.shape))
    np.testing.assert_allclose(jnp.mean(found), jnp.mean(x) + 0.125, atol=1e-3)


def test_bytes_are_divided_by_255():
    bytes_ = jnp.round(IMAGES * 255).astype(jnp.uint8)
    learner = Learner(*map(jax.jit, vae.make(CONFIG, bytes_, bytes_)))
    state = learner.init(KEY)
    whole, scaled = (learner.update(state, x[:10])[1]["loss"] for x in (bytes_, bytes_.astype(jnp.float32) / 255))
    np.testing.assert_allclose(whole, scaled, rtol=1e-6)


def test_the_state_keeps_its_types_and_every_update_draws_anew():
    learner = make(binarization="dynamic")
    state = learner.init(KEY)
    after, metrics = learner.update(state, IMAGES[:10])
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    still = make(learning_rate=0.0)
    second, first_metrics = still.update(still.init(KEY), IMAGES[:10])
    assert first_metrics["loss"] != still.update(second, IMAGES[:10])[1]["loss"]  # other draws
    assert all(np.isfinite(value) and value.shape == () for value in metrics.values())


def test_float_hyperparameters_may_be_traced():
    rate = lambda rate: vae.make(dataclasses.replace(CONFIG, learning_rate=rate), IMAGES, IMAGES)  # noqa: E731
    step = lambda r: rate(r).update(rate(r).init(KEY), IMAGES[:10])[0].params["log_variance"]  # noqa: E731
    jax.eval_shape(jax.vmap(step), jnp.ones(3))

    def whole(config):
        learner = vae.make(config, IMAGES, IMAGES)
        return learner.update(learner.init(KEY), IMAGES[:10])

    jax.eval_shape(whole, CONFIG)


@pytest.mark.slow
def test_a_linear_vae_is_probabilistic_pca():
    from sklearn.datasets import load_digits
    from sklearn.decomposition import PCA

    x = (load_digits().data / 16)[:1437].astype(np.float32)
    # the evidence of the model that is best at two latent dimensions, in closed form
    best = PCA(2, svd_solver="full").fit(x).score(x)
    num_updates = 16_000
    config = vae.Config(
        num_latents=2,
        hidden_sizes=(),
        likelihood="gaussian",
        initial_log_variance=-3.0,
        batch_size=256,
        num_epochs=num_updates // (1437 // 256),
        learning_rate=0.02,
        num_draws=100,
    )
    data = jnp.asarray(x)
    learner = vae.make(config, data, data)
    state, _ = train(learner, KEY, lambda step: minibatch(KEY, data, step, batch_size=256), num_updates)
    scores = jax.jit(learner.evaluate)(KEY, state)
    assert abs(scores["negative_elbo"] + best) < 0.01
    assert abs(scores["negative_log_likelihood"] + best) < 0.01
    # no bound is above the evidence of the model itself
    weight, bias = (np.float64(state.params["decoder"]["Linear_0"][name]) for name in ("weight", "bias"))
    covariance = weight @ weight.T + np.exp(np.float64(state.params["log_variance"])) * np.eye(64)
    evidence = scipy.stats.multivariate_normal(bias, covariance).logpdf(np.float64(x)).mean()
    bounds = []
    for k in (1, 5, 50):
        several = vae.make(dataclasses.replace(config, num_draws=k), data, data)
        bounds.append(float(jax.jit(several.evaluate)(KEY, state, jnp.tile(data, (20, 1)))["negative_log_likelihood"]))
    assert bounds[0] >= bounds[1] - 1e-3 >= bounds[2] - 2e-3 >= -evidence - 3e-3
    assert evidence <= best + 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"likelihood": "poisson"}, "likelihood 'poisson' is unknown; use one of bernoulli, gaussian"),
        ({"binarization": "static"}, "binarization 'static' is unknown"),
        ({"activation": "gelu"}, "activation 'gelu' is unknown"),
        ({"likelihood": "gaussian", "binarization": "dynamic"}, "no Gaussian likelihood"),
        ({"dequantization": 0.1}, "dequantization is for the Gaussian likelihood"),
        ({"num_draws": 0}, "num_draws is 0; it must be at least 1"),
        ({"batch_size": 31}, "batch_size is 31; it must be from 1 to 30"),
        ({"schedule": "step"}, "schedule 'step' is unknown"),
    ],
)
def test_mistakes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)
