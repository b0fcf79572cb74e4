"""Nearest neighbours and what embeddings keep of them: against all pairs in float64, scikit-learn and small cases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.test_util import check_grads
from sklearn import manifold
from sklearn.neighbors import NearestNeighbors

from mathai.reduction import _distances
from mathai.reduction._selection import FEWEST, GROUP, smallest
from mathai.reduction.neighbors import METRICS, k_nearest, neighbor_recall, trustworthiness

EPSILON = float(jnp.finfo(jnp.float32).eps)
every_metric = pytest.mark.parametrize("metric", METRICS)
euclidean_only = pytest.mark.parametrize("metric", METRICS[:1])


def points(n, d, seed=0, offset=0.0):
    return (np.random.default_rng(seed).normal(size=(n, d)) + offset).astype(np.float32)


def far_groups(n=120, d=3):
    """Two groups 10⁴ apart, within which points are 10⁻² apart; there, float32 goes in steps of 10⁻³."""
    X = 0.01 * np.random.default_rng(0).normal(size=(n, d))
    X[n // 2 :] += 1e4
    return X.astype(np.float32)


def lattice(side, d, step=1.0):
    axes = np.meshgrid(*[step * np.arange(side)] * d, indexing="ij")
    return np.stack(axes, axis=-1).reshape(-1, d).astype(np.float32)


def distances_of(Q, X, metric="euclidean"):
    """The definitions in float64, pair by pair; a vector of zeros is at right angles to all that are not."""
    Q, X = np.asarray(Q, np.float64), np.asarray(X, np.float64)
    difference = Q[:, None] - X[None]
    if metric == "manhattan":
        return np.abs(difference).sum(-1)
    if metric == "cosine":
        norms = np.linalg.norm(Q, axis=1)[:, None] * np.linalg.norm(X, axis=1)[None]
        both = ~Q.any(1)[:, None] & ~X.any(1)[None]
        return np.where(both, 0, 1 - Q @ X.T / np.where(norms == 0, 1, norms))
    return np.sqrt((difference**2).sum(-1))


def assert_nearest(found, X, k, *, queries=None, metric="euclidean", rtol=4 * EPSILON, atol=0.0):
    """Any of those that tie, each point once and never itself, and the distances to what is named."""
    indices, distances = (np.asarray(a) for a in found)
    D = distances_of(X if queries is None else queries, X, metric)
    if queries is None:
        np.fill_diagonal(D, np.inf)
    assert indices.shape == distances.shape == (len(D), k)
    assert indices.dtype == np.int32
    assert indices.min(initial=0) >= 0
    assert indices.max(initial=0) < len(X)
    assert all(len(set(row)) == k for row in indices.tolist())
    distances = distances.astype(np.float64)
    exact = np.sort(D, axis=1)[:, :k]
    close = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol)
    close(np.take_along_axis(D, indices, axis=1), exact)
    close(distances, exact)
    assert np.all(np.diff(distances, axis=1) >= -rtol * distances[:, 1:] - atol)


# Values


def test_four_points_on_a_line_by_hand():
    X = jnp.array([[0.0], [1.0], [3.0], [7.0]])
    indices, distances = k_nearest(X, 3)
    np.testing.assert_array_equal(indices, [[1, 2, 3], [0, 2, 3], [1, 0, 3], [2, 1, 0]])
    np.testing.assert_array_equal(distances, [[1, 3, 7], [1, 2, 6], [2, 3, 4], [4, 6, 7]])
    indices, distances = k_nearest(X, 2, queries=jnp.array([[3.0], [6.0]]))
    np.testing.assert_array_equal(indices, [[2, 1], [3, 2]])
    np.testing.assert_array_equal(distances, [[0, 2], [1, 3]])


@pytest.mark.parametrize(
    ("metric", "X", "indices", "distances"),
    [
        ("euclidean", [[2, 1], [5, 5], [8, 8], [2, 2]], [3, 1, 2], [1, 5, np.sqrt(85)]),  # (0, 1), (3, 4), (6, 7) away
        ("manhattan", [[2, 1], [5, 5], [8, 8], [2, 2]], [3, 1, 2], [1, 7, 13]),
        ("cosine", [[5, 0], [3, 4], [4, 3], [0, 2]], [2, 1, 3], [0.2, 0.4, 1]),
        ("cosine", [[5, 0], [-1, 0], [9, 0], [0, 0]], [2, 3, 1], [0, 1, 2]),
        ("cosine", [[0, 0], [0, 0], [9, 0], [0, 1]], [1, 2, 3], [0, 1, 1]),
    ],
)
def test_every_metric_by_hand(metric, X, indices, distances):
    found = k_nearest(jnp.array(X, jnp.float32), 3, metric=metric)
    np.testing.assert_allclose(found[1][0], distances, rtol=4 * EPSILON)
    if len(set(distances)) == 3:
        np.testing.assert_array_equal(found[0][0], indices)
    assert found[0][0][0] == indices[0]


@every_metric
@pytest.mark.parametrize(("k", "block_size"), [(1, 1), (4, 10), (36, None), (36, 1000)])
def test_points_are_measured_against_all_pairs_in_float64(metric, k, block_size):
    """37 points: in 37 blocks, in 4 of which the last is not full, in one; k = 36 are all others."""
    X = points(37, 5)
    atol = 4 * EPSILON if metric == "cosine" else 0  # of unit vectors
    assert_nearest(k_nearest(X, k, metric=metric, block_size=block_size), X, k, metric=metric, atol=atol)


@every_metric
def test_points_are_those_of_scikit_learn(metric):
    X, queries, k = points(300, 8), points(45, 8, seed=1), 6
    peer = NearestNeighbors(n_neighbors=k, metric=metric).fit(X.astype(np.float64))
    for theirs, ours in [
        (peer.kneighbors(), k_nearest(X, k, metric=metric)),
        (peer.kneighbors(queries.astype(np.float64)), k_nearest(X, k, queries=queries, metric=metric)),
    ]:
        np.testing.assert_array_equal(ours[0], theirs[1])
        np.testing.assert_allclose(ours[1], theirs[0], rtol=1e-5, atol=4 * EPSILON)


@every_metric
@pytest.mark.parametrize(("k", "m"), [(1, 0), (1, 1), (23, 50)])
def test_queries_may_be_points_and_be_fewer_or_more(metric, k, m):
    """Not left out: a query that is a point has itself at distance 0."""
    X = points(23, 4)
    queries = np.concatenate([X[:5], points(45, 4, seed=1)])[:m]
    atol = 4 * EPSILON if metric == "cosine" else 0
    found = k_nearest(X, k, queries=queries, metric=metric, block_size=7)
    assert_nearest(found, X, k, queries=queries, metric=metric, atol=atol)
    np.testing.assert_array_equal(found[0][:5, 0], np.arange(5)[:m])
    np.testing.assert_allclose(found[1][:5, 0], 0, atol=atol)


@pytest.mark.parametrize(("n", "d"), [(2, 1), (2, 3), (5, 1), (3, 700), (4, 0)])
def test_the_smallest_sets(n, d):
    X = points(n, d)
    for metric in METRICS[:: 2 if d else 3]:
        assert_nearest(k_nearest(X, n - 1, metric=metric), X, n - 1, metric=metric, rtol=1e-5, atol=4 * EPSILON)


def test_the_differences_with_all_points_do_not_fill_the_memory():
    """800 · 799 · 784 of them would take 2 GB."""
    X = jax.ShapeDtypeStruct((800, 784), jnp.float32)
    analysis = jax.jit(lambda X: k_nearest(X, 799)).lower(X).compile().memory_analysis()
    assert analysis.temp_size_in_bytes < 200e6


# Groups of numbers, of which a few are looked through


@pytest.mark.parametrize("metric", ["euclidean", "manhattan"])
@pytest.mark.parametrize(("n", "block_size"), [(1500, 400), (1504, None)])
def test_many_points_are_selected_in_groups(metric, n, block_size):
    X, k = points(n, 3), 3
    assert n >= FEWEST * (k + 1 + _distances.SPARE)
    assert (n % GROUP == 0) == (n == 1504)
    assert_nearest(k_nearest(X, k, metric=metric, block_size=block_size), X, k, metric=metric)


@pytest.mark.parametrize(("metric", "step"), [("euclidean", 0.1), *[(metric, 1.0) for metric in METRICS]])
def test_many_points_may_tie(metric, step):
    """11³ of a lattice, each with 6 at one distance, and 26 for k = 8 of which 6 and 12 tie."""
    X = lattice(11, 3, step)
    for k in (3, 8):
        # in steps of 0.1 float32 holds 0.9 and 1 to 6e-8, of which 0.1 is the difference
        assert_nearest(k_nearest(X, k, metric=metric), X, k, metric=metric, atol=1e-6)


@pytest.mark.parametrize(("rows", "n", "k"), [(3, 50, 4), (2, 256, 4), (5, 257, 4), (4, 1000, 1), (1, 1011, 15)])
@pytest.mark.parametrize("kind", ["normal", "ties", "sorted", "constant"])
def test_the_smallest_of_rows_are_those_of_a_sort(rows, n, k, kind):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(rows, n)) if kind != "ties" else rng.integers(0, 9, (rows, n))
    values = {"sorted": np.sort(values)[:, ::-1], "constant": np.ones((rows, n))}.get(kind, values).astype(np.float32)
    found, columns = jax.jit(smallest, static_argnums=1)(values, k)
    np.testing.assert_array_equal(found, np.sort(values)[:, :k])
    np.testing.assert_array_equal(np.take_along_axis(values, np.asarray(columns), axis=1), found)
    assert all(len(set(row)) == k for row in np.asarray(columns).tolist())


# Duplicates


@pytest.mark.parametrize(
    ("metric", "n", "copies", "k"), [("euclidean", 30, 50, 3), *[(metric, 2, 60, 5) for metric in METRICS]]
)
def test_duplicates_are_neighbours_at_distance_0_and_no_point_is_its_own(metric, n, copies, k):
    """Of up to 60 at one place, more than are looked through; 1500 points are selected in groups."""
    X = np.tile(points(n, 4), (copies, 1))
    found = k_nearest(X, k, metric=metric, block_size=64)
    assert_nearest(found, X, k, metric=metric, atol=4 * EPSILON if metric == "cosine" else 0)
    np.testing.assert_array_equal(found[1], 0)
    np.testing.assert_array_equal(np.asarray(found[0]) % n, np.tile((np.arange(len(X)) % n)[:, None], (1, k)))


def test_beyond_all_duplicates_is_another_point():
    """Of 20 at one place and one at 3: 19 at distance 0 and then that one."""
    X = np.concatenate([np.full((20, 2), 5.0), [[5.0, 8.0]]]).astype(np.float32)
    indices, distances = k_nearest(X, 20)
    np.testing.assert_array_equal(distances, [[0] * 19 + [3]] * 20 + [[3] * 20])
    np.testing.assert_array_equal(indices[:20, -1], 20)
    assert_nearest((indices, distances), X, 20)


@every_metric
def test_points_that_are_all_the_same(metric):
    for value in (0.0, 0.1, 1e4):
        X = np.full((40, 3), value, np.float32)
        indices, distances = k_nearest(X, 4, metric=metric)
        np.testing.assert_array_equal(distances, 0)
        assert not np.any(np.asarray(indices) == np.arange(40)[:, None])


# Digits


@pytest.mark.parametrize(("metric", "n"), [("manhattan", 200), ("euclidean", 1500)])
def test_a_common_offset_costs_no_digits(metric, n):
    X = points(n, 3, offset=1e4)
    assert_nearest(k_nearest(X, 3, metric=metric), X, 3, metric=metric)
    queries = points(20, 3, seed=1, offset=1e4)
    assert_nearest(k_nearest(X, 3, queries=queries, metric=metric), X, 3, queries=queries, metric=metric)


@pytest.mark.parametrize(("n", "block_size"), [(120, None), (1500, 50)])
def test_groups_far_from_their_mean_keep_their_neighbours(n, block_size):
    """About the mean, 5 · 10³ away, squares step by 2 where squared distances are 10⁻⁴."""
    X = far_groups(n)
    assert_nearest(k_nearest(X, 3, block_size=block_size), X, 3, atol=1e-9)
    found = k_nearest(X, 3, queries=X[::7], block_size=block_size)
    assert_nearest(found, X, 3, queries=X[::7], atol=1e-9)


@pytest.mark.parametrize("place", [0, 700])
@pytest.mark.parametrize("far", [1e4, 1e6])
def test_one_point_far_from_all_others_costs_them_nothing(place, far):
    """The first, too, though means are taken of differences from it."""
    X = points(1500, 3)
    X[place] = far
    assert_nearest(k_nearest(X, 3), X, 3)


def test_directions_close_to_each_other_keep_their_neighbours():
    """Lengths of 1 in float32 hold differences of 10⁻³ to 10⁻⁴ of themselves."""
    X = (np.array([[1.0, 1.0, 1.0]]) + 1e-3 * points(300, 3)).astype(np.float32)
    assert_nearest(k_nearest(X, 2, metric="cosine"), X, 2, metric="cosine", rtol=1e-2, atol=1e-11)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@every_metric
def test_neighbours_do_not_depend_on_the_unit(metric, scale):
    X = points(100, 3)
    X = (X * np.float32(scale)).astype(np.float32)
    atol = 4 * EPSILON if metric == "cosine" else 0
    assert_nearest(k_nearest(X, 3, metric=metric), X, 3, metric=metric, atol=atol)


def test_float64_stays_float64():
    with jax.enable_x64(True):
        X = np.random.default_rng(0).normal(size=(60, 3)) + 1e6
        for metric in METRICS[::2]:
            indices, distances = k_nearest(X, 4, metric=metric)
            assert distances.dtype == jnp.float64
            assert_nearest((indices, distances), X, 4, metric=metric, rtol=1e-14)
        assert trustworthiness(X, X, 4).dtype == neighbor_recall(X, X, 4).dtype == jnp.float64
        assert k_nearest(X.astype(np.float32), 4)[1].dtype == jnp.float32
        assert k_nearest(np.arange(12).reshape(6, 2), 1)[1].dtype == jnp.float64


@pytest.mark.parametrize(
    ("metric", "dtype"),
    [("euclidean", "bfloat16"), ("euclidean", "float16"), ("cosine", "bfloat16"), ("manhattan", "float16")],
)
def test_half_precision_is_measured_in_float32_and_rounded_once(metric, dtype):
    X = jnp.asarray(points(50, 4, offset=3.0), dtype)
    epsilon = float(jnp.finfo(dtype).eps)
    indices, distances = k_nearest(X, 5, metric=metric)
    assert distances.dtype == dtype
    whole = X.astype(jnp.float32)
    np.testing.assert_array_equal(indices, k_nearest(whole, 5, metric=metric)[0])
    D = np.take_along_axis(distances_of(whole, whole, metric), np.asarray(indices), axis=1)
    np.testing.assert_allclose(np.asarray(distances, np.float64), D, rtol=0.51 * epsilon, atol=1e-6)
    assert_nearest((indices, distances), whole, 5, metric=metric, rtol=epsilon, atol=1e-6)
    assert trustworthiness(X, X, 5).dtype == neighbor_recall(X, X, 5).dtype == dtype


@pytest.mark.parametrize(("metric", "dtype"), [("euclidean", np.int32), ("manhattan", np.uint8), ("cosine", bool)])
def test_integers_count_as_floats(metric, dtype):
    """As they do not, 3 − 5 is 254."""
    X = np.random.default_rng(0).integers(0, 2 if dtype is bool else 200, (40, 3)).astype(dtype)
    indices, distances = k_nearest(X, 4, metric=metric)
    assert distances.dtype == jnp.float32
    assert_nearest((indices, distances), X.astype(np.float32), 4, metric=metric, atol=4 * EPSILON)


# Transformations


@pytest.mark.parametrize(("n", "metric"), [(1500, "euclidean"), *[(30, metric) for metric in METRICS]])
def test_one_device_finds_the_same_again_bit_for_bit(metric, n):
    X = np.tile(points(n // 2, 3), (2, 1))
    first, second = (k_nearest(X, 3, metric=metric) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)


@every_metric
def test_jit_and_vmap_give_what_each_gives_alone(metric):
    """With the far groups in the batch, all take differences; with queries alike."""
    sets = np.stack([points(120, 3), far_groups(), np.tile(points(6, 3), (20, 1)), points(120, 3, offset=1e4)])
    queries = sets[:, ::5] + np.float32(0.001)
    find = functools.partial(k_nearest, metric=metric, block_size=50)
    together = jax.jit(jax.vmap(lambda X: find(X, 3)))(sets)
    of_queries = jax.vmap(lambda X, Q: find(X, 3, queries=Q))(sets, queries)
    shared = jax.vmap(lambda Q: find(sets[0], 3, queries=Q))(queries)
    close = functools.partial(np.testing.assert_allclose, rtol=4 * EPSILON, atol=4 * EPSILON)
    for i, X in enumerate(sets):
        np.testing.assert_array_equal(together[1][i].argsort(1), np.arange(3)[None].repeat(120, 0))
        close(together[1][i], find(X, 3)[1])
        close(of_queries[1][i], find(X, 3, queries=queries[i])[1])
        close(shared[1][i], find(sets[0], 3, queries=queries[i])[1])
        if i != 2:  # of duplicates any may be found
            np.testing.assert_array_equal(together[0][i], find(X, 3)[0])
            np.testing.assert_array_equal(of_queries[0][i], find(X, 3, queries=queries[i])[0])
    if metric == "euclidean":
        assert_nearest([a[1] for a in together], sets[1], 3, atol=1e-9)


def test_a_branch_that_no_member_of_a_batch_needs_stays_a_branch():
    """Under `vmap` alone, `cond` becomes `select` and takes both."""
    program = str(jax.make_jaxpr(jax.vmap(lambda X: k_nearest(X, 3)))(np.zeros((2, 40, 3), np.float32)))
    assert " cond[" in program


@every_metric
def test_derivatives_agree_with_finite_differences(metric):
    with jax.enable_x64(True):
        X, queries = (x.astype(np.float64) for x in (points(9, 3), points(4, 3, seed=1)))
        measure = jax.jit(
            lambda X, Q: (k_nearest(X, 3, metric=metric)[1], k_nearest(X, 3, queries=Q, metric=metric)[1])
        )
        check_grads(measure, (X, queries), 1)
        slope = jax.grad(lambda X: jnp.sum(k_nearest(X, 3, metric=metric)[1]))
        batch = jax.jit(jax.vmap(slope))(np.stack([X, 2 * X]))
        np.testing.assert_allclose(batch[0], slope(X), rtol=1e-12, atol=1e-14)


def test_the_gradient_is_along_the_differences_and_leaves_others_alone():
    """∂‖q − x‖/∂q = (q − x)/‖q − x‖, of the one row whose distance is asked for and its neighbour."""
    X = points(20, 3, offset=100.0)
    (indices, distances), slope = k_nearest(X, 2), jax.grad(lambda X: k_nearest(X, 2)[1][7, 1])(X)
    expected = np.zeros_like(X)
    expected[7] = (X[7] - X[indices[7, 1]]) / distances[7, 1]
    expected[indices[7, 1]] = -expected[7]
    np.testing.assert_allclose(slope, expected, rtol=1e-6)


@euclidean_only
def test_the_derivative_at_duplicates_is_0(metric):
    X = np.tile(points(5, 3), (2, 1))
    np.testing.assert_array_equal(jax.grad(lambda X: jnp.sum(k_nearest(X, 1, metric=metric)[1]))(X), 0)
    slopes = jax.grad(lambda X: jnp.sum(k_nearest(X, 3, metric=metric)[1]))(X)
    assert np.isfinite(slopes).all()
    tangents = jax.jvp(lambda X: k_nearest(X, 1, metric=metric)[1], (X,), (points(10, 3, seed=1),))[1]
    if metric == "euclidean":
        np.testing.assert_array_equal(tangents, 0)
    assert np.isfinite(tangents).all()


def test_the_derivative_of_a_cosine_at_zeros_is_0():
    """There is none: 1 − cos is 1 there and anything beside it."""
    X = jnp.array([[0.0, 0.0], [1.0, 2.0], [3.0, 1.0], [0.0, 0.0]])
    slopes = jax.grad(lambda X: jnp.sum(k_nearest(X, 3, metric="cosine")[1]))(X)
    np.testing.assert_array_equal(slopes[::3], 0)
    assert np.isfinite(slopes).all()


def test_far_groups_have_derivatives():
    X = far_groups()
    slopes = jax.jit(jax.grad(lambda X: jnp.sum(k_nearest(X, 1)[1])))(X)
    indices, distances = k_nearest(X, 1)
    units = (X - X[indices[:, 0]]) / np.where(distances == 0, 1, distances)
    expected = units.astype(np.float64)
    np.add.at(expected, np.asarray(indices[:, 0]), -units)
    np.testing.assert_allclose(slopes, expected, atol=1e-5)


# Trustworthiness


def test_trustworthiness_by_hand():
    """The last of five goes to 5, where 2.5 is nearest: of rank 2 in the data. All others have one of rank 1."""
    X = jnp.array([[0.0], [1.0], [2.5], [8.0], [9.0]])
    Y = jnp.array([[0.0], [1.0], [2.5], [9.0], [5.0]])
    np.testing.assert_allclose(trustworthiness(X, Y, 1), 1 - 2 / 30, rtol=1e-6)


@pytest.mark.parametrize(("n", "d", "k"), [(50, 4, 1), (51, 30, 25), (333, 10, 7), (3, 2, 1)])
def test_trustworthiness_is_that_of_scikit_learn(n, d, k, monkeypatch):
    """In blocks of 20 rows, of which the last is not full."""
    monkeypatch.setattr(_distances, "BLOCK_BYTES", 20 * 4 * max(n, k * d))
    X = points(n, d)
    found = jax.jit(lambda X, Y: trustworthiness(X, Y, k))
    for Y in (points(n, 2, seed=1), X[:, :2]):
        expected = manifold.trustworthiness(X.astype(np.float64), Y.astype(np.float64), n_neighbors=k)
        np.testing.assert_allclose(found(X, Y), expected, atol=2e-5)  # distances within rounding count as one


def test_of_shuffled_embeddings_about_half_is_trusted():
    X = points(400, 5)
    Y = np.random.default_rng(1).permutation(X)
    expected = manifold.trustworthiness(X.astype(np.float64), Y.astype(np.float64), n_neighbors=10)
    np.testing.assert_allclose(trustworthiness(X, Y, 10), expected, atol=2e-5)
    np.testing.assert_allclose(expected, 0.5, atol=0.05)


@pytest.mark.parametrize(
    "X",
    [
        points(64, 3),
        points(64, 3, offset=1e4),
        lattice(4, 3),
        lattice(4, 3, 0.1),
        np.tile(points(16, 3), (4, 1)),
        np.zeros((64, 3), np.float32),
        far_groups(64),
    ],
    ids=["random", "offset", "lattice", "decimal_lattice", "duplicates", "one_place", "far_groups"],
)
def test_what_is_its_own_embedding_is_trusted_wholly(X):
    """Those at one distance share the lower rank, so that it matters not which of them are the neighbours."""
    for k in (1, 5):
        assert trustworthiness(X, X, k) == 1
        assert trustworthiness(X, X[:, ::-1], k) == 1


def test_a_batch_of_embeddings_is_trusted_as_each_alone():
    X = np.stack([points(64, 3), far_groups(64), lattice(4, 3)])
    Y = np.stack([X[0], X[1], points(64, 3, seed=1)])
    values = jax.jit(jax.vmap(lambda X, Y: trustworthiness(X, Y, 5)))(X, Y)
    np.testing.assert_array_equal(values[:2], 1)
    np.testing.assert_allclose(values[2], trustworthiness(X[2], Y[2], 5), rtol=1e-6)


def test_far_groups_are_trusted_as_by_scikit_learn():
    """Shuffled within, which products do not see; in steps of 2⁻¹⁰, which float32 holds in both groups."""
    rng = np.random.default_rng(0)
    X = rng.choice(2**10, (60, 2), replace=False) * 2.0**-10
    X[30:] += 2.0**13
    Y = X.copy()
    Y[:30], Y[30:] = rng.permutation(Y[:30]), rng.permutation(Y[30:])
    expected = manifold.trustworthiness(X, Y, n_neighbors=4)
    assert expected < 0.9
    np.testing.assert_allclose(trustworthiness(X.astype(np.float32), Y.astype(np.float32), 4), expected, atol=1e-3)


# Recall


def test_neighbor_recall_by_hand():
    """At 0, 1, 3, 7 the nearest of each are numbers 1, 0, 1, 2; at 0, 1, 9, 7 they are 1, 0, 3, 2."""
    X, Y = jnp.array([[0.0], [1.0], [3.0], [7.0]]), jnp.array([[0.0], [1.0], [9.0], [7.0]])
    np.testing.assert_allclose(neighbor_recall(X, Y, 1), 0.75)
    np.testing.assert_allclose(neighbor_recall(X, Y, 3), 1)


@pytest.mark.parametrize(("n", "k"), [(40, 1), (40, 39), (333, 12)])
def test_neighbor_recall_is_that_of_sets(n, k):
    X, Y = points(n, 6), points(n, 2, seed=1)
    sets = []
    for Z in (X, Y):
        D = distances_of(Z, Z)
        np.fill_diagonal(D, np.inf)
        sets.append([set(row) for row in np.argsort(D, axis=1)[:, :k]])
    expected = np.mean([len(a & b) / k for a, b in zip(*sets, strict=True)])
    for recall in (neighbor_recall, jax.jit(neighbor_recall, static_argnums=2)):
        np.testing.assert_allclose(recall(X, Y, k), expected, rtol=1e-6)
    batched = jax.vmap(lambda Y: neighbor_recall(X, Y, k))(np.stack([Y, 2 * Y]))
    np.testing.assert_allclose(batched, [expected, expected], rtol=1e-6)


def test_rotated_scaled_and_moved_all_neighbours_remain():
    X = points(200, 3)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0].astype(np.float32)
    Y = 7 * X @ rotation + 3
    assert neighbor_recall(X, Y, 10) == 1
    assert trustworthiness(X, Y, 10) == 1


# Refusals


@pytest.mark.parametrize(("n", "metric"), [(1500, "euclidean"), *[(5, metric) for metric in METRICS]])
def test_traced_nan_is_nan_and_names_points_that_are(n, metric):
    X = points(n, 3)
    bad = X.copy()
    bad[2, 1] = np.nan
    indices, distances = jax.jit(lambda X: k_nearest(X, 3, metric=metric))(bad)
    assert np.isnan(distances).all()
    assert np.asarray(indices).min() >= 0
    assert np.asarray(indices).max() < n
    queries = np.concatenate([bad[2:3], X[:2]])
    distances = jax.jit(lambda Q: k_nearest(X, 3, queries=Q, metric=metric)[1])(queries)
    assert np.isnan(distances[0]).all()
    np.testing.assert_allclose(distances[1:], k_nearest(X, 3, queries=X[:2], metric=metric)[1], atol=4 * EPSILON)


def test_an_embedding_that_is_nan_is_neither_trusted_nor_recalled():
    X, bad = points(9, 3), np.full((9, 2), np.nan, np.float32)
    for measure in (trustworthiness, neighbor_recall):
        assert np.isnan(jax.jit(lambda X, Y: measure(X, Y, 2))(X, bad))  # noqa: B023
        assert np.isnan(jax.jit(lambda X, Y: measure(X, Y, 2))(bad, X))  # noqa: B023


FIVE, NAN = np.zeros((5, 3), np.float32), np.array([[1, 2], [0, 1], [0, np.nan], [np.inf, 1]], np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: k_nearest(FIVE, 0), "k is 0; it must be at least 1 and at most 4"),
        (lambda: k_nearest(FIVE, -1), "k is -1"),
        (lambda: k_nearest(FIVE, 5), "k is 5; it must be at least 1 and at most 4"),
        (lambda: k_nearest(FIVE, 6, queries=FIVE), "k is 6; it must be at least 1 and at most 5"),
        (lambda: k_nearest(FIVE[:1], 1), "k is 1; .*at most 0"),
        (lambda: k_nearest(FIVE[:0], 1), "k is 1; it must be"),
        (lambda: k_nearest(FIVE, 2, metric="hamming"), "metric 'hamming' is unknown; use one of euclidean, cosine"),
        (lambda: k_nearest(FIVE, 2, block_size=0), "block_size is 0; it must be at least 1"),
        (lambda: k_nearest(NAN, 1), "k_nearest: X: 2 of 4 rows hold NaN or infinite numbers, row 2 the first"),
        (lambda: k_nearest(NAN[:2], 1, queries=NAN[1:3]), "k_nearest: queries: 1 of 2 rows hold NaN .*row 1 the first"),
        (lambda: jax.jit(lambda: k_nearest(NAN, 1))(), "2 of 4 rows"),
        (lambda: trustworthiness(FIVE, FIVE, 0), "trustworthiness: k is 0"),
        (lambda: trustworthiness(FIVE, FIVE, 3), "trustworthiness: k is 3; it must be less than half of the 5 points"),
        (lambda: trustworthiness(FIVE[:4], FIVE[:4], 2), "it must be less than half of the 4 points"),
        (lambda: trustworthiness(FIVE, FIVE), "trustworthiness: k is 15; it must be at least 1 and at most 4"),
        (lambda: trustworthiness(NAN, FIVE[:4], 1), "trustworthiness: X: 2 of 4 rows hold NaN"),
        (lambda: trustworthiness(FIVE[:4], NAN, 1), "trustworthiness: Y: 2 of 4 rows hold NaN"),
        (lambda: neighbor_recall(FIVE, FIVE, 5), "neighbor_recall: k is 5; it must be at least 1 and at most 4"),
        (lambda: neighbor_recall(FIVE, FIVE, 0), "neighbor_recall: k is 0"),
        (lambda: neighbor_recall(FIVE[:4], NAN, 1), "neighbor_recall: Y: 2 of 4 rows hold NaN"),
    ],
)
def test_what_has_no_neighbours_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: k_nearest(FIVE[:, 0], 1),
        lambda: k_nearest(FIVE[None], 1),
        lambda: k_nearest(FIVE, 1, queries=FIVE[:, 0]),
        lambda: k_nearest(FIVE, 1, queries=FIVE[:, :2]),
        lambda: k_nearest(FIVE, 1, queries=FIVE[:, :1]),
        lambda: trustworthiness(FIVE, FIVE[:4], 1),
        lambda: trustworthiness(FIVE, FIVE[:, 0], 1),
        lambda: neighbor_recall(FIVE, FIVE[:1], 1),
        lambda: neighbor_recall(FIVE[0], FIVE, 1),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call):
    with pytest.raises((AssertionError, TypeError), match=r"shape|rank|Type-check"):
        call()


# Devices; more than one of them are in tests/multi


def mesh_of_one(kind=AxisType.Auto):
    return jax.make_mesh((1,), ("data",), axis_types=(kind,))


@pytest.mark.parametrize("metric", METRICS)
def test_a_mesh_of_one_device_finds_what_it_finds_alone(metric):
    X = points(40, 3, offset=10.0)
    for queries in (None, points(7, 3, seed=1, offset=10.0)):
        found = k_nearest(X, 5, queries=queries, metric=metric, mesh=mesh_of_one())
        for ours, alone in zip(found, k_nearest(X, 5, queries=queries, metric=metric), strict=True):
            np.testing.assert_allclose(ours, alone, rtol=1e-6, atol=1e-7)


def test_a_mesh_without_the_axis_or_with_types_is_refused():
    with pytest.raises(ValueError, match=r"no axis 'rows'; its axes are data"):
        k_nearest(points(9, 2), 2, mesh=mesh_of_one(), axis="rows")
    with pytest.raises(ValueError, match=r"axis_types=\(jax.sharding.AxisType.Auto,\) \* 1"):
        k_nearest(points(9, 2), 2, mesh=mesh_of_one(AxisType.Explicit))
