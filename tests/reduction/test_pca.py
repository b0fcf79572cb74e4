"""Principal components against scikit-learn, NumPy's singular value decomposition in float64, and cases by hand."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.test_util import check_grads
from sklearn import decomposition
from sklearn.datasets import load_digits

from mathai.reduction import _moments, pca

EXACT = ("covariance", "gram", "svd")
every_solver = pytest.mark.parametrize("solver", EXACT)


def rows(n, d, seed=0, offset=0.0):
    """Rows with standard deviations 3, …, 1 along random axes, as float32 holds them."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return (rng.normal(size=(n, d)) * np.linspace(3, 1, d) @ axes + offset).astype(np.float32)


def exact(X):
    """Mean, axes and variances by NumPy in float64."""
    X = np.asarray(X, np.float64)
    _, s, axes = np.linalg.svd(X - X.mean(0), full_matrices=False)
    return X.mean(0), axes, s**2 / (len(X) - 1)


def fit(X, solver="auto", **options):
    return pca.fit(X, solver=solver, key=jax.random.key(0) if solver == "randomized" else None, **options)


def assert_is_pca_of(model, X, *, k=None):
    """The acceptance: variances within 1e-5 of the largest, cosines of at least 0.99999."""
    mean, axes, variances = exact(X)
    k = min(np.shape(X)) if k is None else k
    np.testing.assert_allclose(model.mean, mean, rtol=2e-7, atol=1e-6)
    np.testing.assert_allclose(model.explained_variance, variances[:k], rtol=0, atol=1e-5 * variances[0])
    np.testing.assert_allclose(model.explained_variance_ratio, variances[:k] / variances.sum(), atol=1e-5)
    has_variance = variances[:k] > 1e-6 * variances[0]
    cosines = np.abs(np.sum(np.asarray(model.components, np.float64) * axes[:k], axis=1))
    assert cosines[has_variance].min() >= 0.99999
    np.testing.assert_allclose(model.components @ model.components.T, np.eye(k), atol=1e-5)


# Values


def test_three_points_by_hand():
    """On the line through (1, 1): variances along it (4 + 0 + 4) / 2 · 2 and 0."""
    model = pca.fit(jnp.array([[1.0, 1.0], [3.0, 3.0], [5.0, 5.0]]))
    np.testing.assert_allclose(model.mean, [3, 3])
    np.testing.assert_allclose(model.components[0], [0.5**0.5, 0.5**0.5], rtol=1e-6)
    np.testing.assert_allclose(model.explained_variance, [8, 0], atol=1e-6)
    np.testing.assert_allclose(model.explained_variance_ratio, [1, 0], atol=1e-6)
    np.testing.assert_allclose(model.singular_values, [4, 0], atol=2e-3)
    assert model.noise_variance == 0


@every_solver
@pytest.mark.parametrize("shape", [(50, 6), (6, 50), (9, 9), (2, 5), (5, 2), (2, 2), (7, 1), (2, 1)])
def test_shapes_of_every_kind_against_float64(solver, shape):
    assert_is_pca_of(fit(rows(*shape), solver), rows(*shape))


@pytest.mark.parametrize("shape", [(300, 20), (20, 300)])
def test_a_random_projection_finds_the_first_components(shape):
    """Standard deviations 1, ⅔, … fall fast: the chance of missing an axis is that of nothing."""
    rng = np.random.default_rng(0)
    X = (rng.normal(size=shape) * (2 / 3) ** np.arange(shape[1]) + 7).astype(np.float32)
    model = fit(X, "randomized", num_components=4)
    assert_is_pca_of(model, X, k=4)
    _, _, variances = exact(X)
    np.testing.assert_allclose(model.noise_variance, variances[4:].sum() / (min(shape) - 4), rtol=1e-4)


