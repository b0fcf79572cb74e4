"""Arrays on the devices of a mesh: rows in equal blocks, one for each device, and shards that travel round a ring."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, PyTree, Shaped


def check_mesh(name: str, mesh: Mesh | AbstractMesh | None, *axes: str | None) -> None:
    """Raise a `ValueError` for axes that the mesh has not, or whose shardings are types; an axis of None is no axis."""
    if mesh is None:
        return
    for axis in axes:
        if axis is not None and axis not in mesh.axis_names:
            raise ValueError(f"{name}: the mesh has no axis {axis!r}; its axes are {', '.join(mesh.axis_names)}.")
    if any(kind == AxisType.Explicit for kind in mesh.axis_types):
        raise ValueError(
            f"{name}: the mesh has axes of type Explicit, which is `jax.make_mesh`'s default; "
            f"make it with axis_types=(jax.sharding.AxisType.Auto,) * {len(mesh.axis_names)}."
        )


def on_devices(
    function: Callable[..., PyTree], mesh: Mesh | AbstractMesh, in_specs: Any, out_specs: Any
) -> Callable[..., PyTree]:
    """`jax.shard_map` of a function that was written for one device: what varies between devices is not checked."""
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def fill_up(x: Shaped[Array, "n ..."], multiple: int) -> Shaped[Array, "m ..."]:
    """As many copies of the last row after it as make the rows a multiple: numbers that are fit for any function."""
    missing = -len(x) % multiple
    return jnp.pad(x, ((0, missing),) + ((0, 0),) * (x.ndim - 1), mode="edge") if missing else x


def by_rows(
    function: Callable[..., PyTree], rows: tuple[Array, ...], shared: tuple[PyTree, ...], *, mesh: Mesh, axis: str
) -> PyTree:
    """`function(*rows, *shared)`, of which every device computes some rows and receives all.

    Row i of each result depends on row i of `rows` and on `shared`.
    """
    n, count = len(rows[0]), mesh.shape[axis]

    def of_device(rows, shared):
        return jax.tree.map(lambda x: jax.lax.all_gather(x, axis, tiled=True), function(*rows, *shared))

    padded = tuple(fill_up(x, count) for x in rows)
    result = on_devices(of_device, mesh, (P(axis), P()), P())(padded, shared)
    return jax.tree.map(lambda x: x[:n], result)


def round_ring(
    step: Callable[[PyTree, PyTree, Array], tuple[PyTree, PyTree]], state: PyTree, shard: PyTree, *, axis_name: str
) -> tuple[PyTree, PyTree]:
    """What a device has seen when the shards of all have visited it, and its own shard, which is home again.

    `step(state, visitor, home)` gives the new state, and the visitor as it travels on; `home` is the index of the
    device that it comes from. A device's own shard is the first. Call it inside `jax.shard_map`.
    """
    count, own = jax.lax.axis_size(axis_name), jax.lax.axis_index(axis_name)
    ring = [(i, (i + 1) % count) for i in range(count)]

    def visit(carry, turn):
        state, visitor = carry
        state, visitor = step(state, visitor, (own - turn) % count)
        return (state, jax.tree.map(lambda x: jax.lax.ppermute(x, axis_name, ring), visitor)), None

    return jax.lax.scan(visit, (state, shard), jnp.arange(count, dtype=jnp.int32))[0]
