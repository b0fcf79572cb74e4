"""The GAN: what each player minimizes, in which order, and that it finds one-dimensional laws."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mathai.learners import gan, samples
from mathai.learners.base import Learner, train

KEY = jax.random.key(0)
CONFIG = gan.Config(
    num_latents=3, generator_sizes=(8,), discriminator_sizes=(8,), batch_size=10, num_updates=20, beta1=0.0
)
DATA = jax.random.normal(jax.random.key(1), (30, 2))


def make(**changes):
    return Learner(*map(jax.jit, gan.make(dataclasses.replace(CONFIG, **changes), DATA, DATA)))


@pytest.mark.parametrize(("variant", "loss"), [("non_saturating", math.log(2)), ("minimax", -math.log(2))])
def test_players_that_know_nothing_have_the_losses_of_coins(variant, loss):
    learner = make(variant=variant, discriminator_learning_rate=0.0)
    state = learner.init(KEY)
    state = state._replace(discriminator=jax.tree.map(jnp.zeros_like, state.discriminator))
    _, metrics = learner.update(state, DATA[:10])
    np.testing.assert_allclose(metrics["discriminator_loss"], 2 * math.log(2), rtol=1e-6)
    np.testing.assert_allclose(metrics["generator_loss"], loss, rtol=1e-6)
    assert metrics["examples"] == 10


def test_each_step_goes_down_its_own_loss():
    learner = make(discriminator_learning_rate=1e-3, generator_learning_rate=1e-3)
    state = learner.init(KEY)
    after, _ = learner.update(state, DATA[:10])
    _, latent_key, *_ = jax.random.split(state.key, 4)
    z = jax.random.normal(latent_key, (10, 3))
    generator, discriminator = gan.make_generator(CONFIG, 2), gan.make_discriminator(CONFIG)

    def losses(of_generator, of_discriminator):
        real = discriminator.apply({"params": of_discriminator}, DATA[:10])
        fake = discriminator.apply({"params": of_discriminator}, generator.apply({"params": of_generator}, z))
        softplus = lambda x: np.log1p(np.exp(np.float64(x)))  # noqa: E731
        return np.mean(softplus(-real) + softplus(fake)), np.mean(softplus(-fake))

    assert losses(state.generator, after.discriminator)[0] < losses(state.generator, state.discriminator)[0]
    assert losses(after.generator, after.discriminator)[1] < losses(state.generator, after.discriminator)[1]


def test_the_generator_answers_the_discriminator_as_it_is_after_its_step():
    # Adam's first step has size η and the sign of −gradient, so that the loss of a generator that does not move tells
    # which discriminator it was measured against.
    learner = make(discriminator_learning_rate=0.5, generator_learning_rate=0.0)
    state = learner.init(KEY)
    after, metrics = learner.update(state, DATA[:10])
    _, latent_key, *_ = jax.random.split(state.key, 4)
    fake = gan.make_generator(CONFIG, 2).apply({"params": state.generator}, jax.random.normal(latent_key, (10, 3)))
    logits = gan.make_discriminator(CONFIG).apply({"params": after.discriminator}, fake)
    np.testing.assert_allclose(metrics["generator_loss"], np.mean(np.log1p(np.exp(-np.float64(logits)))), rtol=1e-4)
    before = gan.make_discriminator(CONFIG).apply({"params": state.discriminator}, fake)
    assert abs(metrics["generator_loss"] - np.mean(np.log1p(np.exp(-np.float64(before))))) > 0.01


def test_every_update_draws_its_own_noise():
    learner = make(discriminator_learning_rate=0.0, generator_learning_rate=0.0)
    state = learner.init(KEY)
    second, first_metrics = learner.update(state, DATA[:10])
    _, second_metrics = learner.update(second, DATA[:10])
    assert first_metrics["generator_loss"] != second_metrics["generator_loss"]


def test_the_penalty_is_half_gamma_times_the_squared_slope_at_data():
    plain, penalized = make(), make(r1_penalty=3.0)
    state = plain.init(KEY)
    logit = lambda x: gan.make_discriminator(CONFIG).apply({"params": state.discriminator}, x)  # noqa: E731
    step = 1e-3
    slopes = [
        (np.float64(logit(DATA[:10] + step * e)) - np.float64(logit(DATA[:10] - step * e))) / (2 * step)
        for e in np.eye(2, dtype=np.float32)[:, None]
    ]
    losses = [learner.update(state, DATA[:10])[1]["discriminator_loss"] for learner in (plain, penalized)]
    np.testing.assert_allclose(losses[1] - losses[0], 1.5 * np.mean(np.sum(np.square(slopes), 0)), rtol=1e-2)


def test_the_average_of_generators_is_what_is_sampled():
    learner = make(ema_decay=0.75)
    state = learner.init(KEY)
    after, _ = learner.update(state, DATA[:10])
    for old, new, average in zip(*map(jax.tree.leaves, (state.generator, after.generator, after.average)), strict=True):
        np.testing.assert_allclose(average, 0.75 * old + 0.25 * new, rtol=1e-5, atol=1e-7)
    swapped = after._replace(generator=state.generator)
    assert all(
        np.array_equal(learner.evaluate(KEY, swapped)[name], value)
        for name, value in learner.evaluate(KEY, after).items()
    )


def test_noise_on_what_is_seen_vanishes_at_the_end():
    learner = make(instance_noise=5.0, discriminator_learning_rate=0.0, generator_learning_rate=0.0)
    quiet = make(discriminator_learning_rate=0.0, generator_learning_rate=0.0)
    state = learner.init(KEY)
    at_the_end = state._replace(num_updates=jnp.int32(20))
    loss = lambda learner, s: float(learner.update(s, DATA[:10])[1]["discriminator_loss"])  # noqa: E731
    assert loss(learner, at_the_end) == pytest.approx(loss(quiet, state), rel=1e-5)
    assert abs(loss(learner, state) - loss(quiet, state)) > 1e-2


def test_the_state_keeps_its_types():
    learner = make(r1_penalty=0.1, ema_decay=0.9, instance_noise=0.1)
    state = learner.init(KEY)
    after, metrics = learner.update(state, DATA[:10])
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert all(np.isfinite(value) and value.shape == () for value in metrics.values())


def test_modes_are_counted_where_samples_are():
    centers = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    found = jnp.concatenate([jnp.zeros((50, 2)), jnp.ones((46, 2)), jnp.array([[1.0, 0.05]] * 3 + [[3.0, 3.0]])])
    result = samples.modes(found, centers, 0.1)
    assert result["modes"] == 2  # three of 100 are below a fifth of a quarter
    np.testing.assert_allclose(result["share_near_modes"], 0.99)


def test_samples_are_scored_beside_the_floor():
    x = jax.random.normal(KEY, (200, 2))
    references = jnp.stack([x[::-1], jax.random.permutation(KEY, x)])
    found = samples.compare_with_floor(KEY, x + jnp.array([[3.0, 4.0]]), (x, references), bandwidth=1.0)
    np.testing.assert_allclose(found["sliced_wasserstein"], 5 / np.sqrt(2), rtol=0.1)
    assert found["sliced_wasserstein_floor"] == 0
    assert found["maximum_mean_discrepancy"] > 0.5 > found["maximum_mean_discrepancy_floor"]


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["non_saturating", "minimax"])
def test_a_gaussian_is_found(variant):
    config = gan.Config(
        num_latents=4,
        generator_sizes=(32,),
        discriminator_sizes=(32, 32),
        variant=variant,
        r1_penalty=0.3,
        batch_size=256,
        num_updates=5000,
        generator_learning_rate=1e-3,
        discriminator_learning_rate=2e-3,
        ema_decay=0.998,
    )
    data = jnp.zeros((1, 1))
    learner = gan.make(config, data, data)
    draw = lambda step: jax.random.normal(jax.random.fold_in(KEY, step), (256, 1))  # noqa: E731
    state, _ = train(learner, KEY, draw, 5000)
    found = gan.sample(jax.random.key(2), config, 1, state, 50_000)
    assert abs(jnp.mean(found)) < 0.05
    assert abs(jnp.std(found) - 1) < 0.05


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "hinge"}, "variant 'hinge' is unknown; use one of non_saturating, minimax"),
        ({"output": "relu"}, "output 'relu' is unknown"),
        ({"generator_normalization": "batch"}, "generator_normalization 'batch' is unknown"),
        ({"num_latents": 0}, "num_latents is 0"),
        ({"schedule": "step"}, "schedule 'step' is unknown"),
    ],
)
def test_mistakes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)
