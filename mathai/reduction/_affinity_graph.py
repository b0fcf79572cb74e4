"""Affinities of neighbours made symmetric, as lists that are only read: what pulls at a point stands in its column.

A neighbour graph has k edges from each point and any number to it. Each point's own k come first; the points that
name it and are not named by it follow, up to a fixed number of ranks. What is beyond (of hubs) overflows into one list
of edges, so that the shapes are fixed and no edge is lost.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mathai.reduction._arrays import gather

OVERFLOW_BLOCK = 4096  # edges beyond the ranks that are treated at a time
UNROLL = 2  # ranks of one pass over the points


class Structure(NamedTuple):
    """Which directed edges make up each undirected one; it depends on the neighbours alone.

    Edges are numbered i·k + r for the r-th neighbour of i; −1 is none.

    Attributes:
      neighbors: the point at the other end, [ranks, n]; the point itself where there is none.
      incoming: the edge from there, [ranks, n].
      overflow_targets: ends of further incoming edges, ascending, [capacity].
      overflow_edges: these edges, [capacity].
      num_overflow: how many there are.
    """

    neighbors: Int[Array, "ranks n"]
    incoming: Int[Array, "ranks n"]
    overflow_targets: Int[Array, "capacity"]
    overflow_edges: Int[Array, "capacity"]
    num_overflow: Int[Array, ""]


class AffinityGraph(NamedTuple):
    """Symmetric affinities p_ij that sum to 1.

    Attributes:
      neighbors: j, [ranks, n].
      weights: p_ij, [ranks, n]; 0 where there is no neighbour.
      overflow_rows: i of further pairs, ascending, [capacity].
      overflow_columns: their j.
      overflow_weights: their p_ij.
      num_overflow: how many of these count.
    """

    neighbors: Int[Array, "ranks n"]
    weights: Float[Array, "ranks n"]
    overflow_rows: Int[Array, "capacity"]
    overflow_columns: Int[Array, "capacity"]
    overflow_weights: Float[Array, "capacity"]
    num_overflow: Int[Array, ""]


def reverse_edges(indices: Int[Array, "n k"]) -> Int[Array, "n k"]:
    """For the edge from i to j the number of the edge from j to i; −1 where i is no neighbour of j."""
    n, k = indices.shape
    ends = indices.reshape(-1)
    own = jnp.repeat(jnp.arange(n, dtype=indices.dtype), k)

    def look(found, rank):
        place, theirs = rank
        return jnp.where(gather(theirs, ends) == own, ends * k + place, found), None

    found, _ = jax.lax.scan(look, jnp.full(n * k, -1, jnp.int32), (jnp.arange(k, dtype=jnp.int32), indices.T))
    return found.reshape(n, k)


def structure(indices: Int[Array, "n k"], reverse: Int[Array, "n k"], *, num_ranks: int, capacity: int) -> Structure:
    """Lists of what pulls at each point.

    Args:
      indices: neighbours of each point.
      reverse: what `reverse_edges` gives.
      num_ranks: of each list, at least k.
      capacity: of the overflow, a multiple of `OVERFLOW_BLOCK`.
    """
    n, k = indices.shape
    edges = jnp.arange(n * k, dtype=jnp.int32)
    targets = jnp.where(reverse < 0, indices, n).reshape(-1).astype(jnp.int32)
    targets, edges = jax.lax.sort((targets, edges), num_keys=1, is_stable=True)
    ends = jnp.searchsorted(targets, jnp.arange(n, dtype=jnp.int32), side="left").astype(jnp.int32)
    place = jnp.arange(n * k, dtype=jnp.int32) - ends.at[targets].get(mode="fill", fill_value=0)
    # What does not belong into the table is sent out of its bounds, where a scatter drops it.
    row = jnp.where((targets < n) & (place < num_ranks - k), place, num_ranks)
    incoming = jnp.full((num_ranks - k, n), -1, jnp.int32).at[row, targets].set(edges, mode="drop")
    neighbors = jnp.where(incoming < 0, jnp.arange(n, dtype=jnp.int32)[None], incoming // k)
    is_over = (targets < n) & (place >= num_ranks - k)
    slot = jnp.where(is_over, jnp.cumsum(is_over, dtype=jnp.int32) - 1, capacity)
    nowhere = jnp.full(capacity, -1, jnp.int32)
    return Structure(
        jnp.concatenate([indices.T.astype(jnp.int32), neighbors]),
        jnp.concatenate([reverse.T, incoming]),
        nowhere.at[slot].set(targets, mode="drop"),
        nowhere.at[slot].set(edges, mode="drop"),
        jnp.sum(is_over, dtype=jnp.int32),
    )


def weigh(structure: Structure, conditional: Float[Array, "n k"]) -> AffinityGraph:
    """p_ij = (p_{j|i} + p_{i|j}) / 2n on the lists of a structure."""
    n, k = conditional.shape
    conditional = conditional / (2 * n)

    def of(edges):
        return jnp.where(edges < 0, 0, gather(conditional.reshape(-1), jnp.maximum(edges, 0)))

    return AffinityGraph(
        structure.neighbors,
        of(structure.incoming).at[:k].add(conditional.T),
        jnp.maximum(structure.overflow_targets, 0),
        jnp.maximum(structure.overflow_edges, 0) // k,
        of(structure.overflow_edges),
        structure.num_overflow,
    )


def attraction(Y: Float[Array, "n c"], graph: AffinityGraph) -> Float[Array, "n c"]:
    """Σⱼ p_ij (yᵢ − yⱼ) / (1 + ‖yᵢ − yⱼ‖²)."""
    coordinates = tuple(Y.T)

    def pull(here, there, weight):
        differences = [a - b for a, b in zip(here, there, strict=True)]
        weight = weight / (1 + sum(d * d for d in differences))
        return [weight * d for d in differences]

    def add_rank(force, rank):
        j, weight = rank
        pulls = pull(coordinates, [gather(y, j) for y in coordinates], weight)
        return [f + g for f, g in zip(force, pulls, strict=True)], None

    force, _ = jax.lax.scan(add_rank, [jnp.zeros_like(y) for y in coordinates], graph[:2], unroll=UNROLL)

    # Whole numbers add up to the same in any order, which floats do not where a device adds at the same time; no sum
    # is beyond ½ Σ p = ½.
    is_double = Y.dtype == jnp.float64
    unit, whole = (2.0**60, jnp.int64) if is_double else (2.0**30, jnp.int32)

    def add_overflow(total, rows, columns, weight):
        pulls = pull([gather(y, rows) for y in coordinates], [gather(y, columns) for y in coordinates], weight)
        whole_pulls = [jnp.round(g * unit).astype(whole) for g in pulls]
        return [t.at[rows].add(g, mode="promise_in_bounds") for t, g in zip(total, whole_pulls, strict=True)]

    if len(graph.overflow_rows):
        extra = _over_overflow(add_overflow, [jnp.zeros(len(Y), whole)] * Y.shape[1], graph)
        force = [f + t.astype(Y.dtype) / unit for f, t in zip(force, extra, strict=True)]
    return jnp.stack(force, axis=1)


def attractive_energy(Y: Float[Array, "n c"], graph: AffinityGraph) -> Float[Array, ""]:
    """Σᵢⱼ p_ij log (p_ij (1 + ‖yᵢ − yⱼ‖²)): the divergence but for log Z."""
    coordinates = tuple(Y.T)

    def energy(here, there, weight):
        squares = sum((a - b) ** 2 for a, b in zip(here, there, strict=True))
        return weight * (jnp.log(jnp.where(weight > 0, weight, 1)) + jnp.log1p(squares))

    def add_rank(total, rank):
        j, weight = rank
        return total + energy(coordinates, [gather(y, j) for y in coordinates], weight), None

    total, _ = jax.lax.scan(add_rank, jnp.zeros_like(coordinates[0]), graph[:2])

    def add_overflow(total, rows, columns, weight):
        extra = energy([gather(y, rows) for y in coordinates], [gather(y, columns) for y in coordinates], weight)
        return total + jnp.sum(extra)

    return _over_overflow(add_overflow, jnp.sum(total), graph)


def _over_overflow(add, total, graph):
    """Add what overflowed, as many blocks as there are."""
    edges = graph[2:5]
    if not len(edges[0]):
        return total

    def add_block(block, total):
        return add(total, *(jax.lax.dynamic_slice_in_dim(e, block * OVERFLOW_BLOCK, OVERFLOW_BLOCK) for e in edges))

    return jax.lax.fori_loop(0, -(-graph.num_overflow // OVERFLOW_BLOCK), add_block, total)
