"""Regularization: moments against mpmath, masks, empty batches, dropout's distribution, and gradients."""

import functools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mathai.nn import regularization
from mathai.nn.regularization import BatchStatistics
from tests.nn.reference import check_derivatives

EPSILON = 1e-5


def standardize(row, epsilon=EPSILON):
    row = [mp.mpf(float(x)) for x in row]
    mean = mp.fsum(row) / len(row)
    variance = mp.fsum((x - mean) ** 2 for x in row) / len(row)
    return np.array([(x - mean) / mp.sqrt(variance + epsilon) for x in row], float), float(mean), float(variance)


ROWS = np.array(
    [
        [1e4, 1e4 + 1, 1e4 + 2, 1e4 + 3],
        [1e6, 1e6 + 0.125, 1e6 - 3, 1e6],
        [0.1, 0.2, 0.3, 0.7],
        [-1e-3, 1e-3, 2e-3, 0],
        [3, 3, 3, 3],
        [0.1, 0.1, 0.1, 0.1],
    ],
    np.float32,
)


@pytest.mark.usefixtures("optimized")
def test_large_nearly_constant_row_normalizes_to_the_truth():
    y = jax.jit(regularization.layer_norm)(jnp.array([1e4, 1e4 + 1, 1e4 + 2]))
    np.testing.assert_allclose(y, [-1.2247, 0, 1.2247], atol=1e-4)  # √1.5; one-pass gives ±1000 or ±316


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-6), (jnp.float64, 1e-12)])
def test_layer_norm_and_batch_norm_against_mpmath(dtype, tolerance):
    with jax.enable_x64(True):
        rows = jnp.asarray(ROWS, dtype)
        layer = jax.jit(regularization.layer_norm)(rows)
        batch, statistics = jax.jit(functools.partial(regularization.batch_norm, axes=1))(rows, None, None)
        assert layer.dtype == batch.dtype == statistics.mean.dtype == dtype
    for index, row in enumerate(ROWS):
        expected, mean, variance = standardize(row)
        np.testing.assert_allclose(layer[index], expected, rtol=tolerance, atol=2 * tolerance)
        rounded_mean = tolerance * abs(mean) / np.sqrt(variance + EPSILON)  # known to one rounding, as at inference
        np.testing.assert_allclose(batch[index], expected, rtol=tolerance, atol=2 * tolerance + rounded_mean)
        np.testing.assert_allclose(statistics.mean[index], mean, rtol=tolerance)
        np.testing.assert_allclose(
            statistics.variance[index], variance, rtol=3 * tolerance, atol=(tolerance * mean) ** 2
        )
    np.testing.assert_array_equal(statistics.count, np.full(6, 4))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_normalization_in_half_precision_is_rounded_once(dtype):
    x = jnp.asarray([[1000.0, 1004.0, 1008.0, 1000.0]], dtype)
    expected = standardize(np.asarray(x[0], np.float32))[0]
    unit = float(jnp.finfo(dtype).eps)
    for y in (regularization.layer_norm(x), regularization.batch_norm(x, None, None, axes=1)[0]):
        assert y.dtype == dtype
        np.testing.assert_allclose(np.asarray(y[0], float), expected, rtol=0.51 * unit)
    assert regularization.batch_norm(x, None, None, axes=1)[1].mean.dtype == jnp.float32