@pytest.mark.parametrize("solver", ["covariance", "svd", "stream"])
@pytest.mark.parametrize(("standardized", "needed"), [(False, 29), (True, 40)])
def test_digits_need_as_many_components_as_in_scikit_learn(solver, standardized, needed):
    X = load_digits().data.astype(np.float32)
    if standardized:
        deviation = X.std(0)
        X = (X - X.mean(0)) / np.where(deviation > 0, deviation, 1)
    from_stream = lambda X: pca.fit_from_moments(pca.update_moments(pca.init_moments(64), X))  # noqa: E731
    model = from_stream(X) if solver == "stream" else fit(X, solver)
    peer = decomposition.PCA().fit(X.astype(np.float64))
    scale = peer.explained_variance_[0]
    np.testing.assert_allclose(model.explained_variance, peer.explained_variance_, rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(model.singular_values[:50], peer.singular_values_[:50], rtol=1e-4)
    assert pca.choose_num_components(model.explained_variance_ratio, 0.95) == needed
    if solver == "covariance":
        kept = fit(X, solver, num_components=0.95)
        other = decomposition.PCA(0.95).fit(X.astype(np.float64))
        assert kept.components.shape == (needed, 64) == other.components_.shape
        np.testing.assert_allclose(kept.noise_variance, other.noise_variance_, rtol=1e-4)
        cosines = np.abs(np.sum(kept.components * other.components_, axis=1))
        assert cosines.min() >= 0.99999


@pytest.mark.parametrize("solver", [*EXACT, "randomized"])
@pytest.mark.parametrize("shape", [(2000, 8), (8, 40)])
def test_an_offset_costs_no_digits(solver, shape):
    if shape == (2000, 8) and solver == "gram":
        shape = (200, 8)
    X = rows(*shape, offset=1e4)
    options = {"num_components": min(shape)} if solver == "randomized" else {}
    assert_is_pca_of(fit(X, solver, **options), X)


@pytest.mark.parametrize("rest", [0, 3])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_many_blocks_and_panels_are_as_good_as_one(rest, offset, monkeypatch):
    """Sorted, so that the blocks' means differ, and behind an outlier."""
    monkeypatch.setattr(_moments, "ELEMENTS_AT_ONCE", 160)
    monkeypatch.setattr(_moments, "ROWS_AT_LEAST", 1)
    monkeypatch.setattr(_moments, "WIDEST_PANEL", 3)
    X = rows(320 + rest, 8, offset=offset)
    X = X[np.argsort(X[:, 0])]
    X[0] += 100
    moments = _moments.moments_of(jnp.asarray(X))
    mean, centred = X.astype(np.float64).mean(0), X - X.astype(np.float64).mean(0)
    scatter = centred.T @ centred
    np.testing.assert_allclose(moments.mean, mean, rtol=2e-7, atol=2e-6)
    whole = np.asarray(moments.mean, np.float64) + np.asarray(moments.mean_remainder)
    np.testing.assert_allclose(whole, mean, rtol=1e-9, atol=2e-6)
    np.testing.assert_allclose(moments.scatter, scatter, rtol=0, atol=1e-6 * np.abs(scatter).max())
    np.testing.assert_array_equal(moments.scatter, moments.scatter.T)


@every_solver
def test_the_largest_loading_of_each_component_is_positive(solver):
    components = np.asarray(fit(rows(30, 7), solver).components)
    largest = np.abs(components).argmax(1)
    assert np.all(components[np.arange(7), largest] > 0)


@every_solver
def test_constant_columns_duplicates_and_equal_rows(solver):
    X = np.tile(rows(10, 4, offset=5.0), (3, 1))
    X[:, 1] = 1e4
    assert_is_pca_of(fit(X, solver), X)
    model = fit(np.full((5, 3), 0.1, np.float32), solver)
    np.testing.assert_array_equal(model.mean, np.full(3, np.float32(0.1)))
    for zeros in (model.explained_variance, model.explained_variance_ratio, model.singular_values):
        np.testing.assert_array_equal(zeros, np.zeros(3))
    np.testing.assert_allclose(model.components @ model.components.T, np.eye(3), atol=1e-6)


@pytest.mark.parametrize("num_components", [1, 3, None])
def test_fewer_components_are_the_first_of_all(num_components):
    X = rows(40, 5)
    model, whole = pca.fit(X, num_components=num_components), pca.fit(X)
    k = 5 if num_components is None else num_components
    np.testing.assert_allclose(model.components, whole.components[:k], atol=1e-6)
    peer = decomposition.PCA(num_components).fit(X.astype(np.float64))
    np.testing.assert_allclose(model.noise_variance, peer.noise_variance_, rtol=1e-5)
    np.testing.assert_allclose(model.explained_variance_ratio, peer.explained_variance_ratio_, rtol=1e-5)


# Coordinates


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("shape", [(40, 6), (6, 40)])
def test_coordinates_and_back_are_those_of_scikit_learn(whiten, shape):
    X, k = rows(*shape, offset=3.0), 4
    model, peer = pca.fit(X, num_components=k), decomposition.PCA(k, whiten=whiten).fit(X.astype(np.float64))
    Z, expected = pca.transform(model, X, whiten=whiten), peer.transform(X.astype(np.float64))
    signs = np.sign(np.sum(np.asarray(Z) * expected, axis=0))[None]
    np.testing.assert_allclose(Z * signs, expected, atol=2e-4)
    back = pca.inverse_transform(model, Z, whiten=whiten)
    np.testing.assert_allclose(back, peer.inverse_transform(expected), atol=2e-4)
    if whiten:
        np.testing.assert_allclose(np.cov(Z.T), np.eye(k), atol=1e-4)
    np.testing.assert_allclose(pca.transform(model, X[0], whiten=whiten), Z[0], atol=1e-5)
    batch = pca.transform(model, X.reshape(2, -1, shape[1]), whiten=whiten)
    np.testing.assert_allclose(batch.reshape(-1, k), Z, atol=1e-5)


@pytest.mark.parametrize("whiten", [False, True])
def test_all_components_give_the_rows_back(whiten):
    for X in (rows(30, 5), rows(5, 30), np.ones((4, 3), np.float32)):
        model = pca.fit(X)
        back = pca.inverse_transform(model, pca.transform(model, X, whiten=whiten), whiten=whiten)
        np.testing.assert_allclose(back, X, atol=2e-5)


def test_whitening_leaves_what_has_no_variance_at_0():
    X = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]], np.float32)
    model = pca.fit(X)
    np.testing.assert_allclose(pca.transform(model, X + np.float32(1), whiten=True), [[-0.5, 0], [0.5, 0], [1.5, 0]])
    np.testing.assert_allclose(pca.inverse_transform(model, jnp.ones((1, 2)), whiten=True), [[4, 1]])
    gradient = jax.grad(lambda X: pca.transform(pca.fit(X), X, whiten=True)[0, 0])(rows(9, 2))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("ratios", "threshold", "number"),
    [
        ([0.5, 0.25, 0.125, 0.125], 0.5, 1),
        ([0.5, 0.25, 0.125, 0.125], 0.51, 2),
        ([0.5, 0.25, 0.125, 0.125], 1.0, 4),
        ([0.5, 0.5, 0.0], 1.0, 2),
        ([0.6, 0.3, 0.1], 0.9, 2),  # 0.90000004 in float32
        ([0.7, 0.2, 0.1], 0.9, 2),  # 0.9, or less by a rounding
        ([0.5, 0.4999999], 1.0, 2),
        ([0.5, 0.25], 0.95, 2),  # of a model that left some out
        ([0.0, 0.0], 0.95, 2),
        ([1.0], 1.0, 1),
    ],
)
def test_the_fewest_components_that_reach_a_threshold(ratios, threshold, number):
    ratios = jnp.array(ratios)
    assert pca.choose_num_components(ratios, threshold) == number
    assert jax.jit(pca.choose_num_components)(ratios, threshold) == number


