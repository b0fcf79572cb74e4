"""Policies against the distributions that they are named after."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces
from scipy import special, stats

from mathai.learners.policies import for_action_space

LOGITS = np.array([0.3, -1.2, 2.0, -0.5], np.float32)
MEAN, LOG_STD = np.array([0.5, -2.0, 10.0], np.float32), np.array([-1.0, 0.0, 0.7], np.float32)
BOX = spaces.Box(-1.0, 1.0, (3,))
N = 40_000


def draws(policy, head, key):
    """N independent actions of one head."""
    noise = policy.draw_noise(key, (N,))
    assert noise.shape == (N, policy.num_actions)
    return np.array(jax.jit(jax.vmap(policy.sample, in_axes=(None, 0)))(head, noise))


# Discrete actions


def test_discrete_actions_come_as_often_as_softmax_says():
    policy = for_action_space(spaces.Discrete(4))
    assert (policy.num_actions, policy.continuous) == (4, False)
    actions = draws(policy, jnp.asarray(LOGITS), jax.random.key(0))
    # Pearson's χ² of the counts has 3 degrees of freedom; beyond this bound once in a million keys.
    statistic = stats.chisquare(np.bincount(actions, minlength=4), N * special.softmax(LOGITS.astype(float))).statistic
    assert statistic < stats.chi2.isf(1e-6, 3)


def test_a_masked_action_is_never_taken():
    actions = draws(for_action_space(spaces.Discrete(3)), jnp.array([0.0, -jnp.inf, 0.0]), jax.random.key(1))
    assert set(actions.tolist()) == {0, 2}


def test_the_mode_of_a_discrete_policy_is_its_most_probable_action():
    policy = for_action_space(spaces.Discrete(4))
    np.testing.assert_array_equal(policy.mode(jnp.stack([LOGITS, -LOGITS])), [2, 1])  # largest, smallest of LOGITS


def test_discrete_log_probability_and_entropy_are_scipys():
    policy = for_action_space(spaces.Discrete(4))
    logits = np.random.default_rng(0).normal(size=(2, 5, 4))
    actions = np.random.default_rng(1).integers(0, 4, size=(2, 5))
    expected = np.take_along_axis(special.log_softmax(logits, axis=-1), actions[..., None], axis=-1)[..., 0]
    head = jnp.asarray(logits, jnp.float32)
    np.testing.assert_allclose(policy.log_probability(head, jnp.asarray(actions)), expected, rtol=1e-5)
    np.testing.assert_allclose(policy.entropy(head), stats.entropy(special.softmax(logits, -1), axis=-1), rtol=1e-5)


def test_discrete_actions_reach_the_environment_as_they_are():
    actions = jnp.array([0, 3, 1])
    np.testing.assert_array_equal(for_action_space(spaces.Discrete(4)).to_environment(actions), actions)


# Continuous actions


def test_continuous_actions_have_the_moments_of_the_gaussian():
    policy = for_action_space(BOX)
    assert (policy.num_actions, policy.continuous) == (3, True)
    actions = draws(policy, (jnp.asarray(MEAN), jnp.asarray(LOG_STD)), jax.random.key(2)).astype(np.float64)
    z = (actions - MEAN) / np.exp(LOG_STD)  # standard normal, independent
    # A mean of N has standard deviation 1/√N, a second moment √(2/N), a product of two components 1/√N;
    # five of them are passed less than once in a million.
    assert np.max(np.abs(z.mean(axis=0))) < 5 / np.sqrt(N)
    products = z.T @ z / N
    assert np.max(np.abs(np.diag(products) - 1)) < 5 * np.sqrt(2 / N)
    assert np.max(np.abs(products - np.diag(np.diag(products)))) < 5 / np.sqrt(N)
    assert min(stats.kstest(z[:, i], "norm").pvalue for i in range(3)) > 1e-6


def test_sampling_is_the_mean_moved_by_the_noise():
    policy = for_action_space(BOX)
    head, noise = (jnp.asarray(MEAN)[None], jnp.zeros(3)), jnp.array([[1.0, -2.0, 0.0]])
    np.testing.assert_allclose(policy.sample(head, noise), [[1.5, -4.0, 10.0]])  # μ + e⁰ z
    np.testing.assert_array_equal(policy.mode(head), MEAN[None])  # a Gaussian is highest at its mean


def test_gaussian_log_probability_and_entropy_are_scipys():
    policy = for_action_space(BOX)
    rng = np.random.default_rng(0)
    mean, actions = rng.normal(size=(2, 4, 5, 3))
    gaussian = stats.norm(mean, np.exp(LOG_STD.astype(float)))
    head = (jnp.asarray(mean, jnp.float32), jnp.asarray(LOG_STD))
    log_probability = policy.log_probability(head, jnp.asarray(actions, jnp.float32))
    np.testing.assert_allclose(log_probability, gaussian.logpdf(actions).sum(axis=-1), rtol=1e-5)
    entropy = np.broadcast_to(policy.entropy(head), (4, 5))
    np.testing.assert_allclose(entropy, gaussian.entropy().sum(axis=-1), rtol=1e-5)


def test_actions_are_clipped_to_the_bounds_of_each_dimension():
    space = spaces.Box(jnp.array([-1.0, -2.0, -jnp.inf]), jnp.array([1.0, 0.5, jnp.inf]), (3,))
    actions = jnp.array([[0.3, 0.3, 1e9], [-7.0, 7.0, -1e9], [7.0, -7.0, 0.0]])
    expected = [[0.3, 0.3, 1e9], [-1.0, 0.5, -1e9], [1.0, -2.0, 0.0]]
    np.testing.assert_allclose(for_action_space(space).to_environment(actions), expected)


def test_a_scalar_box_gives_scalar_actions():
    policy = for_action_space(spaces.Box(-2.0, 2.0, ()))
    assert policy.num_actions == 1
    actions = policy.to_environment(jnp.array([[-3.0], [1.0]]))
    np.testing.assert_array_equal(actions, [-2.0, 1.0])


# What both share


@pytest.mark.parametrize("space", [spaces.Discrete(2), BOX])
def test_noise_is_independent_and_of_both_kinds_of_key(space):
    policy = for_action_space(space)
    noise = np.array(policy.draw_noise(jax.random.key(0), (5, 7)))
    assert noise.shape == (5, 7, policy.num_actions)
    assert len(np.unique(noise)) == noise.size
    np.testing.assert_array_equal(noise, policy.draw_noise(jax.random.PRNGKey(0), (5, 7)))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0.0, 1.0, (2, 2)),
        spaces.Dict({"a": spaces.Discrete(2)}),
        spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)]),
    ],
)
def test_other_action_spaces_are_refused(space):
    with pytest.raises(ValueError, match="Discrete, or a Box"):
        for_action_space(space)
