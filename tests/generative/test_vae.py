"""Formulas of the VAE against mpmath, SciPy, and probabilistic PCA, whose posterior makes the bound exact."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
import scipy.stats
from jax.test_util import check_grads

from mathai.generative import vae
from tests.nn.reference import relative_error

KEY = jax.random.key(0)
LOG_VARIANCES = np.array(
    [-80, -20, -3, -0.51, -0.49, -1e-2, -1e-4, -1e-7, 0, 1e-20, 1e-5, 1e-3, 0.3, 0.49, 0.51, 4, 80]
)


def random(shape, seed=0, scale=1.0):
    return scale * jax.random.normal(jax.random.key(seed), shape)


def test_a_draw_has_the_mean_and_the_variance_that_were_asked_for():
    z = jax.jit(vae.reparameterize)(KEY, jnp.full(100_000, 3.0), jnp.full(100_000, 2 * np.log(0.5)))
    assert abs(jnp.mean(z) - 3) < 4 * 0.5 / np.sqrt(100_000)
    np.testing.assert_allclose(jnp.std(z), 0.5, rtol=0.01)


def test_a_draw_is_differentiable_in_mean_and_log_variance():
    mean, log_variance = random(5), random(5, 1)
    z, pull_back = jax.vjp(lambda m, v: vae.reparameterize(KEY, m, v), mean, log_variance)
    of_mean, of_log_variance = pull_back(jnp.ones(5))
    np.testing.assert_array_equal(of_mean, np.ones(5))
    np.testing.assert_allclose(of_log_variance, (z - mean) / 2, rtol=1e-5)  # dz/dλ = σε/2
    certain = jax.grad(lambda v: jnp.sum(vae.reparameterize(KEY, mean, v)))(jnp.full(5, -jnp.inf))
    np.testing.assert_array_equal(certain, np.zeros(5))


def test_divergence_has_its_digits_where_the_terms_cancel():
    log_variance = np.float32(LOG_VARIANCES)
    exact = [(mp.expm1(x) - x) / 2 for x in (mp.mpf(float(x)) for x in log_variance)]
    found = jax.jit(vae.gaussian_kl)(jnp.zeros((len(log_variance), 1)), log_variance[:, None])
    keep = [i for i, x in enumerate(exact) if x == 0 or x > 1e-37]
    assert relative_error(np.asarray(found)[keep], [exact[i] for i in keep]) < 5e-7
    slope = jax.grad(lambda v: jnp.sum(vae.gaussian_kl(jnp.zeros((len(v), 1)), v[:, None])))(jnp.asarray(log_variance))
    assert relative_error(slope, [mp.expm1(mp.mpf(float(x))) / 2 for x in log_variance]) < 5e-7


def test_divergence_is_that_of_the_textbook_and_sums_over_features():
    mean, log_variance = random((3, 4)), random((3, 4), 1)
    m, v = np.float64(mean), np.exp(np.float64(log_variance))
    np.testing.assert_allclose(
        vae.gaussian_kl(mean, log_variance), 0.5 * np.sum(m**2 + v - 1 - np.log(v), -1), rtol=1e-5
    )
    for infinite in (-jnp.inf, jnp.inf):
        assert vae.gaussian_kl(jnp.ones(1), jnp.full(1, infinite)) == jnp.inf
    check_grads(vae.gaussian_kl, (mean, log_variance), order=2, rtol=1e-2)


@pytest.mark.parametrize("scalar", [False, True])
def test_gaussian_log_likelihood_is_scipys(scalar):
    x, mean = random((2, 3)), random((2, 3), 1)
    log_variance = jnp.float32(-1.3) if scalar else random((2, 3), 2)
    expected = scipy.stats.norm(mean, np.exp(np.asarray(log_variance) / 2)).logpdf(x).sum(-1)
    np.testing.assert_allclose(jax.jit(vae.gaussian_log_likelihood)(x, mean, log_variance), expected, rtol=1e-5)
    with jax.enable_x64(True):
        arguments = [jnp.float64(a) for a in (x, mean, log_variance)]
        check_grads(vae.gaussian_log_likelihood, arguments, order=2, rtol=1e-6)


def test_bernoulli_log_likelihood_is_scipys_and_finite_far_out():
    logits = random((2, 3), scale=3.0)
    x = jnp.array([[0, 1, 1], [1, 0, 0]], jnp.float32)
    expected = scipy.stats.bernoulli(1 / (1 + np.exp(-np.float64(logits)))).logpmf(x).sum(-1)
    np.testing.assert_allclose(vae.bernoulli_log_likelihood(logits, x), expected, rtol=1e-5)
    value, slope = jax.value_and_grad(vae.bernoulli_log_likelihood)(jnp.array([1e4, -1e4]), jnp.array([0.0, 0.0]))
    assert value == -1e4
    np.testing.assert_array_equal(slope, [-1.0, 0.0])


def test_bound_of_one_draw_is_its_weight_and_of_many_the_log_of_their_mean():
    log_weights = random((4, 3), scale=5.0)
    np.testing.assert_array_equal(vae.importance_weighted_bound(log_weights[:1]), log_weights[0])
    expected = np.log(np.mean(np.exp(np.float64(log_weights)), 1))
    np.testing.assert_allclose(vae.importance_weighted_bound(log_weights, axis=1), expected, rtol=1e-5)
    shifted = jax.jit(vae.importance_weighted_bound)(log_weights - 1e4)
    np.testing.assert_allclose(shifted + 1e4, vae.importance_weighted_bound(log_weights), atol=2e-3)
    check_grads(vae.importance_weighted_bound, (log_weights,), order=2, rtol=1e-2)


def test_weights_of_zero_take_no_part():
    bound = lambda w: jnp.sum(vae.importance_weighted_bound(w, axis=-1))  # noqa: E731
    value, slope = jax.value_and_grad(bound)(jnp.array([-jnp.inf, 0.0]))
    np.testing.assert_allclose(value, np.log(0.5), rtol=1e-6)
    np.testing.assert_array_equal(slope, [0.0, 1.0])
    value, slope = jax.value_and_grad(bound)(jnp.full(2, -jnp.inf))
    assert value == -jnp.inf
    np.testing.assert_array_equal(slope, [0.0, 0.0])
    assert vae.importance_weighted_bound(jnp.array([jnp.inf, 0.0])) == jnp.inf


def test_with_the_exact_posterior_the_bound_is_the_evidence():
    # x = W z + ε with ε ∼ N(0, s²I): q(z|x) = N(M⁻¹Wᵀx, s²M⁻¹), M = WᵀW + s²I, here with W of orthogonal columns
    w = np.array([[3.0, 0.0], [0.0, 2.0], [0.0, 1.0]])
    s2, x = 0.25, np.array([1.0, -0.5, 2.0])
    evidence = scipy.stats.multivariate_normal(np.zeros(3), w @ w.T + s2 * np.eye(3)).logpdf(x)
    m = np.diag(w.T @ w + s2 * np.eye(2))
    with jax.enable_x64(True):
        mean, log_variance = jnp.asarray(w.T @ x / m), jnp.log(s2 / m)
        z = jax.vmap(lambda key: vae.reparameterize(key, mean, log_variance))(jax.random.split(KEY, 3))
        log_joint = jax.vmap(
            lambda z: (
                vae.gaussian_log_likelihood(jnp.asarray(x), jnp.asarray(w) @ z, np.log(s2))
                + vae.gaussian_log_likelihood(z, jnp.zeros(2), 0.0)
            )
        )(z)
        log_q = jax.vmap(lambda z: vae.gaussian_log_likelihood(z, mean, log_variance))(z)
        np.testing.assert_allclose(log_joint - log_q, np.full(3, evidence), rtol=1e-12)
        # E log p(x|z) in closed form: the square's mean has the posterior's variance in it
        residual = np.sum((x - w @ np.asarray(mean)) ** 2) + np.sum(w**2 @ (s2 / m))
        log_likelihood = -0.5 * (residual / s2 + 3 * np.log(2 * np.pi * s2))
        loss = vae.negative_elbo(jnp.float64(log_likelihood), vae.gaussian_kl(mean, log_variance))
        np.testing.assert_allclose(loss, -evidence, rtol=1e-12)


def test_beta_weighs_the_divergence():
    found = vae.negative_elbo(jnp.array([-3.0, 1.0]), jnp.array([2.0, 0.5]), beta=4.0)
    np.testing.assert_array_equal(found, [11.0, 1.0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_computed_in_single(dtype):
    mean, log_variance = random((2, 300)).astype(dtype), random((2, 300), 1).astype(dtype)
    found = vae.gaussian_kl(mean, log_variance)
    assert found.dtype == dtype
    exact = vae.gaussian_kl(mean.astype(jnp.float32), log_variance.astype(jnp.float32))
    np.testing.assert_array_equal(found, exact.astype(dtype))
    assert vae.reparameterize(KEY, mean, log_variance).dtype == dtype


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vae.gaussian_kl(jnp.zeros(3), jnp.zeros(1)), r"shape|Type-check"),
        (lambda: vae.reparameterize(KEY, jnp.zeros((2, 3)), jnp.zeros(3)), r"shape|Type-check"),
        (lambda: vae.gaussian_log_likelihood(jnp.zeros(3), jnp.zeros(3), jnp.zeros(1)), r"shape|Type-check"),
        (lambda: vae.negative_elbo(jnp.zeros(3), jnp.zeros(())), r"shape|Type-check"),
        (lambda: vae.negative_elbo(jnp.zeros(3), jnp.zeros(3), beta=jnp.ones(3)), r"beta must be a scalar|Type-check"),
        (lambda: vae.importance_weighted_bound(jnp.zeros((0, 3))), "at least one draw"),
        (lambda: vae.importance_weighted_bound(jnp.zeros(3), axis=1), "axis 1 is out of range"),
    ],
)
def test_mistakes_are_refused(call, message):
    with pytest.raises((AssertionError, TypeError, ValueError), match=message):
        call()