# Likelihood


@pytest.mark.parametrize("num_components", [1, 3, 5, 6, None])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_likelihoods_are_those_of_scikit_learn(num_components, offset):
    X, new = rows(60, 6, offset=offset), rows(20, 6, seed=1, offset=offset)
    peer = decomposition.PCA(num_components).fit(X.astype(np.float64))
    values = pca.log_likelihood(pca.fit(X, num_components=num_components), new)
    np.testing.assert_allclose(values, peer.score_samples(new.astype(np.float64)), rtol=2e-4)


def test_likelihoods_of_fewer_rows_than_features_are_those_of_scikit_learn():
    X = rows(10, 30)
    peer = decomposition.PCA(4).fit(X.astype(np.float64))
    values = pca.log_likelihood(pca.fit(X, num_components=4), X)
    np.testing.assert_allclose(values, peer.score_samples(X.astype(np.float64)), rtol=2e-4)


def test_a_density_without_volume_has_numbers_all_the_same():
    X = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]], np.float32)
    on, off = pca.log_likelihood(pca.fit(X), jnp.array([[2.0, 1.0], [2.0, 2.0]]))
    assert np.isfinite([on, off]).all()
    assert on > 0 > off
    on, off = pca.log_likelihood(pca.fit(np.ones((3, 2), np.float32)), jnp.array([[1.0, 1.0], [9.0, 1.0]]))
    assert np.isfinite(on)
    assert off == -np.inf


