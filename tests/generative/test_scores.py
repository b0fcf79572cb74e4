"""Distances of samples: shifts and scalings whose distance is known, SciPy's square root, invariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from jax.test_util import check_grads

from mathai.generative import scores

KEY = jax.random.key(0)


def points(n=200, features=3, seed=0):
    return jax.random.normal(jax.random.key(seed), (n, features))


def test_sliced_distance_in_one_dimension_is_the_wasserstein_distance():
    x, y = points(features=1), 0.5 * points(features=1, seed=1) - 3
    found = jax.jit(scores.sliced_wasserstein)(KEY, x, y)
    np.testing.assert_allclose(found, np.sqrt(np.mean((np.sort(x[:, 0]) - np.sort(y[:, 0])) ** 2)), rtol=1e-5)


def test_sliced_distance_of_a_shift_is_the_shift_over_the_root_of_the_dimension():
    x = points(features=4)
    shift = jnp.array([[3.0, 0.0, 4.0, 0.0]])
    found = scores.sliced_wasserstein(KEY, x, x + shift, num_projections=20_000)
    np.testing.assert_allclose(found, 5 / np.sqrt(4), rtol=0.02)  # E ⟨θ, s⟩² = ‖s‖²/d
    assert scores.sliced_wasserstein(KEY, x, jnp.flip(x, 0)) == 0  # the order of points means nothing


def test_discrepancy_is_the_double_sum_of_the_definition():
    x, y = points(7), points(5, seed=1) + 1
    k = lambda a, b: np.exp(-np.sum((np.float64(a)[:, None] - np.float64(b)) ** 2, -1) / (2 * 0.8**2))  # noqa: E731
    kxx, kyy = k(x, x), k(y, y)
    expected = (kxx.sum() - 7) / 42 + (kyy.sum() - 5) / 20 - 2 * k(x, y).mean()
    np.testing.assert_allclose(jax.jit(scores.maximum_mean_discrepancy)(x, y, bandwidth=0.8), expected, rtol=1e-4)


def test_discrepancy_does_not_depend_on_the_origin():
    x, y = points(100), points(100, seed=1) + 0.5
    here = scores.maximum_mean_discrepancy(x, y, bandwidth=0.5)
    there = scores.maximum_mean_discrepancy(x + 1000, y + 1000, bandwidth=0.5)
    np.testing.assert_allclose(there, here, rtol=2e-2)


def test_gradients_of_equal_sets_are_zero_and_of_others_point_the_way():
    x = points(20)
    distance = lambda x, y: scores.sliced_wasserstein(KEY, x, y)  # noqa: E731
    np.testing.assert_array_equal(jax.grad(distance)(x, x), np.zeros(x.shape))
    for f in (distance, lambda x, y: scores.maximum_mean_discrepancy(x, y, bandwidth=2.0), scores.frechet_distance):
        check_grads(lambda x, f=f: f(x, points(20, seed=1) + 1), (x,), order=1, modes=["rev"], rtol=2e-2, eps=1e-2)


def test_discrepancy_has_no_bias():
    def one(key):
        x, y = jax.random.normal(key, (2, 20, 2))
        return scores.maximum_mean_discrepancy(x, y, bandwidth=1.0)

    found = jax.jit(jax.vmap(one))(jax.random.split(KEY, 2000))
    assert abs(jnp.mean(found)) < 4 * jnp.std(found) / np.sqrt(2000)
    assert jnp.min(found) < 0


def test_frechet_distance_is_scipys():
    x, y = points(300), points(200, seed=1) @ jnp.array([[1.0, 0.5, 0], [0, 2, 0], [0.3, 0, 0.1]]) + 0.7
    a, b = np.cov(np.float64(x).T), np.cov(np.float64(y).T)
    difference = np.mean(np.float64(x), 0) - np.mean(np.float64(y), 0)
    expected = difference @ difference + np.trace(a + b - 2 * np.real(scipy.linalg.sqrtm(a @ b)))
    np.testing.assert_allclose(jax.jit(scores.frechet_distance)(x, y), expected, rtol=1e-4)


def test_frechet_distance_where_covariances_have_no_inverse():
    x = jnp.concatenate([points(50), jnp.zeros((50, 2))], 1)  # two features that never change
    assert scores.frechet_distance(x, x) < 1e-5
    few = points(3, 10)  # fewer points than features
    np.testing.assert_allclose(scores.frechet_distance(few, few + 2), 40, rtol=1e-4)
    same = jnp.ones((4, 2))
    np.testing.assert_allclose(scores.frechet_distance(same, 3 * same), 8, rtol=1e-5)


def test_half_precision_is_computed_in_single():
    x, y = points().astype(jnp.bfloat16), points(seed=1).astype(jnp.bfloat16)
    for f in (scores.frechet_distance, lambda x, y: scores.sliced_wasserstein(KEY, x, y)):
        assert f(x, y).dtype == jnp.bfloat16
        assert f(x, y) == f(x.astype(jnp.float32), y.astype(jnp.float32)).astype(jnp.bfloat16)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: scores.sliced_wasserstein(KEY, x, x[:5]), r"shape|Type-check"),
        (lambda x: scores.sliced_wasserstein(KEY, x[:0], x[:0]), "at least 1 of the points"),
        (lambda x: scores.sliced_wasserstein(KEY, x, x, num_projections=0), "num_projections is 0"),
        (lambda x: scores.sliced_wasserstein(KEY, x[None], x[None]), r"must be \[points, features\]|Type-check"),
        (lambda x: scores.frechet_distance(x[:1], x), "at least 2 of the points"),
        (lambda x: scores.frechet_distance(x[:, :2], x), r"as many features|Type-check"),
        (lambda x: scores.maximum_mean_discrepancy(x, x[:1], bandwidth=1.0), "at least 2 of the points"),
        (lambda x: scores.maximum_mean_discrepancy(x, x, bandwidth=jnp.ones(2)), r"must be a scalar|Type-check"),
    ],
)
def test_mistakes_are_refused(call, message):
    with pytest.raises((AssertionError, TypeError, ValueError), match=message):
        call(points())
