"""Ring attention: exact attention to sequences that lie in shards on several devices, none of which holds all keys.

The keys and values of every device travel round a ring. A device attends to each shard that visits it,

    (oᵢ, Lᵢ) = attention to shard i,   L = log Σᵢ exp Lᵢ,   o = Σᵢ wᵢ oᵢ,   wᵢ = exp(Lᵢ − L)

and gradients make the same trip once more, dK and dV with their shard: of the cotangents ȯ and L̇ shard i gets

    ȯᵢ = wᵢ ȯ,   L̇ᵢ = wᵢ (ȯ·(oᵢ − o) + L̇)

so that in either direction a device holds two shards or three of each kind, whatever the length of the sequence.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Shaped

from mathai.nn import _numerics
from mathai.nn._sharding import check_mesh, on_devices, round_ring
from mathai.nn.attention import merge_attention, scaled_dot_product_attention

__all__ = ["ring_attention", "ring_attention_of_shards"]


def ring_attention(
    query: Float[ArrayLike, "*batch queries heads features"],
    key: Float[ArrayLike, "*batch keys key_heads features"],
    value: Float[ArrayLike, "*batch keys key_heads values"],
    *,
    mesh: Mesh | AbstractMesh,
    axis: str = "sequence",
    batch_axis: str | None = None,
    head_axis: str | None = None,
    key_mask: Bool[ArrayLike, "..."] | None = None,
    is_causal: bool = False,
    scale: Shaped[ArrayLike, ""] | None = None,
    block_size: int | None = None,
    return_lse: bool = False,
) -> Float[Array, "*batch queries heads values"] | tuple[Array, Array]:
    """Attention to a sequence that is spread over the devices of a mesh, equal to that on one device.

        oₜ = Σⱼ pₜⱼ vⱼ,   pₜ = softmaxⱼ(c qₜ·kⱼ),   c = 1/√D

    Memory and work of each device fall with the number of devices. With causality a device skips the shards that come
    after its own: the last device has then as much to do as without, the first nearly nothing. Differentiable in
    reverse mode, again and again; not in forward mode (`jax.jvp`), as the backward trip is one of its own.

    Args:
      query: q, [..., T, H, D].
      key: k, [..., S, K, D]; K divides H, and every H/K successive query heads share a key head.
      value: v, [..., S, K, V].
      mesh: the devices; its axes are of type Auto. Over axes that are not named here all is replicated.
      axis: of the mesh, over which T and S are spread; its size divides both.
      batch_axis: of the mesh, over which the first batch axis is spread; None is no axis.
      head_axis: of the mesh, over which heads are spread; its size divides H and K.
      key_mask: True where a key is seen; it broadcasts to [..., S].
      is_causal: query t sees keys 0 … t alone; T = S.
      scale: c; None is 1/√D.
      block_size: of queries and keys within a shard; see `scaled_dot_product_attention`.
      return_lse: whether to return L as well.

    Returns:
      o, [..., T, H, V], in the query's dtype, sharded as the query is; with `return_lse` also L, [..., T, H], in at
      least float32. A query that sees no key has o = 0, L = −∞ and gradients 0.

    Raises:
      TypeError: query, key or value is not floating point, or key_mask is not boolean.
      ValueError: shapes do not fit, or a number of devices does not divide the axis that is spread over them.

    Source:
      Liu, Zaharia & Abbeel (2023), Ring Attention with Blockwise Transformers for Near-Infinite Context, section 3.

    >>> mesh = jax.make_mesh((1,), ("sequence",), axis_types=(jax.sharding.AxisType.Auto,))
    >>> q, k, v = jnp.zeros((1, 1, 4)), jnp.zeros((2, 1, 4)), jnp.array([[[1.0]], [[3.0]]])
    >>> ring_attention(q, k, v, mesh=mesh).item()
    2.0
    """
    query, key, value = (jnp.asarray(x) for x in (query, key, value))
    check_mesh("ring_attention", mesh, axis, batch_axis, head_axis)
    _check_shapes("ring_attention", query, key, value, is_causal)
    _check_divides(mesh, (query, key), axis, batch_axis, head_axis)
    if key_mask is not None:
        key_mask = jnp.broadcast_to(_as_mask("ring_attention", key_mask, key), key.shape[:-2])
    choices = {"is_causal": is_causal, "block_size": block_size, "return_lse": return_lse}
    return _spread(query, key, value, key_mask, scale, mesh, (axis, batch_axis, head_axis), tuple(choices.items()))


def ring_attention_of_shards(
    query: Float[ArrayLike, "*batch queries heads features"],
    key: Float[ArrayLike, "*batch keys key_heads features"],
    value: Float[ArrayLike, "*batch keys key_heads values"],
    *,
    axis_name: str,
    key_mask: Bool[ArrayLike, "..."] | None = None,
    is_causal: bool = False,
    scale: Shaped[ArrayLike, ""] | None = None,
    block_size: int | None = None,
    return_lse: bool = False,
) -> Float[Array, "*batch queries heads values"] | tuple[Array, Array]:
    """`ring_attention` for programs that are inside `jax.shard_map` already: each device brings its part.

        o = Σᵢ exp(Lᵢ − L) oᵢ,   L = log Σᵢ exp Lᵢ,   (oᵢ, Lᵢ) the attention of a device's queries to shard i

    Parts are contiguous and of one length, in the order of the devices along the axis. Not differentiable in forward
    mode.

    Args:
      query: q, [..., T/n, H, D], this device's queries.
      key: k, [..., S/n, K, D], this device's keys; K divides H.
      value: v, [..., S/n, K, V].
      axis_name: of the n devices that share the sequence.
      key_mask: True where a key is seen, of this device's keys; it broadcasts to [..., S/n].
      is_causal: query t sees keys 0 … t alone, as positions in the whole sequence; T = S.
      scale: c; None is 1/√D.
      block_size: of queries and keys within a shard; see `scaled_dot_product_attention`.
      return_lse: whether to return L as well.

    Returns:
      o of this device's queries, in their dtype, and with `return_lse` also L, in at least float32.

    Raises:
      TypeError: query, key or value is not floating point, or key_mask is not boolean.
      ValueError: shapes do not fit.

    Source:
      Liu, Zaharia & Abbeel (2023), Ring Attention with Blockwise Transformers for Near-Infinite Context, section 3.

    >>> mesh = jax.make_mesh((1,), ("sequence",), axis_types=(jax.sharding.AxisType.Auto,))
    >>> attend = functools.partial(ring_attention_of_shards, axis_name="sequence", is_causal=True)
    >>> q, v = jnp.zeros((2, 1, 4)), jnp.array([[[1.0]], [[3.0]]])
    >>> jax.shard_map(attend, mesh=mesh, in_specs=P("sequence"), out_specs=P("sequence"))(q, q, v).ravel()
    Array([1., 2.], dtype=float32)
    """
    query, key, value = (jnp.asarray(x) for x in (query, key, value))
    for array in (key, value):
        _numerics.upcast(array)  # a TypeError if it is not floating
    (wide, *_), dtype = _numerics.upcast(query, *(x[:0] for x in (key, value)))
    _check_shapes("ring_attention_of_shards", query, key, value, is_causal)
    if key_mask is not None:
        key_mask = _as_mask("ring_attention_of_shards", key_mask, key)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    _numerics.assert_scalar("scale", scale)
    ring = _Ring(axis_name, is_causal, block_size)
    arrays = _varying((wide * jnp.asarray(scale, wide.dtype), key, value, key_mask), axis_name)
    out, lse = _attend(*arrays, ring)
    return (out.astype(dtype), lse) if return_lse else out.astype(dtype)


class _Ring(NamedTuple):
    """What is known while tracing."""

    axis_name: str
    is_causal: bool
    block_size: int | None


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(query: Array, key: Array, value: Array, key_mask: Array | None, ring: _Ring) -> tuple[Array, Array]:
    """Outputs and log-sum-exps of scaled queries, in their dtype, which is that of all sums."""

    def step(state, visitor, home):
        key, value, key_mask = visitor
        piece = lambda causal: _piece(query, key, value, key_mask, ring.block_size, causal)  # noqa: E731
        return _where_seen(ring, home, lambda causal: merge_attention(*state, *piece(causal)), state), visitor

    shape = (*query.shape[:-1], value.shape[-1])
    nothing = jnp.zeros_like(query, shape=shape), jnp.full_like(query, -jnp.inf, shape=shape[:-1])
    return round_ring(step, nothing, (key, value, key_mask), axis_name=ring.axis_name)[0]


def _forward(query, key, value, key_mask, ring):
    results = _attend(query, key, value, key_mask, ring)
    return results, (query, key, value, key_mask, *results)


def _backward(ring, kept, cotangents):
    query, key, value, key_mask, out, lse = kept
    dout, dlse = cotangents
    log_total = jnp.where(jnp.isneginf(lse), 0, lse)  # a query that sees nothing: its pieces have L = −∞ as well

    def step(dquery, visitor, home):
        key, value, key_mask, dkey, dvalue = visitor

        def add(causal):
            attend = lambda query, key, value: _piece(query, key, value, key_mask, ring.block_size, causal)  # noqa: E731
            wide = (x.astype(query.dtype) for x in (key, value))
            (part, part_lse), pull_back = jax.vjp(attend, query, *wide)
            weight = jnp.exp(part_lse - log_total)
            along = jnp.sum(dout * (part - out), axis=-1)
            changes = pull_back((weight[..., None] * dout, weight * (along + dlse)))
            return tuple(total + change for total, change in zip((dquery, dkey, dvalue), changes, strict=True))

        dquery, dkey, dvalue = _where_seen(ring, home, add, (dquery, dkey, dvalue))
        return dquery, (key, value, key_mask, dkey, dvalue)

    dkey, dvalue = (jnp.zeros_like(x, query.dtype) for x in (key, value))
    shard = key, value, key_mask, dkey, dvalue
    dquery, (*_, dkey, dvalue) = round_ring(step, jnp.zeros_like(query), shard, axis_name=ring.axis_name)
    return dquery, dkey.astype(key.dtype), dvalue.astype(value.dtype), None


_attend.defvjp(_forward, _backward)


def _piece(query, key, value, key_mask, block_size, is_causal):
    """The attention of scaled queries to one shard."""
    mask = None if key_mask is None else key_mask[..., None, None, :]
    options: dict[str, Any] = {"mask": mask, "is_causal": is_causal, "scale": 1.0, "block_size": block_size}
    return scaled_dot_product_attention(query, key, value, **options, return_lse=True)


def _where_seen(ring, home, function, otherwise):
    """`function(causal)`, causal within the own shard; with causality shards of later positions are not looked at."""
    if not ring.is_causal:
        return function(False)
    branches = (lambda: function(False), lambda: function(True), lambda: otherwise)
    return jax.lax.switch(1 + jnp.sign(home - jax.lax.axis_index(ring.axis_name)), branches)


def _varying(arrays, axis_name):
    """The same arrays, which for `shard_map`'s checks vary over all axes that any of them does, and along the ring."""
    leaves = jax.tree.leaves(arrays)
    zeros = [jnp.zeros_like(x, jnp.int32, shape=()) for x in (jax.lax.axis_index(axis_name), *leaves)]
    zero = functools.reduce(jnp.add, zeros)
    return jax.tree.map(lambda x: x ^ zero.astype(bool) if x.dtype == jnp.bool_ else x + zero.astype(x.dtype), arrays)