# Streams


def stream(X, sizes):
    ends = np.cumsum(sizes)
    return [X[end - size : end] for size, end in zip(sizes, ends, strict=True)]


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_a_stream_of_uneven_batches_ends_where_fit_does(offset):
    X = rows(400, 5, offset=offset)
    moments = pca.init_moments(5)
    for batch in stream(X, [1, 0, 7, 200, 1, 150, 41]):
        moments = pca.update_moments(moments, batch)
    assert moments.count == 400
    assert_is_pca_of(pca.fit_from_moments(moments), X)


@pytest.mark.parametrize("order", [*itertools.permutations(range(4))])
def test_parts_merge_in_any_order_to_the_same(order):
    """Σ (x − μ)(x − μ)ᵀ of all rows in float64."""
    X = rows(100, 3, offset=1e4)
    parts = [pca.update_moments(pca.init_moments(3), batch) for batch in stream(X, [1, 60, 0, 39])]
    left = functools.reduce(pca.merge_moments, [parts[i] for i in order])
    a, b, c, d = (parts[i] for i in order)
    tree = pca.merge_moments(pca.merge_moments(a, b), pca.merge_moments(c, d))
    centred = X - X.astype(np.float64).mean(0)
    for merged in (left, tree):
        assert merged.count == 100
        np.testing.assert_allclose(merged.scatter, centred.T @ centred, rtol=0, atol=1e-3)  # 9 · 100 is the largest
        whole = np.asarray(merged.mean, np.float64) + np.asarray(merged.mean_remainder)
        np.testing.assert_allclose(whole, X.astype(np.float64).mean(0), rtol=0, atol=1e-5)


def test_a_mean_does_not_drift_over_many_merges():
    """At 1e4 float32 steps by 1e-3: without the remainder, 2000 batches of 5 rows add up to several steps."""
    X = rows(10_000, 3, offset=1e4)
    step = lambda moments, batch: (pca.update_moments(moments, batch), None)  # noqa: E731
    moments, _ = jax.lax.scan(step, pca.init_moments(3), X.reshape(2000, 5, 3))
    np.testing.assert_allclose(moments.mean, X.astype(np.float64).mean(0), rtol=0, atol=5e-4)
    assert_is_pca_of(pca.fit_from_moments(moments), X)


