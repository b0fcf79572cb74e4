"""Nearest neighbours, exact and in bounded memory, and how well an embedding keeps them."""

import functools

import chex
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key, Shaped, UInt32

from mathai.nn._sharding import check_mesh
from mathai.reduction import _approximate_neighbors, _distances, _ring_neighbors
from mathai.reduction._arrays import check_finite, promote

__all__ = ["approximate_nearest", "k_nearest", "neighbor_recall", "trustworthiness"]

METRICS = ("euclidean", "cosine", "manhattan")


def k_nearest(
    X: Shaped[ArrayLike, "n features"],
    k: int,
    *,
    queries: Shaped[ArrayLike, "m features"] | None = None,
    metric: str = "euclidean",
    block_size: int | None = None,
    mesh: Mesh | None = None,
    axis: str = "data",
) -> tuple[Int[Array, "m k"], Float[Array, "m k"]]:
    """The k nearest points of each point, or of each query, exactly.

        N_k(q) = the k points x with the smallest d(q, x),   ascending

    Distances of all pairs are made a block of queries at a time by one matrix product about the mean,
    ‖q − x‖² = ‖q‖² − 2qᵀx + ‖x‖². The few nearest are measured again as differences, which is what is returned. Where
    products lose the digits that tell neighbours apart (groups that are far from the mean and close in
    themselves), a block is measured by differences throughout. Of points whose distances differ by less than
    rounding any may be returned; with one device the same always is. Distances are differentiable, with derivative 0
    at duplicates; indices are not. Where X is traced and holds NaN, all distances are NaN.

    With a mesh each device holds a block of the points and a block of the queries, n/D and m/D rows; the points travel
    round a ring of the D devices. Neighbours are the same, but for ties.

    Args:
      X: points; integers become floats. Half precision is measured in float32.
      k: neighbours of each point, fixed while tracing.
      queries: points whose neighbours are sought; None takes X itself, where a point is never its own neighbour
        (known by its index, so duplicates are neighbours at distance 0).
      metric: "euclidean", "cosine" (1 − cos; a vector of zeros has distance 1 to all that are not) or "manhattan".
      block_size: queries at a time; None chooses so that what is held takes about 16 MiB.
      mesh: devices to share the work, with axes of type Auto; None is one device.
      axis: of the mesh, over which rows are spread; over its other axes all is replicated.

    Returns:
      (indices into X [m, k], distances [m, k] in X's dtype), nearest first; rows lie on their devices.

    Raises:
      ValueError: k is not in 1 … the number of other points, an unknown metric, points that are known to hold NaN,
        distances that overflow, or an axis that the mesh has not.
      AssertionError: shapes that do not fit.

    Source:
      Fix & Hodges (1951), Discriminatory Analysis, section 4; Plimpton (1995), Fast Parallel Algorithms for Short-Range
      Molecular Dynamics, section 3.1, for blocks of all pairs on many devices.

    >>> indices, distances = k_nearest(jnp.array([[0.0], [1.0], [3.0]]), 1)
    >>> indices.tolist(), distances.tolist()
    ([[1], [0], [1]], [[1.0], [1.0], [2.0]])
    """
    chex.assert_rank([X] if queries is None else [X, queries], 2)
    check_finite("k_nearest: X", X)
    if queries is not None:
        check_finite("k_nearest: queries", queries)
        chex.assert_equal_shape_suffix([jnp.asarray(X), jnp.asarray(queries)], 1)
    others = jnp.shape(X)[0] - (queries is None)
    _check_choice("k_nearest", k, others, metric)
    if block_size is not None and block_size < 1:
        raise ValueError(f"k_nearest: block_size is {block_size}; it must be at least 1.")
    check_mesh("k_nearest", mesh, axis)
    choices = {"k": k, "metric": metric, "block_size": block_size}
    indices, distances = _k_nearest(X, queries, **choices, mesh=mesh, axis=None if mesh is None else axis)
    _check_range("k_nearest", distances)
    return indices, distances


@functools.partial(jax.jit, static_argnames=("k", "metric", "block_size", "mesh", "axis"))
def _k_nearest(X, queries, *, k, metric, block_size, mesh, axis):
    given = (X,) if queries is None else (X, queries)
    (X, *rest), dtype = promote(*given)
    seekers = rest[0] if rest else X
    choices = {"metric": metric, "block_size": block_size, "exclude_self": queries is None}
    if mesh is None or not len(seekers):
        indices, distances = _distances.nearest(X, seekers, k, **choices)
    else:
        indices, distances = _ring_neighbors.nearest(X, seekers, k, **choices, mesh=mesh, axis=axis)
    return indices, _nan_unless_finite(distances, X).astype(dtype)