@functools.partial(jax.jit, static_argnums=(5, 6, 7))
def _spread(query, key, value, key_mask, scale, mesh, axes, choices):
    """`ring_attention_of_shards` on the devices of a mesh."""
    axis, batch_axis, head_axis = axes
    batch = [batch_axis, *[None] * (query.ndim - 4)] if query.ndim > 3 else []
    tokens, log_sums = P(*batch, axis, head_axis, None), P(*batch, axis, head_axis)
    in_specs = tokens, tokens, tokens, P(*batch, axis), P()

    def attend(query, key, value, key_mask, scale):
        options: dict[str, Any] = dict(choices)
        return ring_attention_of_shards(query, key, value, axis_name=axis, key_mask=key_mask, scale=scale, **options)

    out_specs = (tokens, log_sums) if dict(choices)["return_lse"] else tokens
    return on_devices(attend, mesh, in_specs, out_specs)(query, key, value, key_mask, scale)


def _as_mask(name: str, key_mask: ArrayLike, key: Array) -> Array:
    mask, shape = jnp.asarray(key_mask), key.shape[:-2]
    if mask.dtype != jnp.bool_:
        raise TypeError(f"{name}: key_mask must be boolean, got {mask.dtype}")
    missing = len(shape) - mask.ndim
    if mask.ndim < 1 or missing < 0 or mask.shape[-1] != shape[-1]:
        raise ValueError(f"{name}: key_mask of shape {mask.shape} does not broadcast to the keys' shape {shape}")
    if any(m not in (1, n) for m, n in zip(mask.shape, shape[missing:], strict=True)):
        raise ValueError(f"{name}: key_mask of shape {mask.shape} does not broadcast to the keys' shape {shape}")
    return mask