def test_nothing_is_neutral_and_merging_commutes():
    nothing, some = pca.init_moments(4), pca.update_moments(pca.init_moments(4), rows(9, 4, offset=1e4))
    other = pca.update_moments(nothing, rows(5, 4, seed=1))
    same = functools.partial(jax.tree.map, np.testing.assert_array_equal)
    same(pca.merge_moments(nothing, some), some)
    same(pca.merge_moments(some, nothing), some)
    same(pca.merge_moments(nothing, nothing), nothing)
    same(pca.update_moments(some, np.zeros((0, 4), np.float32)), some)
    same(pca.merge_moments(some, other), pca.merge_moments(other, some))


def test_rows_that_do_not_count_may_hold_anything():
    X = rows(12, 3, offset=1e4)
    where = np.array([False] * 2 + [True, False] * 5)
    X[~where] = np.nan
    moments = pca.update_moments(pca.init_moments(3), X, where=where)
    expected = pca.update_moments(pca.init_moments(3), X[where])
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4, rtol=1e-6), moments, expected)
    none = pca.update_moments(moments, X, where=np.zeros(12, bool))
    jax.tree.map(np.testing.assert_array_equal, none, moments)


def test_shards_merge_across_an_axis():
    """Every shard gathers the moments of all."""
    X = rows(60, 4, offset=1e4)

    def on_each(shard):
        gathered = jax.lax.all_gather(pca.update_moments(pca.init_moments(4), shard), "shards")
        merge = lambda total, part: (pca.merge_moments(total, part), None)  # noqa: E731
        return pca.fit_from_moments(jax.lax.scan(merge, pca.init_moments(4), gathered)[0])

    models = jax.vmap(on_each, axis_name="shards")(X.reshape(3, 20, 4))
    for i in range(3):
        assert_is_pca_of(jax.tree.map(lambda x, i=i: x[i], models), X)


# Transformations and types


@pytest.mark.parametrize("solver", [*EXACT, "randomized"])
def test_jit_and_vmap_give_what_each_gives_alone(solver):
    X = np.stack([rows(12, 5, seed=seed) for seed in range(3)])
    alone = [fit(x, solver, num_components=2) for x in X]
    together = jax.jit(jax.vmap(lambda x: fit(x, solver, num_components=2)))(X)
    for i, model in enumerate(alone):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=2e-5), together, model)
    values = jax.vmap(pca.log_likelihood)(together, X)
    np.testing.assert_allclose(values[1], pca.log_likelihood(alone[1], X[1]), rtol=1e-4)


@pytest.mark.parametrize(("solver", "shape"), [("covariance", (7, 4)), ("svd", (7, 4)), ("gram", (4, 7))])
def test_gradients_agree_with_finite_differences(solver, shape):
    with jax.enable_x64(True):
        X = jnp.asarray(rows(*shape), jnp.float64)
        variances = lambda X: pca.fit(X, solver=solver, num_components=2).explained_variance  # noqa: E731
        check_grads(variances, (X,), 1, modes=("fwd", "rev") if solver != "gram" else ("rev",))
        if solver != "gram":
            parts = lambda X: pca.fit(X, solver=solver, num_components=2)[:5]  # noqa: E731
            check_grads(parts, (X,), 1, modes=("rev",))


def test_the_gradient_of_a_variance_is_its_component():
    """∂λ/∂xᵢ = 2/(n − 1) wᵀ(xᵢ − μ) w; other variances may coincide, at 0 here."""
    X = rows(20, 3) * np.array([1, 1, 1], np.float32)
    X = np.concatenate([X, np.ones((20, 2), np.float32)], axis=1)
    gradient = jax.grad(lambda X: pca.fit(X).explained_variance[0])(X)
    mean, axes, _ = exact(X)
    np.testing.assert_allclose(gradient, 2 / 19 * np.outer((X - mean) @ axes[0], axes[0]), atol=1e-5)


