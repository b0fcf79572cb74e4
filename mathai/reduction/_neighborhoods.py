"""From points to the affinities of their neighbours: what the embeddings of this package begin with."""

import functools

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
TRIM = 0.02  # of the points, whose further edges overflow from the lists


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


def graph_of(indices, distances, perplexity) -> AffinityGraph:
    """Joint affinities of lists of neighbours; the lists are cut to what serves where the numbers are known."""
    (distances, perplexity), _ = promote(distances, perplexity)
    n, k = indices.shape
    conditional, reverse, in_degrees = _directed(indices, distances, perplexity)
    if isinstance(in_degrees, jax.core.Tracer):
        num_ranks, capacity = 2 * k, n * k
    else:
        degrees = np.sort(np.asarray(in_degrees))
        longest = degrees[int((1 - TRIM) * (n - 1))]
        num_ranks, capacity = k + -(-longest // 8) * 8, int(np.maximum(degrees - longest, 0).sum())
    block = _affinity_graph.OVERFLOW_BLOCK
    return _symmetric(indices, reverse, conditional, int(num_ranks), -(-capacity // block) * block)


@jax.jit
def _directed(indices, distances, perplexity):
    reverse = _affinity_graph.reverse_edges(indices)
    squares = distances * distances
    conditional = _perplexity.affinities(squares, jnp.isfinite(squares), perplexity)
    return conditional, reverse, _affinity_graph.in_degrees(indices, reverse)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _symmetric(indices, reverse, conditional, num_ranks, capacity):
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
