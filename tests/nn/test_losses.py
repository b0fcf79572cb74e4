"""Losses against mpmath and hand-worked values: values and every derivative, hard labels, infinities, masks, errors."""

import functools
import itertools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import optax
import pytest

from mathai.nn import losses
from tests.nn.reference import check_derivatives, log_softmax, reference, relative_error, softmax, ulps

INF = np.inf
LOGITS = np.array([-84, -60.3, -40, -20.1, -3.3, -1, -1e-3, 0, 1e-6, 0.4, 2.7, 17.1, 29.5, 40, 60, 80.6], np.float32)
LABELS = np.array([0, 1, 0.25, 0.9], np.float32)
PAIRS = np.array(list(itertools.product(LOGITS, LABELS)), np.float32).T


def mp_cross_entropy(x, y):
    return y * mp.log1p(mp.exp(-x)) + (1 - y) * mp.log1p(mp.exp(x))


def mp_focal(x, y, gamma):
    sigmoid = lambda x: 1 / (1 + mp.exp(-x))  # noqa: E731
    return (y * sigmoid(-x) + (1 - y) * sigmoid(x)) ** gamma * mp_cross_entropy(x, y)


def derivative(f, argument, *point):
    """∂f/∂(argument) by mpmath's high-order differences with 60 digits."""
    return mp.diff(lambda v: f(*point[:argument], v, *point[argument + 1 :]), point[argument])


@pytest.mark.parametrize(
    ("name", "error", "loss", "slope"),
    [
        ("squared_error", 0.0, 0.0, 0.0),
        ("squared_error", -3.0, 9.0, -6.0),
        ("absolute_error", 0.0, 0.0, 0.0),
        ("absolute_error", -3.0, 3.0, -1.0),
        ("absolute_error", INF, INF, 1.0),
        ("huber", 0.0, 0.0, 0.0),
        ("huber", 0.5, 0.125, 0.5),
        ("huber", 1.0, 0.5, 1.0),
        ("huber", 3.0, 2.5, 1.0),
        ("huber", -3.0, 2.5, -1.0),
        ("huber", -INF, INF, -1.0),
    ],
)
def test_regression_value_and_slope(name, error, loss, slope):
    f = getattr(losses, name)
    value, (in_prediction, in_target) = jax.value_and_grad(f, argnums=(0, 1))(jnp.float32(error), jnp.float32(0.0))
    assert (value, in_prediction, in_target) == (loss, slope, -slope)
    assert jax.jvp(f, (jnp.float32(error), 0.0), (1.0, 0.0))[1] == slope


def test_huber_curvature_and_derivative_in_delta():
    curvature = jax.vmap(jax.grad(jax.grad(losses.huber)))
    np.testing.assert_array_equal(curvature(jnp.array([0.0, 0.5, 3.0, -3.0]), jnp.zeros(4)), [1, 1, 0, 0])
    in_delta = jax.vmap(jax.grad(lambda delta, error: losses.huber(error, 0.0, delta=delta)), (None, 0))
    np.testing.assert_array_equal(in_delta(1.0, jnp.array([0.5, 1.0, 3.0])), [0, 0, 2])  # |e| − δ beyond δ
    np.testing.assert_allclose(losses.huber(jnp.array([4.0]), jnp.array([0.0]), delta=3.0), [7.5])


