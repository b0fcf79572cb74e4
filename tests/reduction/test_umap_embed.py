"""Embeddings of UMAP: what they keep, what makes them equal, what they refuse; and new points in them."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from sklearn import datasets, manifold
from sklearn.neighbors import KNeighborsClassifier

from mathai.reduction import _neighborhoods, neighbors, umap


@pytest.fixture(scope="module")
def groups():
    """Three groups of thirty points in four dimensions, and their classes."""
    centers = 12 * np.random.default_rng(0).normal(size=(3, 4))
    labels = np.repeat(np.arange(3), 30)
    noise = np.random.default_rng(1).normal(size=(90, 4))
    return (centers[labels] + noise).astype(np.float32), labels


@pytest.fixture(scope="module")
def embedded(groups):
    return umap.embed(jax.random.key(0), groups[0], num_neighbors=10, num_epochs=100)


def apart(Y, labels):
    """The least distance between two groups over the largest distance from a group's middle."""
    middles = np.stack([Y[labels == c].mean(0) for c in np.unique(labels)])
    widest = max(np.linalg.norm(Y[labels == c] - m, axis=1).max() for c, m in enumerate(middles))
    gaps = [np.linalg.norm(a - b) for i, a in enumerate(middles) for b in middles[:i]]
    return min(gaps) / widest


def test_groups_stay_together_and_apart(groups, embedded):
    assert embedded.Y.shape == (90, 2)
    assert int(embedded.epochs) == 100
    assert apart(np.asarray(embedded.Y), groups[1]) > 2


def test_iris_is_trustworthy():
    X = datasets.load_iris().data.astype(np.float32)
    found = umap.embed(jax.random.key(0), X, num_epochs=300)
    assert manifold.trustworthiness(X, np.asarray(found.Y), n_neighbors=15) >= 0.97


def test_one_key_gives_one_embedding(groups, embedded):
    again = umap.embed(jax.random.key(0), groups[0], num_neighbors=10, num_epochs=100)
    digests = {hashlib.sha256(np.asarray(found.Y).tobytes()).hexdigest() for found in (embedded, again)}
    assert len(digests) == 1
    other = umap.embed(jax.random.key(1), groups[0], num_neighbors=10, num_epochs=100)
    assert not np.allclose(embedded.Y, other.Y, atol=0.1)


def test_neighbors_may_be_given_with_or_without_the_points(groups):
    X = groups[0]
    indices, distances = neighbors.k_nearest(X, 9)
    own = np.arange(90)[:, None]
    with_self = np.concatenate([own, indices], 1), np.pad(np.asarray(distances), ((0, 0), (1, 0)))
    found = [
        umap.embed(jax.random.key(0), X, num_neighbors=10, num_epochs=5, neighbors=given).Y
        for given in (None, (indices, distances), with_self)
    ]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_seeds_and_distances_are_mapped_over_one_graph(groups):
    X = groups[0]
    near = neighbors.k_nearest(X, 9)

    def embed(key, min_dist):
        return umap.embed(key, X, min_dist=min_dist, neighbors=near, num_epochs=3).Y

    keys, distances = jax.random.split(jax.random.key(0), 2), jnp.array([0.0, 0.8])
    found = jax.jit(jax.vmap(jax.vmap(embed, (None, 0)), (0, None)))(keys, distances)
    assert found.shape == (2, 2, 90, 2)
    for i, j in ((0, 0), (1, 1)):
        np.testing.assert_allclose(found[i, j], embed(keys[i], distances[j]), atol=2e-2)
    assert not np.allclose(found[0, 0], found[1, 0], atol=0.1)
    assert not np.allclose(found[0, 0], found[0, 1], atol=0.1)


def test_points_stay_apart_by_min_dist(groups):
    def nearest(min_dist):
        Y = umap.embed(jax.random.key(0), groups[0], num_neighbors=10, min_dist=min_dist, num_epochs=100).Y
        return float(jnp.median(neighbors.k_nearest(Y, 1)[1]))

    assert nearest(0.8) > 2 * nearest(0.0)


@pytest.mark.parametrize("metric", ["cosine", "manhattan"])
def test_other_metrics(groups, metric):
    X, labels = groups
    found = umap.embed(jax.random.key(0), X, metric=metric, num_neighbors=10, num_epochs=100)
    k = KNeighborsClassifier(5).fit(np.asarray(found.Y), labels)
    assert k.score(np.asarray(found.Y), labels) > 0.95


