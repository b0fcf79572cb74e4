"""Running moments against NumPy on all examples at once, and reward scales against a loop over steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mathai.learners.normalization import RewardScale, RunningMoments

NUM_FEATURES = 3


@jax.jit
def moments_after(batches):
    """The moments after batches of any sizes."""
    moments = RunningMoments.zeros((NUM_FEATURES,))
    for batch in batches:
        moments = moments.after(batch)
    return moments


def assert_moments_of(moments, x, rtol=1e-5, atol=1e-6):
    x = np.asarray(x, np.float64)
    assert moments.num_examples == len(x)
    np.testing.assert_allclose(moments.mean, x.mean(0), rtol=rtol, atol=atol)
    np.testing.assert_allclose(moments.variance, x.var(0), rtol=rtol, atol=atol)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# Moments


@pytest.mark.parametrize("sizes", [(100,), (1, 2, 40, 7, 50)], ids=["at once", "in parts"])
def test_moments_are_those_of_all_examples_together(sizes):
    x = normal(100, NUM_FEATURES) * np.float32([1, 10, 0.1]) + np.float32([0, 5, -2])
    assert_moments_of(moments_after(np.split(x, np.cumsum(sizes)[:-1])), x)


def test_parts_that_differ_count_by_their_sizes():
    # two examples at 0 and six at 4: mean 3, variance ¼ · 3² + ¾ · 1² = 3
    moments = moments_after([np.zeros((2, NUM_FEATURES), np.float32), np.full((6, NUM_FEATURES), 4, np.float32)])
    np.testing.assert_array_equal(moments.mean, 3.0)
    np.testing.assert_array_equal(moments.variance, 3.0)


def test_leading_axes_are_all_examples():
    x = normal(4, 5, NUM_FEATURES)
    assert_moments_of(moments_after([x]), x.reshape(20, NUM_FEATURES))
    images = normal(6, 2, NUM_FEATURES)
    moments = RunningMoments.zeros((2, NUM_FEATURES)).after(images)
    assert_moments_of(moments, images)
    assert moments.mean.shape == moments.variance.shape == (2, NUM_FEATURES)


def test_one_example_is_its_own_mean():
    x = normal(1, NUM_FEATURES)
    moments = moments_after([x])
    np.testing.assert_array_equal(moments.mean, x[0])
    np.testing.assert_array_equal(moments.variance, 0.0)
    assert_moments_of(moments_after([x[0]]), x)  # without a leading axis


def test_a_constant_feature_has_no_variance_and_standardizes_to_zero():
    x = normal(50, NUM_FEATURES)
    x[:, 1] = 7.25
    moments = moments_after(np.split(x, [10, 30]))
    assert_moments_of(moments, x)
    assert moments.variance[1] == 0
    standard = jax.jit(RunningMoments.standardize)(moments, x)
    np.testing.assert_array_equal(standard[:, 1], 0.0)
    np.testing.assert_allclose(np.std(standard, axis=0), [1, 0, 1], atol=1e-5)


def test_a_large_mean_costs_no_variance():
    """The mean of squares less the square of the mean would lose all of it: 10⁸ has steps of 8 in float32."""
    x = np.float32(1e4) + normal(1000, NUM_FEATURES)
    moments = moments_after(np.split(x, [10, 500]))
    np.testing.assert_allclose(moments.mean, x.mean(0, np.float64), rtol=1e-6)
    np.testing.assert_allclose(moments.variance, x.var(0, np.float64), rtol=1e-3)


def test_many_small_batches_do_not_drift():
    x = normal(4000, NUM_FEATURES) + np.float32([0, 3, -30])

    @jax.jit
    def one_by_one(x):
        step = lambda moments, batch: (moments.after(batch), None)  # noqa: E731
        return jax.lax.scan(step, RunningMoments.zeros((NUM_FEATURES,)), x[:, None])[0]

    assert_moments_of(one_by_one(x), x, rtol=1e-4, atol=1e-4)


def test_moments_can_be_batched():
    x = normal(4, 10, NUM_FEATURES)
    moments = jax.vmap(RunningMoments.zeros((NUM_FEATURES,)).after)(x)
    np.testing.assert_allclose(moments.mean, x.mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(moments.variance, x.var(1), rtol=1e-5)


# Standardized


def test_standardized_examples_have_mean_0_and_variance_1():
    x = normal(400, NUM_FEATURES) * np.float32([1, 10, 0.1]) + np.float32([0, 5, -2])
    standard = jax.jit(RunningMoments.standardize)(moments_after([x]), x)
    np.testing.assert_allclose(np.mean(standard, axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(standard, axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose(standard, (x - x.mean(0)) / x.std(0), rtol=1e-4, atol=1e-5)


def test_the_moments_of_nothing_change_nothing_but_what_lies_far_out():
    moments = RunningMoments.zeros((NUM_FEATURES,))
    assert moments.num_examples == 0
    x = jnp.array([[-12.0, 0.5, 9.5], [11.0, -9.5, 0.0]])
    np.testing.assert_allclose(moments.standardize(x), [[-10, 0.5, 9.5], [10, -9.5, 0]], rtol=1e-6)
    np.testing.assert_allclose(moments.standardize(x, limit=2.0), [[-2, 0.5, 2], [2, -2, 0]], rtol=1e-6)


# Rewards

GAMMA, NUM_ENVS = 0.9, 4


def discounted_returns(rewards, dones):
    """Σ γᵏ r of each running episode, looking back, after every step; it starts anew after an end."""
    running, every = np.zeros(NUM_ENVS), []
    for reward, done in zip(rewards.astype(np.float64), dones, strict=True):
        running = GAMMA * running + reward
        every.append(running.copy())
        running[done] = 0
    return np.array(every), running


@jax.jit
def scale_after(rewards, dones, discount):
    """The scale after rollouts of 10 steps."""
    shape = -1, 10, NUM_ENVS
    step = lambda scale, x: (scale.after(*x, discount), None)  # noqa: E731
    return jax.lax.scan(step, RewardScale.zeros(NUM_ENVS), (rewards.reshape(shape), dones.reshape(shape)))[0]


def rollouts():
    rng = np.random.default_rng(1)
    return rng.normal(0.5, 2.0, size=(50, NUM_ENVS)).astype(np.float32), rng.random((50, NUM_ENVS)) < 0.15


def test_the_spread_is_that_of_all_discounted_returns():
    # As of gymnasium's NormalizeReward, whose variance starts with a ten-thousandth of an example instead of none.
    rewards, dones = rollouts()
    returns, running = discounted_returns(rewards, dones)
    scale = scale_after(rewards, dones, GAMMA)
    np.testing.assert_allclose(scale.running_return, running, rtol=1e-5, atol=1e-6)  # it goes on between rollouts
    assert_moments_of(scale.moments, returns.reshape(-1))
    scaled = scale.scaled(rewards)
    np.testing.assert_allclose(scaled, np.clip(rewards / returns.std(), -10, 10), rtol=1e-5)


def test_a_last_reward_counts_for_its_episode_and_not_for_the_next():
    # γ = 0.9, rewards 1: 1, 1.9, then an end, then 1 again
    rewards, dones = np.ones((10, NUM_ENVS), np.float32), np.zeros((10, NUM_ENVS), bool)
    dones[1::2] = True
    scale = scale_after(rewards, dones, GAMMA)
    np.testing.assert_array_equal(scale.running_return, 0.0)
    np.testing.assert_allclose(scale.moments.mean, 1.45, rtol=1e-6)
    np.testing.assert_allclose(scale.moments.variance, 0.45**2, rtol=1e-5)


def test_discounts_can_be_batched():
    rewards, dones = rollouts()
    scales = jax.vmap(scale_after, in_axes=(None, None, 0))(rewards, dones, jnp.array([0.0, GAMMA]))
    np.testing.assert_allclose(scales.moments.variance[0], rewards.var(dtype=np.float64), rtol=1e-5)
    np.testing.assert_allclose(scales.moments.variance[1], discounted_returns(rewards, dones)[0].var(), rtol=1e-5)


def test_scaled_rewards_keep_their_sign_whatever_their_mean():
    rewards = np.abs(rollouts()[0]) + np.float32(100)  # far from 0, and nothing is subtracted
    scale = scale_after(rewards, rollouts()[1], GAMMA)
    assert np.all(scale.scaled(rewards) > 0)
    np.testing.assert_array_equal(scale.scaled(-rewards), -scale.scaled(rewards))
    np.testing.assert_array_equal(scale.scaled(jnp.array([-2.0, 0.0, 3.0]) * 1e6), [-10, 0, 10])
    np.testing.assert_array_equal(scale.scaled(jnp.array([1e6]), limit=3.0), [3.0])


def test_before_the_first_step_rewards_stay():
    scale = RewardScale.zeros(NUM_ENVS)
    np.testing.assert_array_equal(scale.running_return, np.zeros(NUM_ENVS))
    np.testing.assert_allclose(scale.scaled(jnp.array([-3.0, 0.5])), [-3.0, 0.5], rtol=1e-6)


def test_a_reward_that_never_varies_is_cut_and_not_infinite():
    rewards, dones = np.ones((10, NUM_ENVS), np.float32), np.ones((10, NUM_ENVS), bool)
    scale = scale_after(rewards, dones, GAMMA)
    assert scale.moments.variance == 0
    np.testing.assert_array_equal(scale.scaled(jnp.array([1.0, 0.0, -1.0])), [10, 0, -10])
