"""Formulas of UMAP beside SciPy, dense float64 arithmetic and numbers worked by hand."""

import itertools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize

from mathai.reduction import _edge_ranks, _fuzzy_graph, _layout, _spectral, umap
from mathai.reduction.umap import FuzzyGraph


def dense(graph, n):
    """The matrix of a graph; a pair that is listed twice would count twice."""
    W = np.zeros((n, n))
    np.add.at(W, (np.asarray(graph.rows), np.asarray(graph.columns)), np.asarray(graph.weights, float))
    return W


def sparse(W):
    """The graph of a matrix."""
    rows, columns = np.nonzero(W)
    return FuzzyGraph(jnp.asarray(rows), jnp.asarray(columns), jnp.asarray(W[rows, columns], jnp.float32))


def lists(n, k, d=4, seed=0):
    """Neighbours of random points with the points first, by sorting all distances."""
    X = np.random.default_rng(seed).normal(size=(n, d))
    distances = np.linalg.norm(X[:, None] - X[None], axis=-1)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(distances, order, axis=1)


def random_graph(n, seed=0, density=0.2):
    W = np.random.default_rng(seed).uniform(size=(n, n)) * (np.random.default_rng(seed + 1).random((n, n)) < density)
    W = np.triu(W, 1)
    return W + W.T


# The curve


@pytest.mark.parametrize(
    ("spread", "min_dist"), [(1.0, 0.1), (1.0, 0.0), (1.0, 0.5), (1.0, 0.99), (2.0, 0.25), (0.5, 0.5)]
)
def test_the_curve_is_the_least_squares_fit(spread, min_dist):
    d = np.linspace(0, 3 * spread, 300)
    target = np.where(d < min_dist, 1, np.exp(-(d - min_dist) / spread))
    expected, _ = scipy.optimize.curve_fit(lambda x, a, b: 1 / (1 + a * x ** (2 * b)), d, target, p0=(1, 1))
    np.testing.assert_allclose(umap.find_ab(spread, min_dist), expected, rtol=1e-3)


def test_curves_of_many_distances_are_found_at_once():
    found = jax.jit(jax.vmap(lambda m: jnp.stack(umap.find_ab(1.0, m))))(jnp.array([0.0, 0.1, 0.5]))
    np.testing.assert_allclose(found[1], [1.57694, 0.89506], rtol=1e-3)  # the numbers that the paper's program prints
    assert np.all(np.diff(found[:, 0]) < 0)


@pytest.mark.parametrize(
    ("spread", "min_dist", "message"),
    [(0.0, 0.0, "spread is 0.0"), (1.0, -0.1, "min_dist is -0.1"), (1.0, 1.5, "must not be above spread")],
)
def test_a_curve_that_cannot_be_is_refused(spread, min_dist, message):
    with pytest.raises(ValueError, match=message):
        umap.find_ab(spread, min_dist)


# Neighbourhoods


def test_widths_solve_their_equation():
    _, distances = lists(30, 8)
    rho, sigma = umap.smooth_knn(distances)
    np.testing.assert_allclose(rho, distances[:, 1], rtol=1e-6)
    for row, r, s in zip(distances, rho, sigma, strict=True):
        excess = np.maximum(row[1:] - float(r), 0)
        exact = scipy.optimize.brentq(lambda w, e=excess: np.sum(np.exp(-e / w)) - 3.0, 1e-3, 1e3)  # log₂ 8
        np.testing.assert_allclose(s, exact, rtol=1e-4)


def test_the_nearest_distance_above_zero_is_where_a_neighbourhood_begins():
    rho, _ = umap.smooth_knn(jnp.array([[0.0, 0.0, 0.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0, 0.0]]))
    assert rho.tolist() == [2.0, 0.0]


def test_widths_have_a_floor():
    """Neighbours at one distance satisfy no width: a thousandth of the row's mean, or where ρ is 0 of all distances."""
    _, sigma = umap.smooth_knn(jnp.array([[0.0, 3.0, 3.0, 3.0], [0.0, 0.0, 0.0, 0.0]]))
    np.testing.assert_allclose(sigma, [1e-3 * 9 / 4, 1e-3 * 9 / 8], rtol=1e-5)


def test_one_neighbour_satisfies_any_width_and_gets_one():
    """With k = 2, exp(0) = log₂ 2 whatever σ is; the search begins at 1."""
    rho, sigma = umap.smooth_knn(jnp.array([[0.0, 5.0]]))
    assert (rho.item(), sigma.item()) == (5.0, 1.0)


