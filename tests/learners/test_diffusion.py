"""The diffusion learner: what it minimizes, that its bound holds and is nearly reached, and how it samples."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mathai.generative import diffusion as formulas
from mathai.learners import diffusion
from mathai.learners.base import Learner, train

KEY = jax.random.key(0)
CONFIG = diffusion.Config(
    num_blocks=1,
    num_features=8,
    noise_schedule="cosine",
    num_noise_steps=20,
    num_sampling_steps=5,
    batch_size=10,
    num_updates=20,
)
DATA = jax.random.uniform(jax.random.key(1), (30, 2, 2), minval=-1)


def make(data=DATA, **changes):
    return Learner(*map(jax.jit, diffusion.make(dataclasses.replace(CONFIG, **changes), data, data)))


@pytest.mark.parametrize("changes", [{}, pytest.param({"model": "unet", "channels": (4, 8)}, marks=pytest.mark.slow)])
def test_without_knowledge_the_loss_is_the_noise(changes):
    learner = make(**changes)
    state = learner.init(KEY)  # predicts 0: the loss is the mean square of the noise
    losses = [learner.update(state._replace(key=jax.random.key(k)), DATA[:10])[1]["loss"] for k in range(60)]
    assert abs(np.mean(losses) - 1) < 4 * np.sqrt(2 / (60 * 40))
    _, metrics = learner.update(state, DATA[:10])
    assert metrics["examples"] == 10
    assert len(set(map(float, losses))) == 60


def test_every_update_draws_its_own_times_and_noise():
    still = make(learning_rate=0.0)
    second, first_metrics = still.update(still.init(KEY), DATA[:10])
    assert first_metrics["loss"] != still.update(second, DATA[:10])[1]["loss"]


def test_the_velocity_is_what_is_learned_and_gives_the_noise():
    learner = make(prediction="velocity")
    state = learner.init(KEY)  # predicts 0: the loss is the mean square of √ᾱ ε − √(1 − ᾱ) x, noise and data apart
    alpha_bar = np.exp(np.float64(formulas.cosine_schedule(20).log_alpha_bar[1:]))
    expected = np.mean(alpha_bar + (1 - alpha_bar) * np.mean(np.float64(DATA[:10]) ** 2))
    losses = [learner.update(state._replace(key=jax.random.key(k)), DATA[:10])[1]["loss"] for k in range(60)]
    np.testing.assert_allclose(np.mean(losses), expected, rtol=0.1)
    x = jax.random.normal(KEY, (5, 4))
    denoise_fn = diffusion.denoiser(dataclasses.replace(CONFIG, prediction="velocity"), state.params)
    # v̂ = 0 says that x̂_0 = √ᾱ x_t
    schedule = formulas.cosine_schedule(20)
    for t in (1, 10, 20):
        found = formulas.predict_x0(schedule, x, denoise_fn(x, t), t)
        np.testing.assert_allclose(found, np.sqrt(alpha_bar[t - 1]) * x, atol=2e-3)


def test_data_are_mapped_to_one_range_and_samples_back():
    config = dataclasses.replace(CONFIG, minimum=0.0, maximum=1.0)
    images = jnp.array([[[0, 255], [51, 102]]], jnp.uint8)
    x = diffusion.prepare(config, images)
    np.testing.assert_allclose(x, [[-1, 1, -0.6, -0.2]], atol=1e-6)
    np.testing.assert_allclose(diffusion.restore(config, x), [[0, 1, 0.2, 0.4]], atol=1e-6)
    assert diffusion.prepare(dataclasses.replace(config, model="unet"), images).shape == (1, 2, 2, 1)


def test_the_average_begins_quickly_and_is_what_is_evaluated():
    learner = make(ema_decay=0.999)
    state = learner.init(KEY)
    after, _ = learner.update(state, DATA[:10])
    for old, new, average in zip(*map(jax.tree.leaves, (state.params, after.params, after.average)), strict=True):
        np.testing.assert_allclose(average, 0.1 * old + 0.9 * new, rtol=1e-4, atol=1e-7)  # (1 + 0)/(10 + 0)
    swapped = after._replace(params=state.params)
    assert learner.evaluate(KEY, swapped) == learner.evaluate(KEY, after)


@pytest.mark.slow
def test_the_bound_of_a_model_that_predicts_nothing_is_that_of_the_formulas():
    # ε̂ = 0 everywhere: E (ε̂ − ε)² = 1 at every step, and x̂_0 = x_1/√ᾱ₁ at the last
    levels = jnp.round((DATA.reshape(30, 4) + 1) / 2 * 8) / 4 - 1
    data = jnp.tile(levels, (100, 1))
    config = dataclasses.replace(CONFIG, num_levels=9, num_sampling_steps=1)
    learner = diffusion.make(config, data, data, score=lambda key, samples, test: {})
    evaluate = jax.jit(jax.vmap(learner.evaluate, in_axes=(0, None)))
    schedule = formulas.cosine_schedule(20)
    t = jnp.arange(2, 21)
    steps = jnp.sum(formulas.step_kl(schedule, jnp.ones(19), jnp.zeros(19), t))
    beta = -np.expm1(np.float64(schedule.log_alpha_bar[1]))
    x_0 = np.float64(data).ravel()
    noise = np.random.default_rng(0).standard_normal((50, len(x_0)))
    from scipy.stats import norm

    mean = x_0 + np.sqrt(beta / (1 - beta)) * noise
    high = np.where(x_0 == 1, np.inf, (x_0 + 0.125 - mean) / np.sqrt(beta))
    low = np.where(x_0 == -1, -np.inf, (x_0 - 0.125 - mean) / np.sqrt(beta))
    last = -np.mean(np.log(norm.cdf(high) - norm.cdf(low)))
    prior = np.mean(formulas.prior_kl(schedule, data))
    found = np.mean(evaluate(jax.random.split(KEY, 16), learner.init(KEY))["bits_per_dimension"])
    np.testing.assert_allclose(found, (steps + last + prior) / math.log(2), rtol=0.02)


def test_samples_are_those_of_the_sampler():
    state = make().init(KEY)
    state = state._replace(average=jax.tree.map(lambda p: p + 0.1, state.average))
    for sampler in ("ddpm", "ddim", "heun"):
        config = dataclasses.replace(CONFIG, sampler=sampler, minimum=0.0, maximum=4.0)
        found = diffusion.sample(KEY, config, (4,), state, 3)
        expected = formulas.sample(
            KEY,
            formulas.cosine_schedule(20),
            diffusion.denoiser(config, state.average),
            (3, 4),
            method=sampler,
            num_steps=5,
        )
        np.testing.assert_allclose(found, 2 * expected + 2, rtol=1e-4, atol=1e-5)
    clipped = diffusion.sample(KEY, dataclasses.replace(CONFIG, clips=True), (4,), state, 3)
    assert jnp.max(jnp.abs(clipped)) <= 1 + 1e-5
    assert diffusion.sample(KEY, CONFIG, (4,), state, 3, return_trajectory=True).shape == (6, 3, 4)


def test_the_state_keeps_its_types():
    learner = make(model="unet", channels=(4, 8), num_levels=3)
    state = learner.init(KEY)
    after, metrics = learner.update(state, DATA[:10])
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert all(np.isfinite(value) and value.shape == () for value in metrics.values())
    assert all(np.isfinite(value) and value.shape == () for value in learner.evaluate(KEY, after).values())


@pytest.mark.slow
def test_the_bound_of_coins_is_one_bit_and_samples_are_coins():
    config = diffusion.Config(
        num_blocks=2,
        num_features=64,
        num_noise_steps=200,
        num_levels=2,
        batch_size=256,
        num_updates=3000,
        learning_rate=2e-3,
    )
    flip = lambda key, n: 2.0 * jax.random.bernoulli(key, 0.5, (n, 3)) - 1.0  # noqa: E731
    test = flip(jax.random.key(1), 4000)
    learner = diffusion.make(config, test, test)
    state, _ = train(learner, KEY, lambda step: flip(jax.random.fold_in(KEY, step), 256), 3000)
    scores = jax.jit(learner.evaluate)(KEY, state)
    assert 0.98 < scores["bits_per_dimension"] < 1.1  # no code is shorter than the entropy
    found = diffusion.sample(KEY, config, (3,), state, 4000)
    assert jnp.mean(jnp.abs(jnp.abs(found) - 1) < 0.1) > 0.95
    assert jnp.max(jnp.abs(jnp.mean(jnp.sign(found), 0))) < 0.08


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "cnn"}, "model 'cnn' is unknown; use one of mlp, unet"),
        ({"prediction": "score"}, "prediction 'score' is unknown; use one of noise, velocity"),
        ({"noise_schedule": "sigmoid"}, "noise_schedule 'sigmoid' is unknown"),
        ({"sampler": "euler"}, "sampler 'euler' is unknown"),
        ({"num_sampling_steps": 21}, "num_sampling_steps is 21, more than num_noise_steps = 20"),
        ({"channels": ()}, r"channels is \(\)"),
        ({"minimum": 1.0}, "minimum = 1.0 to maximum = 1.0; the first must be less"),
        ({"num_levels": 1}, "num_levels is 1"),
        ({"num_updates": 0}, "num_updates is 0"),
        ({"model": "unet", "data": jnp.zeros((30, 2))}, "a unet takes images"),
    ],
)
def test_mistakes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)
