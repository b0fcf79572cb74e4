"""Edges of a symmetric graph in the order of their rank at each point, so that a pass over them only reads and slices.

Points are numbered anew by falling number of edges. The r-th edges of all points that have so many are then those of
the first points, one after another: a pass over rank r changes a prefix of the points in place, a block at a time.
Ranks that only hubs have are visited in small blocks. No two edges of one block write to one place.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree, Shaped

from mathai.reduction._arrays import gather
from mathai.reduction._fuzzy_graph import FuzzyGraph

SMALLEST_BLOCK = 1024  # points at a time, few enough that what one visit reads stays near the processor
BLOCKS = 16  # in which the points are cut where they are many
HUB_BLOCK = 128  # points at a time in ranks that few points have


class EdgeRanks(NamedTuple):
    """The edges, ranks one after another.

    Attributes:
      order: the point at each place, by falling number of edges; points with equally many are shuffled.
      targets: the place of the other end of each edge; filled up by a block.
      weights: of each edge.
      offsets: of the first edge of each rank.
      counts: how many points have an edge of the rank.
      num_ranks: the number of edges of the point with the most.
    """

    order: Int[Array, "n"]
    targets: Int[Array, "capacity"]
    weights: Float[Array, "capacity"]
    offsets: Int[Array, "n"]
    counts: Int[Array, "n"]
    num_ranks: Int[Array, ""]


class Visit(NamedTuple):
    """A block of edges, one of each of so many points in a row.

    Attributes:
      number: how many blocks came before.
      start: the first place.
      targets: places of the other ends.
      weights: 0 where the rank has no edge.
    """

    number: Int[Array, ""]
    start: Int[Array, ""]
    targets: Int[Array, "block"]
    weights: Float[Array, "block"]


def block_size(num_points: int) -> int:
    """How many points are visited at a time; it depends on nothing but their number."""
    return min(num_points, max(SMALLEST_BLOCK, -(-num_points // BLOCKS)))


@functools.partial(jax.jit, static_argnums=1)
def by_rank(graph: FuzzyGraph, num_points: int) -> EdgeRanks:
    """Sort the edges of a graph; those of weight 0, and from a point to itself, are left out."""
    n, capacity = num_points, len(graph.rows) + block_size(num_points)
    is_edge = (graph.weights > 0) & (graph.rows != graph.columns)
    rows = jnp.where(is_edge, graph.rows, n).astype(jnp.int32)
    rows, edges = jax.lax.sort((rows, jnp.arange(len(rows), dtype=jnp.int32)), num_keys=1, is_stable=True)
    starts = jnp.searchsorted(rows, jnp.arange(n + 1, dtype=jnp.int32)).astype(jnp.int32)
    degrees = jnp.diff(starts)
    points = jnp.arange(n, dtype=jnp.int32)
    shuffle = jax.random.bits(jax.random.key(0), (n,))
    falling, _, order = jax.lax.sort((-degrees, shuffle, points), num_keys=2, is_stable=True)
    places = jnp.zeros(n, jnp.int32).at[order].set(points, unique_indices=True)
    fewer = jnp.searchsorted(-falling[::-1], points, side="right")
    counts = (n - fewer).astype(jnp.int32)
    offsets = jnp.cumsum(counts, dtype=jnp.int32) - counts
    rank = jnp.arange(len(rows), dtype=jnp.int32) - gather(starts, rows)
    slot = gather(offsets, jnp.clip(rank, 0, n - 1)) + gather(places, jnp.minimum(rows, n - 1))
    slot = jnp.where(rows < n, slot, capacity)  # out of bounds, where it is dropped
    targets = gather(places, gather(graph.columns, edges))
    weights = gather(graph.weights, edges)
    return EdgeRanks(
        order,
        jnp.zeros(capacity, jnp.int32).at[slot].set(targets, mode="drop"),
        jnp.zeros(capacity, weights.dtype).at[slot].set(weights, mode="drop"),
        offsets,
        counts,
        jnp.max(degrees),
    )


def in_order(ranks: EdgeRanks, values: Shaped[Array, "n"]) -> Shaped[Array, "padded"]:
    """Values of the points at their places, filled up by a block of zeros."""
    return jnp.pad(gather(values, ranks.order), (0, block_size(len(ranks.order))))


def in_place(ranks: EdgeRanks, values: Shaped[Array, "padded"]) -> Shaped[Array, "n"]:
    """Values at the places back to the points."""
    n = len(ranks.order)
    return jnp.zeros(n, values.dtype).at[ranks.order].set(values[:n], unique_indices=True)


def placed(ranks: EdgeRanks, Y: Float[Array, "n c"]) -> tuple[Float[Array, "padded"], ...]:
    """The coordinates of points, each by itself, in the order of places."""
    return tuple(in_order(ranks, coordinate) for coordinate in Y.T)


def taken_back(ranks: EdgeRanks, places: tuple[Float[Array, "padded"], ...]) -> Float[Array, "n c"]:
    """Coordinates in the order of places back to the points."""
    return jnp.stack([in_place(ranks, place) for place in places], axis=1)


def for_each(ranks: EdgeRanks, visit: Callable[[Visit, PyTree], PyTree], state: PyTree) -> PyTree:
    """Let every block of every rank change the state: state ← visit(block, state)."""
    n = len(ranks.order)
    large, small = block_size(n), min(HUB_BLOCK, n)

    def over_ranks(first, last, block, carry):
        def one_rank(rank, carry):
            offset, count = gather(ranks.offsets, rank), gather(ranks.counts, rank)

            def one_block(index, carry):
                number, state = carry
                start = index * block
                targets, weights = (
                    jax.lax.dynamic_slice_in_dim(values, offset + start, block)
                    for values in (ranks.targets, ranks.weights)
                )
                weights = jnp.where(start + jnp.arange(block, dtype=jnp.int32) < count, weights, 0)
                return number + 1, visit(Visit(number, start, targets, weights), state)

            return jax.lax.fori_loop(0, -(-count // block), one_block, carry)

        return jax.lax.fori_loop(first, last, one_rank, carry)

    # Counts fall: from some rank on a large block would be nearly empty.
    shared = jnp.minimum(jnp.sum(ranks.counts >= large // 4, dtype=jnp.int32), ranks.num_ranks)
    carry = over_ranks(0, shared, large, (jnp.int32(0), state))
    return over_ranks(shared, ranks.num_ranks, small, carry)[1]


def product(ranks: EdgeRanks, columns: tuple[Float[Array, "padded"], ...]) -> tuple[Float[Array, "padded"], ...]:
    """W v of each column v, in the order of places."""

    def visit(at, totals):
        here = [at_places(total, at) for total in totals]
        pulls = [total + at.weights * gather(v, at.targets) for total, v in zip(here, columns, strict=True)]
        return put(totals, pulls, at)

    return for_each(ranks, visit, tuple(jnp.zeros_like(v) for v in columns))


def at_places(values: Shaped[Array, "padded"], at: Visit) -> Shaped[Array, "block"]:
    """The values of the points of a visit."""
    return jax.lax.dynamic_slice_in_dim(values, at.start, len(at.weights))


def put(arrays: tuple[Array, ...], changes: list[Array], at: Visit) -> tuple[Array, ...]:
    """The arrays with new values for the points of a visit."""
    return tuple(
        jax.lax.dynamic_update_slice_in_dim(array, change, at.start, 0)
        for array, change in zip(arrays, changes, strict=True)
    )