def test_scale_and_offset_on_any_axes():
    x = np.arange(24.0, dtype=np.float32).reshape(2, 3, 4) ** 2
    scale, offset = np.array([1.0, 2.0, 3.0], np.float32), np.array([0.5, 0.0, -1.0], np.float32)
    y, statistics = regularization.batch_norm(x, scale, offset, axes=(0, 2))
    for channel in range(3):
        expected, mean, variance = standardize(x[:, channel].ravel())
        np.testing.assert_allclose(
            y[:, channel].ravel(), scale[channel] * expected + offset[channel], rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(statistics.mean[channel], mean, rtol=1e-6)
        np.testing.assert_allclose(statistics.variance[channel], variance, rtol=1e-6)
    np.testing.assert_array_equal(statistics.count, [8, 8, 8])
    scale, offset = np.float32(2 + np.arange(12)).reshape(3, 4), np.float32(np.arange(12)).reshape(3, 4)
    y = regularization.layer_norm(x, scale, offset, axis=(1, 2))
    expected = standardize(x[1].ravel())[0].reshape(3, 4) * scale + offset
    np.testing.assert_allclose(y[1], expected, rtol=1e-5, atol=1e-5)
    middle = regularization.layer_norm(x, scale[:, 0], axis=1)
    np.testing.assert_allclose(middle[0, :, 2], standardize(x[0, :, 2])[0] * scale[:, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e30])
def test_masked_elements_take_no_part(garbage):
    x = jnp.array([[1.0, 5.0], [garbage, 6.0], [4.0, garbage]])
    mask = jnp.array([[True, True], [False, True], [True, False]])
    offset = jnp.array([0.5, -0.5])

    def normalize(x):
        return regularization.batch_norm(x, jnp.ones(2), offset, axes=0, where=mask)

    (y, statistics), vjp = jax.vjp(normalize, x)
    np.testing.assert_array_equal(statistics.mean, [2.5, 5.5])
    np.testing.assert_array_equal(statistics.variance, [2.25, 0.25])
    np.testing.assert_array_equal(statistics.count, [2, 2])
    np.testing.assert_allclose(y, [[-0.5, -1.5], [0.5, 0.5], [1.5, -0.5]], rtol=1e-4)
    (gradient,) = vjp((jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), jax.tree.map(jnp.ones_like, statistics)))
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[~mask], [0, 0])
    layer = regularization.layer_norm(x[:, 0], where=mask[:, 0])
    np.testing.assert_allclose(layer, [-1, 0, 1], rtol=1e-4)


@pytest.mark.parametrize("x", [np.zeros((0, 3), np.float32), np.full((2, 3), np.nan, np.float32)])
def test_a_batch_without_elements_is_the_offset_and_leaves_the_running_statistics(x):
    offset = jnp.array([1.0, 2.0, 3.0])

    def normalize(x):
        return regularization.batch_norm(x, jnp.ones(3), offset, axes=0, where=jnp.zeros(x.shape, bool))

    y, batch = normalize(x)
    np.testing.assert_array_equal(y, np.broadcast_to(offset, x.shape))
    np.testing.assert_array_equal(batch.count, [0, 0, 0])
    np.testing.assert_array_equal(jax.grad(lambda x: normalize(x)[0].sum())(x), np.zeros(x.shape))
    running = BatchStatistics(jnp.array([1.0, 2.0, 3.0]), jnp.array([4.0, 5.0, 6.0]), jnp.full(3, 7.0))
    updated = jax.jit(regularization.update_running_statistics)(running, batch)
    jax.tree.map(np.testing.assert_array_equal, updated, running)


def test_running_statistics_by_hand_and_inference():
    running = BatchStatistics(jnp.array([0.0, 1.0]), jnp.array([1.0, 1.0]), jnp.array([0.0, 5.0]))
    batch = BatchStatistics(jnp.array([2.0, 3.0]), jnp.array([9.0, 3.0]), jnp.array([4.0, 0.0]))
    updated = regularization.update_running_statistics(running, batch, decay=0.75)
    np.testing.assert_array_equal(updated.mean, [0.5, 1.0])
    np.testing.assert_array_equal(updated.variance, [3.0, 1.0])
    np.testing.assert_array_equal(updated.count, [4, 5])
    y = regularization.batch_norm_inference(
        jnp.array([[2.0, 3.0]]), updated, jnp.array([2.0, 1.0]), jnp.array([0.0, 1.0]), epsilon=1.0
    )
    np.testing.assert_allclose(y, [[1.5, 1 + np.sqrt(2)]], rtol=1e-6)  # 2 (2 − 0.5)/√4 and (3 − 1)/√2 + 1
    np.testing.assert_allclose(
        regularization.batch_norm_inference(jnp.array([2.0, 3.0]), updated, None, None, epsilon=1.0),
        [0.75, np.sqrt(2)],
        rtol=1e-6,
    )
    with pytest.raises(ValueError, match="decay"):
        regularization.update_running_statistics(running, batch, decay=1.1)
    with pytest.raises((AssertionError, TypeError), match=r"shape|features"):
        regularization.update_running_statistics(running, BatchStatistics(*(jnp.ones(1),) * 3))