def test_the_gradient_of_moments_leaves_out_rows_that_do_not_count():
    X, where = rows(6, 2), np.array([True] * 4 + [False] * 2)
    total = lambda X: jnp.trace(pca.update_moments(pca.init_moments(2), X, where=where).scatter)  # noqa: E731
    gradient = jax.grad(total)(jnp.asarray(X).at[5].set(jnp.nan))
    np.testing.assert_allclose(gradient[:4], 2 * (X[:4] - X[:4].mean(0)), atol=1e-5)
    np.testing.assert_array_equal(gradient[4:], 0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("solver", EXACT)
def test_half_precision_is_read_as_it_is_and_fitted_in_float32(dtype, solver):
    X = jnp.asarray(rows(40, 4, offset=30.0), dtype)
    model = fit(X, solver)
    assert {x.dtype for x in model} == {jnp.dtype("float32")}
    assert_is_pca_of(model, X.astype(jnp.float32))
    Z = pca.transform(model, X)
    assert Z.dtype == pca.inverse_transform(model, Z).dtype == pca.log_likelihood(model, X).dtype == dtype


@pytest.mark.parametrize("solver", EXACT)
def test_float64_stays_float64(solver):
    with jax.enable_x64(True):
        X = rows(30, 5).astype(np.float64) + 1e7
        model = fit(X, solver)
        mean, _, variances = exact(X)
        assert {x.dtype for x in model} == {jnp.dtype("float64")}
        np.testing.assert_allclose(model.mean, mean, rtol=1e-15)
        np.testing.assert_allclose(model.explained_variance, variances, rtol=1e-10)
        assert pca.transform(model, X).dtype == pca.log_likelihood(model, X).dtype == jnp.float64
        moments = pca.update_moments(pca.init_moments(5), X)
        np.testing.assert_allclose(pca.fit_from_moments(moments).explained_variance, variances, rtol=1e-10)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, bool])
def test_integers_count_as_floats(dtype):
    X = np.random.default_rng(0).integers(0, 2 if dtype is bool else 200, (30, 3)).astype(dtype)
    for model in (pca.fit(X), pca.fit_from_moments(pca.update_moments(pca.init_moments(3), X))):
        assert_is_pca_of(model, X.astype(np.float32))
    assert pca.transform(model, X).dtype == jnp.float32


# Refusals


@pytest.mark.parametrize(
    ("X", "options", "message"),
    [
        (np.zeros((1, 3)), {}, "X has 1 rows and 3 columns; it needs 2 rows"),
        (np.zeros((3, 0)), {}, "X has 3 rows and 0 columns"),
        (np.zeros((5, 3)), {"num_components": 4}, "num_components is 4; it must be an integer from 1 to min.* = 3"),
        (np.zeros((5, 3)), {"num_components": 0}, "num_components is 0"),
        (np.zeros((5, 3)), {"num_components": 1.0}, "num_components is 1.0; a float is a share"),
        (np.zeros((5, 3)), {"num_components": 0.0}, "num_components is 0.0; a float is a share"),
        (np.zeros((5, 3)), {"num_components": True}, "num_components is True"),
        (np.zeros((5, 3)), {"solver": "arpack"}, "solver 'arpack' is unknown; use one of auto, covariance"),
        (np.zeros((5, 3)), {"solver": "randomized"}, "needs a key"),
        (np.zeros((5, 3)), {"num_oversamples": -1}, "num_oversamples is -1"),
        (np.array([[1.0, np.nan], [np.inf, 0.0], [1.0, 2.0]]), {}, "NaN or infinite numbers in 2 of 3 rows"),
        (np.array([[1e30, 0.0], [-1e30, 0.0]]), {}, "squares overflow float32; scale them down"),
    ],
)
def test_what_cannot_be_fitted_is_refused(X, options, message):
    with pytest.raises(ValueError, match=message):
        pca.fit(X.astype(np.float32), **options)


@every_solver
def test_bad_rows_are_refused_by_every_solver_and_are_nan_when_traced(solver):
    X = rows(6, 4)
    X[2, 1] = np.nan
    with pytest.raises(ValueError, match="in 1 of 6 rows"):
        fit(X, solver)
    model = jax.jit(functools.partial(fit, solver=solver))(X)
    assert np.isnan(model.explained_variance).all()