@pytest.mark.parametrize("name", ["squared_error", "absolute_error", "huber"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
def test_regression_dtypes(name, dtype):
    with jax.enable_x64(True):
        f = jax.jit(getattr(losses, name))
        result = f(jnp.asarray([1.5, -2.0], dtype), jnp.asarray([0.0, 1.0], dtype))
        mean = getattr(losses, {"huber": "mean_huber"}.get(name, "mean_" + name))(
            jnp.asarray([1.5], dtype), jnp.zeros(1)
        )
    assert result.dtype == mean.dtype == dtype
    expected = {"squared_error": [2.25, 9.0], "absolute_error": [1.5, 3.0], "huber": [1.0, 2.5]}[name]
    np.testing.assert_array_equal(result.astype(np.float32), expected)


@pytest.mark.parametrize(
    ("name", "mean"), [("mean_squared_error", 5.0), ("mean_absolute_error", 2.0), ("mean_huber", 1.5)]
)
def test_means(name, mean):
    f = jax.jit(getattr(losses, name))
    predictions, targets = jnp.array([[1.0, 3.0, np.nan]]), jnp.array([[0.0, 0.0, INF]])
    mask = jnp.array([True, True, False])
    assert f(predictions[:, :2], targets[:, :2]) == mean
    value, gradient = jax.value_and_grad(f)(predictions, targets, where=mask)
    assert value == mean
    slopes = {"mean_squared_error": [1, 3, 0], "mean_absolute_error": [0.5, 0.5, 0], "mean_huber": [0.5, 0.5, 0]}[name]
    np.testing.assert_array_equal(gradient, [slopes])
    value, gradient = jax.value_and_grad(f)(predictions, targets, where=jnp.array([False]))
    assert value == 0
    assert not gradient.any()


def test_mean_in_float16_does_not_overflow():
    # Each square is 4·10⁴; their sum of 4·10⁷ is beyond float16, their mean is not.
    assert losses.mean_squared_error(jnp.full(1000, 200, jnp.float16), jnp.zeros(1000, jnp.float16)) == 40000


@functools.cache
def binary_results():
    f = losses.binary_cross_entropy
    slopes = jax.grad(f, argnums=(0, 1))
    return jax.jit(jax.vmap(lambda x, y: (f(x, y), *slopes(x, y), *jax.jacfwd(slopes, argnums=(0, 1))(x, y))))


@pytest.mark.usefixtures("optimized")
def test_binary_cross_entropy_float32_within_4_ulp():
    x, y = PAIRS
    value, in_logit, in_label, (xx, xy), (yx, yy) = binary_results()(x, y)
    sigmoid = lambda x: 1 / (1 + mp.exp(-x))  # noqa: E731
    assert ulps(value, reference(mp_cross_entropy, x, y)) <= 4
    assert ulps(in_logit, reference(lambda x, y: (1 - y) * sigmoid(x) - y * sigmoid(-x), x, y)) <= 4
    assert ulps(xx, reference(lambda x, y: sigmoid(x) * sigmoid(-x), x, y)) <= 4
    np.testing.assert_array_equal(in_label, -x)
    np.testing.assert_array_equal([xy, yx, yy], np.array([[-1], [-1], [0]]) * np.ones_like(x))


@pytest.mark.usefixtures("optimized")
def test_binary_cross_entropy_float64_within_1e_12():
    with jax.enable_x64(True):
        x, y = PAIRS.astype(np.float64)
        value, in_logit, *_ = binary_results()(x, y)
    assert relative_error(value, reference(mp_cross_entropy, x, y)) <= 1e-12
    exact = reference(lambda x, y: (1 - y) / (1 + mp.exp(-x)) - y / (1 + mp.exp(x)), x, y)
    assert relative_error(in_logit, exact) <= 1e-12


def test_binary_cross_entropy_at_infinite_logits():
    f = jax.jit(jax.vmap(jax.value_and_grad(losses.binary_cross_entropy)))
    value, slope = f(jnp.array([INF, -INF, INF, -INF]), jnp.array([1.0, 0.0, 0.0, 1.0]))
    np.testing.assert_array_equal(value, [0, 0, INF, INF])
    np.testing.assert_array_equal(slope, [0, 0, 1, -1])
    forward = jax.jvp(lambda x: losses.binary_cross_entropy(x, 1.0), (jnp.inf,), (1.0,))
    assert forward == (0, 0)


def test_binary_cross_entropy_takes_integer_and_boolean_labels():
    x = jnp.array([0.5, -2.0])
    expected = losses.binary_cross_entropy(x, jnp.array([1.0, 0.0]))
    np.testing.assert_array_equal(losses.binary_cross_entropy(x, jnp.array([1, 0])), expected)
    np.testing.assert_array_equal(losses.binary_cross_entropy(x, jnp.array([True, False])), expected)


PROBABILITIES = np.array([1e-30, 1e-5, 0.1, 0.3, 0.49, 0.5, 0.51, 0.9, 1 - 2.0**-20], np.float32)


@pytest.mark.usefixtures("optimized")
def test_binary_cross_entropy_from_probabilities_within_4_ulp():
    p, y = np.array(list(itertools.product(PROBABILITIES, [0, 1, 0.25, 0.9])), np.float32).T
    f = losses.binary_cross_entropy_from_probabilities
    value, (in_p, in_y) = jax.jit(jax.vmap(jax.value_and_grad(f, argnums=(0, 1))))(p, y)
    assert ulps(value, reference(lambda p, y: -y * mp.log(p) - (1 - y) * mp.log1p(-p), p, y)) <= 4
    assert ulps(in_p, reference(lambda p, y: (p - y) / (p * (1 - p)), p, y)) <= 4
    assert ulps(in_y, reference(lambda p, y: mp.log((1 - p) / p), p, y)) <= 4


def test_binary_cross_entropy_from_probabilities_at_the_edges():
    f = jax.jit(jax.vmap(jax.value_and_grad(losses.binary_cross_entropy_from_probabilities)))
    value, slope = f(jnp.array([0.0, 1.0, 0.0, 1.0, 1.5, -0.1]), jnp.array([0.0, 1.0, 1.0, 0.0, 1.0, 0.0]))
    np.testing.assert_array_equal(value, [0, 0, INF, INF, np.nan, np.nan])
    np.testing.assert_array_equal(slope[:4], [1, -1, -INF, INF])


ROWS = np.array([[40, 0, 0.1], [0, 0, 0], [1, 2, 3], [-90, 0, 3], [5, 5, -60.3], [0.1, 40.7, -33.3]], np.float32)
DISTRIBUTIONS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.25, 0.25, 0.5], [0.875, 0.125, 0]], np.float32)
EXAMPLES = [np.repeat(ROWS, len(DISTRIBUTIONS), 0), np.tile(DISTRIBUTIONS, (len(ROWS), 1))]


