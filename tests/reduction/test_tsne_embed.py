"""Graphs of affinities, forces, descents and new points of t-SNE against dense sums in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from mathai.reduction import _affinity_graph, _repulsion, tsne
from mathai.reduction.neighbors import k_nearest
from tests.reduction.test_tsne import conditional_by_bisection, divergence, points, refused, squares_of

N, K, PERPLEXITY = 40, 15, 5.0
KEY = jax.random.key(0)


def dense(graph):
    """The matrix that a graph stands for."""
    n = graph.neighbors.shape[1]
    P = np.zeros((n, n))
    np.add.at(P, (np.broadcast_to(np.arange(n), graph.neighbors.shape), np.asarray(graph.neighbors)), graph.weights)
    np.add.at(P, (np.asarray(graph.overflow_rows), np.asarray(graph.overflow_columns)), graph.overflow_weights)
    return P


def joint_of_neighbors(X, perplexity, k):
    """(p_{j|i} + p_{i|j}) / 2n in float64, p_{j|i} of the k nearest alone."""
    squares = squares_of(X)
    np.fill_diagonal(squares, np.inf)
    is_far = squares > np.sort(squares, axis=1)[:, k - 1 : k]
    P = conditional_by_bisection(np.where(is_far, np.inf, squares), perplexity)
    return (P + P.T) / (2 * len(P))


def star(n):
    """The hub 0 and points around it in as many directions: it is the nearest of all of them."""
    directions = np.random.default_rng(0).normal(size=(n - 1, 60))
    directions *= np.linspace(1, 1.1, n - 1)[:, None] / np.linalg.norm(directions, axis=1, keepdims=True)
    return np.concatenate([np.zeros((1, 60)), directions]).astype(np.float32)


def forces(P, Y):
    """Attraction, repulsion and Z of dense affinities in float64."""
    Y = np.asarray(Y, np.float64)
    q = 1 / (1 + squares_of(Y))
    np.fill_diagonal(q, 0)
    difference = Y[:, None] - Y[None]
    pull = None if P is None else np.einsum("ij,ijc->ic", P * q, difference)
    return pull, np.einsum("ij,ijc->ic", q * q, difference), q.sum()


# Graphs of affinities


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize(("X", "k"), [(points(N), K), (star(N), 3), (star(60), 2)], ids=["cloud", "star", "large star"])
def test_a_graph_holds_the_affinities_of_its_neighbours(X, k, traced):
    make = functools.partial(tsne.affinity_graph, perplexity=1.9 if k < 5 else PERPLEXITY, num_neighbors=k)
    graph = jax.jit(make)(X) if traced else make(X)
    P = dense(graph)
    expected = joint_of_neighbors(X, 1.9 if k < 5 else PERPLEXITY, k)
    np.testing.assert_allclose(P, expected, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(P, P.T, atol=1e-9)
    assert P.sum() == pytest.approx(1, rel=1e-6)
    if traced:
        assert graph.weights.shape == (2 * k, len(X))
    if k < 5:
        assert graph.num_overflow > 0  # the hub has more neighbours than there are ranks
        rows = np.asarray(graph.overflow_rows[: graph.num_overflow])
        assert np.all(np.diff(rows) >= 0)
        assert 0 in rows
    Y = points(len(X), 2, seed=1)
    pull, _, _ = forces(P, Y)
    np.testing.assert_allclose(_affinity_graph.attraction(jnp.asarray(Y), graph), pull, rtol=1e-4, atol=1e-7)
    counts = P > 0
    energy = np.sum(P[counts] * np.log(P[counts] * (1 + squares_of(Y))[counts]))
    assert _affinity_graph.attractive_energy(jnp.asarray(Y), graph) == pytest.approx(energy, rel=1e-5)


def test_overflow_of_several_blocks_is_counted_whole(monkeypatch):
    monkeypatch.setattr(_affinity_graph, "OVERFLOW_BLOCK", 8)
    graph = tsne.affinity_graph(star(60), perplexity=1.5, num_neighbors=2)
    assert graph.num_overflow > 16
    Y = points(60, 2)
    P = dense(graph)
    np.testing.assert_allclose(_affinity_graph.attraction(jnp.asarray(Y), graph), forces(P, Y)[0], rtol=1e-4, atol=1e-7)


def test_given_neighbours_make_the_graph_of_found_ones():
    X = points(N)
    found = tsne.affinity_graph(X, perplexity=PERPLEXITY, num_neighbors=K)
    given = tsne.affinity_graph(X, perplexity=PERPLEXITY, neighbors=k_nearest(X, K))
    jax.tree.map(np.testing.assert_array_equal, found, given)
    usual = tsne.affinity_graph(X, perplexity=PERPLEXITY)
    jax.tree.map(np.testing.assert_array_equal, usual, found)  # three times the perplexity


# Repulsion


EXACT, BY_GRID = jax.jit(_repulsion.exact), jax.jit(_repulsion.by_grid)
# Small, so that they are made soon; an embedding of 60 units needs the last.
SIZES = (64, 192)


@pytest.fixture(scope="module")
def grids():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_repulsion, "LADDER", SIZES)
        return _repulsion.grids(60, np.dtype("float32"))


def cloud(span, n=60, seed=0):
    Y = np.random.default_rng(seed).uniform(size=(n, 2))
    return (Y / np.ptp(Y, axis=0).max() * span).astype(np.float32)


def error(force, expected):
    return np.linalg.norm(force - expected) / np.linalg.norm(expected)


def test_repulsion_over_all_pairs(monkeypatch):
    for block_bytes in (2**24, 60 * 4 * 7):  # one block, and nine of which the last is filled up
        monkeypatch.setattr(_repulsion, "BLOCK_BYTES", block_bytes)
        for Y in (cloud(5.0), cloud(60.0), points(60, 3), points(60, 1)):
            Y -= Y.mean(0)  # as every iteration leaves it: forces are differences of sums as long as Y is
            _, expected, Z = forces(None, Y)
            force, total = jax.jit(lambda y: _repulsion.exact(y))(Y)
            assert error(force, expected) < 1e-4
            assert total == pytest.approx(Z, rel=1e-5)


@pytest.mark.parametrize("span", [1e-4, 0.01, 0.3, 1.0, 4.9, 5.0, 20.0, 60.0])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_a_grid_repels_within_one_percent(grids, span, offset):
    if span < 0.01 < offset:
        return  # the offset has rounded it away
    for seed in range(3):
        Y = cloud(span, seed=seed) + np.float32(offset)
        _, expected, Z = forces(None, Y)
        force, total = BY_GRID(Y, grids)
        assert error(force, expected) <= 0.01
        assert total == pytest.approx(Z, rel=1e-3)


def test_a_grid_repels_clusters_within_one_percent(grids):
    centres = np.array([[0, 0], [30, 5], [-10, 25], [15, -20]])
    Y = (np.repeat(centres, 15, axis=0) + 0.8 * points(60, 2)).astype(np.float32)
    _, expected, Z = forces(None, Y)
    force, total = BY_GRID(Y, grids)
    assert error(force, expected) <= 0.01
    assert total == pytest.approx(Z, rel=1e-3)


def test_an_embedding_that_outgrows_the_ladder_is_repelled_more_coarsely(grids):
    for span, bound in ((70.0, 0.1), (80.0, 0.1), (150.0, 0.5)):
        Y = cloud(span, n=400)
        _, expected, Z = forces(None, Y)
        force, total = BY_GRID(Y, grids)
        assert error(force, expected) <= bound
        assert total == pytest.approx(Z, rel=bound / 2)


def test_points_in_one_place_do_not_repel(grids):
    for Y in (np.zeros((60, 2), np.float32), np.full((60, 2), 7.3, np.float32)):
        for force, total in (BY_GRID(Y, grids), EXACT(Y)):
            np.testing.assert_allclose(force, np.zeros((60, 2)), atol=2e-3)  # of 60 pairs with q = 1
            assert total == pytest.approx(60 * 59, rel=1e-3)


def test_grids_map_over_embeddings_of_all_sizes(grids):
    """All take the ladder's rung of the largest; a small embedding gets what coarse nodes make of it."""
    together = jax.jit(jax.vmap(_repulsion.by_grid, (0, None)))
    for spans, bound in (((0.01, 0.5, 4.0), 0.01), ((5.0, 20.0, 60.0), 0.01), ((0.5, 20.0, 70.0), 0.1)):
        many = jnp.stack([cloud(span) for span in spans])
        force, total = together(many, grids)
        for i, Y in enumerate(many):
            _, expected, Z = forces(None, Y)
            assert error(force[i], expected) <= bound
            assert total[i] == pytest.approx(Z, rel=bound / 10)


