"""Softmax against mpmath: values, Jacobians, tails, masks and infinite logits."""

import functools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mathai.nn import activations
from tests.nn.reference import check_derivatives, log_softmax, relative_error, softmax, ulps

INF = np.inf
ROWS = np.array(
    [[40, 0, 0.1], [0, 0, 0], [1, 2, 3], [-90, 0, 3], [5, 5, -60.3], [1e4, 1e4 + 1, 1e4 + 2], [0.1, 40.7, -33.3]],
    np.float32,
)


@functools.cache
def softmax_results():
    f, g = activations.softmax, activations.log_softmax
    return jax.jit(jax.vmap(lambda z: (f(z), g(z), jax.jacrev(f)(z), jax.jacfwd(f)(z), jax.jacrev(g)(z))))


def jacobian_of_softmax(z):
    y = softmax(z)
    others = [mp.fsum(y[:i] + y[i + 1 :]) for i in range(len(y))]
    return [[y[i] * others[i] if i == j else -y[i] * y[j] for j in range(len(y))] for i in range(len(y))]


def jacobian_of_log_softmax(z):
    y = softmax(z)
    others = [mp.fsum(y[:i] + y[i + 1 :]) for i in range(len(y))]
    return [[others[i] if i == j else -y[j] for j in range(len(y))] for i in range(len(y))]


@pytest.mark.usefixtures("optimized")
def test_softmax_float32_values_within_4_ulp():
    value, log_value, *_ = softmax_results()(ROWS)
    assert ulps(value, [softmax(row) for row in ROWS]) <= 4
    assert ulps(log_value, [log_softmax(row) for row in ROWS]) <= 4


@pytest.mark.usefixtures("optimized")
def test_softmax_float32_jacobians_keep_their_tails():
    _, _, reverse, forward, log_jacobian = softmax_results()(ROWS)
    exact = [jacobian_of_softmax(row) for row in ROWS]
    assert ulps(reverse, exact) <= 8
    assert ulps(forward, exact) <= 8
    assert ulps(jax.jit(activations.softmax_jacobian)(ROWS), exact) <= 8
    assert ulps(log_jacobian, [jacobian_of_log_softmax(row) for row in ROWS]) <= 8


@pytest.mark.usefixtures("optimized")
def test_softmax_float64_within_1e_12():
    rows = ROWS.astype(np.float64)
    with jax.enable_x64(True):
        value, log_value, reverse, forward, log_jacobian = softmax_results()(rows)
        jacobian = activations.softmax_jacobian(rows)
    exact = [jacobian_of_softmax(row) for row in rows]
    assert relative_error(value, [softmax(row) for row in rows]) <= 1e-12
    assert relative_error(log_value, [log_softmax(row) for row in rows]) <= 1e-12
    assert relative_error(log_jacobian, [jacobian_of_log_softmax(row) for row in rows]) <= 1e-12
    for result in (reverse, forward, jacobian):
        assert relative_error(result, exact) <= 1e-12


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_softmax_half_precision(dtype):
    rows = jnp.asarray(ROWS[:5], dtype)
    value, log_value, reverse, *_ = softmax_results()(rows)
    assert value.dtype == log_value.dtype == reverse.dtype == dtype
    exact = np.array([softmax(row) for row in np.asarray(rows, np.float64)], np.float64)
    unit, tiny = float(jnp.finfo(dtype).eps), float(jnp.finfo(dtype).smallest_subnormal)
    np.testing.assert_allclose(np.asarray(value, np.float64), exact, rtol=0.51 * unit, atol=tiny)


def test_softmax_second_derivative_keeps_its_tail():
    # With two classes y₀ = σ(z₀ − z₁), so that ∂²y₀/∂z₀² = σ″(40) = −σ′(40) tanh(20).
    hessian = jax.jit(jax.hessian(lambda z: activations.softmax(z)[0]))(jnp.array([40.0, 0.0]))
    curvature = -np.exp(-40.0)
    np.testing.assert_allclose(hessian, curvature * np.array([[1, -1], [-1, 1]]), rtol=1e-6)


def test_softmax_vjp_sums_to_zero_in_the_tail():
    # The rows of the Jacobian sum to 0; 1 − y₀ in float64 would leave −4·10⁻¹⁸.
    with jax.enable_x64(True):
        _, vjp = jax.vjp(activations.softmax, jnp.array([40.0, 0.0]))
        (cotangent,) = vjp(jnp.array([1.0, 0.3]))
    np.testing.assert_allclose(cotangent, 0.7 * np.exp(-40) * np.array([1, -1]), rtol=1e-12)


