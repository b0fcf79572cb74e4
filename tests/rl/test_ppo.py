"""PPO's objectives against loops over min, max and clip, and against 50 digits where terms cancel."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jax.test_util import check_grads

from mathai.rl.ppo import approximate_kl, clipped_surrogate_loss, clipped_value_loss, probability_ratio

SHAPE_ERRORS = (AssertionError, TypeError)  # chex's, or jaxtyping's where it checks first
DTYPES = [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64]
inf, nan = np.inf, np.nan

jitted_surrogate = jax.jit(clipped_surrogate_loss)
jitted_value_loss = jax.jit(clipped_value_loss)
jitted_ratio = jax.jit(probability_ratio)
jitted_kl = jax.jit(approximate_kl)
surrogate_and_slope = jax.jit(jax.vmap(jax.value_and_grad(clipped_surrogate_loss)))
value_loss_and_slope = jax.jit(jax.vmap(jax.value_and_grad(clipped_value_loss), in_axes=(0, 0, 0)))


def clip(x, low, high):
    return max(low, min(x, high))


# The ratio


def test_probability_ratio_is_the_quotient():
    p, old = np.array([[0.5, 0.3], [0.0, 0.9]], np.float32), np.array([[0.25, 0.3], [0.5, 0.1]], np.float32)
    with np.errstate(divide="ignore"):
        log_p, log_old = np.log(p), np.log(old)
    np.testing.assert_allclose(jitted_ratio(log_p, log_old), p / old, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(jitted_ratio)(log_p, log_old), p / old, rtol=1e-6)


def test_derivative_of_the_ratio_is_the_ratio_and_the_old_policy_is_a_constant():
    new, old = jnp.log(jnp.array([0.5, 0.0])), jnp.log(jnp.array([0.25, 0.5]))
    grads = jax.grad(lambda *args: jnp.sum(probability_ratio(*args)), argnums=(0, 1))(new, old)
    np.testing.assert_allclose(grads, [[2.0, 0.0], [0.0, 0.0]], rtol=1e-6)


def test_ratio_of_actions_that_the_old_policy_could_not_take():
    ratio = probability_ratio(jnp.array([-1.0, -inf]), jnp.array([-inf, -inf]))
    assert ratio[0] == inf
    assert np.isnan(ratio[1])


# The surrogate


@pytest.mark.parametrize("epsilon", [0.0, 0.2, 0.5])
def test_surrogate_is_minus_the_mean_of_the_lesser(epsilon):
    rng = np.random.default_rng(1)
    ratio, advantage = rng.uniform(0.2, 2, 40).astype(np.float32), rng.normal(size=40).astype(np.float32)
    terms = [min(p * a, clip(p, 1 - epsilon, 1 + epsilon) * a) for p, a in zip(ratio, advantage, strict=True)]
    loss, grad = jax.jit(jax.value_and_grad(clipped_surrogate_loss))(ratio, advantage, epsilon=epsilon)
    assert loss == pytest.approx(-np.mean(terms), rel=1e-5)
    clipped = ((ratio > 1 + epsilon) & (advantage > 0)) | ((ratio < 1 - epsilon) & (advantage < 0))
    assert 0 < clipped.sum() < 40
    np.testing.assert_allclose(grad, np.where(clipped, 0, -advantage / 40), rtol=1e-6)
    columns = jax.vmap(lambda p, a: jitted_surrogate(p, a, epsilon=epsilon))(
        ratio.reshape(4, 10), advantage.reshape(4, 10)
    )
    assert columns.shape == (4,)
    assert columns.mean() == pytest.approx(-np.mean(terms), rel=1e-5)
    assert jitted_surrogate(ratio.reshape(4, 10), advantage.reshape(4, 10), epsilon=epsilon) == pytest.approx(
        float(loss)
    )


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.25, 2.0, -2.5, -2.0),  # on the upper border: the whole gradient
        (1.5, 2.0, -2.5, 0.0),  # beyond it, in the advantage's favour: clipped
        (1.5, -2.0, 3.0, 2.0),  # beyond it, against the advantage: not clipped
        (0.75, -2.0, 1.5, 2.0),  # on the lower border
        (0.5, -2.0, 1.5, 0.0),
        (0.5, 2.0, -1.0, -2.0),
        (1.0, 2.0, -2.0, -2.0),  # where all updates begin
        (0.0, 2.0, 0.0, -2.0),
        (0.0, -2.0, 1.5, 0.0),
        (1.5, 0.0, 0.0, 0.0),
        (inf, 2.0, -2.5, 0.0),
        (inf, 0.0, 0.0, 0.0),
        (inf, -2.0, inf, 2.0),
    ],
)
def test_surrogate_and_slope(ratio, advantage, loss, slope):
    value, grad = surrogate_and_slope(
        jnp.array([[ratio]]), jnp.array([[advantage]]), epsilon=jnp.array([0.25])
    )  # by hand, at ε = ¼
    assert (value[0], grad[0, 0]) == (loss, slope)


def test_surrogate_defaults_to_the_papers_clip():
    assert clipped_surrogate_loss(jnp.array([2.0]), jnp.array([1.0])) == pytest.approx(-1.2)


def test_advantages_are_constants_and_nan_is_not_hidden():
    assert not jax.grad(jitted_surrogate, argnums=1)(jnp.array([1.1, 2.0]), jnp.array([1.0, 2.0])).any()
    assert np.isnan(jitted_surrogate(jnp.array([nan, 1.0]), jnp.array([1.0, 2.0])))
    assert np.isnan(jitted_surrogate(jnp.array([1.0, 1.0]), jnp.array([nan, 2.0])))


def test_left_out_steps_may_hold_anything():
    where = np.array([True, False, False, True])
    ratio, advantage = np.array([2.0, nan, inf, 1.0]), np.array([1.0, inf, nan, 3.0])
    loss, grad = jax.jit(jax.value_and_grad(clipped_surrogate_loss))(ratio, advantage, epsilon=0.5, where=where)
    assert loss == -(1.5 + 3.0) / 2
    assert grad.tolist() == [0.0, 0.0, 0.0, -1.5]


def test_surrogate_over_no_steps_is_zero():
    loss, grad = jax.value_and_grad(jitted_surrogate)(jnp.full(3, nan), jnp.full(3, inf), where=jnp.zeros(3, bool))
    assert loss == 0
    assert grad.tolist() == [0.0, 0.0, 0.0]
    assert clipped_surrogate_loss(jnp.zeros(0), jnp.zeros(0)) == 0


def test_a_trust_region_of_infinite_width_is_the_policy_gradient():
    ratio, advantage = jnp.array([0.1, 9.0]), jnp.array([-1.0, 2.0])
    assert clipped_surrogate_loss(ratio, advantage, epsilon=inf) == pytest.approx(-(-0.1 + 18.0) / 2)


# The value loss


def test_value_loss_is_half_the_greater_square():
    rng = np.random.default_rng(2)
    v, old, y = rng.normal(size=(3, 50)).astype(np.float32)
    pairs = [(p - q, clip(p, o - 0.5, o + 0.5) - q) for p, o, q in zip(v, old, y, strict=True)]
    expected = [0.5 * max(a**2, b**2) for a, b in pairs]
    np.testing.assert_allclose(jitted_value_loss(v, old, y, epsilon=0.5), expected, rtol=1e-5)
    grad = jax.grad(lambda v: jnp.sum(jitted_value_loss(v, old, y, epsilon=0.5)))(v)
    np.testing.assert_allclose(grad, [0.0 if abs(b) > abs(a) else a for a, b in pairs], rtol=1e-5)
    assert 0 < np.sum(grad == 0) < 50


@pytest.mark.parametrize(
    ("value", "old", "target", "loss", "slope"),
    [
        (1.0, 1.0, 3.0, 2.0, -2.0),  # nothing has moved
        (1.5, 1.0, 3.0, 1.125, -1.5),  # on the border
        (2.0, 1.0, 3.0, 1.125, 0.0),  # closer to the target than ε allows: clipped
        (0.0, 1.0, 3.0, 4.5, -3.0),  # further from it: not clipped
        (2.5, 1.0, 2.0, 0.125, 0.5),  # beyond the target, as far as the clipped value is short of it: a tie
        (3.0, 3.0, 3.0, 0.0, 0.0),
        (inf, 1.0, 3.0, inf, inf),
    ],
)
def test_value_loss_and_slope(value, old, target, loss, slope):
    result = value_loss_and_slope(jnp.array([value]), jnp.array([old]), jnp.array([target]), epsilon=jnp.array([0.5]))
    assert (result[0][0], result[1][0]) == (loss, slope)  # by hand, at ε = ½


def test_old_values_and_targets_are_constants():
    arguments = (jnp.array([2.0, 0.0]), jnp.array([1.0, 1.0]), jnp.array([3.0, 3.0]))
    grads = jax.grad(lambda *args: jnp.sum(jitted_value_loss(*args, epsilon=0.5)), argnums=(0, 1, 2))(*arguments)
    assert grads[0].any()
    assert not grads[1].any()
    assert not grads[2].any()


def test_value_loss_without_a_clip_is_the_squared_error_and_nan_is_not_hidden():
    v, old, y = jnp.array([5.0, 0.0]), jnp.array([1.0, nan]), jnp.array([2.0, 1.0])
    loss = clipped_value_loss(v, old, y, epsilon=inf)
    assert loss[0] == 4.5
    assert np.isnan(loss[1])


@pytest.mark.parametrize("position", range(3))
def test_broadcasting_is_refused(position):
    arguments = [jnp.ones(4)] * 3
    arguments[position] = jnp.ones((4, 1))
    with pytest.raises(SHAPE_ERRORS):
        clipped_value_loss(*arguments, epsilon=0.2)
    if position < 2:
        with pytest.raises(SHAPE_ERRORS):
            clipped_surrogate_loss(*arguments[:2])
        with pytest.raises(SHAPE_ERRORS):
            probability_ratio(*arguments[:2])
    with pytest.raises(SHAPE_ERRORS):
        clipped_surrogate_loss(jnp.ones(4), jnp.ones(4), where=jnp.ones((4, 1), bool))


# The divergence


def exact_kl(x):
    with mpmath.workdps(70):
        return float(mpmath.expm1(mpmath.mpf(float(x))) - mpmath.mpf(float(x)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_kl_is_accurate_to_a_few_units_in_the_last_place(dtype):
    with jax.enable_x64(True):
        sizes = np.concatenate([np.logspace(-30, np.log10(80), 300), np.linspace(0.9, 1.1, 50), [0.0]])
        x = jnp.asarray(np.concatenate([-sizes, sizes]), dtype)
        exact = np.array([exact_kl(v) for v in x])
        result = np.asarray(jitted_kl(x), np.float64)
        representable = exact > jnp.finfo(dtype).tiny
        assert representable.sum() > 400
        error = np.abs(result - exact)[representable] / exact[representable]
        assert error.max() < 6 * jnp.finfo(dtype).eps
        assert np.all(np.abs(result - exact)[~representable] <= jnp.finfo(dtype).tiny)
        assert np.all(result >= 0)


def test_kl_has_the_derivative_expm1_everywhere():
    x = np.array([-inf, -80, -1.0, -1e-3, -1e-30, 0.0, 1e-30, 1e-3, 1.0, 80.0, inf], np.float32)
    value, slope = jax.jit(jax.vmap(jax.value_and_grad(approximate_kl)))(x)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(slope, np.expm1(x.astype(np.float64)), rtol=1e-6)
    assert value[0] == value[-1] == inf
    assert value[5] == slope[5] == 0
    assert np.isnan(jitted_kl(jnp.float32(nan)))


def test_kl_overflows_to_inf_not_nan():
    assert jitted_kl(jnp.float32(1e4)) == inf
    assert jitted_kl(jnp.float32(-1e4)) == 1e4 - 1


def test_expected_kl_is_the_kl_divergence():
    # Over all actions of two small policies: Σ π_old k(log π − log π_old) = Σ π_old log(π_old / π).
    p, old = np.array([0.2, 0.3, 0.5]), np.array([0.25, 0.25, 0.5])
    estimate = np.dot(old, jitted_kl(np.log(p / old)))
    assert estimate == pytest.approx(np.dot(old, np.log(old / p)), rel=1e-5)


# Dtypes and differences


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_keep_the_dtype_and_its_accuracy(dtype):
    with jax.enable_x64(True):
        a, b, c = (jnp.asarray(x, dtype) for x in np.random.default_rng(4).uniform(0.5, 1.5, (3, 64)))
        a64, b64, c64 = (np.asarray(x, np.float64) for x in (a, b, c))
        tolerance = 4 * float(jnp.finfo(dtype).eps)

        def agrees(result, expected):
            assert result.dtype == dtype
            np.testing.assert_allclose(np.asarray(result, np.float64), expected, rtol=tolerance, atol=tolerance)

        agrees(jitted_ratio(a, b), np.exp(a64 - b64))
        agrees(
            jitted_surrogate(a, b), -np.mean([min(p * q, clip(p, 0.8, 1.2) * q) for p, q in zip(a64, b64, strict=True)])
        )
        clipped = np.clip(a64, b64 - 0.25, b64 + 0.25)
        agrees(jitted_value_loss(a, b, c, epsilon=0.25), 0.5 * np.maximum((a64 - c64) ** 2, (clipped - c64) ** 2))
        agrees(jitted_kl(a), [exact_kl(x) for x in a64])


def test_gradients_agree_with_differences_away_from_the_corners():
    with jax.enable_x64(True):
        ratio, advantage = jnp.array([0.5, 0.9, 1.1, 1.5, 1.5]), jnp.array([-1.0, 2.0, -3.0, 4.0, -5.0])
        check_grads(lambda x: jitted_surrogate(x, advantage), (ratio,), order=1)
        old, target = jnp.array([1.0, 1.0, 1.0]), jnp.array([3.0, 3.0, 3.0])
        check_grads(lambda x: jitted_value_loss(x, old, target, epsilon=0.5), (jnp.array([1.2, 2.0, 0.0]),), order=1)
        check_grads(lambda x: jitted_ratio(x, old), (jnp.array([0.5, 1.0, 2.0]),), order=1)
        check_grads(jitted_kl, (jnp.array([-3.0, -0.3, 0.0, 0.7, 2.0]),), order=2)