# Embeddings


def embed(key, X, **options):
    options = {"perplexity": PERPLEXITY, "num_early_iterations": 10, "num_iterations": 10} | options
    return tsne.embed(key, X, **options)


@pytest.fixture(scope="module")
def short():
    """20 iterations for the cloud: the points, their neighbours, the embedding."""
    X = points(N)
    neighbors = k_nearest(X, K)
    return X, neighbors, embed(KEY, X, neighbors=neighbors)


def test_one_key_gives_one_embedding_and_its_divergence(short):
    X, neighbors, embedding = short
    again = embed(KEY, X, neighbors=neighbors)
    np.testing.assert_array_equal(embedding.Y, again.Y)
    assert np.abs(embed(jax.random.key(1), X, neighbors=neighbors).Y - embedding.Y).max() > 0
    assert (embedding.iterations, embedding.Y.shape, embedding.Y.dtype) == (20, (N, 2), np.float32)
    np.testing.assert_allclose(embedding.Y.mean(0), [0, 0], atol=1e-5)
    expected = divergence(joint_of_neighbors(X, PERPLEXITY, K), embedding.Y)
    assert embedding.kl_divergence == pytest.approx(expected, rel=1e-4)


def test_the_first_step_goes_down_the_gradient():
    """From rest: gains grow to 1.2, the rate is max(n, 200) / 4."""
    Y = points(N, 2, seed=3)
    Y -= Y.mean(0)
    for exaggeration in (1.0, 4.0):
        options = {"num_early_iterations": 0, "num_iterations": 1, "exaggeration": exaggeration, "learning_rate": 0.5}
        moved = embed(KEY, points(N), init=Y, **options)
        pull, push, Z = forces(joint_of_neighbors(points(N), PERPLEXITY, K), Y)
        expected = Y - 0.5 * 1.2 * 4 * (exaggeration * pull - push / Z)
        np.testing.assert_allclose(moved.Y, expected, rtol=1e-4, atol=1e-5)
    own = embed(KEY, points(N), init=Y, num_early_iterations=0, num_iterations=1)
    pull, push, Z = forces(joint_of_neighbors(points(N), PERPLEXITY, K), Y)
    step = -50 * 1.2 * 4 * (pull - push / Z)
    length = np.linalg.norm(step, axis=1, keepdims=True)
    expected = Y + step * np.minimum(1, 5 / length)
    np.testing.assert_allclose(own.Y, expected - expected.mean(0), rtol=1e-3, atol=1e-3)
    still = embed(KEY, points(N), init=Y, num_early_iterations=0, num_iterations=0)
    np.testing.assert_array_equal(still.Y, Y)