def approximate_nearest(
    key: Key[Array, ""] | UInt32[Array, "..."],
    X: Shaped[ArrayLike, "n features"],
    k: int,
    *,
    metric: str = "euclidean",
    num_trees: int | None = None,
    num_rounds: int | None = None,
) -> tuple[Int[Array, "n k"], Float[Array, "n k"]]:
    """About the k nearest other points of each point, for sets that are too large to measure all pairs.

        N⁰(i) = the k nearest of i in the leaves around that of i,   over trees
        Nʳ⁺¹(i) = the k nearest of Nʳ(i) ∪ {w : i, w ∈ Bʳ(v) of some v},   Bʳ(v) = Nʳ(v) ∪ {u : v ∈ Nʳ(u)}

    A tree halves the points until each leaf holds at most 128; all members of a leaf are measured against the 4096
    points of the leaves whose means are nearest to its own. Each round then introduces the neighbours of a point to
    each other. Below 24 576 points the search is exact, for that is the quicker way. Of 15 neighbours 0.98 are found
    where data lie in clusters or on surfaces (60 000 images of MNIST, 200 000 points of a mixture); in one Gaussian of
    20 or 50 dimensions, where nothing tells near from far, 0.8 or 0.5: more rounds and trees find more. Distances are
    exact, of points that are named once each and never name themselves, and differentiable as those of `k_nearest`;
    with one device a key always finds the same. Where X is traced and holds NaN, all distances are NaN.

    Args:
      key: of the directions in which groups are halved and of who is introduced.
      X: points; integers become floats. Half precision is measured in float32.
      k: neighbours of each point, fixed while tracing.
      metric: "euclidean", "cosine" (1 − cos; a vector of zeros has distance 1 to all that are not) or "manhattan".
      num_trees: trees, at least 1; None takes 1. More find more.
      num_rounds: rounds of introductions; None takes 2.

    Returns:
      (indices into X [n, k], distances [n, k] in X's dtype), nearest first.

    Raises:
      ValueError: k is not in 1 … n − 1, no tree or fewer than 0 rounds, an unknown metric, points that are known to
        hold NaN, or distances that overflow.
      AssertionError: X is not a matrix.

    Source:
      Dasgupta & Freund (2008), Random projection trees and low dimensional manifolds, section 2; Dong, Moses & Li
      (2011), Efficient k-nearest neighbor graph construction for generic similarity measures, section 2.

    >>> indices, distances = approximate_nearest(jax.random.key(0), jnp.array([[0.0], [1.0], [3.0]]), 1)
    >>> indices.tolist(), distances.tolist()
    ([[1], [0], [1]], [[1.0], [1.0], [2.0]])
    """
    chex.assert_rank(X, 2)
    check_finite("approximate_nearest: X", X)
    _check_choice("approximate_nearest", k, jnp.shape(X)[0] - 1, metric)
    num_trees = _approximate_neighbors.NUM_TREES if num_trees is None else num_trees
    num_rounds = _approximate_neighbors.NUM_ROUNDS if num_rounds is None else num_rounds
    if num_trees < 1:
        raise ValueError(f"approximate_nearest: num_trees is {num_trees}; it must be at least 1.")
    if num_rounds < 0:
        raise ValueError(f"approximate_nearest: num_rounds is {num_rounds}; it must be at least 0.")
    indices, distances = _approximate_nearest(key, X, k=k, metric=metric, num_trees=num_trees, num_rounds=num_rounds)
    _check_range("approximate_nearest", distances)
    return indices, distances


@functools.partial(jax.jit, static_argnames=("k", "metric", "num_trees", "num_rounds"))
def _approximate_nearest(key, X, **choices):
    (X,), dtype = promote(X)
    indices, distances = _approximate_neighbors.nearest(key, X, **choices)
    return indices, _nan_unless_finite(distances, X).astype(dtype)


def _check_choice(name: str, k: int, others: int, metric: str) -> None:
    if not 1 <= k <= others:
        raise ValueError(
            f"{name}: k is {k}; it must be at least 1 and at most {others}, the number of points to choose from."
        )
    if metric not in METRICS:
        raise ValueError(f"{name}: metric {metric!r} is unknown; use one of {', '.join(METRICS)}.")