def mp_categorical(z, y):
    return -mp.fsum(mp.mpf(float(a)) * b for a, b in zip(y, log_softmax(z), strict=True))


def mp_categorical_slope(z, y):
    p, y = softmax(z), [mp.mpf(float(v)) for v in y]
    return [a * mp.fsum(y) - b for a, b in zip(p, y, strict=True)]


@functools.cache
def categorical_results():
    f = losses.categorical_cross_entropy
    return jax.jit(jax.vmap(lambda z, y: (f(z, y), jax.grad(f)(z, y), jax.jacfwd(f)(z, y), jax.hessian(f)(z, y))))


@pytest.mark.usefixtures("optimized")
def test_categorical_cross_entropy_float32():
    z, y = EXAMPLES
    value, reverse, forward, hessian = categorical_results()(z, y)
    exact = [mp_categorical_slope(*row) for row in zip(z, y, strict=True)]
    assert ulps(value, [mp_categorical(*row) for row in zip(z, y, strict=True)]) <= 4
    hard = np.isin(y, [0, 1]).all(1)  # between hard labels the slope crosses 0, where no relative error holds
    assert ulps(reverse[hard], np.array(exact)[hard]) <= 4
    assert ulps(forward[hard], np.array(exact)[hard]) <= 4
    np.testing.assert_allclose(reverse, np.array(exact, float), atol=2e-7)
    # ∂²L/∂z² is the softmax Jacobian: at (40, 0, 0.1) its corner is e⁻⁴⁰ (1 + e^0.1).
    assert hessian[0, 0, 0] == pytest.approx(np.exp(-40) + np.exp(np.float32(0.1) - 40.0), rel=1e-6)


@pytest.mark.usefixtures("optimized")
def test_categorical_cross_entropy_float64():
    with jax.enable_x64(True):
        z, y = (array.astype(np.float64) for array in EXAMPLES)
        value, reverse, *_ = categorical_results()(z, y)
    assert relative_error(value, [mp_categorical(*row) for row in zip(z, y, strict=True)]) <= 1e-12
    hard = np.isin(y, [0, 1]).all(1)
    exact = np.array([mp_categorical_slope(*row) for row in zip(z, y, strict=True)])
    assert relative_error(reverse[hard], exact[hard]) <= 1e-12