@given(hnp.arrays(np.float32, (4, 5), elements=st.floats(-50, 50, width=32)), st.integers(-2, 1))
@settings(max_examples=30, deadline=None)
def test_softmax_sums_to_one_and_log_softmax_is_its_logarithm(z, axis):
    y = np.asarray(activations.softmax(z, axis=axis))
    np.testing.assert_allclose(y.sum(axis), 1, rtol=1e-6)
    np.testing.assert_allclose(np.exp(activations.log_softmax(z, axis=axis)), y, rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize("garbage", [np.nan, INF, -INF, 1e30])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_masked_entries_do_not_matter(name, garbage):
    f = getattr(activations, name)
    z, mask = jnp.array([[1.0, garbage, 2.0]]), jnp.array([True, False, True])
    masked, kept = (lambda z: f(z, where=mask)), jnp.array([0, 2])
    np.testing.assert_array_equal(masked(z)[:, kept], f(z[:, kept]))
    assert masked(z)[0, 1] == (0 if name == "softmax" else -INF)
    weights = jnp.array([[0.3, 0.0, -1.0]])
    gradient = jax.grad(lambda z: jnp.sum(jnp.where(mask, weights * masked(z), 0)))(z)
    expected = jax.grad(lambda z: jnp.sum(weights[:, kept] * f(z)))(z[:, kept])
    np.testing.assert_allclose(gradient[:, kept], expected, rtol=1e-6)
    assert gradient[0, 1] == 0


def test_a_row_without_any_logit_is_zero():
    z, nothing = jnp.array([[1.0, np.nan], [-INF, -INF]]), jnp.array([[False], [True]])
    np.testing.assert_array_equal(activations.softmax(z, where=nothing), np.zeros((2, 2)))
    np.testing.assert_array_equal(activations.log_softmax(z, where=nothing), np.full((2, 2), -INF))
    for f in (activations.softmax, activations.log_softmax):
        np.testing.assert_array_equal(jax.vjp(lambda z, f=f: f(z, where=nothing), z)[1](jnp.ones((2, 2)))[0], 0)


def test_infinite_logits():
    np.testing.assert_array_equal(activations.softmax(jnp.array([INF, 0.0])), [1, 0])
    np.testing.assert_array_equal(activations.softmax(jnp.array([INF, INF, 3.0])), [0.5, 0.5, 0])
    np.testing.assert_array_equal(activations.log_softmax(jnp.array([INF, 0.0])), [0, -INF])
    np.testing.assert_array_equal(jax.jacobian(activations.softmax)(jnp.array([INF, 0.0])), np.zeros((2, 2)))
    assert np.isnan(activations.softmax(jnp.array([np.nan, 0.0]))).all()


def test_softmax_jvp_is_the_jacobian_times_a_vector():
    dz = np.array([0.3, -1.0, 2.0], np.float32)
    for row in ROWS:
        exact = mp.matrix(jacobian_of_softmax(row)) * mp.matrix([float(x) for x in dz])
        scale = max(abs(x) for x in exact)
        error = [float((float(x) - y) / scale) for x, y in zip(activations.softmax_jvp(row, dz), exact, strict=True)]
        np.testing.assert_allclose(error, 0, atol=1e-6)
    np.testing.assert_allclose(
        activations.softmax_jvp(ROWS.T, np.tile(dz[:, None], (1, len(ROWS))), axis=0)[:, 2],
        activations.softmax_jvp(ROWS[2], dz),
        rtol=1e-6,
    )


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_check_grads(name):
    f = getattr(activations, name)
    mask = np.array([[True, True, False], [True, True, True]])
    with jax.enable_x64(True):
        z = np.array([[0.3, -1.0, 5.0], [0.0, 0.0, 0.5]])
        weights = np.arange(6.0).reshape(2, 3)
        check_derivatives(lambda z: jnp.where(mask, f(z, where=mask), 0) * weights, (z,), order=2)
        check_derivatives(lambda z: f(z, axis=0) * weights, (z,), order=2)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_refuses(name):
    f = getattr(activations, name)
    with pytest.raises(TypeError):
        f(jnp.arange(3))
    with pytest.raises(ValueError, match="axis"):
        f(jnp.zeros((2, 3)), axis=2)
    with pytest.raises(ValueError, match="broadcast"):
        f(jnp.zeros((2, 3)), where=jnp.ones((1, 2, 3), bool))
    with pytest.raises(ValueError, match="broadcast"):
        f(jnp.zeros((1, 3)), where=jnp.ones((2, 3), bool))
    with pytest.raises(TypeError):
        f(jnp.zeros((2, 3)), where=jnp.ones((2, 3)))
    with pytest.raises((AssertionError, TypeError)):
        activations.softmax_jvp(jnp.zeros((2, 3)), jnp.zeros(3))
