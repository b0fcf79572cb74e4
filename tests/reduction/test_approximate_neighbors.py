"""Approximate nearest neighbours: lists that are true whatever is missed, and how little is, against scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from mathai.reduction import _approximate_neighbors
from mathai.reduction.neighbors import METRICS, approximate_nearest, k_nearest

N, D, K = 1500, 6, 6
DEFAULTS = {"EXACT_BELOW": 24576, "LEAF": 128, "CANDIDATES": 4096}
every_metric = pytest.mark.parametrize("metric", METRICS)


@pytest.fixture(scope="module")
def small():
    """Leaves and searches of a few points, so that 1500 are many: 9 of 64 leaves are looked through."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"EXACT_BELOW": 1000, "LEAF": 24, "CANDIDATES": 200}.items():
            patch.setattr(_approximate_neighbors, name, value)
        yield


@pytest.fixture(scope="module")
def traced(small):
    """One compilation for the tests that share a shape."""
    return jax.jit(lambda key, X: approximate_nearest(key, X, K))


def clusters(n=N, d=D, seed=0, width=4):
    """Groups of different spread, each of fewer dimensions than the space."""
    rng = np.random.default_rng(seed)
    centres, bases = rng.normal(size=(9, d)), rng.normal(size=(9, width, d))
    which = rng.integers(0, 9, n)
    points = 2 * centres[which] + np.einsum("nk,nkd->nd", rng.normal(size=(n, width)), bases[which])
    return (points + 0.1 * rng.normal(size=(n, d))).astype(np.float32)


def listed_distances(X, indices, metric="euclidean"):
    """The definitions in float64, of the pairs that are listed."""
    X = np.asarray(X, np.float64)
    own, others = X[:, None], X[np.asarray(indices)]
    if metric == "manhattan":
        return np.abs(own - others).sum(-1)
    if metric == "cosine":
        return 1 - (own * others).sum(-1) / (np.linalg.norm(own, axis=-1) * np.linalg.norm(others, axis=-1))
    return np.sqrt(((own - others) ** 2).sum(-1))


def assert_true_lists(found, X, k, metric="euclidean", rtol=1e-5, atol=1e-6):
    """Each names k others once, nearest first, with the distances that they have."""
    indices, distances = (np.asarray(a) for a in found)
    n = len(X)
    assert indices.shape == distances.shape == (n, k)
    assert indices.dtype == np.int32
    assert indices.min() >= 0
    assert indices.max() < n
    assert not np.any(indices == np.arange(n)[:, None])
    assert all(len(set(row)) == k for row in indices.tolist())
    assert np.all(np.diff(distances.astype(np.float64), axis=1) >= 0)
    np.testing.assert_allclose(distances.astype(np.float64), listed_distances(X, indices, metric), rtol=rtol, atol=atol)


def recall_of(indices, X, k, metric="euclidean"):
    peer = NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(np.asarray(X, np.float64))
    theirs = peer.kneighbors(return_distance=False)
    return np.mean(np.any(np.asarray(indices)[:, :, None] == theirs[:, None, :], axis=-1))


# What is found


@every_metric
def test_nearly_all_neighbours_of_scikit_learn_are_found(small, metric):
    """At random, 6 of 1500 would be found 0.4 % of the time; of the 216 looked through, 14 %."""
    X = clusters()
    found = approximate_nearest(jax.random.key(0), X, K, metric=metric)
    assert_true_lists(found, X, K, metric)
    assert recall_of(found[0], X, K, metric) > 0.97


def test_rounds_and_trees_find_more(small):
    X = clusters(1300, 24, width=20)
    recalls = []
    for num_trees, num_rounds in [(1, 0), (2, 1)]:
        found = approximate_nearest(jax.random.key(1), X, K, num_trees=num_trees, num_rounds=num_rounds)
        assert_true_lists(found, X, K)
        recalls.append(recall_of(found[0], X, K))
    assert recalls[0] < 0.9
    assert recalls[1] > recalls[0] + 0.05


