"""The game's losses: values worked by hand, tails, and the optimum between two Gaussians."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from mathai.generative import gan
from tests.nn.reference import relative_error

LOGITS = np.float32([-1e4, -90, -20, -1, -1e-3, 0, 1e-3, 1, 20, 90, 1e4])


def log_sigmoid(x):
    return -mp.log1p(mp.exp(-mp.mpf(float(x))))


def test_losses_are_exact_and_their_slopes_too():
    slope = lambda f: jax.vmap(jax.grad(f))(jnp.asarray(LOGITS))  # noqa: E731
    sigmoid = lambda x: 1 / (1 + mp.exp(-mp.mpf(float(x))))  # noqa: E731
    normal = np.abs(LOGITS) < 80
    for found, exact in [
        (gan.discriminator_loss(LOGITS, -LOGITS), [-2 * log_sigmoid(x) for x in LOGITS]),
        (gan.generator_loss(LOGITS), [-log_sigmoid(x) for x in LOGITS]),
        (gan.generator_loss(LOGITS, variant="minimax"), [log_sigmoid(-x) for x in LOGITS]),
        (slope(gan.generator_loss), [-sigmoid(-x) for x in LOGITS]),
        (slope(lambda x: gan.generator_loss(x, variant="minimax")), [-sigmoid(x) for x in LOGITS]),
        (slope(lambda x: gan.discriminator_loss(x, jnp.float32(0))), [-sigmoid(-x) for x in LOGITS]),
        (slope(lambda x: gan.discriminator_loss(jnp.float32(0), x)), [sigmoid(x) for x in LOGITS]),
    ]:
        assert np.isfinite(found).all()
        assert relative_error(np.asarray(found)[normal], np.array(exact, object)[normal]) < 1e-6


def test_the_value_against_the_best_discriminator_is_the_divergence():
    # data N(0, 1), samples N(m, 1): logit D* = m²/2 − m x
    m = 1.5
    x = np.linspace(-12, 14, 20_001)
    log_p, log_q = scipy.stats.norm(0, 1).logpdf(x), scipy.stats.norm(m, 1).logpdf(x)
    p, q = np.exp(log_p), np.exp(log_q)
    middle = (p + q) / 2
    divergence = scipy.integrate.trapezoid(p * np.log(p / middle) + q * np.log(q / middle), x) / 2
    with jax.enable_x64(True):
        logit = gan.optimal_discriminator_logit(log_p, log_q)
        np.testing.assert_allclose(logit, m**2 / 2 - m * x, atol=1e-10)
        np.testing.assert_allclose(jax.nn.sigmoid(logit), p / (p + q), rtol=1e-9)
        zeros = jnp.zeros_like(logit)
        of_data = gan.minimax_value(logit, zeros) + np.log(2)
        of_samples = gan.minimax_value(zeros, logit) + np.log(2)
        value = scipy.integrate.trapezoid(p * of_data + q * of_samples, x)
        np.testing.assert_allclose(value, -np.log(4) + 2 * divergence, rtol=1e-9)
        # any other discriminator has a lower value
        for other in (1.1 * logit, logit + 0.1):
            worse = p * gan.minimax_value(other, zeros) + q * gan.minimax_value(zeros, other) + (p + q) * np.log(2)
            assert scipy.integrate.trapezoid(worse, x) < value


def test_at_the_fixed_point_the_value_is_minus_log_four():
    np.testing.assert_allclose(gan.minimax_value(jnp.zeros(3), jnp.zeros(3)), np.full(3, -1.386294), rtol=1e-6)
    np.testing.assert_array_equal(gan.optimal_discriminator_logit(jnp.ones(2), jnp.ones(2)), np.zeros(2))


def test_the_logit_where_a_density_is_zero():
    infinite = jnp.array([-jnp.inf, 0.0, -jnp.inf])
    log_q = jnp.array([0.0, -jnp.inf, -jnp.inf])
    np.testing.assert_array_equal(gan.optimal_discriminator_logit(infinite, log_q), [-np.inf, np.inf, 0.0])
    slopes = jax.grad(lambda p, q: jnp.sum(gan.optimal_discriminator_logit(p, q)[2:]), (0, 1))(infinite, log_q)
    np.testing.assert_array_equal(slopes, np.zeros((2, 3)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays(dtype):
    x = jnp.asarray(LOGITS[2:-2], dtype)
    wide = x.astype(jnp.float32)
    for f in (gan.generator_loss, lambda x: gan.discriminator_loss(x, x), lambda x: gan.minimax_value(x, -x)):
        assert f(x).dtype == dtype
        np.testing.assert_array_equal(f(x), f(wide).astype(dtype))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gan.generator_loss(jnp.zeros(2), variant="wasserstein"), "variant 'wasserstein' is unknown; use"),
        (lambda: gan.discriminator_loss(jnp.zeros(2), jnp.zeros(1)), r"shape|Type-check"),
        (lambda: gan.optimal_discriminator_logit(jnp.zeros(2), jnp.zeros(())), r"shape|Type-check"),
        (lambda: gan.discriminator_loss(jnp.zeros(2, int), jnp.zeros(2)), r"expected floating-point|Type-check"),
    ],
)
def test_mistakes_are_refused(call, message):
    with pytest.raises((AssertionError, TypeError, ValueError), match=message):
        call()