def test_classes_shape_a_supervised_embedding():
    """Points in one cloud whose classes are at random: only the labels can part them."""
    X = np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 2, 90)
    settings = {"num_neighbors": 10, "num_epochs": 100}

    def score(**given):
        Y = np.asarray(umap.embed(jax.random.key(0), X, **settings, **given).Y)
        near = np.asarray(neighbors.k_nearest(Y, 5)[0])
        return np.mean(labels[near] == labels[:, None])

    assert score() < 0.65
    assert score(labels=labels, target_weight=0.9) > 0.9


def test_parts_that_hang_together_nowhere_start_from_principal_components():
    """Two groups so far apart that no neighbour lies in the other."""
    X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    X[20:] += 1e3
    found = umap.embed(jax.random.key(0), X, num_neighbors=5, num_epochs=50)
    assert np.all(np.isfinite(found.Y))
    assert apart(np.asarray(found.Y), np.arange(40) // 20) > 1
    traced = jax.jit(lambda X: umap.embed(jax.random.key(0), X, num_neighbors=5, num_epochs=0).Y)(X)
    started = umap.embed(jax.random.key(0), X, num_neighbors=5, num_epochs=0, init="pca").Y
    whole = umap.embed(jax.random.key(0), X[:20], num_neighbors=5, num_epochs=0).Y
    assert not np.allclose(whole, umap.embed(jax.random.key(0), X[:20], init="pca", num_epochs=0).Y, atol=0.5)
    np.testing.assert_allclose(traced, started, atol=1e-2)
    assert np.ptp(np.asarray(started), axis=0) == pytest.approx([10, 10])


def test_a_lonely_pair_does_not_cost_the_others_their_start():
    X = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    X[-6:] += 1e3
    Y = np.asarray(umap.embed(jax.random.key(0), X, num_neighbors=4, num_epochs=0).Y)
    assert np.ptp(Y[:54], axis=0).min() > 3  # principal components would put these into one place
    assert np.linalg.norm(Y[-6:].mean(0) - Y[:54].mean(0)) > 3


@pytest.mark.parametrize("init", ["spectral", "pca"])
def test_duplicates_and_few_points(init):
    X = np.full((90, 4), 5, np.float32)
    found = umap.embed(jax.random.key(0), X, num_neighbors=10, num_epochs=100, init=init)
    assert np.all(np.isfinite(found.Y))
    four = umap.embed(jax.random.key(0), np.eye(4, dtype=np.float32), num_epochs=20)
    assert np.all(np.isfinite(four.Y))
    assert len(np.unique(np.asarray(four.Y), axis=0)) == 4


def test_a_hub_stays_in_the_middle():
    """One point in the middle of a sphere is everyone's nearest neighbour; of all these pulls none throws it out."""
    X = np.random.default_rng(0).normal(size=(300, 100))
    X = (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)
    X[0] = 0
    indices, _ = neighbors.k_nearest(X, 2)
    assert np.sum(np.asarray(indices)[:, 0] == 0) > 250
    Y = np.asarray(umap.embed(jax.random.key(0), X, num_neighbors=3, num_epochs=100).Y)
    assert np.all(np.isfinite(Y))
    assert np.linalg.norm(Y[0] - np.median(Y, 0)) < np.quantile(np.linalg.norm(Y - np.median(Y, 0), axis=1), 0.25)


@pytest.mark.parametrize("init", ["pca", "random", "array"])
def test_other_starts(groups, init):
    X, labels = groups
    start = X[:, :2] if init == "array" else init
    Y = np.asarray(umap.embed(jax.random.key(0), X, num_neighbors=10, init=start, num_epochs=100).Y)
    assert KNeighborsClassifier(5).fit(Y, labels).score(Y, labels) == 1
    if init == "array":
        kept = umap.embed(jax.random.key(0), X, num_neighbors=10, init=start, num_epochs=0).Y
        np.testing.assert_array_equal(kept, start)


@pytest.mark.parametrize(("search", "calls"), [("exact", 0), ("approximate", 1), ("auto", 1)])
def test_neighbors_are_sought_as_asked(groups, monkeypatch, search, calls):
    """With "auto" approximately from a number of points on, which is lowered here."""
    made = []

    def spy(key, X, k, metric):
        made.append(k)
        return neighbors.k_nearest(X, k, metric=metric)

    monkeypatch.setattr(_neighborhoods, "approximate_nearest", spy)
    monkeypatch.setattr(_neighborhoods, "APPROXIMATE_FROM", 90)
    umap.embed(jax.random.key(0), groups[0], num_neighbors=10, num_epochs=2, neighbor_search=search)
    assert made == [9] * calls


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_with_double_precision_switched_on(groups, dtype):
    with jax.enable_x64(True):
        X = groups[0].astype(dtype)
        found = umap.embed(jax.random.key(0), X, num_neighbors=10, num_epochs=3)
        assert found.Y.dtype == (np.float64 if dtype == np.float64 else np.float32)
        new = umap.transform(jax.random.key(0), X, found, X[:3], num_epochs=2)
        assert np.all(np.isfinite(new))


def test_three_components_and_half_precision(groups):
    found = umap.embed(jax.random.key(0), jnp.asarray(groups[0], jnp.bfloat16), num_components=3, num_epochs=20)
    assert found.Y.shape == (90, 3)
    assert found.Y.dtype == jnp.float32
    assert np.all(np.isfinite(found.Y))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_neighbors": 1}, "num_neighbors is 1"),
        ({"num_components": 0}, "num_components is 0"),
        ({"num_epochs": -1}, "num_epochs is -1"),
        ({"num_negatives": -1}, "num_negatives is -1"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"repulsion_strength": np.nan}, "repulsion_strength is nan"),
        ({"min_dist": 2.0}, "min_dist is 2.0 and spread 1.0"),
        ({"init": "laplacian"}, "init 'laplacian' is unknown"),
        ({"metric": "euclid"}, "metric 'euclid' is unknown"),
        ({"neighbor_search": "fast"}, "neighbor_search 'fast' is unknown"),
    ],
)
def test_what_is_out_of_range_is_refused(groups, change, message):
    with pytest.raises(ValueError, match=message):
        umap.embed(jax.random.key(0), groups[0], **change)


