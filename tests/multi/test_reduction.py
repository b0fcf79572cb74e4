"""Neighbours, moments and repulsion on eight devices against definitions in float64, and against one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mathai.reduction import _descent, _repulsion, pca, tsne
from mathai.reduction.neighbors import METRICS, k_nearest
from tests.multi.meshes import bytes_of_device, mesh_of, shard_shapes, spread
from tests.multi.processes import on_devices
from tests.reduction.test_neighbors import assert_nearest, distances_of, lattice, points

pytestmark = pytest.mark.multi

DEVICES = 8
OFFSET = 1000.0
# points, queries or None, k, metric, offset
SEARCHES = {
    **{f"61 points, {metric}": (61, None, 5, metric, 0.0) for metric in METRICS},
    **{f"far from 0, {metric}": (61, 13, 5, metric, 100.0) for metric in METRICS},
    "fewer points than devices": (3, None, 2, "euclidean", 0.0),
    "fewer queries than devices": (61, 2, 5, "euclidean", 0.0),
    "no queries": (61, 0, 5, "euclidean", 0.0),
    "more neighbours than a shard has": (61, None, 60, "euclidean", 0.0),
    "as many neighbours as points": (9, 10, 9, "manhattan", 5.0),
    "equal shards": (64, None, 5, "euclidean", 0.0),
}


def of_search(name):
    n, m, k, metric, offset = SEARCHES[name]
    return points(n, 4, offset=offset), None if m is None else points(m, 4, seed=1, offset=offset), k, metric


def rows(n):
    """Rows whose mean is far from 0, and which of them count; the others hold NaN."""
    X = (np.random.default_rng(n).normal(size=(n, 3)) * [1, 2, 3] + OFFSET).astype(np.float32)
    where = np.random.default_rng(n + 1).random(n) < 0.6
    where[: n // DEVICES] = False  # a device of which no row counts
    return X, where, np.where(where[:, None], X, np.nan).astype(np.float32)


def cloud(n):
    return (np.random.default_rng(n).normal(size=(n, 2)) * 5).astype(np.float32)


def small_grids(n):
    return _repulsion.grids(n, np.dtype("float32"))


def searched():
    mesh = mesh_of(data=DEVICES)
    found = {}
    for name in SEARCHES:
        X, queries, k, metric = of_search(name)
        found[name] = k_nearest(X, k, queries=queries, metric=metric, mesh=mesh)
    shapes = shard_shapes(found["equal shards"][1])
    twins = np.repeat(points(9, 4), 5, axis=0)
    found["twins"] = k_nearest(twins, 7, mesh=mesh)
    found["lattice"] = k_nearest(lattice(5, 2), 4, mesh=mesh, metric="manhattan")
    two = mesh_of(model=2, data=4)
    found["two axes"] = jax.jit(lambda X: k_nearest(X, 5, mesh=two))(points(61, 4))
    loss = lambda X, mesh: jnp.sum(jnp.sin(k_nearest(X, 5, mesh=mesh)[1]))  # noqa: E731
    slope = jax.jit(jax.grad(loss), static_argnums=1)
    return {
        **found,
        "shapes": shapes,
        "slope": slope(points(61, 4), mesh),
        "slope of one": slope(points(61, 4), None),
        "memory": {count: memory_of_search(count) for count in (1, 2, DEVICES)},
    }


def memory_of_search(count):
    mesh = mesh_of(data=count)
    X = spread(mesh, "data", shape=(4096, 512))
    return bytes_of_device(lambda X: k_nearest(X, 5, mesh=mesh, block_size=8), X)


def summarized():
    mesh, two = mesh_of(data=DEVICES), mesh_of(model=2, data=4)
    found = {}
    for n in (3, 64, 101):
        X, where, with_nan = rows(n)
        nothing = pca.init_moments(3)
        found[f"{n}"] = pca.update_moments(nothing, X, mesh=mesh)
        found[f"{n} some"] = pca.update_moments(nothing, with_nan, where=where, mesh=mesh)
        found[f"{n} two axes"] = jax.jit(lambda X: pca.update_moments(pca.init_moments(3), X, mesh=two))(X)
        before = pca.update_moments(nothing, X[:2])
        found[f"{n} stream"] = pca.update_moments(before, X[2:], mesh=mesh)
    X = rows(101)[0]
    nobody = pca.update_moments(pca.init_moments(3), X, where=np.zeros(101, bool), mesh=mesh)
    loss = lambda X, mesh: jnp.sum(jnp.sin(pca.fit(X, mesh=mesh).components))  # noqa: E731
    program = jax.jit(functools.partial(pca.update_moments, mesh=mesh))
    text = program.lower(pca.init_moments(3), spread(mesh, "data", shape=(64, 3))).compile().as_text()
    model = pca.fit(X, num_components=2, mesh=mesh)
    return {
        "moments": found,
        "nobody": nobody,
        "model": model,
        "wide": pca.fit(X[:4].T, mesh=mesh).explained_variance,
        "slope": jax.grad(loss)(X, mesh),
        "slope of one": jax.grad(loss)(X, None),
        "gathers": text.count("all-gather("),
    }


def repelled():
    mesh, two = mesh_of(data=DEVICES), mesh_of(model=2, data=4)
    found = {}
    for n in (5, 64, 101):
        Y, grids = cloud(n), small_grids(n)
        found[n] = {
            "exact": jax.jit(lambda Y: _repulsion.exact(Y, mesh=mesh))(Y),
            "grid": jax.jit(lambda Y, grids: _repulsion.by_grid(Y, grids, mesh=mesh))(Y, grids),
            "grid, two axes": jax.jit(lambda Y, grids: _repulsion.by_grid(Y, grids, mesh=two))(Y, grids),
            "exact of one": jax.jit(_repulsion.exact)(Y),
            "grid of one": jax.jit(_repulsion.by_grid)(Y, grids),
        }
        field = _repulsion.Field(jnp.zeros(64**2), jnp.full(2, -30.0), jnp.float32(1.0), jnp.int32(64))
        charges = jax.jit(lambda Y, field, mesh: _repulsion._spread(field, Y, mesh), static_argnums=2)
        found[n]["same charges"] = bool(jnp.all(charges(Y, field, mesh) == charges(Y, field, None)))
        found[n]["charge"] = float(jnp.sum(charges(Y, field, mesh)))
    return found


def embedded():
    mesh = mesh_of(data=DEVICES)
    X = np.concatenate([points(30, 4), points(31, 4, seed=1, offset=8.0)])
    graphs = [tsne.affinity_graph(X, perplexity=8.0, mesh=m) for m in (None, mesh)]
    schedule = _descent.schedule_of(12.0, 1.0, 2, None, 0.8)
    steps = []
    for grids in (None, small_grids(61)):
        for m in (None, mesh):
            now = _descent.start(cloud(61))
            step = jax.jit(
                lambda now, grids, m: _descent.step(now, graphs[0], grids, schedule, mesh=m)[0], static_argnums=2
            )
            for _ in range(3):
                now = step(now, grids, m)
            steps.append(now.Y)
    ends = {}
    for method in ("exact", "fft"):
        end = tsne.embed(jax.random.key(0), X, perplexity=8.0, method=method, num_iterations=250, mesh=mesh)
        one = tsne.embed(jax.random.key(0), X, perplexity=8.0, method=method, num_iterations=250)
        ends[method] = {"Y": end.Y, "kl": end.kl_divergence, "kl of one": one.kl_divergence}
    same = [
        bool(jnp.all(a == b)) for a, b in zip(*(jax.tree.leaves(g._replace(weights=0)) for g in graphs), strict=True)
    ]
    return {"steps": steps, "ends": ends, "same lists": all(same), "weights": [g.weights for g in graphs]}


def in_process(function, **options):
    return on_devices(DEVICES, f"{__name__}:{function.__name__}", timeout=400, **options)


@pytest.fixture(scope="module")
def search():
    return in_process(searched)


@pytest.fixture(scope="module")
def summary():
    return in_process(summarized)


@pytest.fixture(scope="module")
def repulsion():
    return in_process(repelled)


@pytest.fixture(scope="module")
def embedding():
    return in_process(embedded)


def as_found(pair):
    return np.array(pair[0], np.int32), np.array(pair[1], np.float32)


# Neighbours


@pytest.mark.parametrize("name", [name for name in SEARCHES if name != "no queries"])
def test_neighbours_are_those_of_all_pairs(search, name):
    X, queries, k, metric = of_search(name)
    found = as_found(search[name])
    assert_nearest(found, X, k, queries=queries, metric=metric, rtol=2e-6, atol=1e-6)
    distances = distances_of(X if queries is None else queries, X, metric)
    if queries is None:
        np.fill_diagonal(distances, np.inf)
    if metric != "cosine":  # whose distances far from 0 are closer than rounding tells apart
        np.testing.assert_array_equal(found[0], np.argsort(distances, axis=1)[:, :k])


def test_without_queries_there_is_nothing(search):
    assert search["no queries"] == [[], []]


def test_duplicates_are_neighbours_and_no_point_is_its_own(search):
    assert_nearest(as_found(search["twins"]), np.repeat(points(9, 4), 5, axis=0), 7, atol=1e-6)
    assert_nearest(as_found(search["lattice"]), lattice(5, 2), 4, metric="manhattan")


def test_neighbours_on_one_axis_of_two(search):
    assert_nearest(as_found(search["two axes"]), points(61, 4), 5)


def test_derivatives_of_distances_travel_back(search):
    np.testing.assert_allclose(search["slope"], search["slope of one"], atol=1e-5)
    assert np.abs(search["slope"]).max() > 0.1


def test_rows_of_lists_lie_on_their_devices(search):
    assert search["shapes"] == [[8, 5]]


def test_a_device_holds_its_share_of_points(search):
    one, two, many = (search["memory"][str(count)] for count in (1, 2, DEVICES))
    assert one["arguments"] == 2 * two["arguments"] == DEVICES * many["arguments"]
    # Alone, a device has no shard that arrives while another is searched.
    assert one["work"] > 3 * many["work"]
    assert two["work"] > 3.8 * many["work"]


# Moments


@pytest.mark.parametrize("n", [3, 64, 101])
@pytest.mark.parametrize("kind", ["", " some", " two axes", " stream"])
def test_moments_are_those_of_the_definition(summary, n, kind):
    count, mean, scatter, remainder = (np.array(x, np.float64) for x in summary["moments"][f"{n}{kind}"])
    X, where, _ = rows(n)
    X = np.asarray(X[where] if kind == " some" else X, np.float64)
    assert count == len(X)
    centred = X - X.mean(0)
    np.testing.assert_allclose(mean + remainder, X.mean(0), rtol=1e-9)  # to more digits than float32 has
    np.testing.assert_allclose(scatter, centred.T @ centred, rtol=1e-5, atol=1e-5 * np.sum(centred**2))
    np.testing.assert_allclose(scatter, scatter.T, rtol=1e-5)


def test_moments_of_no_row_are_none(summary):
    count, *rest = summary["nobody"]
    assert count == 0
    assert not any(np.any(x) for x in rest)


def test_the_model_is_that_of_the_rows_together(summary):
    mean, components, variance, *_ = summary["model"]
    X = np.asarray(rows(101)[0], np.float64)
    values, vectors = np.linalg.eigh(np.cov(X.T))
    np.testing.assert_allclose(mean, X.mean(0), rtol=1e-6)
    np.testing.assert_allclose(variance, values[:0:-1], rtol=1e-5)
    np.testing.assert_allclose(np.abs(np.array(components) @ vectors[:, :0:-1]), np.eye(2), atol=1e-4)


def test_more_features_than_rows_go_by_their_covariance(summary):
    X = np.asarray(rows(101)[0][:4].T, np.float64)
    np.testing.assert_allclose(summary["wide"], np.linalg.eigvalsh(np.cov(X.T))[:0:-1][:3], rtol=1e-4, atol=1e-4)


def test_derivatives_of_components(summary):
    np.testing.assert_allclose(summary["slope"], summary["slope of one"], atol=1e-4 * np.abs(summary["slope"]).max())


def test_moments_are_summed_and_never_gathered(summary):
    assert summary["gathers"] == 0


# t-SNE


@pytest.mark.parametrize("n", [5, 64, 101])
def test_repulsion_is_that_of_all_pairs(repulsion, n):
    found = repulsion[str(n)]
    Y = np.asarray(cloud(n), np.float64)
    difference = Y[:, None] - Y[None]
    q = 1 / (1 + np.sum(difference**2, -1))
    force, Z = np.sum(q[..., None] ** 2 * difference, 1), q.sum() - n
    for name, error in (("exact", 1e-4), ("grid", 0.01), ("grid, two axes", 0.01)):
        assert np.linalg.norm(np.array(found[name][0]) - force) < error * np.linalg.norm(force), name
        assert found[name][1] == pytest.approx(Z, rel=error), name
    for name in ("exact", "grid"):
        ours, one = found[name], found[f"{name} of one"]
        np.testing.assert_allclose(ours[0], one[0], atol=2e-5)  # differences of sums that are larger
        assert ours[1] == pytest.approx(one[1], rel=1e-5)


@pytest.mark.parametrize("n", [5, 64, 101])
def test_charges_are_those_of_one_device_bit_by_bit(repulsion, n):
    assert repulsion[str(n)]["same charges"]
    assert repulsion[str(n)]["charge"] == pytest.approx(n, rel=1e-5)


def test_steps_of_the_descent_are_those_of_one_device(embedding):
    exact_one, exact, grid_one, grid = (np.array(Y) for Y in embedding["steps"])
    np.testing.assert_allclose(exact, exact_one, atol=1e-4)
    np.testing.assert_allclose(grid, grid_one, atol=1e-4)
    assert np.abs(exact - cloud(61)).max() > 0.1


def test_the_graph_is_that_of_one_device(embedding):
    assert embedding["same lists"]
    np.testing.assert_allclose(*embedding["weights"], atol=1e-7)


@pytest.mark.parametrize("method", ["exact", "fft"])
def test_an_embedding_keeps_two_groups_apart(embedding, method):
    end = embedding["ends"][method]
    Y = np.array(end["Y"])
    nearest = np.argsort(distances_of(Y, Y), axis=1)[:, 1]
    assert np.mean((np.arange(61) < 30) == (nearest < 30)) == 1
    assert end["kl"] == pytest.approx(end["kl of one"], abs=0.1)
