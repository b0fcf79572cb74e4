"""From points to the affinities of their neighbours: what the embeddings of this package begin with."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from mathai.nn._sharding import check_mesh
from mathai.reduction import _affinity_graph, _perplexity
from mathai.reduction._affinity_graph import AffinityGraph
from mathai.reduction._arrays import check_finite, promote
from mathai.reduction.neighbors import approximate_nearest, k_nearest

SEARCHES = ("auto", "exact", "approximate")
APPROXIMATE_FROM = 100_000  # points, where "auto" no longer looks at all pairs
PER_PERPLEXITY = 3  # neighbours; beyond three times the perplexity weights are small


def neighbors_of(
    name, X, perplexity, num_neighbors, metric, given, mesh=None, axis="data"
) -> tuple[Int[Array, "n k"], Float[Array, "n k"]]:
    """Indices and distances of neighbours, given or found; every mistake in the arguments is an error."""
    check_mesh(name, mesh, axis)
    X = _points(name, X)
    n = len(X)
    if given is not None:
        indices, distances = _given(name, n, given)
        k = jnp.shape(indices)[1]
    else:
        k = num_neighbors
        check_perplexity(name, perplexity, jnp.inf)
        if k is not None and not 1 <= k < n:
            raise ValueError(f"{name}: num_neighbors is {k}; it must be at least 1 and at most {n - 1}.")
        if k is None:
            if isinstance(perplexity, jax.core.Tracer):
                raise ValueError(
                    f"{name}: perplexity is traced; give num_neighbors or neighbors, which fix the shapes."
                )
            k = min(n - 1, max(1, round(PER_PERPLEXITY * float(perplexity))))
        indices, distances = k_nearest(promote(_finite(X))[0][0], k, metric=metric, mesh=mesh, axis=axis)
    check_perplexity(name, perplexity, k)
    return jnp.asarray(indices, jnp.int32), jnp.asarray(distances)


def lists_with_self(name, X, num_neighbors, metric, search, given) -> tuple[Int[Array, "n k"], Float[Array, "n k"]]:
    """Indices and distances of neighbours, the point itself first, which `num_neighbors` counts; given or found."""
    X = _points(name, X)
    n = len(X)
    if given is not None:
        indices, distances = _given(name, n, _without_self(given))
    else:
        if num_neighbors < 2:
            raise ValueError(f"{name}: num_neighbors is {num_neighbors}; it counts the point itself and is at least 2.")
        if search not in SEARCHES:
            raise ValueError(f"{name}: neighbor_search {search!r} is unknown; use one of {', '.join(SEARCHES)}.")
        points, k = promote(_finite(X))[0][0], min(num_neighbors, n) - 1
        if search == "approximate" or (search == "auto" and n >= APPROXIMATE_FROM):
            indices, distances = approximate_nearest(jax.random.key(0), points, k, metric=metric)
        else:
            indices, distances = k_nearest(points, k, metric=metric)
    own = jnp.arange(n, dtype=jnp.int32)[:, None]
    (distances,), _ = promote(distances)
    return (
        jnp.concatenate([own, jnp.asarray(indices, jnp.int32)], axis=1),
        jnp.pad(distances, ((0, 0), (1, 0))),
    )


def _points(name: str, X: ArrayLike) -> Array:
    """The points of an embedding; too few, or numbers that are known and not finite, are an error."""
    X = jnp.asarray(X)
    chex.assert_rank(X, 2)
    if len(X) < 4:
        raise ValueError(f"{name}: X has {len(X)} points; an embedding needs at least 4.")
    check_finite(f"{name}: X", X)
    return X


def _given(name: str, num_points: int, given) -> tuple[ArrayLike, ArrayLike]:
    """Lists of neighbours that fit the points; what is wrong in them and known is an error."""
    indices, distances = given
    chex.assert_equal_shape([indices, distances])
    chex.assert_shape(indices, (num_points, None))
    _check_lists(name, indices, distances)
    return indices, distances


def _without_self(given):
    """Lists whose first column is known to be the points themselves, as other programs make them, without it."""
    indices, distances = given
    if isinstance(indices, jax.core.Tracer) or jnp.ndim(indices) != 2 or jnp.shape(indices)[1] < 2:
        return given
    known = np.asarray(indices)
    return (known[:, 1:], distances[:, 1:]) if np.array_equal(known[:, 0], np.arange(len(known))) else given


def _finite(X):
    """Points in which what is not finite counts as 0; known ones were refused before."""
    return jnp.where(jnp.isfinite(X), X, 0) if isinstance(X, jax.core.Tracer) else X


def _check_lists(name: str, indices: ArrayLike, distances: ArrayLike) -> None:
    """Raise a `ValueError` for given neighbours that are known and no points, or the points themselves."""
    if isinstance(indices, jax.core.Tracer) or isinstance(distances, jax.core.Tracer):
        return
    known = np.asarray(indices)
    if not np.all((known >= 0) & (known < len(known))):
        raise ValueError(f"{name}: neighbors holds indices outside of 0 … {len(known) - 1}.")
    if np.any(known == np.arange(len(known))[:, None]):
        raise ValueError(f"{name}: neighbors lists points as their own neighbours; leave these out (often column 0).")
    if not np.all(np.asarray(distances) >= 0):
        raise ValueError(f"{name}: neighbors holds distances that are NaN or negative.")
    if np.any(np.diff(np.sort(known, axis=1), axis=1) == 0):
        raise ValueError(f"{name}: neighbors lists a point twice in one row.")


def graph_of(indices: Array, distances: Array, perplexity: ArrayLike) -> AffinityGraph:
    """Joint affinities of lists of neighbours, as long again as those: few points are named by more."""
    if indices.size >= 2**31:
        raise ValueError(f"{indices.shape} neighbours are 2³¹ edges or more; list fewer for each point.")
    (distances,), _ = promote(distances)
    perplexity = jnp.asarray(perplexity, distances.dtype)
    return _graph_of(indices, distances, perplexity)


@jax.jit
def _graph_of(indices, distances, perplexity):
    n, k = indices.shape
    squares = distances * distances
    conditional = _perplexity.affinities(squares, squares != jnp.inf, perplexity)
    block = _affinity_graph.OVERFLOW_BLOCK
    num_ranks = min(2 * k, n - 1)
    capacity = 0 if num_ranks == n - 1 else -(-n * k // block) * block
    reverse = _affinity_graph.reverse_edges(indices)
    lists = _affinity_graph.structure(indices, reverse, num_ranks=num_ranks, capacity=capacity)
    return _affinity_graph.weigh(lists, conditional)


def check_perplexity(name: str, perplexity: ArrayLike, num_neighbors: int | float) -> None:
    """Raise a `ValueError` for a perplexity that is known and out of range."""
    chex.assert_rank(perplexity, 0)
    if isinstance(perplexity, jax.core.Tracer):
        return
    if not np.all((np.asarray(perplexity) >= 1) & (np.asarray(perplexity) < num_neighbors)):
        raise ValueError(
            f"{name}: perplexity is {perplexity}; it must be at least 1 and less than the number of neighbours, "
            f"{num_neighbors}."
        )