def test_given_neighbors_that_cannot_be_are_refused(groups):
    X = groups[0]
    indices, distances = (np.array(x) for x in neighbors.k_nearest(X, 4))
    for change, message in ((lambda i, d: (i, -d), "negative"), (lambda i, d: (i[:, [0, 0, 1, 2]], d), "twice")):
        with pytest.raises(ValueError, match=message):
            umap.embed(jax.random.key(0), X, neighbors=change(indices, distances))


def test_points_that_are_none_are_refused(groups):
    with pytest.raises(ValueError, match="row 3 the first"):
        umap.embed(jax.random.key(0), groups[0] * np.where(np.arange(90) == 3, np.nan, 1)[:, None])
    with pytest.raises(ValueError, match="at least 4"):
        umap.embed(jax.random.key(0), groups[0][:3])


# New points


@pytest.fixture(scope="module")
def placed(groups, embedded):
    new = groups[0] + 0.3 * np.random.default_rng(5).normal(size=(90, 4)).astype(np.float32)
    return new, np.asarray(umap.transform(jax.random.key(1), groups[0], embedded, new))


def test_new_points_go_to_their_group(groups, embedded, placed):
    _X, labels = groups
    k = KNeighborsClassifier(5).fit(np.asarray(embedded.Y), labels)
    assert k.score(placed[1], labels) == 1
    gaps = np.linalg.norm(placed[1] - np.asarray(embedded.Y), axis=1)
    assert np.median(gaps) < 0.1 * np.ptp(np.asarray(embedded.Y))


@pytest.mark.parametrize("part", [slice(0, 1), slice(5, 60), slice(None, None, -1)])
def test_what_a_point_gets_depends_on_no_other(groups, embedded, placed, part):
    new, whole = placed
    again = umap.transform(jax.random.key(1), groups[0], embedded, new[part])
    np.testing.assert_array_equal(again, whole[part])
    many = np.concatenate([new[part], groups[0], groups[0], groups[0]])
    longer = umap.transform(jax.random.key(1), groups[0], embedded, many)
    np.testing.assert_array_equal(longer[: len(again)], again)


def test_new_points_start_at_the_mean_by_weight():
    """Distances 1, 2 and 4: exp(−2/σ) + exp(−4/σ) = log₂ 3, whatever is nearest; weights are scaled by the largest."""
    X, Y = np.array([[1.0], [-2.0], [4.0], [90.0]]), np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.5], [7.0, 7.0]])
    sigma = scipy.optimize.brentq(lambda s: np.exp(-2 / s) + np.exp(-4 / s) - np.log2(3), 1, 100)
    weights = np.exp(-np.array([0, 1, 3]) / sigma)
    found = umap.transform(jax.random.key(0), X, Y, np.array([[0.0]]), num_neighbors=3, num_epochs=0)
    np.testing.assert_allclose(found[0], weights @ Y[:3] / weights.sum(), rtol=1e-4)


