"""Policies and their losses against sums in float64, closed-form gradients and Gaussian densities."""

import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jax.test_util import check_grads

from mathai.rl.policy_gradient import (
    entropy,
    gaussian_entropy,
    gaussian_log_probability,
    log_probability,
    policy_gradient_loss,
    reinforce_loss,
)

SHAPE_ERRORS = (AssertionError, TypeError)  # chex's, or jaxtyping's where it checks first
DTYPES = [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64]
T, A = 5, 3
inf, nan = np.inf, np.nan

jitted_log_probability = jax.jit(log_probability)
jitted_entropy = jax.jit(entropy)
jitted_loss = jax.jit(policy_gradient_loss)
jitted_reinforce = jax.jit(reinforce_loss)
jitted_gaussian = jax.jit(gaussian_log_probability)


def softmax(logits):
    """In float64, from the definition."""
    weights = np.exp(np.asarray(logits, np.float64))
    return weights / weights.sum(-1, keepdims=True)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(T, A)).astype(np.float32)
    return logits, rng.integers(A, size=T), rng.normal(size=T).astype(np.float32)


# Log-probability


def test_log_probability_is_the_log_of_the_softmax(batch):
    logits, actions, _ = batch
    expected = np.log(softmax(logits))[np.arange(T), actions]
    np.testing.assert_allclose(jitted_log_probability(logits, actions), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(jitted_log_probability)(logits, actions), expected, rtol=1e-5)
    np.testing.assert_allclose(jitted_log_probability(logits[:, None], actions[:, None])[:, 0], expected, rtol=1e-5)


def test_gradient_of_log_probability_is_the_score(batch):
    logits, actions, _ = batch
    grad = jax.jit(jax.grad(lambda z: jnp.sum(log_probability(z, actions))))(logits)
    np.testing.assert_allclose(grad, np.eye(A)[actions] - softmax(logits), atol=1e-6)


def test_probabilities_of_all_actions_sum_to_one():
    logits = jnp.array([300.0, -2.0, 299.0, -inf])
    log_p = jax.vmap(jitted_log_probability, in_axes=(None, 0))(logits, jnp.arange(4))
    assert jnp.sum(jnp.exp(log_p)) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32])
@pytest.mark.parametrize("action", [-1, -A, A, 100])
def test_an_action_that_does_not_exist_is_nan_and_never_wrapped(action, dtype):
    value, grad = jax.value_and_grad(jitted_log_probability)(jnp.zeros(A), np.array(action).astype(dtype))
    assert np.isnan(value)
    assert grad.tolist() == [0.0] * A


@pytest.mark.parametrize("action", [2**32, -(2**32) + 1])
def test_a_large_action_is_not_wrapped_in_64_bits(action):
    with jax.enable_x64(True):
        assert np.isnan(log_probability(jnp.zeros(A), jnp.asarray(action)))


def test_masked_actions():
    run = jax.jit(jax.vmap(jax.value_and_grad(log_probability), in_axes=(None, 0)))
    value, grad = run(jnp.array([0.0, -inf, 0.0]), jnp.arange(3))
    np.testing.assert_allclose(value, [-math.log(2), -inf, -math.log(2)], rtol=1e-6)
    np.testing.assert_allclose(grad, [[0.5, 0, -0.5], [-0.5, 1, -0.5], [-0.5, 0, 0.5]])


def test_where_every_action_is_masked_log_probability_is_minus_inf_and_entropy_zero():
    row = jnp.full(3, -inf)
    value, grad = jax.value_and_grad(jitted_log_probability)(row, 1)
    assert value == -inf
    assert np.isfinite(grad).all()
    value, grad = jax.value_and_grad(jitted_entropy)(row)
    assert value == 0
    assert grad.tolist() == [0.0, 0.0, 0.0]


def test_deterministic_logits_are_exact():
    logits = jnp.array([1e4, -1e4, -1e4])
    values, grads = jax.vmap(jax.value_and_grad(jitted_log_probability), in_axes=(None, 0))(logits, jnp.arange(2))
    assert values.tolist() == [0.0, -2e4]
    assert grads.tolist() == [[0.0, 0.0, 0.0], [-1.0, 1.0, 0.0]]
    value, grad = jax.value_and_grad(jitted_entropy)(logits)
    assert value == 0
    assert grad.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("bad", [inf, nan])