def test_training_and_inference_agree_when_the_statistics_are_the_batch():
    x = jax.random.normal(jax.random.key(0), (32, 3)) * 3 + 7
    scale, offset = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.0, 1.0, 2.0])
    y, statistics = regularization.batch_norm(x, scale, offset, axes=0)
    np.testing.assert_allclose(
        regularization.batch_norm_inference(x, statistics, scale, offset), y, rtol=1e-4, atol=1e-5
    )


def test_normalization_check_grads():
    mask = np.array([[True, True, False, True], [True] * 4, [False] * 4])
    weights = np.sin(np.arange(12.0)).reshape(3, 4)
    with jax.enable_x64(True):
        x = np.cos(np.arange(12.0) ** 2).reshape(3, 4)
        check_derivatives(lambda x, s, o: regularization.layer_norm(x, s, o) * weights, (x, weights[0], x[0]), order=2)
        check_derivatives(lambda x, e: regularization.layer_norm(x, where=mask, epsilon=e) * weights, (x, 0.1), order=2)
        batch = lambda x, s, o: regularization.batch_norm(x, s, o, axes=0, where=mask)  # noqa: E731
        check_derivatives(
            lambda *args: (batch(*args)[0] * weights, *batch(*args)[1][:2]), (x, weights[0], x[0]), order=2
        )


def test_a_constant_row_has_finite_gradients():
    f = lambda x: jnp.sum(regularization.layer_norm(x) * jnp.array([1.0, 2.0, 4.0]))  # noqa: E731
    value, gradient = jax.value_and_grad(f)(jnp.full(3, 0.1))
    assert value == 0
    # At variance 0 the Jacobian is (I − 11ᵀ/n)/√ε: (1, 2, 4) less its mean 7/3, times 10^2.5.
    np.testing.assert_allclose(gradient, (np.array([1, 2, 4]) - 7 / 3) * 10**2.5, rtol=1e-5)


@given(st.floats(0.01, 0.99), st.integers(0, 2**31 - 1))
@settings(max_examples=10, deadline=None)
def test_dropout_keeps_the_mean_and_zeroes_at_the_rate(rate, seed):
    n = 20000
    y = np.asarray(dropout_jitted(jax.random.key(seed), jnp.full(n, 3.0), rate))
    dropped = y == 0
    np.testing.assert_allclose(y[~dropped], 3 / (1 - rate), rtol=1e-5)
    assert abs(dropped.mean() - rate) < 6 * np.sqrt(rate * (1 - rate) / n) + 1 / n  # six standard deviations
    assert abs(y.mean() - 3) < 18 * np.sqrt(rate / (1 - rate) / n) + 1e-3 / (1 - rate)


dropout_jitted = jax.jit(regularization.dropout)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
def test_dropout_at_rate_zero_and_one_in_every_dtype(dtype):
    with jax.enable_x64(True):
        a = jnp.asarray([1.5, -2.0, np.inf], dtype)
        key = jax.random.key(0)
        for f in (regularization.dropout, dropout_jitted):  # rate known while tracing, and traced
            np.testing.assert_array_equal(f(key, a, 0.0), a)
            np.testing.assert_array_equal(f(key, a, 1.0), np.zeros(3))
            assert f(key, a, 0.5).dtype == f(key, a, 0.0).dtype == f(key, a, 1.0).dtype == dtype


