"""Attention: scaled dot products in linear memory, several heads, sinusoidal positions, a cache for decoding."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Shaped

from mathai.nn import _numerics
from mathai.nn._blocked_attention import Blocks, blocked_attention, dense_attention

__all__ = [
    "KeyValueCache",
    "MultiHeadParams",
    "empty_cache",
    "merge_attention",
    "multi_head_attention",
    "multi_head_attention_step",
    "scaled_dot_product_attention",
    "sinusoidal_position_encoding",
]

MOST_DENSE_SCORES = 256 * 256  # T · S up to which all scores of a head are held at once
BLOCK_SIZE, LONGEST_BLOCK = 512, 640


def scaled_dot_product_attention(
    query: Float[ArrayLike, "*batch queries heads features"],
    key: Float[ArrayLike, "*batch keys key_heads features"],
    value: Float[ArrayLike, "*batch keys key_heads values"],
    *,
    bias: Float[ArrayLike, "..."] | None = None,
    mask: Bool[ArrayLike, "..."] | None = None,
    is_causal: bool = False,
    scale: Shaped[ArrayLike, ""] | None = None,
    block_size: int | None = None,
    return_lse: bool = False,
) -> Float[Array, "*batch queries heads values"] | tuple[Array, Array]:
    """Scaled dot-product attention, exact, in memory that grows with the lengths and not with their product.

        oₜ = Σⱼ pₜⱼ vⱼ,   pₜ = softmaxⱼ(c qₜ·kⱼ + bₜⱼ),   c = 1/√D

        Lₜ = log Σⱼ exp(c qₜ·kⱼ + bₜⱼ)

    A query that sees no key (masked, or with a bias of −∞ everywhere) gives o = 0 and L = −∞, with gradients 0. Blocks
    that causality empties are not computed. Differentiable to any order, in forward and reverse mode; the derivative of
    long sequences computes p again, block by block, and stores none of it.

    Args:
      query: q, [..., T, H, D].
      key: k, [..., S, K, D]; K divides H, and every H/K successive query heads share a key head.
      value: v, [..., S, K, V].
      bias: b, added to the scores; it broadcasts to [..., H, T, S].
      mask: True where a query sees a key; it broadcasts to [..., H, T, S].
      is_causal: query t sees keys 0 … t alone.
      scale: c; None is 1/√D.
      block_size: queries and keys in a block; None chooses, and holds all scores at once where they are few.
      return_lse: whether to return L, which `merge_attention` needs, as well.

    Returns:
      o, [..., T, H, V], in the query's dtype, and with `return_lse` also L, [..., T, H], in at least float32.

    Raises:
      TypeError: query, key or value is not floating point, or mask is not boolean.
      ValueError: shapes do not fit, or block_size is not positive.

    Source:
      Vaswani et al. (2017), Attention Is All You Need, eq. 1; in blocks: Rabe & Staats (2021), Self-attention Does Not
      Need O(n²) Memory, and Dao, Fu, Ermon, Rudra & Ré (2022), FlashAttention.

    >>> q, k, v = jnp.zeros((1, 1, 4)), jnp.zeros((2, 1, 4)), jnp.array([[[1.0]], [[3.0]]])
    >>> scaled_dot_product_attention(q, k, v).item()
    2.0
    """
    for array in (key, value):
        _numerics.upcast(array)  # a TypeError if it is not floating
    (query, key, value), dtype = _numerics.upcast(query, key, value)
    _check_shapes(query, key, value)
    num_heads, num_key_heads = query.shape[-2], key.shape[-2]
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    _numerics.assert_scalar("scale", scale)
    query = query * jnp.asarray(scale, query.dtype)
    scores_shape = (*query.shape[:-3], num_heads, query.shape[-3], key.shape[-3])
    if bias is not None:
        if not jnp.issubdtype(jnp.asarray(bias).dtype, jnp.floating):
            raise TypeError(f"bias must be floating point, got {jnp.asarray(bias).dtype}; mask hides keys")
        bias = _split_heads("bias", jnp.asarray(bias, query.dtype), scores_shape, num_key_heads)
    if mask is not None:
        if jnp.asarray(mask).dtype != jnp.bool_:
            raise TypeError(f"mask must be boolean, got {jnp.asarray(mask).dtype}; add numbers by bias")
        mask = _split_heads("mask", jnp.asarray(mask), scores_shape, num_key_heads)
    out, lse = _attend(query, key, value, bias, mask, is_causal, block_size)
    return (out.astype(dtype), lse[..., 0]) if return_lse else out.astype(dtype)


def merge_attention(
    out_a: Float[ArrayLike, "*batch queries heads values"],
    lse_a: Float[ArrayLike, "*batch queries heads"],
    out_b: Float[ArrayLike, "*batch queries heads values"],
    lse_b: Float[ArrayLike, "*batch queries heads"],
) -> tuple[Float[Array, "*batch queries heads values"], Float[Array, "*batch queries heads"]]:
    """Join the attention to two disjoint sets of keys.

        L = log(exp Lₐ + exp L_b),   o = exp(Lₐ − L) oₐ + exp(L_b − L) o_b

    A part that saw nothing (L = −∞) takes no part; two such parts give o = 0 and L = −∞, with gradients 0.

    Args:
      out_a: oₐ of `scaled_dot_product_attention`.
      lse_a: Lₐ of the same.
      out_b: o_b, of oₐ's shape.
      lse_b: L_b.

    Returns:
      o in the dtype of out_a and L in at least float32, as if the keys had been one set.

    Raises:
      AssertionError: the shapes differ.
      TypeError: the arguments are not floating point.

    Source:
      Liu, Zaharia & Abbeel (2023), Ring Attention with Blockwise Transformers for Near-Infinite Context, section 3.

    >>> out, lse = merge_attention(jnp.ones((1, 1, 1)), jnp.zeros((1, 1)), jnp.zeros((1, 1, 1)), jnp.zeros((1, 1)))
    >>> out.item(), lse.round(4).item()
    (0.5, 0.6930999755859375)
    """
    _numerics.assert_equal_shape(out_a, out_b)
    (out_a, lse_a, out_b, lse_b), dtype = _numerics.upcast(out_a, lse_a, out_b, lse_b)
    _numerics.assert_equal_shape(lse_a, lse_b, out_a[..., 0])
    maximum = jax.lax.stop_gradient(jnp.maximum(lse_a, lse_b))
    maximum = jnp.where(jnp.isneginf(maximum), 0, maximum)
    weight_a, weight_b = jnp.exp(lse_a - maximum), jnp.exp(lse_b - maximum)
    total = weight_a + weight_b
    safe = jnp.where(total == 0, 1, total)
    out = (weight_a[..., None] * out_a + weight_b[..., None] * out_b) / safe[..., None]
    return out.astype(dtype), jnp.where(total == 0, -jnp.inf, maximum + jnp.log(safe))


class MultiHeadParams(NamedTuple):
    """Projections of multi-head attention.

    Attributes:
      query: W_Q, [E, H, D].
      key: W_K, [F, K, D]: of the context's F features; K = H, or a divisor of it (grouped queries).
      value: W_V, [F, K, V].
      output: W_O, [H, V, E'].
    """

    query: Float[Array, "features heads head_features"]
    key: Float[Array, "context_features key_heads head_features"]
    value: Float[Array, "context_features key_heads values"]
    output: Float[Array, "heads values outputs"]


def multi_head_attention(
    params: MultiHeadParams,
    x: Float[ArrayLike, "*batch queries features"],
    context: Float[ArrayLike, "*batch keys context_features"] | None = None,
    *,
    attend: Callable[..., Array] | None = None,
    **options: Any,
) -> Float[Array, "*batch queries outputs"]:
    """Attention of several heads, each in a projection of its own.

        y = Σₕ Attention(x W_Qʰ, c W_Kʰ, c W_Vʰ) W_Oʰ

    Args:
      params: the projections.
      x: queries come from it, [..., T, E].
      context: c, keys and values come from it, [..., S, F]; None is x (self-attention).
      attend: (query, key, value, **options) → o of the heads; None is `scaled_dot_product_attention`.
      **options: of `attend`, without `return_lse`.

    Returns:
      y, [..., T, E'].

    Raises:
      TypeError: the projections are not floating point, or `return_lse` is asked for.
      ValueError: shapes do not fit.

    Source:
      Vaswani et al. (2017), Attention Is All You Need, section 3.2.2.

    >>> eye = jnp.eye(2)[:, None]
    >>> params = MultiHeadParams(eye, eye, eye, jnp.eye(2)[None])
    >>> multi_head_attention(params, jnp.array([[1.0, 2.0]]))
    Array([[1., 2.]], dtype=float32)
    """
    if options.pop("return_lse", False):
        raise TypeError("multi_head_attention has no log-sum-exp to return: each head has one of its own")
    x = jnp.asarray(x)
    context = x if context is None else jnp.asarray(context)
    query, key, value = _project(x, params.query), _project(context, params.key), _project(context, params.value)
    out: Any = (attend or scaled_dot_product_attention)(query, key, value, **options)
    return _combine(out, params.output)


class KeyValueCache(NamedTuple):
    """Keys and values of the tokens so far.

    Attributes:
      key: [..., S, K, D], of which the first `length` tokens are filled.
      value: [..., S, K, V].
      length: tokens so far, at most S.
    """

    key: Float[Array, "*batch capacity key_heads head_features"]
    value: Float[Array, "*batch capacity key_heads values"]
    length: Int[Array, ""]


def empty_cache(params: MultiHeadParams, capacity: int, *, batch_shape: tuple[int, ...] = ()) -> KeyValueCache:
    """A cache for so many tokens, none of them filled.

    Args:
      params: the projections, whose shapes and dtypes the cache follows.
      capacity: S, the most tokens.
      batch_shape: axes before them.

    Returns:
      Zeros, and length 0.

    Source:
      Shazeer (2019), Fast Transformer Decoding, section 2.4.

    >>> eye = jnp.eye(2)[:, None]
    >>> empty_cache(MultiHeadParams(eye, eye, eye, jnp.eye(2)[None]), 8).key.shape
    (8, 1, 2)
    """
    key, value = (jnp.zeros((*batch_shape, capacity, *w.shape[1:]), w.dtype) for w in (params.key, params.value))
    return KeyValueCache(key, value, jnp.int32(0))


def multi_head_attention_step(
    params: MultiHeadParams, x: Float[ArrayLike, "*batch features"], cache: KeyValueCache
) -> tuple[Float[Array, "*batch outputs"], KeyValueCache]:
    """Causal self-attention of one new token to itself and to all before it, in time O(capacity).

    Step after step it gives what `multi_head_attention(…, is_causal=True)` gives for all tokens at once.

    Args:
      params: the projections.
      x: the new token, [..., E].
      cache: of the tokens before it.

    Returns:
      y [..., E'], and the cache with the new token; NaN once there are more tokens than the cache has room for.

    Raises:
      TypeError: the projections are not floating point.
      ValueError: shapes do not fit.

    Source:
      Shazeer (2019), Fast Transformer Decoding, section 2.4.

    >>> eye = jnp.eye(2)[:, None]
    >>> params = MultiHeadParams(eye, eye, eye, jnp.eye(2)[None])
    >>> y, cache = multi_head_attention_step(params, jnp.array([1.0, 2.0]), empty_cache(params, 8))
    >>> y, cache.length.item()
    (Array([1., 2.], dtype=float32), 1)
    """
    x = jnp.asarray(x)[..., None, :]
    capacity = cache.key.shape[-3]
    place = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=cache.length, axis=-3)
    key = place(cache.key, _project(x, params.key).astype(cache.key.dtype))
    value = place(cache.value, _project(x, params.value).astype(cache.value.dtype))
    is_filled = jnp.arange(capacity) <= cache.length
    out = scaled_dot_product_attention(_project(x, params.query), key, value, mask=is_filled)
    y = _combine(out, params.output)[..., 0, :]
    return jnp.where(cache.length < capacity, y, jnp.nan), KeyValueCache(key, value, cache.length + 1)


def sinusoidal_position_encoding(
    positions: Shaped[ArrayLike, "*shape"] | int, dim: int, *, base: float = 10000.0
) -> Float[Array, "*shape dim"]:
    """Positions as sines and cosines of geometrically spaced frequencies, interleaved.

        e[2i] = sin(t ωᵢ),   e[2i + 1] = cos(t ωᵢ),   ωᵢ = base^(−2i/dim)

    Whole positions, traced or not, are reduced to one turn in integer arithmetic: up to a million the absolute error is
    below 4e-7, where float32 angles would have lost six of seven digits.

    Args:
      positions: t, whole or fractional, any shape; an int is the length of 0, 1, …
      dim: features, an even number.
      base: the longest wavelength is 2π base^(1 − 2/dim).

    Returns:
      The encodings, in float32, or in the positions' own dtype where that is a wider one.

    Raises:
      ValueError: dim is not positive and even.

    Source:
      Vaswani et al. (2017), Attention Is All You Need, section 3.5.

    >>> sinusoidal_position_encoding(2, 4).round(4)
    Array([[0.    , 1.    , 0.    , 1.    ],
           [0.8415, 0.5403, 0.01  , 1.    ]], dtype=float32)
    """
    if dim < 2 or dim % 2:
        raise ValueError(f"dim must be positive and even, got {dim}")
    positions = jnp.arange(positions) if isinstance(positions, int | np.integer) else jnp.asarray(positions)
    frequencies = float(base) ** (-np.arange(0, dim, 2) / dim)
    if jnp.issubdtype(positions.dtype, jnp.integer):
        angle = _whole_angles(positions, frequencies)
    else:
        positions = positions.astype(jnp.promote_types(positions.dtype, jnp.float32))
        angle = jnp.multiply.outer(positions, frequencies.astype(positions.dtype))
    pairs = jnp.stack([jnp.sin(angle), jnp.cos(angle)], -1)
    return pairs.reshape(*positions.shape, dim)


def _whole_angles(positions: Int[Array, "*shape"], frequencies: np.ndarray) -> Float[Array, "*shape half"]:
    """Angles t ω modulo 2π, in [−π, π): fractions of a turn in units of 2⁻³², where overflow is the reduction."""
    turns = frequencies / (2 * math.pi) % 1
    # ω/2π = high 2⁻³² + low 2⁻⁴⁸, with low < 2¹⁶.
    high = np.floor(turns * 2.0**32)
    low = np.floor((turns * 2.0**32 - high) * 2.0**16)
    high, low = high.astype(np.uint32), low.astype(np.uint32)
    t, times = jnp.abs(positions).astype(jnp.uint32), jnp.multiply.outer
    phase = times(t, high) + times(t >> 16, low) + (times(t & 0xFFFF, low) >> 16)
    angle = jax.lax.bitcast_convert_type(phase, jnp.int32).astype(jnp.float32) * np.float32(2 * math.pi / 2**32)
    return jnp.where(jnp.expand_dims(positions < 0, -1), -angle, angle)


def _attend(query, key, value, bias, mask, is_causal, block_size):
    num_queries, num_keys = query.shape[-3], key.shape[-3]
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}")
    num_scores = num_queries * num_keys
    if not num_scores or (block_size is None and num_scores <= MOST_DENSE_SCORES):
        return dense_attention(query, key, value, bias, mask, is_causal=is_causal)
    blocks = Blocks(_block_of(num_queries, block_size), _block_of(num_keys, block_size), is_causal)
    more_queries, more_keys = -num_queries % blocks.queries, -num_keys % blocks.keys
    query, key, value = _extend(query, -3, more_queries), _extend(key, -3, more_keys), _extend(value, -3, more_keys)
    bias, mask = (None if x is None else _extend(_extend(x, -2, more_queries), -1, more_keys) for x in (bias, mask))
    if more_keys:
        is_key = jnp.arange(num_keys + more_keys) < num_keys
        is_key = jnp.expand_dims(is_key, tuple(range(query.ndim)))
        mask = is_key if mask is None else mask & is_key
    out, lse = blocked_attention(query, key, value, bias, mask, blocks)
    return out[..., :num_queries, :, :], lse[..., :num_queries, :, :]


def _block_of(length: int, block_size: int | None) -> int:
    """Blocks all alike, as many as of `block_size` cover the length; without it of `BLOCK_SIZE`, or a bit longer."""
    if block_size is None:
        block_size = length if length <= LONGEST_BLOCK else BLOCK_SIZE
    return -(-length // -(-length // block_size))


def _extend(x: Array, axis: int, more: int) -> Array:
    """Zeros after the end of an axis; an axis of one entry stands for all of them."""
    if not more or x.shape[axis] == 1:
        return x
    return jnp.pad(x, [(0, more if i == axis % x.ndim else 0) for i in range(x.ndim)])


def _split_heads(name: str, x: Array, scores_shape: tuple[int, ...], num_key_heads: int) -> Array:
    """[..., H, T, S], where every axis may be 1 and the first may be missing → [..., K, G, T, S] with as many axes."""
    missing = len(scores_shape) - x.ndim
    if missing < 0 or any(m not in (1, n) for m, n in zip(x.shape, scores_shape[missing:], strict=True)):
        raise ValueError(f"{name} of shape {x.shape} does not broadcast to the scores' shape {scores_shape}")
    x = x.reshape((1,) * missing + x.shape)
    *batch, heads, rows, columns = x.shape
    grouped = (1, 1) if heads == 1 else (num_key_heads, heads // num_key_heads)
    return x.reshape(*batch, *grouped, rows, columns)


def _check_shapes(query: Array, key: Array, value: Array) -> None:
    shapes = f"query {query.shape}, key {key.shape}, value {value.shape}"
    if min(query.ndim, key.ndim, value.ndim) < 3:
        raise ValueError(f"query, key and value must be [..., length, heads, features]; got {shapes}")
    if not query.shape[:-3] == key.shape[:-3] == value.shape[:-3]:
        raise ValueError(f"batch axes differ: {shapes}")
    if key.shape[:-1] != value.shape[:-1]:
        raise ValueError(f"key and value must have the same length and heads: {shapes}")
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(f"query and key must have the same features: {shapes}")
    if not key.shape[-2] or query.shape[-2] % key.shape[-2]:
        raise ValueError(f"the key heads must divide the query heads: {shapes}")


def _project(x: Array, weight: Array) -> Array:
    return jnp.einsum("...te,ehd->...thd", x, weight)


def _combine(out: Any, weight: Array) -> Array:
    return jnp.einsum("...thd,hde->...te", out, weight)