def test_missing_neighbours_are_left_out():
    rho, sigma = umap.smooth_knn(jnp.array([[0.0, 1.0, 2.0, jnp.inf]]))
    assert rho.item() == 1.0
    assert np.isfinite(sigma.item())
    graph = umap.fuzzy_simplicial_set(jnp.array([[0, 1, -1], [1, 0, -1]]), jnp.array([[0.0, 1.0, jnp.inf]] * 2))
    np.testing.assert_allclose(dense(graph, 2), [[0, 1], [1, 0]])


def test_derivatives_of_widths_are_those_of_the_equation():
    with jax.enable_x64(True):
        distances = jnp.asarray(lists(6, 5)[1])
        direction = np.random.default_rng(3).normal(size=distances.shape) * (np.arange(5) > 1)

        def exact(t):
            moved = np.asarray(distances) + t * direction
            excesses = np.maximum(moved[:, 1:] - moved[:, 1:2], 0)
            return [
                scipy.optimize.brentq(lambda w, e=e: np.sum(np.exp(-e / w)) - np.log2(5), 1e-3, 1e3, xtol=1e-13)
                for e in excesses
            ]

        _, slope = jax.jvp(lambda d: umap.smooth_knn(d)[1], (distances,), (jnp.asarray(direction),))
        np.testing.assert_allclose(slope, (np.array(exact(1e-5)) - np.array(exact(-1e-5))) / 2e-5, rtol=2e-3)


@pytest.mark.parametrize("bad", [jnp.nan, -1.0])
def test_distances_that_are_none_are_refused(bad):
    with pytest.raises(ValueError, match="NaN or negative"):
        umap.smooth_knn(jnp.array([[0.0, bad]]))


# The graph


@pytest.mark.parametrize(("n", "k"), [(40, 6), (12, 12), (5, 2)])
def test_the_graph_is_the_union_of_both_directions(n, k):
    indices, distances = lists(n, k)
    rho, sigma = (np.asarray(x, float) for x in umap.smooth_knn(distances))
    P = np.zeros((n, n))
    for i in range(n):
        for j, d in zip(indices[i], distances[i], strict=True):
            P[i, j] = 0 if i == j else np.exp(-max(d - rho[i], 0) / sigma[i])
    graph = umap.fuzzy_simplicial_set(indices, distances)
    np.testing.assert_allclose(dense(graph, n), P + P.T - P * P.T, atol=1e-6)
    assert len(graph.rows) == 2 * n * k
    is_edge = np.asarray(graph.weights) > 0
    pairs = np.stack([graph.rows, graph.columns])[:, is_edge]
    assert len(np.unique(pairs, axis=1).T) == is_edge.sum()  # none twice
    np.testing.assert_array_equal(graph.rows[~is_edge], graph.columns[~is_edge])


def test_duplicates_are_sure_neighbours():
    """Three points at one place and two elsewhere; the three are each other's neighbours with weight 1."""
    X = np.array([[0.0], [0.0], [0.0], [5.0], [6.0]])
    distances = np.abs(X - X.T)
    order = np.argsort(distances + 1e-9 * (1 - np.eye(5)), axis=1, kind="stable")[:, :4]
    W = dense(umap.fuzzy_simplicial_set(order, np.take_along_axis(distances, order, axis=1)), 5)
    np.testing.assert_allclose(W[:3, :3], 1 - np.eye(3))


def test_half_precision_comes_back_and_indices_beyond_the_points_are_refused():
    indices, distances = lists(8, 3)
    graph = umap.fuzzy_simplicial_set(indices, jnp.asarray(distances, jnp.bfloat16))
    assert graph.weights.dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="beyond 7"):
        umap.fuzzy_simplicial_set(indices + 1, distances)


def test_negative_indices_are_no_neighbors_whatever_their_distance():
    indices, distances = jnp.array([[0, 1, 2, -1], [1, 0, 2, -1], [2, 0, 1, -1]]), np.array([[0, 1, 2, 2.5]] * 3)
    found = umap.fuzzy_simplicial_set(indices, distances)
    expected = umap.fuzzy_simplicial_set(indices, np.where(np.arange(4) == 3, np.inf, distances))
    np.testing.assert_array_equal(dense(found, 3), dense(expected, 3))


def test_labels_that_are_too_few_are_refused():
    with pytest.raises(ValueError, match="2 labels"):
        umap.intersect_labels(sparse(np.ones((3, 3)) - np.eye(3)), np.array([0, 1]))


