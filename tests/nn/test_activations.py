"""Activations against mpmath: values, first and second derivatives, in every dtype, at every awkward point."""

import functools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

from mathai.nn import activations
from tests.nn.reference import POINTS, check_derivatives, reference, relative_error, ulps


def mp_sigmoid(z):
    return 1 / (1 + mp.exp(-z))


def mp_sigmoid_slope(z):
    return mp_sigmoid(z) * mp_sigmoid(-z)


def mp_softplus(z):
    return mp.log1p(mp.exp(z)) if z < 0 else z + mp.log1p(mp.exp(-z))


SMOOTH = {  # value, first and second derivative
    "sigmoid": (mp_sigmoid, mp_sigmoid_slope, lambda z: -mp_sigmoid_slope(z) * mp.tanh(z / 2)),
    "tanh": (mp.tanh, lambda z: mp.sech(z) ** 2, lambda z: -2 * mp.tanh(z) * mp.sech(z) ** 2),
    "softplus": (mp_softplus, mp_sigmoid, mp_sigmoid_slope),
    "log_sigmoid": (lambda z: -mp_softplus(-z), lambda z: mp_sigmoid(-z), lambda z: -mp_sigmoid_slope(z)),
}
ELEMENTWISE = ["identity", "leaky_relu", "relu", *SMOOTH]
DERIVATIVES = ["identity_derivative", "leaky_relu_derivative", "relu_derivative", "sigmoid_derivative"]
DERIVATIVES += ["tanh_derivative"]


@functools.cache
def derivatives(name):
    """One compilation: value, reverse-mode slope, forward-mode slope, forward-over-reverse curvature."""
    f = getattr(activations, name)
    slope = jax.grad(f)
    return jax.jit(jax.vmap(lambda z: (f(z), slope(z), jax.jvp(f, (z,), (jnp.ones_like(z),))[1], jax.jacfwd(slope)(z))))


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", SMOOTH)
def test_float32_is_within_4_ulp_in_value_slope_and_curvature(name):
    value, slope, forward_slope, curvature = derivatives(name)(POINTS)
    exact = [reference(f, POINTS) for f in SMOOTH[name]]
    assert ulps(value, exact[0]) <= 4
    assert ulps(slope, exact[1]) <= 4
    assert ulps(forward_slope, exact[1]) <= 4
    assert ulps(curvature, exact[2]) <= 4


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", SMOOTH)
def test_float32_is_within_4_ulp_on_a_dense_grid(name):
    points = np.linspace(-12, 12, 1501).astype(np.float32)
    value, slope, *_ = derivatives(name)(points)
    assert ulps(value, reference(SMOOTH[name][0], points)) <= 4
    assert ulps(slope, reference(SMOOTH[name][1], points)) <= 4


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", SMOOTH)
def test_float64_is_within_1e_12_in_value_slope_and_curvature(name):
    points = np.concatenate([POINTS, [-700, 350, 700]]).astype(np.float64)
    with jax.enable_x64(True):
        results = derivatives(name)(points)
        assert {result.dtype for result in results} == {jnp.dtype("float64")}
    exact = [reference(f, points) for f in SMOOTH[name]]
    for result, truth in zip(results, [exact[0], exact[1], exact[1], exact[2]], strict=True):
        normal = np.array([abs(t) > 2.3e-308 or t == 0 for t in truth])
        assert relative_error(np.asarray(result)[normal], truth[normal]) <= 1e-12


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", SMOOTH)
def test_half_precision_is_rounded_once(name, dtype):
    points = jnp.asarray(POINTS, dtype)
    results = derivatives(name)(points)
    assert {result.dtype for result in results} == {jnp.dtype(dtype)}
    unit, tiny = float(jnp.finfo(dtype).eps), float(jnp.finfo(dtype).smallest_subnormal)
    for result, truth in zip(results[:2], SMOOTH[name][:2], strict=True):
        exact = reference(truth, np.asarray(points, np.float64)).astype(np.float64)
        np.testing.assert_allclose(np.asarray(result, np.float64), exact, rtol=0.51 * unit, atol=tiny)


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "relu", "leaky_relu", "identity"])
def test_grad_is_the_derivative_function(name):
    derivative = getattr(activations, name + "_derivative")
    _, slope, forward_slope, _ = derivatives(name)(POINTS)
    expected = jax.jit(derivative)(POINTS)
    np.testing.assert_array_equal(slope, expected)
    np.testing.assert_array_equal(forward_slope, expected)