@pytest.mark.parametrize(("n", "k"), [(1000, 1), (1601, 30)])
def test_any_number_of_points_and_neighbours(small, n, k):
    """Halves of odd groups share a point, which is still named once; 30 are more than introduce each other."""
    X = clusters(n)
    found = approximate_nearest(jax.random.key(2), X, k)
    assert_true_lists(found, X, k)
    assert recall_of(found[0], X, k) > 0.95


@every_metric
def test_few_points_are_searched_exactly(metric):
    X = clusters(120)
    for n, k in [(2, 1), (120, 9)]:
        ours = approximate_nearest(jax.random.key(0), X[:n], k, metric=metric)
        jax.tree.map(np.testing.assert_array_equal, ours, k_nearest(X[:n], k, metric=metric))


def test_lists_that_are_long_beside_the_set_are_searched_exactly(small):
    """The leaves that one looks through would have to be more than half of all."""
    X = clusters(1100)
    ours = approximate_nearest(jax.random.key(0), X, 200)
    jax.tree.map(np.testing.assert_array_equal, ours, k_nearest(X, 200))


# Duplicates and digits


def test_duplicates_are_neighbours_at_distance_0(traced):
    X = np.tile(clusters(150), (10, 1))
    found = traced(jax.random.key(0), X)
    assert_true_lists(found, X, K)
    assert np.mean(np.asarray(found[0]) % 150 == np.arange(N)[:, None] % 150) > 0.99
    assert np.mean(np.asarray(found[1]) == 0) > 0.99


def test_points_that_are_all_the_same(traced):
    X = np.full((N, D), 7.0, np.float32)
    assert_true_lists(traced(jax.random.key(0), X), X, K)