def _check_shapes(name: str, query: Array, key: Array, value: Array, is_causal: bool) -> None:
    if min(query.ndim, key.ndim, value.ndim) < 3:
        raise ValueError(
            f"{name}: query, key and value must be [..., length, heads, features]; "
            f"got query {query.shape}, key {key.shape}, value {value.shape}"
        )
    if is_causal and query.shape[-3] != key.shape[-3]:
        raise ValueError(
            f"{name}: there are {query.shape[-3]} queries and {key.shape[-3]} keys; with is_causal they are as many"
        )


def _check_divides(mesh: Mesh | AbstractMesh, arrays: tuple[Array, Array], axis: str, batch_axis, head_axis) -> None:
    """Raise a `ValueError` where an axis of an array cannot be cut into as many parts as an axis of the mesh has."""
    query, key = arrays
    if batch_axis is not None and query.ndim < 4:
        raise ValueError(f"ring_attention: batch_axis is {batch_axis!r}, but query {query.shape} has no batch axis")
    parts = [(axis, query, -3, "queries"), (axis, key, -3, "keys"), (batch_axis, query, 0, "batch entries")]
    parts += [(head_axis, query, -2, "query heads"), (head_axis, key, -2, "key heads")]
    for name, array, place, what in parts:
        if name is not None and array.shape[place] % mesh.shape[name]:
            hint = "; pad them, and hide padded keys by key_mask" if place == -3 else ""
            raise ValueError(
                f"ring_attention: {array.shape[place]} {what} cannot be spread evenly over the {mesh.shape[name]} "
                f"devices of mesh axis {name!r}{hint}"
            )
