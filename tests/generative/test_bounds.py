"""The variational bound: its identity for Gaussian data, divergences of Gaussians, and tails of discrete values."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from jax.test_util import check_grads

from mathai.generative import diffusion
from tests.nn.reference import relative_error

KEY = jax.random.key(0)


def gaussian_kl(mean, variance, other_mean, other_variance):
    ratio = variance / other_variance
    return 0.5 * (ratio - 1 - np.log(ratio) + (mean - other_mean) ** 2 / other_variance)


@pytest.mark.parametrize(("t", "t_prev"), [(2, 1), (10, 9), (10, 3)])
@pytest.mark.parametrize("factor", [None, 1.0, 2.5])
def test_a_step_is_the_divergence_of_two_gaussians(t, t_prev, factor):
    with jax.enable_x64(True):
        schedule = diffusion.linear_schedule(10, beta_max=0.3)
        x_0, noise, wrong = (jax.random.normal(key, (4,)) for key in jax.random.split(KEY, 3))
        x_t = diffusion.add_noise(schedule, x_0, noise, t)
        mean, variance = diffusion.posterior(schedule, x_0, x_t, t, t_prev=t_prev)
        guess = diffusion.predict_x0(schedule, x_t, wrong, t)
        other_mean, _ = diffusion.posterior(schedule, guess, x_t, t, t_prev=t_prev)
        other = variance * (factor or 1)
        found = diffusion.step_kl(schedule, wrong, noise, t, t_prev=t_prev, variance=None if factor is None else other)
        np.testing.assert_allclose(found, gaussian_kl(mean, variance, other_mean, other), rtol=1e-9)


def test_the_step_to_clean_data_is_infinite():
    schedule = diffusion.linear_schedule(1000)
    for variance in (None, 0.1):
        for predicted in (1.0, 0.0):
            assert diffusion.step_kl(schedule, jnp.full(1, predicted), jnp.zeros(1), 1, variance=variance) == jnp.inf
    slope = jax.grad(lambda x: jnp.sum(jnp.where(jnp.array([False]), diffusion.step_kl(schedule, x, 0 * x, 1), x)))
    np.testing.assert_array_equal(slope(jnp.ones(1)), [1.0])


def test_the_bound_of_gaussian_data_is_entropy_and_what_is_left_at_the_end():
    # With the exact reverse the bound is tight but for the prior: −ELBO = H(x_0) + KL(q(x_T) ‖ N(0, 1))
    s2, num_steps = 0.25, 200
    with jax.enable_x64(True):
        schedule = diffusion.linear_schedule(num_steps, beta_max=0.05)
        alpha_bar = np.exp(np.asarray(schedule.log_alpha_bar))
        v = alpha_bar * s2 + 1 - alpha_bar
        t = jnp.arange(2, num_steps + 1)
        variance = diffusion.gaussian_reverse_variance(schedule, t, t - 1, 0.5)
        error = np.sqrt(alpha_bar[2:] * s2 / v[2:])  # root of E (ε* − ε)² = Var(ε | x_t)
        steps = jnp.sum(diffusion.step_kl(schedule, error, np.zeros_like(error), t, variance=variance))
        # log p(x_0 | x_1), whose variance is exactly that of x_0 given x_1
        last = float(diffusion.gaussian_reverse_variance(schedule, 1, 0, 0.5))
        reconstruction = 0.5 * np.log(2 * np.pi * np.e * last)
        prior = diffusion.prior_kl(schedule, jnp.float64(0.5))  # quadratic: E x_0² = s²
        entropy = 0.5 * np.log(2 * np.pi * np.e * s2)
        at_the_end = gaussian_kl(0, v[-1], 0, 1)
        np.testing.assert_allclose(steps + reconstruction + prior, entropy + at_the_end, rtol=1e-10)


def test_prior_keeps_its_digits_where_nothing_is_left():
    for log_alpha_bar in (-40.0, -20.0, -10.0, -4.0, -3.0, -0.5, -1e-3):
        a = mp.exp(mp.mpf(float(np.float32(log_alpha_bar))))
        found = diffusion.prior_kl(diffusion.Schedule(jnp.array([0.0, log_alpha_bar])), jnp.array([0.0, 1.5]))
        assert relative_error(found, [(a * x**2 - a - mp.log(1 - a)) / 2 for x in (mp.mpf(0), mp.mpf("1.5"))]) < 2e-6


X, MEANS = np.linspace(-1, 1, 9).astype(np.float32), np.float32([-3.1, -0.98, -0.3, 0.01, 0.74, 1.0, 30.0])


@pytest.mark.parametrize("log_variance", [-12.0, -6.0, -2.0, 0.0, 4.0, 12.0])
def test_discrete_likelihood_is_exact_in_the_tails_and_for_narrow_bins(log_variance):
    x, mean = np.repeat(X, len(MEANS)), np.tile(MEANS, len(X))
    # The scale as float32 has it: the reference is of the same Gaussian.
    found, slope = jax.vmap(
        jax.value_and_grad(
            lambda m, x: diffusion.discretized_gaussian_log_likelihood(x, m, log_variance, bin_width=0.25)
        )
    )(mean, x)
    sigma = mp.exp(mp.mpf(log_variance) / 2)

    def log_probability(x, m):
        x, m = mp.mpf(float(x)), mp.mpf(float(m))
        low = mp.mpf("-inf") if x == -1 else (x - mp.mpf("0.125") - m) / sigma
        high = mp.mpf("inf") if x == 1 else (x + mp.mpf("0.125") - m) / sigma
        if low > 0:
            low, high = -high, -low
        with mp.workdps(60):
            return mp.log(mp.ncdf(high) - mp.ncdf(low))

    exact = [log_probability(*pair) for pair in zip(x, mean, strict=True)]
    keep = [i for i, e in enumerate(exact) if mp.mpf("-inf") < e < -1e-6]
    assert len(keep) > 30
    assert relative_error(found[np.array(keep)], [exact[i] for i in keep]) < 1e-5
    assert np.isfinite(slope).all()


@pytest.mark.parametrize("mean", [-5.0, -1.0, 0.1, 0.77])
@pytest.mark.parametrize("log_variance", [-9.0, -3.0, 1.0])
def test_probabilities_of_all_values_add_up_to_one(mean, log_variance):
    x = jnp.linspace(-1, 1, 256)
    log_p = diffusion.discretized_gaussian_log_likelihood(x, jnp.full(256, mean), log_variance, bin_width=2 / 255)
    np.testing.assert_allclose(jnp.sum(jnp.exp(log_p)), 1, rtol=1e-5)


def test_discrete_likelihood_is_differentiable():
    x = jnp.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    f = lambda m, v: diffusion.discretized_gaussian_log_likelihood(x, m, v, bin_width=0.5)  # noqa: E731
    for log_variance in (-3.0, 0.0, 3.0):
        check_grads(f, (x + jnp.array([0.2, -0.4, 0.1, 0.9, -0.3]), jnp.full(5, log_variance)), order=1, rtol=2e-2)


def test_shapes_must_fit():
    with pytest.raises((AssertionError, TypeError), match=r"shape|Type-check"):
        diffusion.discretized_gaussian_log_likelihood(jnp.zeros(3), jnp.zeros(1), 0.0, bin_width=0.1)
    with pytest.raises((AssertionError, TypeError), match=r"shape|Type-check"):
        diffusion.step_kl(diffusion.linear_schedule(5), jnp.zeros(3), jnp.zeros(1), 3)