def test_a_logit_of_plus_inf_or_nan_is_nan(bad):
    assert np.isnan(jitted_log_probability(jnp.array([bad, 0.0, 0.0]), 1))
    assert np.isnan(jitted_entropy(jnp.array([bad, 0.0, 0.0])))


def test_log_probability_refuses_the_wrong_kinds_and_shapes():
    with pytest.raises(TypeError):
        log_probability(jnp.zeros(3, int), jnp.array(0))
    with pytest.raises(TypeError):
        log_probability(jnp.zeros(3), jnp.array(0.0))
    with pytest.raises(TypeError):
        log_probability(jnp.zeros(3), jnp.array(True))
    with pytest.raises(TypeError):
        entropy(jnp.zeros(3, int))
    with pytest.raises(SHAPE_ERRORS):
        log_probability(jnp.zeros((4, 3)), jnp.zeros((4, 1), int))
    with pytest.raises(SHAPE_ERRORS):
        log_probability(jnp.zeros((4, 3)), jnp.array(0))


# Entropy


def test_entropy_is_minus_the_expected_log_probability(batch):
    logits, *_ = batch
    p = softmax(logits)
    expected = -np.sum(p * np.log(p), axis=-1)
    np.testing.assert_allclose(jitted_entropy(logits), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(jitted_entropy)(logits), expected, rtol=1e-5)
    grad = jax.jit(jax.grad(lambda z: jnp.sum(entropy(z))))(logits)
    np.testing.assert_allclose(grad, -p * (np.log(p) + expected[:, None]), atol=1e-6)


def test_entropy_of_a_uniform_policy_over_the_legal_actions_is_their_log():
    logits = jnp.array([[7.0, 7.0, 7.0, 7.0], [7.0, -inf, 7.0, 7.0], [-inf, -inf, 7.0, 7.0], [-inf, -inf, -inf, 7.0]])
    np.testing.assert_allclose(jitted_entropy(logits), np.log([4, 3, 2, 1]), rtol=1e-6)