@pytest.mark.usefixtures("optimized")
def test_integer_labels_agree_with_one_hot_labels_and_the_tail_is_kept():
    labels = np.tile(np.arange(3), len(ROWS))
    z = np.repeat(ROWS, 3, 0)
    f = losses.categorical_cross_entropy_with_integer_labels
    value, slope = jax.jit(jax.vmap(jax.value_and_grad(f)))(z, labels)
    one_hot = np.eye(3)[labels]
    assert ulps(value, [mp_categorical(*row) for row in zip(z, one_hot, strict=True)]) <= 4
    assert ulps(slope, [mp_categorical_slope(*row) for row in zip(z, one_hot, strict=True)]) <= 4


def test_infinite_logits_with_label_zero_take_no_part():
    z, y = jnp.array([-INF, 0.0, 0.0]), jnp.array([0.0, 1.0, 0.0])
    value, (in_logits, in_labels) = jax.value_and_grad(losses.categorical_cross_entropy, argnums=(0, 1))(z, y)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-7)
    np.testing.assert_allclose(in_logits, [0, -0.5, 0.5], rtol=1e-7)
    np.testing.assert_allclose(in_labels, [0, np.log(2), np.log(2)], rtol=1e-7)
    assert losses.categorical_cross_entropy(z, jnp.array([0.5, 0.5, 0.0])) == INF
    value, slope = jax.value_and_grad(losses.categorical_cross_entropy)(jnp.array([INF, 0.0]), jnp.array([1.0, 0.0]))
    assert value == 0
    assert not slope.any()


@pytest.mark.parametrize("garbage", [np.nan, INF, -INF, 7.0])
def test_masked_classes_take_no_part(garbage):
    mask = jnp.array([True, False, True])
    z, y = jnp.array([[1.0, garbage, 2.0]]), jnp.array([[0.25, 0.0, 0.75]])
    kept = jnp.array([0, 2])
    soft = lambda z, y: losses.categorical_cross_entropy(z, y, where=mask)[0]  # noqa: E731
    value, (in_logits, in_labels) = jax.jit(jax.value_and_grad(soft, argnums=(0, 1)))(z, y)
    p = softmax([1, 2])
    np.testing.assert_allclose(value, float(-mp.log(p[0]) / 4 - 3 * mp.log(p[1]) / 4), rtol=1e-6)
    np.testing.assert_allclose(in_logits, [[float(p[0]) - 0.25, 0, float(p[1]) - 0.75]], atol=1e-7)
    assert np.isfinite(in_labels).all()
    assert in_labels[0, 1] == 0
    hard = lambda z: losses.categorical_cross_entropy_with_integer_labels(z, jnp.array([2]), where=mask)[0]  # noqa: E731
    value, slope = jax.jit(jax.value_and_grad(hard))(z)
    np.testing.assert_allclose(value, float(-mp.log(p[1])), rtol=1e-6)
    np.testing.assert_allclose(slope[:, kept], [[float(p[0]), -float(p[0])]], rtol=1e-6)
    assert slope[0, 1] == 0


def test_a_fully_masked_row_has_loss_and_gradient_zero():
    z, nothing = jnp.array([[1.0, np.nan]]), jnp.array([[False]])
    for f, labels in [
        (losses.categorical_cross_entropy, jnp.array([[1.0, 0.0]])),
        (losses.categorical_cross_entropy_with_integer_labels, jnp.array([0])),
    ]:
        value, slope = jax.value_and_grad(lambda z, f=f, labels=labels: f(z, labels, where=nothing)[0])(z)
        assert value == 0
        assert not slope.any()


@pytest.mark.parametrize("label", [-1, 3, -3, 2**30])
def test_a_label_out_of_range_is_nan_and_never_wrapped(label):
    f = losses.categorical_cross_entropy_with_integer_labels
    z = jnp.ones((2, 3))
    value, vjp = jax.vjp(lambda z: f(z, jnp.array([label, 0])), z)
    np.testing.assert_array_equal(np.isnan(value), [True, False])
    (gradient,) = vjp(jnp.ones(2))
    np.testing.assert_array_equal(np.isnan(gradient), [[True] * 3, [False] * 3])