def test_classes_part_and_every_point_stays_sure_of_one_neighbour():
    n = 12
    W = random_graph(n, density=0.6)
    labels = np.array([0, 1, -1] * 4)
    same = labels[:, None] == labels[None]
    unknown = (labels[:, None] < 0) | (labels[None] < 0)
    V = W * np.where(unknown, np.exp(-1), np.where(same, 1, np.exp(-2.5 / (1 - 0.3))))
    P = V / V.max(1, keepdims=True)
    found = dense(umap.intersect_labels(sparse(W), labels, target_weight=0.3), n)
    np.testing.assert_allclose(found, P + P.T - P * P.T, atol=1e-6)
    np.testing.assert_allclose(found.max(1), 1, rtol=1e-6)


def test_with_full_weight_no_edge_between_classes_is_left():
    found = dense(
        umap.intersect_labels(sparse(np.ones((4, 4)) - np.eye(4)), np.array([0, 0, 1, 1]), target_weight=1.0), 4
    )
    np.testing.assert_array_equal(found > 0, np.kron(np.eye(2), np.ones((2, 2))) - np.eye(4) > 0)
    with pytest.raises(ValueError, match="target_weight is 2"):
        umap.intersect_labels(sparse(np.ones((2, 2)) - np.eye(2)), np.array([0, 1]), target_weight=2)


# The order of edges


@pytest.mark.parametrize(("n", "block"), [(2, 1024), (13, 3), (43, 3), (41, 1024)])
def test_every_edge_is_visited_once(monkeypatch, n, block):
    """Blocks are known while tracing, so each number of points is used with one size here, and nowhere else."""
    monkeypatch.setattr(_edge_ranks, "SMALLEST_BLOCK", block)
    monkeypatch.setattr(_edge_ranks, "BLOCKS", 100)
    W = random_graph(n, density=0.3)
    W[0] = W[:, 0] = 0.5  # a hub
    W[0, 0] = 0
    ranks = _edge_ranks.by_rank(sparse(W), n)
    v = np.random.default_rng(0).normal(size=n).astype(np.float32)
    (product,) = _edge_ranks.product(ranks, (_edge_ranks.in_order(ranks, jnp.asarray(v)),))
    np.testing.assert_allclose(_edge_ranks.in_place(ranks, product), W @ v, atol=1e-5)
    assert int(ranks.counts.sum()) == np.count_nonzero(W)
    assert int(ranks.num_ranks) == n - 1


def test_ranks_that_only_hubs_have_are_visited_in_small_blocks(monkeypatch):
    """A star of 2000 points: one point has an edge in each of 1999 ranks, the others in one."""
    widths = []

    def visit(at, total):
        widths.append(len(at.weights))
        return total + jnp.sum(at.weights > 0)

    W = np.zeros((2000, 2000))
    W[0, 1:] = W[1:, 0] = 1
    ranks = _edge_ranks.by_rank(sparse(W), 2000)
    assert int(_edge_ranks.for_each(ranks, visit, jnp.int32(0))) == 2 * 1999
    assert sorted(set(widths)) == [_edge_ranks.HUB_BLOCK, _edge_ranks.SMALLEST_BLOCK]


def test_a_graph_without_edges_has_no_visits():
    ranks = _edge_ranks.by_rank(FuzzyGraph(jnp.zeros(3, int), jnp.zeros(3, int), jnp.zeros(3)), 5)
    (product,) = _edge_ranks.product(ranks, (_edge_ranks.in_order(ranks, jnp.ones(5)),))
    np.testing.assert_array_equal(product, 0)


# The start


def component_names(W):
    return scipy.sparse.csgraph.connected_components(W)[1]


@pytest.mark.parametrize("seed", range(3))
def test_components_are_those_of_scipy(seed):
    W = random_graph(60, seed=seed, density=0.02)
    found = _spectral.components(sparse(W), 60)
    expected = component_names(W)
    both = {(int(a), int(b)) for a, b in zip(found.number, expected, strict=True)}
    assert len(both) == expected.max() + 1 == len({a for a, _ in both})  # one name for each, one each for a name
    sizes = np.sort(np.bincount(expected))[::-1]
    np.testing.assert_array_equal(found.sizes[: len(sizes)], sizes)
    np.testing.assert_array_equal(found.sizes[len(sizes) :], 0)