def test_entropy_does_not_see_masked_actions_in_its_gradient_either():
    value, grad = jax.value_and_grad(jitted_entropy)(jnp.array([1.0, -inf, 0.0]))
    short_value, short_grad = jax.value_and_grad(jitted_entropy)(jnp.array([1.0, 0.0]))
    assert value == pytest.approx(float(short_value), rel=1e-6)
    np.testing.assert_allclose(grad, [short_grad[0], 0.0, short_grad[1]], atol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_categorical_functions_keep_their_dtype_and_its_accuracy(dtype):
    with jax.enable_x64(True):
        logits = jnp.asarray(np.linspace(-3, 3, 100), dtype)
        p = softmax(np.asarray(logits, np.float64))
        h, log_p = jitted_entropy(logits), jitted_log_probability(logits, jnp.int32(7))
        assert h.dtype == log_p.dtype == dtype
        tolerance = 2 * float(jnp.finfo(dtype).eps)
        assert float(h) == pytest.approx(-np.sum(p * np.log(p)), rel=tolerance)
        assert float(log_p) == pytest.approx(np.log(p[7]), rel=tolerance)


# Losses


def test_policy_gradient_loss_and_its_gradient(batch):
    logits, actions, advantages = batch
    p = softmax(logits)
    chosen = np.eye(A)[actions]
    expected = -np.mean(advantages * np.log(p[np.arange(T), actions]))
    value, grad = jax.jit(jax.value_and_grad(policy_gradient_loss))(logits, actions, advantages)
    assert value == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(grad, -advantages[:, None] * (chosen - p) / T, atol=1e-6)


def test_expected_gradient_of_the_loss_is_minus_the_gradient_of_the_expected_reward():
    # J(z) = Σ_a π(a) q(a), enumerated: each action weighs π(a).
    logits, q = jnp.array([0.3, -1.0, 0.8]), jnp.array([1.0, -2.0, 4.0])
    exact = jax.jit(jax.grad(lambda z: jnp.dot(jax.nn.softmax(z), q)))(logits)
    score = jax.grad(lambda z, a, q: policy_gradient_loss(z[None], a[None], q[None]))
    run = jax.jit(jax.vmap(score, in_axes=(None, 0, 0)))
    estimate = jax.nn.softmax(logits) @ run(logits, jnp.arange(3), q)
    np.testing.assert_allclose(-estimate, exact, atol=1e-6)


def test_advantages_are_constants(batch):
    logits, actions, advantages = batch
    assert not jax.grad(jitted_loss, argnums=2)(logits, actions, advantages).any()


def test_left_out_steps_may_hold_anything(batch):
    logits, actions, advantages = batch
    where = np.array([True, False, True, False, False])
    run = jax.jit(jax.value_and_grad(policy_gradient_loss))
    value, grad = run(logits[where], actions[where], advantages[where])
    logits[~where], actions[~where], advantages[~where] = [[nan] * 3, [-inf] * 3, [inf, 0, nan]], -7, [nan, inf, -inf]
    masked_value, masked_grad = run(logits, actions, advantages, where=where)
    assert masked_value == pytest.approx(float(value), rel=1e-6)
    np.testing.assert_allclose(masked_grad[where], grad, rtol=1e-6)
    assert not masked_grad[~where].any()


def test_losses_over_no_steps_are_zero(batch):
    logits, actions, advantages = batch
    nowhere = np.zeros(T, bool)
    poisoned = np.full_like(advantages, nan)
    for value, grad in (
        jax.value_and_grad(jitted_loss)(logits, actions, poisoned, where=nowhere),
        jax.value_and_grad(jitted_reinforce)(logits, actions, poisoned, 0.9, where=nowhere),
        jax.value_and_grad(jitted_loss)(jnp.zeros((0, A)), jnp.zeros(0, int), jnp.zeros(0)),
        jax.value_and_grad(jitted_reinforce)(jnp.zeros((0, A)), jnp.zeros(0, int), jnp.zeros(0), 0.9),
    ):
        assert value == 0
        assert not grad.any()


def test_losses_map_over_batches(batch):
    logits, actions, advantages = batch
    stacked = [np.stack([x, x[::-1]]) for x in (logits, actions, advantages)]
    values = jax.jit(jax.vmap(policy_gradient_loss))(*stacked)
    np.testing.assert_allclose(values, jitted_loss(logits, actions, advantages), rtol=1e-5)
    assert jitted_loss(*stacked) == pytest.approx(float(values.mean()), rel=1e-5)


@pytest.mark.parametrize("discount", [0.9, np.array([0.9, 0.8, 0.0, 0.9, 0.5], np.float32)])
def test_reinforce_weighs_each_score_by_the_return_that_followed(batch, discount):
    logits, actions, rewards = batch
    baseline = np.linspace(-1, 1, T).astype(np.float32)
    gamma = np.broadcast_to(np.asarray(discount, np.float64), T)
    returns = np.array([sum(np.prod(gamma[t:k]) * rewards[k] for k in range(t, T)) for t in range(T)])
    p = softmax(logits)
    value, grad = jax.jit(jax.value_and_grad(reinforce_loss))(logits, actions, rewards, discount, baseline_t=baseline)
    weights = returns - baseline
    assert value == pytest.approx(-np.mean(weights * np.log(p[np.arange(T), actions])), rel=1e-5)
    np.testing.assert_allclose(grad, -weights[:, None] * (np.eye(A)[actions] - p) / T, atol=1e-6)
    without = jitted_reinforce(logits, actions, rewards, discount)
    assert without == pytest.approx(-np.mean(returns * np.log(p[np.arange(T), actions])), rel=1e-5)


def test_reinforce_has_no_power_of_gamma():
    # One reward of 1 at the last of two steps, uniform over two: L = ½ (γ + 1) log 2, not ½ (γ + γ) log 2.
    loss = jitted_reinforce(jnp.zeros((2, 2)), jnp.array([0, 1]), jnp.array([0.0, 1.0]), 0.5)
    assert loss == pytest.approx(0.75 * math.log(2), rel=1e-6)


def test_returns_and_baselines_are_constants(batch):
    logits, actions, rewards = batch
    grads = jax.jit(
        jax.grad(lambda r, g, b: reinforce_loss(logits, actions, r, g, baseline_t=b), argnums=(0, 1, 2)),
    )(rewards, 0.9, jnp.ones(T))
    assert all(not np.any(grad) for grad in grads)


def test_reinforce_over_two_padded_episodes_is_reinforce_over_each(batch):
    logits, actions, rewards = batch
    where = np.array([True, True, False, True, False])
    run = jax.jit(jax.value_and_grad(reinforce_loss))
    first = jitted_reinforce(logits[:2], actions[:2], rewards[:2], 0.9)
    second = jitted_reinforce(logits[3:4], actions[3:4], rewards[3:4], 0.9)
    for padding in (5.0, nan, inf):
        rewards[~where], logits[~where] = padding, padding
        value, grad = run(logits, actions, rewards, 0.9, where=where)
        assert value == pytest.approx(float(2 * first + second) / 3, rel=1e-5)
        assert np.isfinite(grad).all()


def test_nothing_crosses_a_termination_into_the_weights_before_it(batch):
    logits, actions, rewards = batch
    discount = np.array([0.9, 0.0, 0.9, 0.9, 0.9], np.float32)
    rewards[2:] = nan
    grad = jax.grad(jitted_reinforce)(logits, actions, rewards, discount)
    assert np.isfinite(grad[:2]).all()
    assert np.isnan(grad[2:]).all()


def test_independent_streams_may_lie_on_the_axes_between(batch):
    logits, actions, rewards = batch
    stacked = [np.stack([x, x[::-1]], axis=1) for x in (logits, actions, rewards)]
    separate = [jitted_reinforce(x, a, r, 0.9) for x, a, r in [batch, [x[::-1] for x in batch]]]
    assert jitted_reinforce(*stacked, 0.9) == pytest.approx(float(sum(separate)) / 2, rel=1e-5)


def test_losses_refuse_to_broadcast(batch):
    logits, actions, advantages = batch
    for arguments in (
        (logits, actions, advantages[:, None]),
        (logits, actions[:, None], advantages),
        (logits[:1], actions, advantages),
        (logits, actions[:1], advantages[:1]),
    ):
        with pytest.raises(SHAPE_ERRORS):
            policy_gradient_loss(*arguments)
        with pytest.raises(SHAPE_ERRORS):
            reinforce_loss(*arguments, 0.9)
    for option in ({"baseline_t": advantages[:, None]}, {"where": np.ones((T, 1), bool)}):
        with pytest.raises(SHAPE_ERRORS):
            reinforce_loss(logits, actions, advantages, 0.9, **option)
    with pytest.raises(SHAPE_ERRORS):
        policy_gradient_loss(logits, actions, advantages, where=np.ones((T, 1), bool))
    with pytest.raises(SHAPE_ERRORS):
        reinforce_loss(logits, actions, advantages, np.full((T, 1), 0.9))
    with pytest.raises(TypeError):
        policy_gradient_loss(np.zeros((T, A), int), actions, advantages)


@pytest.mark.parametrize("dtype", DTYPES)
def test_losses_keep_the_dtype_of_their_inputs(batch, dtype):
    with jax.enable_x64(True):
        logits, actions, advantages = batch
        logits, advantages = jnp.asarray(logits, dtype), jnp.asarray(advantages, dtype)
        p = softmax(np.asarray(logits, np.float64))
        expected = -np.mean(np.asarray(advantages, np.float64) * np.log(p[np.arange(T), actions]))
        loss, grad = jax.jit(jax.value_and_grad(policy_gradient_loss))(logits, actions, advantages)
        assert loss.dtype == grad.dtype == dtype
        assert float(loss) == pytest.approx(expected, rel=4 * float(jnp.finfo(dtype).eps))
        assert jitted_reinforce(logits, actions, advantages, 0.9).dtype == dtype
        assert jitted_reinforce(logits, actions, np.ones(T, np.int32), 0.9).dtype == dtype


def test_log_probability_and_entropy_agree_with_differences(batch):
    logits, actions, _ = batch
    with jax.enable_x64(True):
        check_grads(lambda z: jitted_log_probability(z, actions), (jnp.float64(logits),), order=1)
        check_grads(jitted_entropy, (jnp.float64(logits),), order=1)


# Gaussian policies


def gaussian(mean, log_std, action):
    """The log of the density, in 50 digits."""
    with mpmath.workdps(50):
        terms = zip(*(np.asarray(x, np.float64).tolist() for x in (mean, log_std, action)), strict=True)
        return float(sum(mpmath.log(mpmath.npdf(a, m, mpmath.exp(s))) for m, s, a in terms))


def test_gaussian_log_probability_is_the_log_of_the_product_of_densities():
    rng = np.random.default_rng(3)
    mean, action = rng.normal(size=(2, 4, 3)).astype(np.float32)
    log_std = np.float32([-2.0, 0.0, 1.5])
    expected = [gaussian(m, log_std, a) for m, a in zip(mean, action, strict=True)]
    run = jitted_gaussian
    np.testing.assert_allclose(run(mean, log_std, action), expected, rtol=1e-5)
    np.testing.assert_allclose(run(mean, np.broadcast_to(log_std, (4, 3)), action), expected, rtol=1e-5)
    mapped = jax.vmap(run, in_axes=(0, None, 0))(mean, log_std, action)
    np.testing.assert_allclose(mapped, expected, rtol=1e-5)


def test_gaussian_scores():
    # ∂/∂μ = (a − μ)/σ², ∂/∂log σ = z² − 1, by hand at μ = 1, σ = ½, a = 2: z = 2.
    grads = jax.grad(jitted_gaussian, argnums=(0, 1, 2))(jnp.array([1.0]), jnp.log(jnp.array([0.5])), jnp.array([2.0]))
    np.testing.assert_allclose(grads, [[4.0], [3.0], [-4.0]], rtol=1e-6)


def test_gaussian_functions_agree_with_differences():
    with jax.enable_x64(True):
        mean, log_std, action = jnp.array([0.5, -1.0]), jnp.array([0.2, -0.3]), jnp.array([1.0, 0.0])
        check_grads(jitted_gaussian, (mean, log_std, action), order=1)
        check_grads(gaussian_entropy, (log_std,), order=1)


def test_gaussian_entropy_is_minus_the_expected_log_density():
    # Gauss–Hermite quadrature of −∫ p log p is exact, log p being quadratic.
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    log_std = np.float32([-0.7, 1.1])
    expected = -sum(
        w * gaussian([0.0], [s], [x * math.exp(s)])
        for s in log_std
        for x, w in zip(nodes, weights / weights.sum(), strict=True)
    )
    assert jax.jit(gaussian_entropy)(log_std) == pytest.approx(expected, rel=1e-6)
    assert jax.grad(gaussian_entropy)(log_std).tolist() == [1.0, 1.0]
    stacked = jax.vmap(gaussian_entropy)(jnp.stack([log_std, log_std + 1]))
    np.testing.assert_allclose(stacked, [expected, expected + 2], rtol=1e-6)


def test_an_infinite_action_is_impossible_and_no_components_are_certain():
    assert jitted_gaussian(jnp.zeros(2), jnp.zeros(2), jnp.array([inf, 0.0])) == -inf
    assert jitted_gaussian(jnp.zeros(0), jnp.zeros(0), jnp.zeros(0)) == 0
    assert gaussian_entropy(jnp.full(2, -inf)) == -inf


def test_gaussian_log_probability_refuses_to_broadcast():
    for mean, log_std, action in [((4, 3), 3, (4, 1)), ((4, 3), 3, 3), ((4, 3), 1, (4, 3)), ((4, 3), (4, 1), (4, 3))]:
        with pytest.raises(SHAPE_ERRORS):
            gaussian_log_probability(jnp.zeros(mean), jnp.zeros(log_std), jnp.zeros(action))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gaussian_functions_keep_their_dtype_and_its_accuracy(dtype):
    with jax.enable_x64(True):
        mean, log_std, action = (jnp.asarray(np.linspace(*ends, 64), dtype) for ends in [(-1, 1), (-2, 1), (2, 3)])
        log_p, h = jitted_gaussian(mean, log_std, action), jax.jit(gaussian_entropy)(log_std)
        assert log_p.dtype == h.dtype == dtype
        tolerance = 4 * float(jnp.finfo(dtype).eps)
        assert float(log_p) == pytest.approx(gaussian(mean, log_std, action), rel=tolerance)
        exact = np.sum(np.asarray(log_std, np.float64)) + 32 * math.log(2 * math.pi * math.e)
        assert float(h) == pytest.approx(exact, rel=tolerance)