@pytest.mark.parametrize("ignore_index", [-100, 1])
def test_ignored_examples_have_loss_and_gradient_zero(ignore_index):
    f = functools.partial(losses.categorical_cross_entropy_with_integer_labels, ignore_index=ignore_index)
    z = jnp.array([[np.nan, INF, 0.0], [0.0, 0.0, 0.0]])
    value, vjp = jax.vjp(lambda z: f(z, jnp.array([ignore_index, 2])), z)
    np.testing.assert_allclose(value, [0, np.log(3)], rtol=1e-7)
    np.testing.assert_allclose(vjp(jnp.ones(2))[0], [[0, 0, 0], [1 / 3, 1 / 3, -2 / 3]], rtol=1e-6)


def test_axis():
    z = np.arange(24.0, dtype=np.float32).reshape(2, 3, 4) % 7
    y = np.eye(3, dtype=np.float32)[np.arange(8).reshape(2, 4) % 3].transpose(0, 2, 1)
    labels = np.arange(8).reshape(2, 4) % 3
    expected = losses.categorical_cross_entropy(z.transpose(0, 2, 1), y.transpose(0, 2, 1))
    for axis in (1, -2):
        np.testing.assert_array_equal(losses.categorical_cross_entropy(z, y, axis=axis), expected)
        integer = losses.categorical_cross_entropy_with_integer_labels(z, labels, axis=axis)
        np.testing.assert_allclose(integer, expected, rtol=1e-6)
        focal = losses.softmax_focal(z, y, gamma=0, axis=axis, alpha=jnp.ones(3))
        np.testing.assert_allclose(focal, expected, rtol=1e-6)


GAMMAS = [0.0, 1.0, 2.0, 1.5, 0.5]


