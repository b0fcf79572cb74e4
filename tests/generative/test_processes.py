"""Schedules and the process: definitions in double precision, Bayes' rule, and the Gaussian case."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from jax.test_util import check_grads

from mathai.generative import diffusion
from tests.nn.reference import relative_error

KEY = jax.random.key(0)
LINEAR = diffusion.linear_schedule(1000)
BETAS = np.linspace(1e-4, 0.02, 1000)


def test_linear_schedule_keeps_its_digits_at_both_ends():
    alpha_bar = [mp.mpf(1)]
    for beta in BETAS:
        alpha_bar.append(alpha_bar[-1] * (1 - mp.mpf(float(beta))))
    with jax.enable_x64(True):
        found = diffusion.linear_schedule(1000).log_alpha_bar
        assert relative_error(-jnp.expm1(found[1:]), [1 - a for a in alpha_bar[1:]]) < 1e-13
    assert LINEAR.log_alpha_bar.dtype == jnp.float32
    # a cumulative product in float32 has an error of 1.7e-4
    assert relative_error(-jnp.expm1(LINEAR.log_alpha_bar[1:]), [1 - a for a in alpha_bar[1:]]) < 4e-7
    assert relative_error(jnp.exp(LINEAR.log_alpha_bar[1:]), alpha_bar[1:]) < 2e-6
    assert LINEAR.log_alpha_bar[0] == 0
    assert LINEAR.num_steps == 1000


def test_a_traced_schedule_is_the_known_one():
    make = lambda low, high: diffusion.linear_schedule(50, beta_min=low, beta_max=high).log_alpha_bar  # noqa: E731
    np.testing.assert_allclose(jax.jit(make)(1e-4, 0.02), make(1e-4, 0.02), rtol=1e-5)
    check_grads(make, (jnp.float32(0.01), jnp.float32(0.2)), order=1, rtol=1e-2)


def test_cosine_schedule_is_the_papers():
    t = np.arange(51) / 50
    f = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    betas = np.minimum(1 - f[1:] / f[:-1], 0.999)
    with jax.enable_x64(True):
        found = diffusion.cosine_schedule(50).log_alpha_bar
    np.testing.assert_allclose(found[1:], np.cumsum(np.log1p(-betas)), rtol=1e-9)
    assert np.isfinite(found).all()


def test_one_step_schedules():
    np.testing.assert_allclose(diffusion.linear_schedule(1).log_alpha_bar, [0, np.log1p(-1e-4)], rtol=1e-6)
    np.testing.assert_allclose(diffusion.cosine_schedule(1).log_alpha_bar, [0, np.log1p(-0.999)], rtol=1e-6)


def test_steps_one_by_one_have_the_marginal_of_all_at_once():
    # from x_0 = 1: the mean of x_t is √ᾱ_t and its variance 1 − ᾱ_t
    schedule = diffusion.linear_schedule(20, beta_max=0.3)

    def step(x, inputs):
        return diffusion.forward_step(inputs[0], schedule, x, inputs[1]), None

    n = 40_000
    x, _ = jax.lax.scan(step, jnp.ones(n), (jax.random.split(KEY, 20), 1 + jnp.arange(20)))
    alpha_bar = np.prod(1 - np.linspace(1e-4, 0.3, 20))
    assert abs(jnp.mean(x) - np.sqrt(alpha_bar)) < 4 / np.sqrt(n)
    assert abs(jnp.var(x) - (1 - alpha_bar)) < 4 * np.sqrt(2 / n)
    at_once = diffusion.add_noise(schedule, jnp.ones(n), jax.random.normal(KEY, (n,)), 20)
    assert abs(jnp.mean(at_once) - np.sqrt(alpha_bar)) < 4 / np.sqrt(n)
    assert abs(jnp.var(at_once) - (1 - alpha_bar)) < 4 * np.sqrt(2 / n)


@pytest.mark.parametrize(("t", "t_prev"), [(1, 0), (2, 1), (500, 499), (1000, 999), (1000, 1), (700, 350), (30, 0)])
def test_bayes_ties_step_and_posterior(t, t_prev):
    # q(x_s | x_t, x_0) ∝ q(x_t | x_s) q(x_s | x_0): precisions add, and precision-weighted means
    alpha = np.prod(1 - BETAS[t_prev:t])
    alpha_bar = np.prod(1 - BETAS[:t_prev])
    x_0, x_t = np.array([0.3, -2.0]), np.array([1.0, 0.5])
    with jax.enable_x64(True):
        schedule = diffusion.linear_schedule(1000)
        mean, variance = diffusion.posterior(schedule, x_0, x_t, t, t_prev=t_prev)
        if t_prev == 0:
            np.testing.assert_allclose(mean, x_0, rtol=1e-12)
            assert variance == 0
        else:
            precision = alpha / (1 - alpha) + 1 / (1 - alpha_bar)
            weighted = np.sqrt(alpha) * x_t / (1 - alpha) + np.sqrt(alpha_bar) * x_0 / (1 - alpha_bar)
            np.testing.assert_allclose(variance, 1 / precision, rtol=1e-9)
            np.testing.assert_allclose(mean, weighted / precision, rtol=1e-9)
    found = diffusion.posterior(LINEAR, jnp.float32(x_0), jnp.float32(x_t), t, t_prev=t_prev)
    np.testing.assert_allclose(found[0], mean, rtol=1e-4)
    np.testing.assert_allclose(found[1], variance, rtol=1e-3)


def test_the_step_before_is_the_default():
    x = jax.random.normal(KEY, (2, 5))
    for left, right in zip(
        diffusion.posterior(LINEAR, *x, 7), diffusion.posterior(LINEAR, *x, 7, t_prev=6), strict=True
    ):
        np.testing.assert_array_equal(left, right)


def test_noise_is_found_again():
    x, noise = jax.random.normal(KEY, (2, 4, 3))
    t = jnp.array([0, 1, 500, 800])
    noisy = diffusion.add_noise(LINEAR, x, noise, t)
    np.testing.assert_array_equal(noisy[0], x[0])
    np.testing.assert_allclose(diffusion.predict_x0(LINEAR, noisy, noise, t), x, atol=1e-4)


@pytest.mark.parametrize("t", [0, 1, 500, 1000])
def test_velocity_is_the_slope_in_the_angle_and_gives_the_noise_back(t):
    x, noise = jax.random.normal(KEY, (2, 7))
    alpha_bar = np.prod(1 - BETAS[:t])
    v = diffusion.velocity(LINEAR, x, noise, t)
    # x = cos φ x_0 + sin φ ε with cos² φ = ᾱ
    _, slope = jax.jvp(lambda a: jnp.cos(a) * x + jnp.sin(a) * noise, (np.arccos(np.sqrt(alpha_bar)),), (1.0,))
    np.testing.assert_allclose(v, slope, atol=1e-5)
    np.testing.assert_allclose(v, np.sqrt(alpha_bar) * noise - np.sqrt(1 - alpha_bar) * x, atol=1e-5)
    noisy = diffusion.add_noise(LINEAR, x, noise, t)
    np.testing.assert_allclose(diffusion.noise_of_velocity(LINEAR, noisy, v, t), noise, atol=1e-5)


def test_each_example_has_a_step_of_its_own():
    x, noise = jax.random.normal(KEY, (2, 3, 2, 2))
    t = jnp.array([3, 900, 40])
    together = jax.jit(diffusion.add_noise)(LINEAR, x, noise, t)
    apart = jnp.stack([diffusion.add_noise(LINEAR, x[i], noise[i], t[i]) for i in range(3)])
    np.testing.assert_allclose(together, apart, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(diffusion.add_noise, (None, 0, 0, 0))(LINEAR, x, noise, t), together, rtol=1e-6)
    mean, variance = diffusion.posterior(LINEAR, x, noise, t)
    assert mean.shape == (3, 2, 2)
    assert variance.shape == (3, 1, 1)


def test_a_step_that_does_not_exist_is_nan_and_never_wraps():
    x = jnp.ones(2)
    for t in (-1, 1001):
        assert np.isnan(diffusion.add_noise(LINEAR, x, x, t)).all()
    assert np.isnan(diffusion.forward_step(KEY, LINEAR, x, 0)).all()
    for t_prev in (5, 6, -1):
        assert np.isnan(diffusion.posterior(LINEAR, x, x, 5, t_prev=t_prev)[0]).all()
    for t, t_prev in [(5, 5), (0, None), (5, 255)]:
        t_prev = None if t_prev is None else jnp.uint8(t_prev)
        assert np.isnan(diffusion.posterior(LINEAR, x, x, jnp.uint8(t), t_prev=t_prev)[0]).all()
    of_bytes = diffusion.add_noise(LINEAR, x, x, jnp.uint8(200))
    np.testing.assert_array_equal(of_bytes, diffusion.add_noise(LINEAR, x, x, 200))


def test_loss_is_the_mean_square_of_each_example():
    noise = jnp.arange(12.0).reshape(2, 3, 2)
    found = diffusion.noise_prediction_loss(noise + jnp.array([1.0, -3.0]).reshape(2, 1, 1), noise, axis=(1, 2))
    np.testing.assert_array_equal(found, [1.0, 9.0])
    assert diffusion.noise_prediction_loss(noise, noise).shape == (2, 3)


def test_optimal_noise_is_the_conditional_mean():
    # regression of ε on x_t for Gaussian data: Cov(ε, x_t)/Var(x_t) (x_t − E x_t)
    mean, std, t = 2.0, 0.5, 300
    alpha_bar = np.prod(1 - BETAS[:t])
    x = np.array([-1.0, 0.0, 3.0])
    expected = np.sqrt(1 - alpha_bar) * (x - np.sqrt(alpha_bar) * mean) / (alpha_bar * std**2 + 1 - alpha_bar)
    np.testing.assert_allclose(
        diffusion.gaussian_optimal_noise(LINEAR, jnp.float32(x), t, mean, std), expected, rtol=1e-5
    )


def test_exact_reverse_variance_is_beta_and_the_posteriors_at_its_ends():
    # 1 for standard data: the process is stationary and reversible. 0 for one point: x_0 is known
    found = [float(diffusion.gaussian_reverse_variance(LINEAR, 400, 399, std)) for std in (1.0, 0.0)]
    _, of_posterior = diffusion.posterior(LINEAR, jnp.zeros(1), jnp.zeros(1), 400)
    np.testing.assert_allclose(found, [BETAS[399], of_posterior], rtol=1e-4)


def test_formulas_are_differentiable_to_the_second_order():
    x, noise = jax.random.normal(KEY, (2, 4))
    with jax.enable_x64(True):
        schedule = diffusion.linear_schedule(50, beta_max=0.1)
        x, noise = jnp.float64(x), jnp.float64(noise)
        for f in (
            lambda x, e: diffusion.add_noise(schedule, x, e, 30),
            lambda x, e: diffusion.predict_x0(schedule, x, e, 30),
            lambda x, e: diffusion.posterior(schedule, x, e, 30)[0],
            lambda x, e: diffusion.velocity(schedule, x, e, 30),
            lambda x, e: diffusion.noise_of_velocity(schedule, x, e, 30),
            lambda x, e: diffusion.step_kl(schedule, x, e, 30, variance=0.01),
            lambda x, e: diffusion.prior_kl(schedule, x) + e,
            lambda x, e: diffusion.gaussian_optimal_noise(schedule, x, 30, e[0], 0.5),
            diffusion.noise_prediction_loss,
        ):
            assert f(x, noise).dtype == jnp.float64
            check_grads(f, (x, noise), order=2, rtol=1e-6)
    x, noise = jnp.float32(np.asarray(x)), jnp.float32(np.asarray(noise))
    through = jax.grad(lambda s: jnp.sum(diffusion.add_noise(diffusion.Schedule(s), x, noise, 0)))
    assert np.isfinite(through(LINEAR.log_alpha_bar)).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_computed_in_single(dtype):
    x, noise = jax.random.normal(KEY, (2, 50)).astype(dtype)
    wide = x.astype(jnp.float32), noise.astype(jnp.float32)
    for f in (
        lambda x, e: diffusion.add_noise(LINEAR, x, e, 300),
        lambda x, e: diffusion.predict_x0(LINEAR, x, e, 300),
        lambda x, e: diffusion.posterior(LINEAR, x, e, 300)[0],
        diffusion.noise_prediction_loss,
    ):
        assert f(x, noise).dtype == dtype
        np.testing.assert_array_equal(f(x, noise), f(*wide).astype(dtype))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: diffusion.add_noise(LINEAR, x, x[:1], 1), r"shape|Type-check"),
        (lambda x: diffusion.add_noise(LINEAR, x, x, jnp.array([1, 2])), "t of shape"),
        (lambda x: diffusion.add_noise(LINEAR, x, x, 1.0), r"must be integers|Type-check"),
        (lambda x: diffusion.noise_prediction_loss(x, x, axis=2), "axis 2 is out of range"),
        (lambda x: diffusion.linear_schedule(0), "num_steps is 0"),
        (lambda x: diffusion.linear_schedule(5, beta_max=x[0]), r"must be a scalar|Type-check"),
        (lambda x: diffusion.linear_schedule(5, beta_max=1.0), "beta_max is 1.0"),
        (lambda x: diffusion.cosine_schedule(5, offset=0.0), "offset is 0.0"),
        (lambda x: diffusion.cosine_schedule(5, max_beta=1.0), "max_beta is 1.0"),
        (lambda x: diffusion.gaussian_optimal_noise(LINEAR, x, 1, x, 1.0), r"mean must be a scalar|Type-check"),
    ],
)
def test_mistakes_are_refused(call, message):
    with pytest.raises((AssertionError, TypeError, ValueError), match=message):
        call(jnp.zeros((3, 2)))
