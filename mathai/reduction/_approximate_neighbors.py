"""Approximate nearest neighbours in fixed shapes: leaves of a tree search near leaves, then neighbours are introduced.

Where matrix products and minima are cheap and sorting is not, few large blocks beat many small trees: one balanced
tree, whose leaves each look through the leaves around them, finds most neighbours. The rest are found among the
neighbours of neighbours.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt32

from mathai.reduction import _distances
from mathai.reduction._arrays import contract, gather, over_blocks
from mathai.reduction._selection import smallest

EXACT_BELOW = 24576  # points, below which the exact search is the quicker one
LEAF = 128  # points at most
CANDIDATES = 4096  # points of the leaves that one leaf looks through
REFINEMENTS = 2  # of the direction that halves a group, towards the one in which it is long
INTRODUCED = 32  # neighbours and points that name one as neighbour, all pairs of which are introduced to each other
LISTED = 16  # at most, of its own neighbours among these
PROPOSALS = 2  # for each point from each that introduces it: the nearest of so many parts
TRIED = 16  # of the proposals to a point that are measured, or k where that is more
NOTHING = 0x7F000000  # a proposal of no one: the bits of a number larger than all distances that count
NUM_TREES, NUM_ROUNDS = 1, 2


class Lists(NamedTuple):
    """Some neighbours of each point, none twice, ascending; squared distances, or those of the metric itself."""

    indices: Int[Array, "n k"]
    distances: Float[Array, "n k"]


def nearest(
    key: Key[Array, ""] | UInt32[Array, "..."],
    X: Float[Array, "n d"],
    k: int,
    *,
    metric: str,
    num_trees: int,
    num_rounds: int,
) -> tuple[Int[Array, "n k"], Float[Array, "n k"]]:
    """Indices and distances of k near points of each point, most of which are its nearest."""
    n = len(X)
    num_candidates = max(CANDIDATES, 4 * k)
    if n < max(EXACT_BELOW, 2 * num_candidates):
        return _distances.nearest(X, X, k, metric=metric, block_size=None, exclude_self=True)
    if metric == "cosine":
        X = _distances.unit(X)
    points = jax.lax.stop_gradient(X)
    keys = jax.random.split(key, num_trees + num_rounds)
    length = max(k, LISTED)  # of lists; few acquaintances introduce few

    def plant(lists, key):
        return _merged(lists, _search(points, _leaves(key, points), length, num_candidates, metric)), None

    def introduce(lists, key):
        return _introduced(key, points, lists, metric), None

    lists = _search(points, _leaves(keys[0], points), length, num_candidates, metric)
    if num_trees > 1:
        lists, _ = jax.lax.scan(plant, lists, keys[1:num_trees])
    (indices, _), _ = jax.lax.scan(introduce, lists, keys[num_trees:])
    # Derivatives measure again, a block at a time, rather than keep n·k·d differences.
    measure = jax.checkpoint(lambda part: _distances.measured(X, part[0], part[1], metric))
    block = max(1, min(n, _distances.BLOCK_BYTES // (length * X.shape[1] * X.dtype.itemsize)))
    distances = over_blocks(measure, (X, indices), block)
    _, order = jax.lax.top_k(-jax.lax.stop_gradient(distances), k)
    indices = jnp.take_along_axis(indices, order, axis=1, mode="promise_in_bounds")
    return indices, jnp.take_along_axis(distances, order, axis=1, mode="promise_in_bounds")


def _leaves(key: Key[Array, ""] | UInt32[Array, "..."], X: Float[Array, "n d"]) -> Int[Array, "leaves size"]:
    """Groups of points that are halved until they are small; of an odd number the one in the middle is in both halves.

    A group is halved across a direction that starts from two of its points at random and becomes the difference of
    the means on both sides, as by 2-means: long groups are cut short.
    """
    n, d = X.shape
    depth = 0
    while -(-n // 2**depth) > LEAF:
        depth += 1
    places = jax.random.uniform(key, (2, 2**depth))
    groups = jnp.arange(n, dtype=jnp.int32)[None]
    for _ in range(depth):
        num_groups, size = groups.shape
        members = gather(X, groups.reshape(-1)).reshape(num_groups, size, d)
        members = members - members[:, :1]
        pair = jnp.minimum((places[:, :num_groups] * size).astype(jnp.int32), size - 1)
        first, second = (jnp.take_along_axis(members, at[:, None, None], axis=1)[:, 0] for at in pair)

        def along(direction, members=members):
            return jnp.sum(members * direction[:, None], axis=-1)

        def refine(_, position, members=members, along=along):
            is_above = position > jnp.mean(position, axis=1, keepdims=True)
            share = jnp.mean(is_above, axis=1, keepdims=True, dtype=position.dtype)
            return along(jnp.sum((is_above - share)[:, :, None] * members, axis=1))

        position = jax.lax.fori_loop(0, REFINEMENTS, refine, along(second - first))
        _, ordered = jax.lax.sort((position, groups), dimension=1, num_keys=1)
        half = -(-size // 2)
        groups = jnp.stack([ordered[:, :half], ordered[:, size - half :]], axis=1).reshape(2 * num_groups, half)
    return groups


def _search(X: Float[Array, "n d"], leaves: Int[Array, "leaves size"], k, num_candidates, metric) -> Lists:
    """The k nearest of each point in its leaf and those whose means are nearest to that of its leaf."""
    n, d = X.shape
    num_leaves, size = leaves.shape
    slots = leaves.reshape(-1)
    place = jnp.full(n, slots.size, jnp.int32).at[slots].min(jnp.arange(slots.size, dtype=jnp.int32))
    is_first = (gather(place, slots) == jnp.arange(slots.size)).reshape(leaves.shape)  # some are in two leaves
    members = gather(X, slots).reshape(num_leaves, size, d)
    means = members[:, 0] + jnp.mean(members - members[:, :1], axis=1)
    num_near = min(num_leaves, -(-num_candidates // size))
    near, _ = _distances.nearest(means, means, num_near - 1, metric="euclidean", block_size=None, exclude_self=True)
    near = jnp.concatenate([jnp.arange(num_leaves, dtype=jnp.int32)[:, None], near], axis=1)

    def search(leaf):
        own, seekers, mean, near = leaf
        candidates = gather(leaves, near).reshape(-1)
        x, z = seekers - mean[None], gather(members, near).reshape(-1, d) - mean[None]
        never = jnp.where(gather(is_first, near).reshape(-1), 0, jnp.inf)
        distances = _beyond(x, z, never, metric)
        distances, columns = smallest(jnp.where(candidates[None] == own[:, None], jnp.inf, distances), k)
        if metric != "manhattan":
            distances = jnp.maximum(distances + contract("nd,nd->n", x, x)[:, None], 0)
        return Lists(gather(candidates, columns), distances)

    found = jax.lax.map(search, (leaves, members, means, near))
    return Lists(*(gather(a.reshape(slots.size, k), place) for a in found))


def _beyond(X, Z, added: Float[Array, "m"], metric: str) -> Float[Array, "n m"]:
    """Distances of all pairs and what is added to each column; squared ones less ‖x‖², unless of "manhattan"."""
    if metric == "manhattan":
        return _distances.manhattan_distances(X, Z) + added[None]
    return (contract("md,md->m", Z, Z) + added)[None] - 2 * contract("nd,md->nm", X, Z)


def _pairs(X: Float[Array, "n d"], Z: Float[Array, "m d"], metric: str) -> Float[Array, "n m"]:
    """Distances of all pairs near the origin, where products lose little; squared ones unless of "manhattan"."""
    if metric == "manhattan":
        return _distances.manhattan_distances(X, Z)
    x, z = contract("nd,nd->n", X, X), contract("md,md->m", Z, Z)
    return jnp.maximum(x[:, None] + z[None, :] - 2 * contract("nd,md->nm", X, Z), 0)


def _merged(lists: Lists, others: Lists) -> Lists:
    """The nearest of two lists, those in both once."""
    is_known = jnp.any(others.indices[:, :, None] == lists.indices[:, None, :], axis=-1)
    indices = jnp.concatenate([lists.indices, others.indices], axis=1)
    distances = jnp.concatenate([lists.distances, jnp.where(is_known, jnp.inf, others.distances)], axis=1)
    negative, columns = jax.lax.top_k(-distances, lists.indices.shape[1])
    return Lists(jnp.take_along_axis(indices, columns, axis=1, mode="promise_in_bounds"), -negative)


def _introduced(key: Key[Array, ""] | UInt32[Array, "..."], X: Float[Array, "n d"], lists: Lists, metric: str) -> Lists:
    """One round of NN-descent: those around each point are introduced to each other, and keep whom they like.

    Each point writes down whom it would propose to whom, and each then reads what those around it propose: nothing
    is written where two could write, so that the same is found again.
    """
    n, k = lists.indices.shape
    own = jnp.arange(n, dtype=jnp.int32)
    listed = lists.indices[:, :LISTED]
    around = jnp.concatenate([listed, _naming(key, listed)], axis=1)
    largest = INTRODUCED * max(INTRODUCED + X.shape[1], k)  # of the numbers held for one point
    block = max(1, min(n, _distances.BLOCK_BYTES // (largest * X.dtype.itemsize)))
    longest = jnp.max(jnp.where(jnp.isfinite(lists.distances), lists.distances, 0))
    scale = jnp.where(longest > 0, longest, 1)  # in this unit distances are no extreme numbers
    proposals = over_blocks(lambda part: _proposals(X, lists, scale, *part, metric=metric), (own, around), block)
    others = over_blocks(
        lambda part: _proposed(around, proposals, *part, num_tried=max(TRIED, k)), (own, around), block
    )
    distances = over_blocks(lambda part: _measured(X, *part, metric=metric), (X, others, own), block)
    return _merged(lists, Lists(others, distances))


def _naming(key: Key[Array, ""] | UInt32[Array, "..."], listed: Int[Array, "n m"]) -> Int[Array, "n slots"]:
    """Points that list each and are not listed by it, −1 for none; of those that meet in a slot, one that is near."""
    n, m = listed.shape
    own = jnp.arange(n, dtype=jnp.int32)
    block = max(1, min(n, _distances.BLOCK_BYTES // (4 * m * m)))
    is_mutual = over_blocks(
        lambda part: jnp.any(gather(listed, part[1]) == part[0][:, None, None], axis=-1), (own, listed), block
    )
    slot = jax.random.randint(key, (n, 1), 0, INTRODUCED - m)
    edge = n * jnp.arange(m, dtype=jnp.int32)[None] + own[:, None]  # the smaller, the nearer
    table = jnp.full((n, INTRODUCED - m), n * m, jnp.int32)
    table = table.at[jnp.where(is_mutual, n, listed), slot].min(edge, mode="drop")
    return jnp.where(table == n * m, -1, table % n)


def _proposals(X, lists: Lists, scale, own: Int[Array, "b"], around: Int[Array, "b introduced"], *, metric: str):
    """For each of those around a point, who else there is nearer than all that it lists: [b, introduced, proposals].

    A number orders them by distance and ends in the place of who is proposed, so that one minimum finds both.
    """
    b, size = around.shape
    guests = jnp.maximum(around, 0)
    coordinates = gather(X, guests.reshape(-1)).reshape(b, size, -1) - gather(X, own)[:, None]
    distances = jax.vmap(lambda Z: _pairs(Z, Z, metric))(coordinates)
    known = gather(lists.indices, guests)
    is_known = jnp.any(known[:, :, :, None] == around[:, None, None, :], axis=2)
    is_other = (around[:, None, :] >= 0) & (around[:, None, :] != around[:, :, None])
    is_wanted = is_other & ~is_known & (distances < gather(lists.distances[:, -1], guests)[:, :, None])
    bits = jax.lax.bitcast_convert_type((distances / scale).astype(jnp.float32), jnp.int32)
    numbers = (bits & ~(INTRODUCED - 1)) | jnp.arange(size, dtype=jnp.int32)[None, None]
    numbers = jnp.where(is_wanted, jnp.minimum(numbers, NOTHING), NOTHING)
    return jnp.stack([jnp.min(part, axis=2) for part in jnp.split(numbers, PROPOSALS, axis=2)], axis=2)


def _proposed(all_around, proposals, own: Int[Array, "b"], around: Int[Array, "b introduced"], *, num_tried: int):
    """The nearest that are proposed to each point by those around it, [b, tried]; the point itself for none."""
    b, size = around.shape
    hosts = jnp.maximum(around, 0)
    is_own = (gather(all_around, hosts) == own[:, None, None]) & (around >= 0)[:, :, None]
    offers = proposals.at[hosts, jnp.argmax(is_own, axis=-1)].get(mode="promise_in_bounds")
    offers = jnp.where(jnp.any(is_own, axis=-1)[:, :, None], offers, NOTHING).reshape(b, size * PROPOSALS)
    _, columns = jax.lax.top_k(-jax.lax.bitcast_convert_type(offers, jnp.float32), min(num_tried, size * PROPOSALS))
    offers = jnp.take_along_axis(offers, columns, axis=1, mode="promise_in_bounds")
    host = jnp.take_along_axis(hosts, columns // PROPOSALS, axis=1, mode="promise_in_bounds")
    others = all_around.at[host, offers & (INTRODUCED - 1)].get(mode="promise_in_bounds")
    is_repeated = jnp.any(jnp.tril(others[:, :, None] == others[:, None, :], -1), axis=-1)
    return jnp.where((offers >= NOTHING) | is_repeated, own[:, None], others)


def _measured(X, x, others, own, *, metric: str):
    """Distances by differences, as lists hold them; infinite to the point itself."""
    if metric == "manhattan":
        distances = _distances.measured(X, x, others, metric)
    else:
        distances = _distances.squares_to(X, x, others)
    return jnp.where(others == own[:, None], jnp.inf, distances)