def _check_range(name: str, distances: Array) -> None:
    """Raise a `ValueError` for distances that are known and too large for their dtype."""
    if isinstance(distances, jax.core.Tracer):
        return
    with jax.ensure_compile_time_eval():
        is_finite = bool(jnp.all(jnp.isfinite(distances)))
    if not is_finite:
        raise ValueError(f"{name}: distances overflow {distances.dtype}; scale the points down.")


def trustworthiness(
    X: Shaped[ArrayLike, "n features"], Y: Shaped[ArrayLike, "n components"], k: int = 15
) -> Float[Array, ""]:
    """Trustworthiness of an embedding: how far from a point its neighbours in the embedding are in the data.

        T = 1 − 2 / (n k (2n − 3k − 1)) Σᵢ Σ_{j ∈ N_k(yᵢ)} max(0, r(i, j) − k)

    with r(i, j) the rank of j among the neighbours of i in the data, 1 for the nearest; points at one distance share
    the lower rank. 1 is best; an embedding at random has about ½. Numbers that are traced and NaN give NaN.

    Args:
      X: the data.
      Y: the embedding, row for row.
      k: neighbours, fewer than n/2.

    Returns:
      A scalar in [0, 1].

    Raises:
      ValueError: k is not in 1 … (n − 1) / 2, or points that are known to hold NaN.
      AssertionError: X and Y have not one row for each point.

    Source:
      Venna & Kaski (2001), Neighborhood preservation in nonlinear projection methods, eq. 1.

    >>> X = jnp.arange(12.0).reshape(6, 2)
    >>> trustworthiness(X, X, k=2)
    Array(1., dtype=float32)
    """
    _check_embedding("trustworthiness", X, Y, k)
    if 2 * k >= (n := jnp.shape(X)[0]):
        raise ValueError(f"trustworthiness: k is {k}; it must be less than half of the {n} points.")
    neighbors, _ = k_nearest(Y, k)
    return _trustworthiness(X, Y, neighbors)


@jax.jit
def _trustworthiness(X, Y, neighbors):
    (X,), dtype = promote(X)
    n, k = neighbors.shape
    excess = jnp.maximum(_distances.ranks(X, neighbors) - k, 0).astype(X.dtype)
    return _nan_unless_finite(1 - 2 / (n * k * (2 * n - 3 * k - 1)) * jnp.sum(excess), X, Y).astype(dtype)


def neighbor_recall(
    X: Shaped[ArrayLike, "n features"], Y: Shaped[ArrayLike, "n components"], k: int = 10
) -> Float[Array, ""]:
    """The part of each point's nearest neighbours that stay its nearest neighbours in an embedding.

        R = 1/(nk) Σᵢ |N_k(xᵢ) ∩ N_k(yᵢ)|

    Args:
      X: the data.
      Y: the embedding, row for row.
      k: neighbours, at most n − 1.

    Returns:
      A scalar in [0, 1]; 1 is best, an embedding at random has k/(n − 1).

    Raises:
      ValueError: k is not in 1 … n − 1, or points that are known to hold NaN.
      AssertionError: X and Y have not one row for each point.

    Source:
      Lee & Verleysen (2009), Quality assessment of dimensionality reduction: Rank-based criteria, eq. 12.

    >>> X = jnp.arange(12.0).reshape(6, 2)
    >>> neighbor_recall(X, -X, k=2)
    Array(1., dtype=float32)
    """
    _check_embedding("neighbor_recall", X, Y, k)
    theirs, ours = k_nearest(X, k)[0], k_nearest(Y, k)[0]
    is_kept = jnp.any(theirs[:, :, None] == ours[:, None, :], axis=-1)
    (X, Y), dtype = promote(X, Y)
    return _nan_unless_finite(jnp.mean(is_kept, dtype=X.dtype), X, Y).astype(dtype)


def _nan_unless_finite(values, *arrays):
    """What is found of numbers that are none, which are seen too late to be refused where they are traced, is NaN."""
    is_finite = functools.reduce(jnp.logical_and, [jnp.all(jnp.isfinite(array)) for array in arrays])
    return jnp.where(is_finite, values, jnp.nan)


def _check_embedding(name: str, X: ArrayLike, Y: ArrayLike, k: int) -> None:
    chex.assert_rank([X, Y], 2)
    chex.assert_equal_shape_prefix([jnp.asarray(X), jnp.asarray(Y)], 1)
    check_finite(f"{name}: X", X)
    check_finite(f"{name}: Y", Y)
    others = jnp.shape(X)[0] - 1
    if not 1 <= k <= others:
        raise ValueError(f"{name}: k is {k}; it must be at least 1 and at most {others}, the number of other points.")