def test_embeddings_map_over_keys_and_perplexities(short):
    X, neighbors, embedding = short
    keys = jnp.stack([KEY, jax.random.key(1)])
    by_key = jax.vmap(lambda key: embed(key, X, neighbors=neighbors))(keys)
    np.testing.assert_allclose(by_key.Y[0], embedding.Y, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(by_key.Y[1], embed(keys[1], X, neighbors=neighbors).Y, rtol=1e-3, atol=1e-4)
    values = np.array([PERPLEXITY, 9.0], np.float32)
    by_perplexity = jax.vmap(lambda u: embed(KEY, X, neighbors=neighbors, perplexity=u))(values)
    np.testing.assert_allclose(by_perplexity.Y[0], embedding.Y, rtol=1e-3, atol=1e-4)
    other = embed(KEY, X, neighbors=neighbors, perplexity=9.0)
    np.testing.assert_allclose(by_perplexity.Y[1], other.Y, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(by_perplexity.kl_divergence[1], other.kl_divergence, rtol=1e-4)


def test_a_compiled_embedding_is_the_same_and_counts_nan_as_0(short):
    X, neighbors, _ = short
    few = {"num_early_iterations": 3, "num_iterations": 0}  # of more, rounding makes other embeddings
    whole = jax.jit(functools.partial(embed, num_neighbors=K, **few))
    np.testing.assert_allclose(whole(KEY, X).Y, embed(KEY, X, neighbors=neighbors, **few).Y, rtol=1e-3, atol=1e-4)
    holes, filled = X.copy(), X.copy()
    holes[3, 1], holes[5, 0] = np.nan, np.inf
    filled[3, 1] = filled[5, 0] = 0
    np.testing.assert_array_equal(whole(KEY, holes).Y, whole(KEY, filled).Y)
    assert np.isfinite(whole(KEY, np.full_like(X, np.nan)).Y).all()


def test_grids_and_all_pairs_agree(short, monkeypatch):
    monkeypatch.setattr(_repulsion, "LADDER", SIZES)
    X, neighbors, _ = short
    start = {"init": points(N, 2, seed=1), "neighbors": neighbors}
    few = start | {"learning_rate": 1.0, "num_early_iterations": 0, "num_iterations": 20}
    exact, fft = (embed(KEY, X, method=method, **few) for method in ("exact", "fft"))
    assert error(fft.Y, exact.Y) < 0.01
    np.testing.assert_allclose(fft.kl_divergence, exact.kl_divergence, rtol=1e-3)
    again = embed(KEY, X, method="fft", **few)
    np.testing.assert_array_equal(fft.Y, again.Y)
    expected = divergence(joint_of_neighbors(X, PERPLEXITY, K), fft.Y)
    assert fft.kl_divergence == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("method", ["exact", "fft"])
def test_float32_points_are_embedded_where_float64_is_enabled(method, monkeypatch):
    monkeypatch.setattr(_repulsion, "LADDER", SIZES[:1])
    X = points(N)
    with jax.enable_x64(True):
        for dtype, expected in ((np.float32, np.float32), (np.float64, np.float64), (np.float16, np.float32)):
            embedding = embed(KEY, X.astype(dtype), method=method, perplexity=np.float64(4), num_iterations=2)
            assert embedding.Y.dtype == embedding.kl_divergence.dtype == expected
            assert np.isfinite(embedding.Y).all()
            if dtype == np.float64:
                expected = divergence(joint_of_neighbors(X, 4.0, 12), embedding.Y)
                assert embedding.kl_divergence == pytest.approx(expected, rel=1e-8 if method == "exact" else 1e-3)


def test_half_precision_and_integers_are_embedded_in_float32():
    X = (8 * points(N)).astype(int)
    for given in (jnp.asarray(X, jnp.bfloat16), jnp.asarray(X, jnp.float16), X.astype(np.int32)):
        embedding = embed(KEY, given)
        assert embedding.Y.dtype == np.float32
        assert np.isfinite(embedding.Y).all()


DEGENERATE = {
    "duplicates": np.repeat(points(8), 5, axis=0),
    "constant columns": points(N) * np.array([1, 0, 0, 1], np.float32) + 3,
    "one constant": np.full((N, 4), 0.1, np.float32),
    "one column": points(N, 1),
    "more columns than points": points(12, 50),
    "a far point": np.concatenate([np.full((1, 4), 1e6, np.float32), points(N - 1)]),
    "a lattice": np.stack(np.meshgrid(np.arange(6.0), np.arange(6.0)), -1).reshape(-1, 2).astype(np.float32),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_points_have_an_embedding(name):
    X = DEGENERATE[name]
    embedding = embed(KEY, X, perplexity=3.0, num_iterations=30, num_neighbors=9)
    assert np.isfinite(embedding.Y).all()
    assert np.isfinite(embedding.kl_divergence)
    assert np.ptp(embedding.Y, axis=0).min() > 0


def test_four_points_are_enough():
    embedding = embed(KEY, points(4), perplexity=1.5, num_iterations=40)
    expected = divergence(joint_of_neighbors(points(4), 1.5, 3), embedding.Y)
    assert embedding.kl_divergence == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_clusters_stay_apart():
    labels = np.repeat([0, 1, 2], 14)
    X = points(42) + 30 * np.eye(4, dtype=np.float32)[labels]
    embedding = embed(KEY, X, num_early_iterations=30, num_iterations=50)
    nearest, _ = k_nearest(embedding.Y, 1)
    np.testing.assert_array_equal(labels[nearest[:, 0]], labels)


@pytest.mark.parametrize("num_components", [1, 3])
@pytest.mark.parametrize("init", ["pca", "random"])
def test_embeddings_in_one_and_three_dimensions(num_components, init):
    embedding = embed(KEY, points(N, 2), num_components=num_components, init=init, num_early_iterations=20)
    assert embedding.Y.shape == (N, num_components)
    expected = divergence(joint_of_neighbors(points(N, 2), PERPLEXITY, K), embedding.Y)
    assert embedding.kl_divergence == pytest.approx(expected, rel=1e-4)


def test_starts_are_the_components_noise_or_what_is_given():
    X = points(N) * np.array([3, 2, 1, 0.5], np.float32)
    none = {"num_early_iterations": 0, "num_iterations": 0}
    Y = np.asarray(embed(KEY, X, **none).Y)
    axes = np.linalg.svd(X - X.mean(0))[2][:2]
    for column, axis in zip(Y.T, axes, strict=True):
        assert abs(np.corrcoef(column, (X - X.mean(0)) @ axis)[0, 1]) > 0.999
    assert Y[:, 0].std() == pytest.approx(1e-4, rel=0.02)
    noise = np.asarray(embed(KEY, X, init="random", **none).Y)
    assert noise.std() == pytest.approx(1e-4, rel=0.2)
    other = np.asarray(embed(jax.random.key(1), X, init="random", **none).Y)
    assert abs(np.corrcoef(noise[:, 0], other[:, 0])[0, 1]) < 0.5


def test_what_cannot_be_embedded_is_refused():
    X = points(N)
    holes = X.copy()
    holes[3, 1] = np.nan
    for X_, options, message in (
        (X[:3], {"perplexity": 1.5}, "X has 3 points; an embedding needs at least 4"),
        (holes, {}, "1 of 40 rows hold NaN or infinite numbers, row 3 the first"),
        (X, {"perplexity": 39.0}, "perplexity is 39.0; it must be at least 1 and less than .* 39"),
        (X, {"perplexity": 0.5}, "perplexity is 0.5"),
        (X, {"perplexity": 5.0, "num_neighbors": 5}, "perplexity is 5.0"),
        (X, {"num_neighbors": 40}, "num_neighbors is 40; it must be at least 1 and at most 39"),
        (X, {"method": "barnes_hut"}, "method 'barnes_hut' is unknown; use one of auto, exact, fft"),
        (X, {"init": "spectral"}, "init 'spectral' is unknown; use an array or one of pca, random"),
        (X, {"metric": "chebyshev"}, "metric 'chebyshev' is unknown"),
        (X, {"method": "fft", "num_components": 3}, "method 'fft' has two components, not 3"),
        (X, {"num_iterations": -1}, "num_iterations -1; neither may be negative"),
        (X, {"num_early_iterations": -1}, "num_early_iterations is -1"),
        (X, {"num_components": 0}, "num_components is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            embed(KEY, X_, **options)
    with pytest.raises(ValueError, match="perplexity is traced; give num_neighbors or neighbors"):
        jax.jit(lambda u: embed(KEY, X, perplexity=u))(5.0)
    with pytest.raises(ValueError, match="affinity_graph: perplexity is 40"):
        tsne.affinity_graph(X, perplexity=40)


def test_embeddings_refuse_shapes_that_do_not_fit():
    X = points(N)
    indices, distances = k_nearest(X, K)
    for call in (
        lambda: embed(KEY, X[0]),
        lambda: embed(KEY, X, init=X[:, :3]),
        lambda: embed(KEY, X, init=X[:5, :2]),
        lambda: embed(KEY, X, neighbors=(indices, distances[:, :3])),
        lambda: embed(KEY, X, neighbors=(indices[:5], distances[:5])),
        lambda: tsne.affinity_graph(X[0]),
    ):
        with refused():
            call()


# New points


def transform(X, Y, X_new, **options):
    options = {"num_iterations": 25} | options
    return tsne.transform(KEY, X, Y, X_new, **options)


@pytest.fixture(scope="module")
def clusters():
    """Two groups of points, an embedding that shows them, and new points of either."""
    labels = np.repeat([0, 1], N // 2)
    X = points(N) + 20 * labels[:, None].astype(np.float32)
    embedding = embed(KEY, X, num_early_iterations=25, num_iterations=25)
    new = points(300, seed=5) + 20 * np.repeat([0, 1], 150)[:, None].astype(np.float32)
    return X, labels, embedding, new


def test_a_known_point_comes_to_its_neighbours(clusters):
    X, labels, embedding, new = clusters
    Y = transform(X, embedding, X)
    assert (Y.shape, Y.dtype) == ((N, 2), np.float32)
    nearest, _ = k_nearest(X, 5)
    reach = np.linalg.norm(np.asarray(embedding.Y)[nearest] - np.asarray(embedding.Y)[:, None], axis=-1).max(1)
    assert np.all(np.linalg.norm(Y - embedding.Y, axis=1) <= 1.5 * reach)
    places, _ = k_nearest(embedding.Y, 1, queries=transform(X, embedding, new))
    np.testing.assert_array_equal(labels[np.asarray(places)[:, 0]], np.repeat([0, 1], 150))


def test_a_new_point_does_not_depend_on_the_others(clusters):
    X, _, embedding, new = clusters
    together = np.asarray(transform(X, embedding, new))
    for row in (0, 7, 260, 299):
        np.testing.assert_array_equal(transform(X, embedding.Y, new[row : row + 1])[0], together[row])
    np.testing.assert_array_equal(transform(X, embedding, new[::-1])[::-1], together)
    np.testing.assert_allclose(jax.jit(lambda new: transform(X, embedding, new))(new), together, rtol=1e-3, atol=1e-3)


def test_a_new_point_goes_down_the_gradient_of_its_own_divergence(clusters):
    """One step from the median of its 25 neighbours: gains of 1.2, η = 0.1."""
    X, _, embedding, new = clusters
    moved = transform(X, embedding, new[:1], num_iterations=1, exaggeration=1.5)
    indices, distances = (np.asarray(a)[0] for a in k_nearest(X, 25, queries=new[:1]))
    Y = np.asarray(embedding.Y, np.float64)
    start = np.median(Y[indices], axis=0)
    p = np.asarray(tsne.neighbor_affinities(distances[None] ** 2, 5.0))[0]
    q = 1 / (1 + np.sum((start - Y) ** 2, axis=1))
    pull = (p * q[indices]) @ (start - Y[indices])
    slope = 1.5 * pull - q**2 @ (start - Y) / q.sum()
    slope *= min(1, 0.25 / np.linalg.norm(slope))
    np.testing.assert_allclose(moved[0], start - 0.12 * slope, rtol=1e-5, atol=1e-5)


def test_new_points_by_grids_and_all_pairs_agree(clusters, monkeypatch):
    monkeypatch.setattr(_repulsion, "LADDER", SIZES)
    X, _, embedding, new = clusters
    exact, fft = (np.asarray(transform(X, embedding, new[::20], method=method)) for method in ("exact", "fft"))
    assert error(fft, exact) < 0.01
    alone = transform(X, embedding, new[20:21], method="fft")
    np.testing.assert_array_equal(alone[0], fft[1])


def test_new_points_in_other_types(clusters):
    X, _, embedding, new = clusters
    with jax.enable_x64(True):
        Y = transform(X.astype(np.float64), np.asarray(embedding.Y, np.float64), new[:9].astype(np.float64))
        assert Y.dtype == np.float64
    np.testing.assert_allclose(Y, transform(X, embedding, new[:9]), rtol=1e-2, atol=1e-2)
    half = transform(jnp.asarray(X, jnp.bfloat16), embedding, jnp.asarray(new[:9], jnp.bfloat16))
    assert half.dtype == np.float32
    assert np.isfinite(half).all()
    line = transform(X, embedding.Y[:, :1], new[:9])
    assert line.shape == (9, 1)


def test_new_points_that_cannot_be_placed_are_refused(clusters):
    X, _, embedding, new = clusters
    holes = new.copy()
    holes[2, 0] = np.nan
    for given, options, message in (
        (holes, {}, "1 of 300 rows hold NaN or infinite numbers, row 2"),
        (new, {"perplexity": 25.0}, "transform: perplexity is 25.0"),
        (new, {"perplexity": 0.5}, "transform: perplexity is 0.5"),
        (new, {"method": "tree"}, "transform: method 'tree' is unknown"),
        (new, {"metric": "chebyshev"}, "metric 'chebyshev' is unknown"),
        (new, {"num_iterations": -1}, "num_iterations is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            transform(X, embedding, given, **options)
    with pytest.raises(ValueError, match="the embedding: 40 of 40 rows hold NaN"):
        transform(X, embedding.Y * np.nan, new)
    for call in (
        lambda: transform(X, embedding.Y[:5], new),
        lambda: transform(X, embedding, new[0]),
        lambda: transform(X, embedding, new[:, :2]),
    ):
        with refused():
            call()


def test_given_neighbours_and_starts_are_checked():
    X = jax.random.normal(jax.random.key(0), (12, 3))
    indices, distances = k_nearest(X, 6)
    own = indices.at[:, 0].set(jnp.arange(12))
    for neighbors, message in (
        ((own, distances), "points as their own neighbours; leave these out"),
        ((indices.at[2, 1].set(12), distances), r"indices outside of 0 … 11"),
        ((indices, distances.at[0, 0].set(jnp.nan)), "distances that are NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            tsne.affinity_graph(X, perplexity=3.0, neighbors=neighbors)
    with pytest.raises(ValueError, match=r"embed: init: 1 of 12 rows hold NaN"):
        tsne.embed(jax.random.key(0), X, perplexity=3.0, init=jnp.zeros((12, 2)).at[3, 1].set(jnp.nan))
    with pytest.raises(ValueError, match=r"learning_rate is 0.0; it must be above 0, or None"):
        tsne.embed(jax.random.key(0), X, perplexity=3.0, learning_rate=0.0)


def test_squares_that_overflow_are_refused():
    with pytest.raises(ValueError, match="distances overflow float32; scale the points down"):
        k_nearest(1e25 * jax.random.normal(jax.random.key(0), (12, 3)), 2)


# Devices; more than one of them are in tests/multi


def test_a_mesh_of_one_device_repels_as_it_does_alone(grids):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    Y = cloud(20.0)
    alone = [*EXACT(Y), *BY_GRID(Y, grids)]
    exact = jax.jit(lambda Y: _repulsion.exact(Y, mesh=mesh))
    by_grid = jax.jit(lambda Y, grids: _repulsion.by_grid(Y, grids, mesh=mesh))
    for ours, theirs in zip([*exact(Y), *by_grid(Y, grids)], alone, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-5)
    with pytest.raises(ValueError, match="no axis 'rows'"):
        tsne.embed(jax.random.key(0), points(30, 3), perplexity=5.0, mesh=mesh, axis="rows")
