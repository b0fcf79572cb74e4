"""From points to the affinities of their neighbours: what the embeddings of this package begin with."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from mathai.reduction import _affinity_graph, _perplexity
from mathai.reduction._affinity_graph import AffinityGraph
from mathai.reduction._arrays import check_finite, promote
from mathai.reduction.neighbors import k_nearest

PER_PERPLEXITY = 3  # neighbours; beyond three times the perplexity weights are small


def neighbors_of(name, X, perplexity, num_neighbors, metric, given) -> tuple[Int[Array, "n k"], Float[Array, "n k"]]:
    """Indices and distances of neighbours, given or found; every mistake in the arguments is an error."""
    X = jnp.asarray(X)
    chex.assert_rank(X, 2)
    n = len(X)
    if n < 4:
        raise ValueError(f"{name}: X has {n} points; an embedding needs at least 4.")
    check_finite(f"{name}: X", X)
    if given is not None:
        indices, distances = given
        chex.assert_equal_shape([indices, distances])
        chex.assert_shape(indices, (n, None))
        k = jnp.shape(indices)[1]
        _check_lists(name, indices, distances)
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
        indices, distances = k_nearest(promote(_finite(X))[0][0], k, metric=metric)
    check_perplexity(name, perplexity, k)
    return jnp.asarray(indices, jnp.int32), jnp.asarray(distances)


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
    if np.any(np.isnan(np.asarray(distances))):
        raise ValueError(f"{name}: neighbors holds distances that are NaN.")


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