def test_dropout_gradient_is_the_mask():
    key, a = jax.random.key(0), jnp.arange(1.0, 9.0)
    gradient = jax.grad(lambda a: dropout_jitted(key, a, 0.5).sum())(a)
    np.testing.assert_array_equal(gradient * a, dropout_jitted(key, a, 0.5))
    assert set(np.unique(gradient)) == {0.0, 2.0}
    np.testing.assert_array_equal(jax.grad(lambda a: dropout_jitted(key, a, 1.0).sum())(a), np.zeros(8))
    np.testing.assert_array_equal(jax.vmap(lambda a: regularization.dropout(key, a, 0.5))(a[None])[0] / a, gradient)


def test_dropout_deterministic_and_errors():
    a = jnp.arange(3.0)
    np.testing.assert_array_equal(regularization.dropout(None, a, 0.5, deterministic=True), a)
    for rate in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="rate"):
            regularization.dropout(jax.random.key(0), a, rate)
        assert np.isnan(dropout_jitted(jax.random.key(0), a, rate)).all()
    with pytest.raises((ValueError, TypeError)):
        regularization.dropout(jax.random.key(0), a, jnp.array([0.1, 0.2, 0.3]))
    with pytest.raises(ValueError, match="key"):
        regularization.dropout(None, a, 0.5)


def test_weight_decay_penalty():
    params = {"a": jnp.array([[3.0]]), "b": (jnp.array([4.0]), None)}
    value, gradient = jax.jit(jax.value_and_grad(regularization.weight_decay_penalty))(params, 0.1)
    assert value == pytest.approx(1.25)
    np.testing.assert_allclose(gradient["b"][0], [0.4], rtol=1e-6)
    assert regularization.weight_decay_penalty({}, 0.1) == 0
    # The squares alone, 9·10⁴, are beyond float16.
    half = regularization.weight_decay_penalty([jnp.array([300.0], jnp.float16)], 0.5)
    assert (half, half.dtype) == (22500, jnp.float16)
    with jax.enable_x64(True):
        assert regularization.weight_decay_penalty([jnp.array([3.0])], 0.1).dtype == jnp.float64
    with pytest.raises(TypeError):
        regularization.weight_decay_penalty([jnp.arange(3)], 0.1)


def test_normalization_refuses():
    x = jnp.zeros((2, 3))
    for f in (
        lambda: regularization.layer_norm(x, jnp.ones((1, 3))),
        lambda: regularization.layer_norm(x, jnp.ones(1)),
        lambda: regularization.layer_norm(x, None, jnp.ones(2)),
        lambda: regularization.layer_norm(x, axis=2),
        lambda: regularization.layer_norm(x, axis=(1, -1)),
        lambda: regularization.layer_norm(x, where=jnp.ones(2, bool)),
        lambda: regularization.batch_norm(x, jnp.ones(2), None, axes=0),
        lambda: regularization.batch_norm(x, None, None, axes=2),
        lambda: regularization.batch_norm_inference(x, BatchStatistics(*(jnp.ones(2),) * 3), None, None),
    ):
        with pytest.raises((ValueError, TypeError)):
            f()
    with pytest.raises(TypeError):
        regularization.layer_norm(jnp.arange(3))


def test_epsilon_is_one_number_and_not_negative():
    x, statistics = jnp.ones((4, 3)), regularization.BatchStatistics(jnp.zeros(3), jnp.ones(3), jnp.ones(3))
    for f in (
        lambda epsilon: regularization.layer_norm(x, epsilon=epsilon),
        lambda epsilon: regularization.batch_norm(x, None, None, axes=0, epsilon=epsilon),
        lambda epsilon: regularization.batch_norm_inference(x, statistics, None, None, epsilon=epsilon),
    ):
        with pytest.raises((ValueError, TypeError), match="epsilon"):
            f(jnp.ones((4, 1)))
        with pytest.raises(ValueError, match="epsilon must be at least 0, got -1"):
            f(-1.0)