def test_a_long_path_is_one_component():
    W = np.diag(np.ones(299), 1)
    order = np.random.default_rng(0).permutation(300)
    W = (W + W.T)[order][:, order]
    assert _spectral.components(sparse(W), 300).sizes[0] == 300


@pytest.mark.parametrize("num_components", [1, 2, 3])
def test_the_layout_spans_the_eigenvectors(num_components):
    """Two clusters of unlike density, whose first eigenvalues lie apart; beside a dense solver in float64."""
    W = random_graph(50, density=0.35)
    W[:20, 20:] *= 0.02
    W[20:, :20] *= 0.02
    root = np.sqrt(W.sum(1))
    values, vectors = scipy.linalg.eigh(np.eye(50) - W / root[:, None] / root[None])
    Y = np.asarray(umap.spectral_layout(jax.random.key(0), sparse(W), 50, num_components), float)
    np.testing.assert_allclose(np.linalg.norm(Y, axis=0), 1, rtol=1e-4)
    L = np.eye(50) - W / root[:, None] / root[None]
    for index in range(num_components):
        y = Y[:, index]
        np.testing.assert_allclose(y @ L @ y, values[index + 1], atol=1e-5)
        assert np.linalg.norm(L @ y - values[index + 1] * y) < 1e-3
        assert y[np.abs(y).argmax()] > 0
    assert abs(Y[:, 0] @ vectors[:, 1]) > 0.999


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8])
def test_eigenvectors_of_few_points_and_zeros_beyond(n):
    """A complete graph with random weights, whose eigenvalues lie far from those of a neighbour graph."""
    for seed in range(4):
        W = random_graph(n, seed=seed, density=1.0)
        root = np.sqrt(W.sum(1))
        L = np.eye(n) - W / root[:, None] / root[None]
        values = np.linalg.eigvalsh(L)
        Y = np.asarray(umap.spectral_layout(jax.random.key(seed), sparse(W), n, 4), float)
        for index, y in enumerate(Y.T):
            if index >= n - 1:
                assert not y.any()
                continue
            np.testing.assert_allclose(np.linalg.norm(y), 1, rtol=1e-4)
            np.testing.assert_allclose(y @ L @ y, values[index + 1], atol=1e-4)
            assert abs(y @ root) < 1e-3 * np.linalg.norm(root)


def test_components_lie_side_by_side():
    """A ring of twenty, a ring of twelve, a pair and a lonely point: apart from one another, the rings not flat."""
    sizes = [20, 12, 2, 1]
    W = scipy.linalg.block_diag(
        *[np.roll(np.eye(s), 1, 1) + np.roll(np.eye(s), -1, 1) if s > 1 else [[0.0]] for s in sizes]
    )
    Y = np.asarray(umap.spectral_layout(jax.random.key(0), sparse(np.minimum(W, 1)), 35))
    assert np.all(np.isfinite(Y))
    parts = np.split(Y, np.cumsum(sizes)[:-1])
    for index, part in enumerate(parts):
        for other in parts[index + 1 :]:
            gap = np.linalg.norm(part.mean(0) - other.mean(0))
            assert gap > max(np.linalg.norm(p - p.mean(0), axis=1).max() for p in (part, other))
    for ring in parts[:2]:
        singular = np.linalg.svd(ring - ring.mean(0), compute_uv=False)
        assert singular[1] > 0.5 * singular[0]
    line = np.asarray(umap.spectral_layout(jax.random.key(0), sparse(np.minimum(W, 1)), 35, 1))[:, 0]
    ranges = [(p.min(), p.max()) for p in np.split(line, np.cumsum(sizes)[:-1])]
    assert all(a[1] < b[0] for a, b in itertools.pairwise(ranges))


# Losses and forces


def test_forces_are_derivatives_of_the_loss():
    """The push is that of −log (1 − q) but for a small number that is added to d²."""
    a, b = mpmath.mpf("1.6"), mpmath.mpf("0.9")
    curve = _layout.Curve(jnp.float32(1.6), jnp.float32(0.9))
    for d in (0.5, 1.0, 4.0, 20.0):
        attraction = mpmath.diff(lambda x: mpmath.log(1 + a * x ** (2 * b)), d) / d
        repulsion = -mpmath.diff(lambda x: mpmath.log(1 + 1 / (a * x ** (2 * b))), d) / d
        np.testing.assert_allclose(_layout.pull(jnp.float32(d * d), curve), float(attraction), rtol=1e-5)
        np.testing.assert_allclose(
            _layout.push(jnp.float32(d * d), curve), float(repulsion) * d * d / (d * d + 1e-3), rtol=1e-5
        )