def test_ties_and_far_groups_do_not_make_points_depend_on_each_other():
    """Whole numbers about the mean, so that many distances are equal, and far groups that products cannot tell apart.

    One query among these has its block measured again by differences, which order what is equal otherwise.
    """
    rng = np.random.default_rng(0)
    grid = rng.integers(-3, 4, size=(300, 4))
    far = 1e-2 * rng.normal(size=(150, 4)) + [3e3, 0, 0, 0]
    X = np.concatenate([grid, far, far - [6e3, 0, 0, 0]]).astype(np.float32)
    Y = rng.normal(size=(600, 2)).astype(np.float32)
    new = rng.integers(-3, 4, size=(50, 4)).astype(np.float32)
    alone = umap.transform(jax.random.key(0), X, Y, new)
    with_another = umap.transform(jax.random.key(0), X, Y, np.concatenate([new, X[300:301] + np.float32(1e-3)]))
    np.testing.assert_array_equal(alone, with_another[:50])


def test_far_points_go_to_their_only_neighbor_and_those_that_are_none_nowhere():
    X, Y = np.eye(4, dtype=np.float32), np.array([[1.0, 1], [2, 2], [3, 3], [4, 4]], np.float32)
    far = umap.transform(jax.random.key(0), X, Y, 1e4 * X[:2], num_neighbors=1, num_epochs=0)
    np.testing.assert_allclose(far, Y[:2])
    traced = jax.jit(lambda new: umap.transform(jax.random.key(0), X, Y, new, num_neighbors=2))
    found = np.asarray(traced(np.where(np.arange(4)[:, None] == 1, np.nan, X).astype(np.float32)))
    assert np.all(np.isnan(found[1]))


def test_the_curve_of_an_embedding_is_kept(groups, embedded, placed):
    bare = umap.transform(jax.random.key(1), groups[0], embedded.Y, placed[0])
    np.testing.assert_array_equal(bare, placed[1])  # 0.1 and 1.0 are the defaults of both
    other = umap.transform(jax.random.key(1), groups[0], embedded.Y, placed[0], min_dist=0.9)
    assert not np.allclose(other, placed[1], atol=1e-3)


def test_a_point_between_its_only_neighbors_stays_there():
    """No epochs: the start is the mean of the neighbours' places, the nearer by its weight. Two at one distance."""
    X, Y = np.array([[0.0], [2.0], [50.0], [51.0]]), np.array([[0.0, 0.0], [4.0, 2.0], [9.0, 9.0], [9.0, 8.0]])
    found = umap.transform(jax.random.key(0), X, Y, np.array([[1.0]]), num_neighbors=2, num_epochs=0)
    np.testing.assert_allclose(found, [[2.0, 1.0]], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_neighbors": 0}, "num_neighbors is 0"),
        ({"num_epochs": -1}, "num_epochs is -1"),
        ({"metric": "euclid"}, "metric 'euclid' is unknown"),
        ({"min_dist": -1.0}, "min_dist is -1.0"),
    ],
)
def test_what_is_out_of_range_is_refused_for_new_points(groups, change, message):
    with pytest.raises(ValueError, match=message):
        umap.transform(jax.random.key(0), groups[0], groups[0][:, :2], groups[0][:2], **change)


def test_new_points_that_are_none_are_refused(groups, embedded):
    with pytest.raises(ValueError, match="X_new"):
        umap.transform(jax.random.key(0), groups[0], embedded, np.full((2, 4), np.nan, np.float32))


@pytest.mark.slow
def test_held_out_digits_are_placed_among_their_class():
    """Of all neighbours in the data 0.98 on average; umap-learn's own places 0.975."""
    digits = datasets.load_digits()
    scores = []
    X, labels = digits.data.astype(np.float32), digits.target
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(1797)
        train, test = order[:1437], order[1437:]
        found = umap.embed(jax.random.key(seed), X[train])
        new = umap.transform(jax.random.key(seed), X[train], found, X[test])
        votes = KNeighborsClassifier(10).fit(np.asarray(found.Y), labels[train])
        scores.append(votes.score(np.asarray(new), labels[test]))
        assert manifold.trustworthiness(X[train], np.asarray(found.Y), n_neighbors=15) >= 0.982
    assert np.mean(scores) >= 0.972