def test_groups_far_from_each_other_keep_their_neighbours(traced):
    """10⁴ apart and 1 wide: squares about a common mean go in steps of 2."""
    X = np.random.default_rng(0).normal(size=(N, D))
    X[: N // 2] += 1e4
    X = X.astype(np.float32)
    found = traced(jax.random.key(0), X)
    assert_true_lists(found, X, K)
    assert recall_of(found[0], X, K) > 0.95


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_neighbours_do_not_depend_on_the_unit(traced, scale):
    X = clusters() * np.float32(scale)
    found = traced(jax.random.key(0), X)
    assert_true_lists(found, X, K, atol=0)
    assert recall_of(found[0], X / scale, K) > 0.97


def test_half_precision_is_measured_in_float32_and_rounded_once(small):
    X = jnp.asarray(clusters(), jnp.bfloat16)
    indices, distances = approximate_nearest(jax.random.key(0), X, K)
    assert distances.dtype == jnp.bfloat16
    whole = np.asarray(X.astype(jnp.float32))
    assert_true_lists((indices, distances), whole, K, rtol=0.51 * float(jnp.finfo(jnp.bfloat16).eps))
    assert np.mean(listed_distances(whole, indices)) < 1.02 * np.mean(
        k_nearest(whole, K)[1]
    )  # of rounded ones many tie


def test_integers_count_as_floats(small):
    X = np.random.default_rng(0).integers(0, 200, (1200, 3)).astype(np.uint8)
    indices, distances = approximate_nearest(jax.random.key(0), X, 4, num_rounds=0)
    assert distances.dtype == jnp.float32
    assert_true_lists((indices, distances), X, 4)


def test_float64_stays_float64(small):
    with jax.enable_x64(True):
        X = clusters().astype(np.float64) + 1e6
        found = approximate_nearest(jax.random.key(0), X, K)
        assert found[1].dtype == jnp.float64
        assert_true_lists(found, X, K, rtol=1e-13, atol=1e-13)
        assert recall_of(found[0], X, K) > 0.97


# Transformations


def test_a_key_finds_the_same_again_bit_for_bit_also_under_jit(traced):
    X, key = clusters(), jax.random.key(3)
    first = approximate_nearest(key, X, K)
    jax.tree.map(np.testing.assert_array_equal, first, approximate_nearest(key, X, K))
    jax.tree.map(np.testing.assert_array_equal, first, traced(key, X))


def test_a_batch_finds_what_each_finds_alone(traced):
    key, sets = jax.random.key(3), np.stack([clusters(), clusters(seed=1)])
    together = jax.jit(jax.vmap(lambda X: approximate_nearest(key, X, K)))(sets)
    for i, X in enumerate(sets):
        found = [a[i] for a in together]
        assert_true_lists(found, X, K)
        assert np.mean(np.asarray(found[0]) == np.asarray(traced(key, X)[0])) > 0.99  # sums may round otherwise


def test_the_gradient_is_along_the_differences_and_leaves_others_alone(small):
    """∂‖q − x‖/∂q = (q − x)/‖q − x‖, of the one row whose distance is asked for and its neighbour."""
    X, key = clusters(), jax.random.key(0)

    def one_distance(X):
        indices, distances = approximate_nearest(key, X, K, num_rounds=0)
        return distances[7, 1], (indices[7, 1], distances[7, 1])

    slope, (index, distance) = jax.jit(jax.grad(one_distance, has_aux=True))(X)
    expected = np.zeros_like(X)
    expected[7] = (X[7] - X[index]) / distance
    expected[index] = -expected[7]
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_traced_nan_is_nan_and_names_points_that_are(traced, bad):
    X = clusters()
    X[5, 1] = bad
    indices, distances = traced(jax.random.key(0), X)
    assert np.isnan(distances).all()
    assert np.asarray(indices).min() >= 0
    assert np.asarray(indices).max() < N


def test_memory_is_bounded_by_lists_and_not_by_pairs(monkeypatch):
    """All pairs of 100 000 points would take 40 GB, and the neighbours of all neighbours 5 GB."""
    for name, value in DEFAULTS.items():
        monkeypatch.setattr(_approximate_neighbors, name, value)
    X = jax.ShapeDtypeStruct((100_000, 50), jnp.float32)
    find = jax.jit(lambda X: approximate_nearest(jax.random.key(0), X, 15))
    analysis = find.lower(X).compile().memory_analysis()
    assert analysis.temp_size_in_bytes < 250e6


# Refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k is 0; it must be at least 1 and at most 4"),
        ({"k": 5}, "k is 5; it must be at least 1 and at most 4"),
        ({"metric": "hamming"}, "metric 'hamming' is unknown; use one of euclidean"),
        ({"num_trees": 0}, "num_trees is 0; it must be at least 1"),
        ({"num_rounds": -1}, "num_rounds is -1; it must be at least 0"),
        ({"X": np.array([[0.0], [np.nan]])}, "1 of 2 rows hold NaN"),
        ({"X": np.float32([[3e38], [-3e38]])}, "approximate_nearest: distances overflow float32"),
    ],
)
def test_mistakes_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        approximate_nearest(jax.random.key(0), **{"X": np.zeros((5, 2), np.float32), "k": 1, **arguments})


def test_shapes_that_do_not_fit_are_errors():
    with pytest.raises((AssertionError, TypeError), match=r"rank|Type-check"):
        approximate_nearest(jax.random.key(0), np.zeros(5, np.float32), 1)


@pytest.mark.slow
def test_recall_with_the_constants_as_they_are():
    """Ten dimensions bent into fifty, ten clusters: beside scikit-learn's search of some rows."""
    rng = np.random.default_rng(0)
    centers, labels = 6 * rng.normal(size=(10, 10)), np.arange(30_000) % 10
    latent = centers[labels] + rng.normal(size=(30_000, 10))
    X = np.sin(latent @ rng.normal(size=(10, 50)) / 4).astype(np.float32) * 4 + latent @ rng.normal(size=(10, 50)) / 3
    X = X.astype(np.float32)
    indices, _ = approximate_nearest(jax.random.key(0), X, 14)
    some = rng.permutation(30_000)[:500]
    search = NearestNeighbors(n_neighbors=15, algorithm="brute").fit(X)
    exact = search.kneighbors(X[some])[1][:, 1:]
    assert (
        np.mean([len(np.intersect1d(a, b)) / 14 for a, b in zip(exact, np.asarray(indices)[some], strict=True)]) > 0.95
    )
