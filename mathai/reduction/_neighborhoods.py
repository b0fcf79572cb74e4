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
    else:
        k = num_neighbors
        if k is None:
            if isinstance(perplexity, jax.core.Tracer):
                raise ValueError(
                    f"{name}: perplexity is traced; give num_neighbors or neighbors, which fix the shapes."
                )
            k = min(n - 1, max(1, round(PER_PERPLEXITY * float(perplexity))))
        indices, distances = k_nearest(_finite(X), k, metric=metric)
    check_perplexity(name, perplexity, k)
    return jnp.asarray(indices, jnp.int32), jnp.asarray(distances)


def _finite(X):
    """Points in which what is not finite counts as 0; known ones were refused before."""
    return jnp.where(jnp.isfinite(X), X, 0) if isinstance(X, jax.core.Tracer) else X


def graph_of(indices: Array, distances: Array, perplexity: ArrayLike) -> AffinityGraph:
    """Joint affinities of lists of neighbours, as long again as those: few points are named by more."""
    (distances,), _ = promote(distances)
    perplexity = jnp.asarray(perplexity, distances.dtype)
    return _graph_of(indices, distances, perplexity)


@jax.jit
def _graph_of(indices, distances, perplexity):
    n, k = indices.shape
    squares = distances * distances
    conditional = _perplexity.affinities(squares, jnp.isfinite(squares), perplexity)
    block = _affinity_graph.OVERFLOW_BLOCK
    num_ranks = min(2 * k, n - 1)
    capacity = 0 if num_ranks == n - 1 else -(-n * k // block) * block
    reverse = _affinity_graph.reverse_edges(indices)
    lists = _affinity_graph.structure(indices, reverse, num_ranks=num_ranks, capacity=capacity)
    return _affinity_graph.weigh(lists, conditional)


def check_perplexity(name: str, perplexity: ArrayLike, num_neighbors: int) -> None:
    """Raise a `ValueError` for a perplexity that is known and out of range."""
    if isinstance(perplexity, jax.core.Tracer):
        return
    if not np.all((np.asarray(perplexity) >= 1) & (np.asarray(perplexity) < num_neighbors)):
        raise ValueError(
            f"{name}: perplexity is {perplexity}; it must be at least 1 and less than the number of neighbours, "
            f"{num_neighbors}."
        )