def test_a_share_of_the_variance_needs_data_that_are_known():
    with pytest.raises(ValueError, match=r"X is traced.*choose_num_components"):
        jax.jit(functools.partial(pca.fit, num_components=0.9))(rows(6, 4))
    with pytest.raises(ValueError, match="needs a key and an integer num_components"):
        pca.fit(rows(6, 4), num_components=0.9, solver="randomized", key=jax.random.key(0))


def test_shapes_that_do_not_fit_are_refused():
    model = pca.fit(rows(6, 4), num_components=2)
    for call in (
        lambda: pca.fit(np.zeros(4, np.float32)),
        lambda: pca.fit(np.zeros((2, 3, 4), np.float32)),
        lambda: pca.transform(model, np.zeros((2, 3), np.float32)),
        lambda: pca.inverse_transform(model, np.zeros((2, 4), np.float32)),
        lambda: pca.log_likelihood(model, np.zeros((2, 1), np.float32)),
        lambda: pca.choose_num_components(np.zeros((2, 1), np.float32)),
        lambda: pca.update_moments(pca.init_moments(3), np.zeros((2, 1), np.float32)),
        lambda: pca.merge_moments(pca.init_moments(3), pca.init_moments(2)),
    ):
        with pytest.raises((AssertionError, TypeError), match=r"shape|rank|Type-check"):
            call()


def test_moments_that_are_none_are_refused():
    with pytest.raises(ValueError, match="num_features is 0; it must be at least 1"):
        pca.init_moments(0)
    with pytest.raises(ValueError, match="hold 1 rows; 2 are needed"):
        pca.fit_from_moments(pca.update_moments(pca.init_moments(2), np.ones((1, 2), np.float32)))
    with pytest.raises(ValueError, match="num_components is 3; it must be an integer from 1 to d = 2"):
        pca.fit_from_moments(pca.update_moments(pca.init_moments(2), rows(4, 2)), num_components=3)
    with pytest.raises(ValueError, match="batch holds NaN or infinite numbers in 1 of 2 rows"):
        pca.update_moments(pca.init_moments(2), np.array([[1.0, np.nan], [1.0, 1.0]], np.float32))
    model = jax.jit(pca.fit_from_moments)(pca.init_moments(2))
    np.testing.assert_array_equal(model.explained_variance_ratio, [0, 0])


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.5, np.nan])
def test_a_threshold_out_of_range_is_refused(threshold):
    with pytest.raises(ValueError, match="it must lie above 0 and at most at 1"):
        pca.choose_num_components(jnp.ones(2) / 2, threshold)
    with pytest.raises(ValueError, match="there are no ratios"):
        pca.choose_num_components(jnp.ones(0))


# Devices; more than one of them are in tests/multi


def test_a_mesh_of_one_device_gives_the_moments_that_it_gives_alone():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    X = (np.random.default_rng(0).normal(size=(30, 3)) + 100).astype(np.float32)
    where = np.arange(30) % 3 > 0
    for kept in (None, where):
        alone = pca.update_moments(pca.init_moments(3), X, where=kept)
        ours = pca.update_moments(pca.init_moments(3), X, where=kept, mesh=mesh)
        for a, b in zip(ours, alone, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(pca.fit(X, mesh=mesh).components, pca.fit(X).components, atol=1e-5)


def test_solvers_that_do_not_go_by_moments_go_with_no_mesh():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    for solver in ("gram", "svd", "randomized"):
        with pytest.raises(ValueError, match=f"'{solver}' does not go by moments"):
            pca.fit(np.ones((4, 3)), solver=solver, key=jax.random.key(0), num_components=1, mesh=mesh)
    with pytest.raises(ValueError, match="no axis 'rows'"):
        pca.update_moments(pca.init_moments(3), np.ones((4, 3)), mesh=mesh, axis="rows")