def test_forces_are_finite_where_points_coincide_and_far_away():
    curve = _layout.Curve(jnp.float32(1.6), jnp.float32(0.9))
    assert _layout.pull(jnp.float32(0), curve) == 0
    for square in (0.0, 1e-38, 1e-20, 1e20, 1e37):
        assert np.isfinite(_layout.pull(jnp.float32(square), curve)), square
        assert np.isfinite(_layout.push(jnp.float32(square), curve)), square


def test_a_pull_never_overshoots():
    curve = _layout.Curve(jnp.float32(1.6), jnp.float32(0.9))
    here = [jnp.geomspace(1e-6, 1e6, 100)]
    there = [jnp.zeros(100)]
    (y,) = _layout.moved(here, there, [], curve, jnp.full(100, 1e3), jnp.zeros(100))
    assert np.all((np.asarray(y) >= 0) & (np.asarray(y) <= np.asarray(here[0])))


def test_one_epoch_moves_a_pair_as_worked_by_hand():
    """Two points at distance 1, weight 1, α = 1, a = b = 1: f = 2 · 2/(1 + 1) = 2, so both go 2/3 of the way.

    The other end is the only point that can push: by 2/((1 + 0.001)(1 + 1)) each time.
    """
    ranks = _edge_ranks.by_rank(sparse(np.array([[0.0, 1.0], [1.0, 0.0]])), 2)
    places = tuple(_edge_ranks.in_order(ranks, y) for y in (jnp.array([0.0, 1.0]),))
    curve = _layout.Curve(jnp.float32(1), jnp.float32(1))
    for num_negatives in (0, 3):
        schedule = _layout.schedule_of(1.0, 0.5, 1)
        (place,) = _layout.epoch(jax.random.key(0), jnp.int32(0), places, ranks, curve, schedule, num_negatives)
        push = 0.5 * num_negatives / 1.001
        np.testing.assert_allclose(
            _edge_ranks.in_place(ranks, place), [2 / 3 - push, 1 / 3 + push], rtol=1e-5, atol=1e-6
        )


def test_cross_entropy_is_that_of_the_definition():
    rng = np.random.default_rng(0)
    W, Y = random_graph(7, density=0.7), rng.normal(size=(7, 2))
    W[0, 1] = W[1, 0] = 1.0
    a, b = 1.6, 0.9
    expected = mpmath.mpf(0)
    for i in range(7):
        for j in range(i):
            q = 1 / (1 + a * mpmath.mpf(np.linalg.norm(Y[i] - Y[j])) ** (2 * b))
            w = mpmath.mpf(W[i, j])
            expected += w * mpmath.log(w / q) if w > 0 else 0
            expected += (1 - w) * mpmath.log((1 - w) / (1 - q)) if w < 1 else 0
    found = umap.cross_entropy(jnp.asarray(W, jnp.float32), jnp.asarray(Y, jnp.float32), a, b)
    np.testing.assert_allclose(found, float(expected), rtol=1e-5)


def test_cross_entropy_has_finite_derivatives_far_away_and_none_where_points_coincide():
    W = jnp.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    Y = jnp.array([[0.0, 0.0], [0.0, 0.0], [1e6, 0.0]])  # those that coincide are surely neighbours
    value, slope = jax.value_and_grad(lambda y: umap.cross_entropy(W, y, 1.0, 1.0))(Y)
    np.testing.assert_allclose(value, 2e-12, rtol=1e-3)
    assert np.all(np.isfinite(slope))
    half = 0.5 * (1 - jnp.eye(3))
    assert np.all(np.isfinite(jax.grad(lambda w: umap.cross_entropy(w, Y + jnp.eye(3, 2), 1.0, 1.0))(half)))
    assert umap.cross_entropy(W - W, Y, 1.0, 1.0) == jnp.inf


def test_rare_edges_are_dropped():
    graph = FuzzyGraph(jnp.array([0, 1, 2]), jnp.array([1, 2, 0]), jnp.array([1.0, 0.0625, 0.03125]))
    assert _fuzzy_graph.without_rare(graph, 20).weights.tolist() == [1.0, 0.0625, 0.0]
    assert _fuzzy_graph.without_rare(graph, 0).weights.tolist() == [1.0, 0.0625, 0.03125]  # as for many
