"""Eigenvectors of a graph's normalized Laplacian by filtered subspace iteration, for each connected component its own.

L = 1 − D^−½ W D^−½. Its smallest eigenvalues are the largest of M = D^−½ W D^−½, in which D^½ 1 of every component has
the known eigenvalue 1 and is projected out. A Chebyshev polynomial of M that is small on what is not sought, and the
Rayleigh–Ritz method on what it leaves, take turns.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mathai.reduction import _edge_ranks
from mathai.reduction._arrays import contract, gather
from mathai.reduction._edge_ranks import EdgeRanks
from mathai.reduction._fuzzy_graph import FuzzyGraph

NUM_GUARDS = 2  # vectors beyond those sought, which make the last of these converge
DEGREE = 16  # of the polynomial
MOST_ROUNDS = 60
TOLERANCE = 2e-5  # of ‖M v − θ v‖
FIRST_CUT, LEAST_CUT, MOST_CUT = 0.5, -0.5, 0.9999  # between eigenvalues that are sought and those that are not
LOST = 1e-10  # of a squared length: what is left is rounding
NUM_LARGEST = 16  # components that have coordinates of their own; smaller ones are points
GOLDEN_ANGLE = math.pi * (3 - 5**0.5)


class Components(NamedTuple):
    """Connected components, by falling size.

    Attributes:
      number: of each point's component.
      sizes: points of each component, falling; 0 where there are no more.
    """

    number: Int[Array, "n"]
    sizes: Int[Array, "n"]


@functools.partial(jax.jit, static_argnums=1)
def components(graph: FuzzyGraph, num_points: int) -> Components:
    """Connected components: every point takes the smallest name that it can reach, neighbours and names in turn."""
    is_edge = graph.weights > 0
    own = jnp.arange(num_points, dtype=jnp.int32)
    rows = jnp.where(is_edge, graph.rows, num_points)

    def spread(state):
        names, _ = state
        least = names.at[rows].min(gather(names, graph.columns), mode="drop")
        # A name that learnt of a smaller one passes it on to all that bear it.
        least = least.at[names].min(least, mode="promise_in_bounds")
        least = gather(least, least)
        return least, jnp.any(least != names)

    names, _ = jax.lax.while_loop(lambda state: state[1], spread, (own, jnp.asarray(True)))
    sizes = jnp.zeros(num_points, jnp.int32).at[names].add(1, mode="promise_in_bounds")
    by_size = jnp.argsort(-sizes, stable=True).astype(jnp.int32)
    places = jnp.zeros(num_points, jnp.int32).at[by_size].set(own, unique_indices=True)
    return Components(gather(places, names), gather(sizes, by_size))


@functools.partial(jax.jit, static_argnums=3)
def layout(key: Array, ranks: EdgeRanks, parts: Components, num_components: int) -> Float[Array, "n c"]:
    """Coordinates from the edges of a graph and its components.

    Where it hangs together these are the eigenvectors, of length 1. Where not, components lie side by side, each in a
    disc as large as it has points, filled by its own eigenvectors.
    """
    num_points = len(parts.number)
    is_whole = parts.sizes[0] == num_points
    number = gather(parts.number, ranks.order)  # everything below is in the order of places
    groups = min(NUM_LARGEST, num_points)
    is_in = (number[:, None] == jnp.arange(groups, dtype=jnp.int32)[None]).astype(ranks.weights.dtype)
    vectors = _eigenvectors(key, ranks, is_in, num_components)
    centres, radius = _discs(parts.sizes, num_components, vectors.dtype)
    extent = jnp.max(jnp.where(is_in[:, :, None] > 0, jnp.abs(vectors)[:, None], 0), axis=0)  # [groups, c]
    scale = contract("ng,gc->nc", is_in, jnp.where(extent > 0, 1 / jnp.where(extent > 0, extent, 1), 0))
    aside = gather(centres, number) + vectors * scale * gather(radius, number)[:, None]
    Y = jnp.where(is_whole, vectors, aside)
    return jnp.zeros_like(Y).at[ranks.order].set(Y, unique_indices=True)


def _discs(sizes, num_components, dtype):
    """Centres of discs on a spiral (one after another on a line) without overlap, and radii inside them."""
    area = sizes.astype(dtype)
    before = jnp.cumsum(area) - area
    if num_components == 1:
        centres = (before + area / 2)[:, None]
        return centres, 0.4 * area
    # An annulus that holds a disc of radius r at its middle needs more than the disc's own area.
    radius = jnp.sqrt(area)
    distance = 2 * jnp.sqrt(before) + jnp.where(before > 0, radius, 0)
    angle = GOLDEN_ANGLE * jnp.arange(len(sizes), dtype=dtype)
    plane = jnp.stack([distance * jnp.cos(angle), distance * jnp.sin(angle)], axis=1)
    return jnp.pad(plane, ((0, 0), (0, num_components - 2))), 0.6 * radius


def _eigenvectors(key, ranks: EdgeRanks, is_in, num_components) -> Float[Array, "n c"]:
    """Eigenvectors of M with the largest eigenvalues below the trivial one, of each group of `is_in`; 0 elsewhere."""
    n, groups = is_in.shape
    dtype = is_in.dtype
    width = min(num_components + NUM_GUARDS, n)
    start = jax.random.normal(key, (n, width), dtype)
    padding = ((0, _edge_ranks.block_size(n)),)
    degree = _edge_ranks.product(ranks, (jnp.pad(jnp.ones(n, dtype), padding),))[0][:n]
    root = jnp.where(degree > 0, jnp.sqrt(degree), 0)
    inverse = jnp.where(degree > 0, 1 / jnp.where(root > 0, root, 1), 0)

    def of_groups(values):  # [groups, ...] → a value for each point
        return jnp.tensordot(is_in, values, 1, precision=jax.lax.Precision.HIGHEST)

    def inner(V, U):  # the inner products of all columns, of each group apart
        return contract("ng,na,nb->gab", is_in, V, U)

    trivial = root[:, None]
    trivial = trivial * of_groups(_inverse_root(inner(trivial, trivial)[:, :, 0]))

    def orthonormal(V):
        """Gram and Schmidt's method, every column cleared of those before it and of the trivial one, until it is.

        One of which nothing is left starts again at random; where that leaves nothing either, there is no other.
        """

        def next_column(index, Q):  # Q holds the trivial column, those that are done, and zeros
            v = jax.lax.dynamic_slice_in_dim(V, index, 1, axis=1)
            fresh = jax.lax.dynamic_slice_in_dim(start, index, 1, axis=1)

            def clear(again, v):
                before = inner(v, v)[:, :, 0]
                v = v - jnp.einsum("na,na->n", of_groups(inner(Q, v)[:, :, 0]), Q)[:, None]
                after = inner(v, v)[:, :, 0]
                is_lost = after <= LOST * before
                v = v * of_groups(jnp.where(is_lost, 0, _inverse_root(after)))
                return v + jnp.where(again == 0, of_groups(is_lost.astype(dtype)) * fresh, 0)

            return jax.lax.dynamic_update_slice_in_dim(Q, jax.lax.fori_loop(0, 3, clear, v), index + 1, axis=1)

        return jax.lax.fori_loop(0, width, next_column, jnp.pad(trivial, ((0, 0), (0, width))))[:, 1:]

    def apply(V):
        columns = tuple(jnp.pad(column * inverse, padding) for column in V.T)
        product = jnp.stack([column[:n] for column in _edge_ranks.product(ranks, columns)], axis=1)
        product = product * inverse[:, None]
        return product - of_groups(inner(trivial, product)[:, 0]) * trivial

    def filtered(V, cut):  # U_m of (2M + 1 − cut) / (1 + cut), which lies in [−1, 1] for eigenvalues in [−1, cut]
        cut = of_groups(cut)[:, None]

        def recur(two, _):
            before, now = two
            return (now, 2 * (2 * apply(now) + (1 - cut) * now) / (1 + cut) - before), None

        return jax.lax.scan(recur, (jnp.zeros_like(V), V), length=DEGREE)[0][1]

    def is_open(state):
        turn, _, _, residual = state
        return (turn < MOST_ROUNDS) & (residual > TOLERANCE)

    def turn(state):
        number, V, cut, _ = state
        V = orthonormal(filtered(V, cut))
        MV = apply(V)
        # Columns that are 0, where there are fewer eigenvectors than columns, come last.
        is_none = jnp.diagonal(inner(V, V), axis1=1, axis2=2) < 0.5
        values, rotation = jnp.linalg.eigh(inner(V, MV) - 2 * is_none[:, :, None] * jnp.eye(width, dtype=dtype)[None])
        values, rotation = values[:, ::-1], rotation[:, :, ::-1]
        V, MV = (jnp.einsum("na,ng,gab->nb", v, is_in, rotation, precision="highest") for v in (V, MV))
        error = MV - of_groups(values) * V  # V is 0 where a value is not one of M
        sought = jnp.diagonal(inner(error, error), axis1=1, axis2=2)[:, :num_components]
        return number + 1, V, jnp.clip(values[:, -1], LEAST_CUT, MOST_CUT), jnp.sqrt(jnp.max(sought))

    state = (jnp.int32(0), start, jnp.full(groups, FIRST_CUT, dtype), jnp.asarray(jnp.inf, dtype))
    V = jax.lax.while_loop(is_open, turn, state)[1][:, :num_components]
    V = jnp.pad(V, ((0, 0), (0, num_components - V.shape[1])))
    # The sign is free: the largest entry of each group is made positive.
    magnitude = jnp.where(is_in[:, :, None] > 0, jnp.abs(V)[:, None], -1)
    largest = jnp.take_along_axis(V, jnp.argmax(magnitude, axis=0), axis=0)
    return V * of_groups(jnp.where(largest < 0, -1, 1).astype(dtype))


def _inverse_root(squares):
    """1/√x, 0 where nothing but rounding is left."""
    is_positive = squares > jnp.finfo(squares.dtype).tiny
    return jnp.where(is_positive, 1 / jnp.sqrt(jnp.where(is_positive, squares, 1)), 0)