@pytest.mark.parametrize(("name", "scale", "rate"), [("sigmoid", 1, 1), ("tanh", 4, 2)])
def test_derivative_function_and_its_gradient_in_the_tail(name, scale, rate):
    derivative = getattr(activations, name + "_derivative")
    z = np.float32(40)
    assert derivative(z) == pytest.approx(scale * np.exp(-40.0 * rate), rel=1e-6)
    assert jax.grad(derivative)(z) == pytest.approx(-rate * scale * np.exp(-40.0 * rate), rel=1e-6)


INF = np.inf


@pytest.mark.parametrize(
    ("name", "at_minus_infinity", "at_zero", "at_infinity"),
    [  # (value, slope, curvature), from the limits
        ("sigmoid", (0, 0, 0), (0.5, 0.25, 0), (1, 0, 0)),
        ("tanh", (-1, 0, 0), (0, 1, 0), (1, 0, 0)),
        ("softplus", (0, 0, 0), (np.float32(np.log(2)), 0.5, 0.25), (INF, 1, 0)),
        ("log_sigmoid", (-INF, 1, 0), (-np.float32(np.log(2)), 0.5, -0.25), (0, 0, 0)),
        ("relu", (0, 0, 0), (0, 0, 0), (INF, 1, 0)),
        ("leaky_relu", (-INF, np.float32(0.01), 0), (0, np.float32(0.01), 0), (INF, 1, 0)),
        ("identity", (-INF, 1, 0), (0, 1, 0), (INF, 1, 0)),
    ],
)
def test_at_zero_and_infinity(name, at_minus_infinity, at_zero, at_infinity):
    value, slope, _, curvature = derivatives(name)(np.array([-INF, 0, -0.0, INF], np.float32))
    expected = np.array([at_minus_infinity, at_zero, at_zero, at_infinity])
    np.testing.assert_allclose(np.stack([value, slope, curvature], 1), expected, rtol=1e-7)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_nan_stays_nan(name):
    assert np.isnan(derivatives(name)(np.array([np.nan], np.float32))[0])


@pytest.mark.parametrize("name", ELEMENTWISE + DERIVATIVES)
def test_accepts_scalars_and_numpy_and_refuses_integers(name):
    f = getattr(activations, name)
    assert f(0.5).dtype == jnp.float32
    assert f(np.ones((2, 3), np.float32)).shape == (2, 3)
    with pytest.raises(TypeError):
        f(jnp.arange(3))


def test_leaky_relu_by_hand():
    np.testing.assert_allclose(activations.leaky_relu(jnp.array([-2.0, 0.0, 3.0]), 0.1), [-0.2, 0, 3], rtol=1e-7)
    slope_in_alpha = jax.jacobian(activations.leaky_relu, argnums=1)
    np.testing.assert_array_equal(slope_in_alpha(jnp.array([-2.0, 0.0, INF]), 0.1), [-2, 0, 0])
    with pytest.raises((ValueError, TypeError)):
        activations.leaky_relu(jnp.zeros((2, 3)), jnp.ones(3))


@pytest.mark.parametrize("name", SMOOTH)
def test_check_grads(name):
    with jax.enable_x64(True):
        check_derivatives(getattr(activations, name), (np.linspace(-3, 3, 7),), order=2)