@functools.cache
def focal_results(static_gamma):
    def f(x, y, gamma):
        return losses.sigmoid_focal(x, y, gamma=static_gamma if static_gamma is not None else gamma)

    slopes = jax.grad(f, argnums=(0, 1, 2))
    return jax.jit(jax.vmap(lambda *args: (f(*args), *slopes(*args), jax.grad(jax.grad(f))(*args)), (0, 0, None)))


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_sigmoid_focal_value_and_derivatives_in_logits_labels_and_gamma(gamma, static):
    x, y = PAIRS
    results = focal_results(gamma if static else None)(x, y, np.float32(gamma))
    g = np.full_like(x, gamma)
    assert ulps(results[0], reference(mp_focal, x, y, g)) <= 8
    slope_bounds = [8, 16] + ([] if static else [16])
    for argument, bound in enumerate(slope_bounds):
        exact = reference(functools.partial(derivative, mp_focal, argument), x, y, g)
        hard = np.isin(y, [0, 1])
        # (1 − p_t)^γ is subnormal, thus 0, a little before its product with x is
        assert ulps(results[1 + argument][hard], exact[hard], flushed=1e-36) <= bound
        scale = np.abs(exact).astype(float) + np.asarray(results[0]) + 1e-30
        np.testing.assert_array_less(np.abs(results[1 + argument] - exact.astype(float)) / scale, 2e-5)
    curvature = reference(lambda *v: mp.diff(lambda x: mp_focal(x, *v[1:]), v[0], 2), x, y, g).astype(float)
    np.testing.assert_allclose(results[4], curvature, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("optimized")
def test_sigmoid_focal_float64():
    x, y = PAIRS.astype(np.float64)
    with jax.enable_x64(True):
        value, in_logit, in_label, in_gamma, _ = focal_results(None)(x, y, np.float64(1.5))
    g = np.full_like(x, 1.5)
    assert relative_error(value, reference(mp_focal, x, y, g)) <= 1e-12
    hard = np.isin(y, [0, 1])
    for argument, result in enumerate((in_logit, in_label, in_gamma)):
        exact = reference(functools.partial(derivative, mp_focal, argument), x, y, g)
        assert relative_error(result[hard], exact[hard]) <= 1e-12


def test_sigmoid_focal_at_infinite_logits():
    for gamma in (0.0, 2.0, 0.5):
        f = jax.jit(jax.vmap(jax.value_and_grad(functools.partial(losses.sigmoid_focal, gamma=gamma))))
        value, slope = f(jnp.array([INF, -INF, INF, -INF]), jnp.array([1.0, 0.0, 0.0, 1.0]))
        np.testing.assert_array_equal(value, [0, 0, INF, INF])
        np.testing.assert_array_equal(slope, [0, 0, 1, -1])


def test_sigmoid_focal_agrees_with_optax_where_optax_is_right():
    x, y = np.meshgrid(np.linspace(-5, 5, 11, dtype=np.float32), np.float32([0, 0.3, 1]))
    ours = jax.jit(functools.partial(losses.sigmoid_focal, alpha=0.25, gamma=2.0))(x, y)
    np.testing.assert_allclose(ours, optax.sigmoid_focal_loss(x, y, alpha=0.25, gamma=2.0), rtol=1e-4, atol=1e-7)


def mp_softmax_focal(z, y, gamma):
    p = softmax(z)
    others = [mp.fsum(p[:i] + p[i + 1 :]) for i in range(len(p))]
    terms = zip(y, others, p, strict=True)
    return -mp.fsum(mp.mpf(float(v)) * c ** mp.mpf(gamma) * mp.log(q) for v, c, q in terms if v)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("gamma", GAMMAS)
def test_softmax_focal_value_and_derivatives(gamma):
    z, y = (array[: 4 * len(DISTRIBUTIONS)] for array in EXAMPLES)
    f = lambda z, y, g: losses.softmax_focal(z, y, gamma=g)  # noqa: E731
    results = jax.jit(jax.vmap(lambda z, y: (f(z, y, gamma), *jax.grad(f, argnums=(0, 1, 2))(z, y, gamma))))(z, y)
    value, in_logits, in_labels, in_gamma = results
    assert ulps(value, [mp_softmax_focal(*row, gamma) for row in zip(z, y, strict=True)]) <= 10

    def along(argument, index, row):
        def moved(step):
            arrays = [[mp.mpf(float(v)) for v in array] for array in row]
            arrays[argument][index] += step
            return mp_exact_focal(*arrays, mp.mpf(gamma))

        return float(mp.diff(moved, 0))

    for row in range(0, len(z), 3):
        example = (z[row], y[row])
        np.testing.assert_allclose(in_logits[row], [along(0, i, example) for i in range(3)], rtol=3e-6, atol=2e-7)
        np.testing.assert_allclose(in_labels[row], [along(1, i, example) for i in range(3)], rtol=3e-6, atol=1e-30)
        exact = mp.diff(lambda g, e=example: mp_exact_focal(*[[mp.mpf(float(v)) for v in a] for a in e], g), gamma)
        np.testing.assert_allclose(in_gamma[row], float(exact), rtol=3e-6, atol=1e-30)


def mp_exact_focal(z, y, gamma):
    e = [mp.exp(v) for v in z]
    total = mp.fsum(e)
    return -mp.fsum(v * ((total - a) / total) ** gamma * mp.log(a / total) for v, a in zip(y, e, strict=True))


def test_softmax_focal_keeps_the_tail_of_a_right_label():
    # p = 1 − ε with ε = e⁻¹⁵: L = ε²·ε, ∂L/∂z = −3ε³ to leading order, where 1 − p in float32 would be 0 or 1.2·10⁻⁷.
    value, slope = jax.value_and_grad(losses.softmax_focal)(jnp.array([15.0, 0.0]), jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(value, np.exp(-45), rtol=2e-6)
    np.testing.assert_allclose(slope, np.exp(-45) * np.array([-3, 3]), rtol=2e-6)


def test_alpha_weighs_the_classes():
    x, y = jnp.array([0.5, 0.5]), jnp.array([1.0, 0.0])
    plain = losses.sigmoid_focal(x, y)
    np.testing.assert_allclose(losses.sigmoid_focal(x, y, alpha=0.25), plain * jnp.array([0.25, 0.75]), rtol=1e-6)
    z, labels = jnp.zeros((2, 2)), jnp.eye(2)
    plain = losses.softmax_focal(z, labels)
    weighted = losses.softmax_focal(z, labels, alpha=jnp.array([2.0, 3.0]))
    np.testing.assert_allclose(weighted, plain * jnp.array([2.0, 3.0]), rtol=1e-6)
    with pytest.raises(ValueError, match="alpha"):
        losses.softmax_focal(z, labels, alpha=jnp.ones(3))
    with pytest.raises(ValueError, match="alpha"):
        losses.sigmoid_focal(x, y, alpha=1.5)
    with pytest.raises(ValueError, match="gamma"):
        losses.sigmoid_focal(x, y, gamma=-1.0)


CLASSIFICATION = {
    "binary_cross_entropy": lambda x: losses.binary_cross_entropy(x, jnp.ones_like(x)),
    "binary_cross_entropy_from_probabilities": lambda x: losses.binary_cross_entropy_from_probabilities(
        x, jnp.ones_like(x)
    ),
    "categorical_cross_entropy": lambda x: losses.categorical_cross_entropy(x, jnp.array([0.0, 1.0])),
    "with_integer_labels": lambda x: losses.categorical_cross_entropy_with_integer_labels(x, jnp.array(1)),
    "sigmoid_focal": lambda x: losses.sigmoid_focal(x, jnp.ones_like(x), gamma=1.5),
    "softmax_focal": lambda x: losses.softmax_focal(x, jnp.array([0.0, 1.0]), gamma=1.5),
}


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_half_precision_is_rounded_once(name):
    f = jax.jit(CLASSIFICATION[name])
    for dtype in (jnp.bfloat16, jnp.float16):
        x = jnp.array([0.125, 0.75], dtype)
        result, gradient = f(x), jax.grad(lambda x: f(x).sum())(x)
        assert result.dtype == gradient.dtype == dtype
        expected = f(x.astype(jnp.float32))
        np.testing.assert_array_equal(result, expected.astype(dtype))
    with pytest.raises(TypeError):
        CLASSIFICATION[name](jnp.array([0, 1]))


@pytest.mark.parametrize(
    "name",
    [
        "squared_error",
        "absolute_error",
        "huber",
        "mean_squared_error",
        "mean_absolute_error",
        "mean_huber",
        "binary_cross_entropy",
        "binary_cross_entropy_from_probabilities",
        "categorical_cross_entropy",
        "sigmoid_focal",
        "softmax_focal",
    ],
)
def test_refuses_to_broadcast(name):
    f = getattr(losses, name)
    for shape in [(3,), (1, 3), (3, 1), ()]:
        with pytest.raises((AssertionError, TypeError), match="shape"):
            f(jnp.zeros((3, 3)), jnp.zeros(shape))


def test_refuses_what_cannot_be_right():
    integer = losses.categorical_cross_entropy_with_integer_labels
    with pytest.raises((AssertionError, TypeError), match=r"shape|batch"):
        integer(jnp.zeros((2, 3)), jnp.array([0, 1, 2]))
    with pytest.raises(TypeError):
        integer(jnp.zeros((2, 3)), jnp.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="axis"):
        integer(jnp.zeros((2, 3)), jnp.array([0, 1]), axis=2)
    with pytest.raises(ValueError, match="axis"):
        losses.categorical_cross_entropy(jnp.zeros(3), jnp.zeros(3), axis=1)
    with pytest.raises(ValueError, match="where"):
        losses.categorical_cross_entropy(jnp.zeros(3), jnp.zeros(3), where=jnp.ones(2, bool))
    with pytest.raises(ValueError, match="where"):
        losses.mean_squared_error(jnp.zeros(3), jnp.zeros(3), where=jnp.ones((2, 3), bool))
    with pytest.raises(ValueError, match="delta"):
        losses.huber(0.0, 0.0, delta=0.0)


@pytest.mark.slow
def test_check_grads():
    with jax.enable_x64(True):
        z, y = np.array([[0.3, -1.0, 2.0], [0.0, 0.5, 0.5]]), np.array([[0.2, 0.3, 0.5], [0.6, 0.4, 0.0]])
        check_derivatives(losses.categorical_cross_entropy, (z, y), order=2)
        check_derivatives(
            lambda z: losses.categorical_cross_entropy_with_integer_labels(z, np.array([0, 2])), (z,), order=2
        )
        check_derivatives(losses.binary_cross_entropy, (z, y), order=2)
        check_derivatives(lambda z, y, g: losses.sigmoid_focal(z, y, gamma=g, alpha=0.3), (z, y, 1.5), order=2)
        check_derivatives(lambda z, y, g: losses.softmax_focal(z, y, gamma=g), (z, y, 1.5), order=2)
        check_derivatives(lambda z, y, d: losses.huber(z, y, delta=d), (z, y, 0.7), order=2)


# What a reader found.


@pytest.mark.parametrize(("dtype", "num_classes"), [("int8", 128), ("int8", 300), ("uint8", 256), ("uint8", 300)])
def test_labels_of_one_byte_do_not_wrap(dtype, num_classes):
    loss = losses.categorical_cross_entropy_with_integer_labels
    value, slope = jax.value_and_grad(loss)(jnp.zeros(num_classes), jnp.array(5, dtype))
    np.testing.assert_allclose(value, np.log(num_classes), rtol=1e-6)
    np.testing.assert_array_equal(np.flatnonzero(slope < 0), [5])
    assert loss(jnp.zeros((1, 200)), jnp.array([156], "uint8"), ignore_index=-100) > 5  # −100 is 156 in a byte
    assert np.isnan(loss(jnp.zeros(200), jnp.array(-1, "int8"), ignore_index=255))
    assert np.isnan(loss(jnp.zeros(num_classes), jnp.array(-1, "int8")))


@pytest.mark.parametrize("z", [[0.3, 0.0, -INF], [-INF, 0.0, 0.3], [INF, 0.0, 0.0]])
def test_infinite_logits_have_a_slope_in_gamma(z):
    slope = jax.grad(lambda g: losses.softmax_focal(jnp.array(z), jnp.array([1.0, 0.0, 0.0]), gamma=g))(2.0)
    p = 1 / (1 + np.exp(-0.3)) if z[0] == 0.3 else float(z[0] > 0)  # (1 − p)^γ · −log p · log(1 − p), 0 at both ends
    exact = (1 - p) ** 2 * -np.log(p) * np.log(1 - p) if 0 < p < 1 else 0
    np.testing.assert_allclose(slope, exact, rtol=1e-5)


@pytest.mark.parametrize(("x", "y"), [(INF, 0.0), (-INF, 1.0)])
def test_an_infinitely_wrong_logit_has_slope_0_in_gamma(x, y):
    # 1 − p_t = 1, and log 1 = 0
    assert jax.grad(lambda g: losses.sigmoid_focal(jnp.float32(x), y, gamma=g))(2.0) == 0
    assert losses.sigmoid_focal(jnp.float32(x), y, alpha=1 - y) == 0


@pytest.mark.parametrize("x", [87.0, 90.0, 120.0])
def test_curvature_of_focal_losses_ends_in_0_and_not_in_nan(x):
    curvature = jax.grad(jax.grad(lambda x: losses.sigmoid_focal(x, 1.0, gamma=0.5)))(x)
    assert curvature == pytest.approx(0, abs=1e-37)  # 2.25 e^(−1.5 x)
    hessian = jax.hessian(lambda z: losses.softmax_focal(z, jnp.array([1.0, 0.0]), gamma=0.5))(jnp.array([x, 0.0]))
    np.testing.assert_allclose(hessian, 0, atol=1e-37)


@pytest.mark.parametrize(("p", "y"), [(0.3, 1.0), (0.3, 0.0), (0.3, 0.4)])
def test_the_hessian_in_probability_and_label_is_whole(p, y):
    f = losses.binary_cross_entropy_from_probabilities
    hessian = np.array(jax.hessian(lambda v: f(v[0], v[1]))(jnp.array([p, y])))
    mixed = -1 / (p * (1 - p))
    np.testing.assert_allclose(hessian, [[y / p**2 + (1 - y) / (1 - p) ** 2, mixed], [mixed, 0]], rtol=1e-5)


def test_losses_are_infinite_where_a_logit_is_and_only_there():
    assert losses.categorical_cross_entropy(jnp.array([0.0, -INF]), jnp.array([1.0, 1e-10])) == INF
    np.testing.assert_allclose(losses.categorical_cross_entropy(jnp.array([1e29, 0.0]), jnp.array([0.0, 1.0])), 1e29)


def test_the_mean_of_nothing_is_0():
    assert losses.mean_squared_error(jnp.zeros(0), jnp.zeros(0)) == 0
