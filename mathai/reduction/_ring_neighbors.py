"""Nearest neighbours of points that lie on several devices, none of which holds all of them.

The points of every device travel round a ring: once to be searched, each device keeping the nearest that have passed
for its own queries, and once more to be measured, for the derivatives of the distances.
"""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from mathai.nn._sharding import fill_up, on_devices, round_ring
from mathai.reduction import _distances
from mathai.reduction._arrays import centre


def nearest(
    X: Float[Array, "n d"],
    queries: Float[Array, "m d"],
    k: int,
    *,
    metric: str,
    block_size: int | None,
    exclude_self: bool,
    mesh: Mesh,
    axis: str,
) -> tuple[Int[Array, "m k"], Float[Array, "m k"]]:
    """What `_distances.nearest` finds, with points and queries spread over an axis of the mesh."""
    if metric == "cosine":
        X, queries = _distances.unit(X), _distances.unit(queries)
    n, m, count = len(X), len(queries), mesh.shape[axis]
    size = -(-n // count)  # of a shard, with what fills up the last ones
    block = _distances.block_of(size, -(-m // count), k, X.shape[1], X.dtype, block_size, exclude_self=exclude_self)

    def of_device(points, queries, origin):
        found = _search(points, queries, origin, n, k, metric, block, exclude_self, axis)
        return found, _measure(points, queries, found, metric, block, axis)

    rows = P(axis)
    found = on_devices(of_device, mesh, (rows, rows, P()), rows)(fill_up(X, count), fill_up(queries, count), centre(X))
    return jax.tree.map(lambda x: x[:m], found)


def _search(points, queries, origin, n, k, metric, block, exclude_self, axis):
    """Indices of the k nearest of all n points, of this device's queries."""
    size, count = len(points), jax.lax.axis_size(axis)
    points, queries, origin = jax.lax.stop_gradient((points, queries, origin))
    own = jax.lax.axis_index(axis) * len(queries) + jnp.arange(len(queries), dtype=jnp.int32)

    def look(nearest, shard, home):
        first = home * size
        is_point = None if n == count * size else first + jnp.arange(size) < n
        columns, squares = _distances.search(
            shard,
            queries,
            own - first,
            k,
            metric=metric,
            block=block,
            exclude_self=exclude_self,
            origin=origin,
            is_point=is_point,
        )
        # Of equals those that were there first stay, so that what is no point, at distance ∞, never comes in.
        indices, squares = (
            jnp.concatenate(pair, axis=1) for pair in zip(nearest, (first + columns, squares), strict=True)
        )
        negative, order = jax.lax.top_k(-squares, k)
        return (jnp.take_along_axis(indices, order, axis=1, mode="promise_in_bounds"), -negative), shard

    nothing = jnp.zeros((len(queries), k), jnp.int32), jnp.full((len(queries), k), jnp.inf, points.dtype)
    return round_ring(look, nothing, points, axis_name=axis)[0][0]


def _measure(points, queries, indices, metric, block, axis):
    """Distances to the points that were found, each when its shard comes by."""
    size = len(points)

    def look(distances, shard, home):
        local = indices - home * size
        part = _distances.measure(shard, queries, jnp.clip(local, 0, size - 1), metric=metric, block=block)
        return jnp.where((local >= 0) & (local < size), part, distances), shard

    return round_ring(look, jnp.zeros(indices.shape, points.dtype), points, axis_name=axis)[0]
