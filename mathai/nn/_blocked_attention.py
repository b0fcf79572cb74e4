"""Exact attention in blocks: memory grows with the lengths, not with their product.

Queries and keys are cut into blocks. Going over the blocks of keys, a block of queries keeps the maximum of its scores,
and the sums Σ exp(s − max) and Σ exp(s − max) v, which are rescaled when the maximum grows (online softmax; Rabe &
Staats (2021), Self-attention Does Not Need O(n²) Memory; Dao et al. (2022), FlashAttention).

The derivative keeps only inputs, outputs and L = log Σ exp s. With p = exp(s − L) computed again block by block,

    dL = Σⱼ pⱼ dsⱼ,   do = Σⱼ pⱼ (dsⱼ vⱼ + dvⱼ) − o dL

which is linear in the tangents: JAX transposes it to the backward pass, block by block as well, and differentiates it
again for higher orders. A `jax.custom_vjp` would have neither forward mode nor second derivatives.

Arrays are query [..., T, H, D], key [..., S, K, D], value [..., S, K, V]; bias and mask [..., K, G, T, S], where every
axis may be 1. G = H/K query heads share a key head. Blocks are brought into the order [..., K, G, T, D] one at a time:
of whole arrays that would be copies.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array


class Blocks(NamedTuple):
    """Sizes that are known while tracing.

    Attributes:
      queries: rows of a block.
      keys: columns of a block.
      is_causal: whether query t sees keys 0 … t alone.
    """

    queries: int
    keys: int
    is_causal: bool


def dense_attention(
    query: Array, key: Array, value: Array, bias: Array | None, mask: Array | None, *, is_causal: bool
) -> tuple[Array, Array]:
    """Outputs [..., T, H, V] and log-sum-exps [..., T, H, 1], from all scores at once."""
    num_queries, num_keys = query.shape[-3], key.shape[-3]
    query, key, value = _by_head(query, key.shape[-2]), jnp.swapaxes(key, -2, -3), jnp.swapaxes(value, -2, -3)
    causal = _sees(jnp.arange(num_queries), jnp.arange(num_keys)) if is_causal else None
    s = _scores(query, key, bias, mask, causal)
    maximum = lax.stop_gradient(_finite(jnp.max(s, -1, keepdims=True, initial=-jnp.inf)))
    e = jnp.exp(s - maximum)
    return tuple(map(_by_token, _normalized(_weigh(e, value), jnp.sum(e, -1, keepdims=True), maximum)))


@functools.partial(jax.custom_jvp, nondiff_argnums=(5,))
def blocked_attention(
    query: Array, key: Array, value: Array, bias: Array | None, mask: Array | None, blocks: Blocks
) -> tuple[Array, Array]:
    """The same in blocks, of which T and S are multiples."""

    def of_rows(i, query, bias, mask):
        query = _by_head(query, key.shape[-2])

        def step(state, j, key, value, bias, mask):
            maximum, total, weighted = state
            s = _scores(query, key, bias, mask, _causal_mask(blocks, i, j))
            new_maximum = jnp.maximum(maximum, jnp.max(s, -1, keepdims=True))
            finite = _finite(new_maximum)
            e, shrink = jnp.exp(s - finite), jnp.exp(maximum - finite)
            total = shrink * total + jnp.sum(e, -1, keepdims=True)
            return new_maximum, total, shrink * weighted + _weigh(e, value)

        row = jnp.zeros_like(query[..., :1])
        zeros = jnp.zeros_like(query, shape=(*query.shape[:-1], value.shape[-1]))
        maximum, total, weighted = _scan_keys(blocks, i, step, (row - jnp.inf, row, zeros), (key, value), (bias, mask))
        return tuple(map(_by_token, _normalized(weighted, total, _finite(maximum))))

    return _map_queries(blocks, of_rows, (query,), (bias, mask))


def _blocked_attention_jvp(blocks, primals, tangents):
    out, lse = blocked_attention(*primals, blocks)
    *changes, _ = (None if isinstance(t, SymbolicZero) else t for t in tangents)
    return (out, lse), _tangents(blocks, primals, (out, lse), changes)


blocked_attention.defjvp(_blocked_attention_jvp, symbolic_zeros=True)


def _tangents(blocks, primals, results, changes):
    """The pair do, dL. Changes that are None are 0."""
    (query, key, value, bias, mask), (dquery, dkey, dvalue, dbias) = primals, changes

    def of_rows(i, query, out, lse, dquery, bias, mask, dbias):
        query, out, lse, dquery = (None if x is None else _by_head(x, key.shape[-2]) for x in (query, out, lse, dquery))
        shift = jnp.where(jnp.isneginf(lse), jnp.inf, lse)  # a row that sees nothing has p = 0

        def step(state, j, key, value, dkey, dvalue, bias, mask, dbias):
            dout, dlse = state
            p = jnp.exp(_scores(query, key, bias, mask, _causal_mask(blocks, i, j)) - shift)
            terms = [] if dbias is None else [dbias]
            terms += [] if dquery is None else [_dot(dquery, key)]
            terms += [] if dkey is None else [_dot(query, dkey)]
            if terms:
                pds = p * functools.reduce(jnp.add, terms)
                dout, dlse = dout + _weigh(pds, value), dlse + jnp.sum(pds, -1, keepdims=True)
            return dout if dvalue is None else dout + _weigh(p, dvalue), dlse

        state = jnp.zeros_like(out), jnp.zeros_like(lse)
        of_keys, of_scores = (key, value, dkey, dvalue), (bias, mask, dbias)
        dout, dlse = _scan_keys(blocks, i, step, state, of_keys, of_scores, is_linear=True)
        return _by_token(dout - out * dlse), _by_token(dlse)

    return _map_queries(blocks, of_rows, (query, *results, dquery), (bias, mask, dbias))


def _map_queries(blocks, of_rows, of_tokens, of_scores):
    """`of_rows(i, *of_tokens, *of_scores)` for every block of rows, joined."""
    num_blocks = of_tokens[0].shape[-3] // blocks.queries
    cut = (
        jax.tree.map(lambda x: _cut(x, -3, blocks.queries, num_blocks), of_tokens),
        jax.tree.map(lambda x: _cut(x, -2, blocks.queries, num_blocks), of_scores),
    )
    results = lax.map(lambda xs: of_rows(xs[0], *xs[1][0], *xs[1][1]), (jnp.arange(num_blocks), cut))
    return jax.tree.map(lambda x: _join(x, -3), results)


def _scan_keys(blocks, i, step, state, of_keys, of_scores, *, is_linear=False):
    """The state after every block of keys that some row of block i sees.

    Of a linear step the transpose computes again what it multiplies by. The checkpoint holds the condition: inside it,
    every block would store its arguments.
    """
    num_blocks = of_keys[0].shape[-3] // blocks.keys
    cut = (
        jax.tree.map(lambda x: _cut(x, -3, blocks.keys, num_blocks), of_keys),
        jax.tree.map(lambda x: _cut(x, -1, blocks.keys, num_blocks), of_scores),
    )

    def visit(state, xs):
        j, of_keys, of_scores = xs
        of_keys = jax.tree.map(lambda x: jnp.swapaxes(x, -2, -3), of_keys)
        if not blocks.is_causal:
            return step(state, j, *of_keys, *of_scores), None
        is_seen = j * blocks.keys < (i + 1) * blocks.queries
        return lax.cond(is_seen, lambda: step(state, j, *of_keys, *of_scores), lambda: state), None

    if is_linear:
        visit = jax.checkpoint(visit, prevent_cse=False)
    return lax.scan(visit, state, (jnp.arange(num_blocks), *cut))[0]


def _by_head(x, num_key_heads):
    """[..., T, H, D] → [..., K, G, T, D]: every product is then one of matrices."""
    *batch, length, num_heads, features = x.shape
    grouped = num_key_heads, num_heads // num_key_heads
    return jnp.swapaxes(x, -2, -3).reshape(*batch, *grouped, length, features)


def _by_token(x):
    """[..., K, G, T, D] → [..., T, H, D]."""
    *batch, num_key_heads, num_shared, length, features = x.shape
    return jnp.swapaxes(x.reshape(*batch, num_key_heads * num_shared, length, features), -2, -3)


def _cut(x, axis, size, num_blocks):
    """Blocks along an axis, which goes first; what has one entry for all of them is repeated."""
    if x.shape[axis] != num_blocks * size:
        return jnp.broadcast_to(x, (num_blocks, *x.shape))
    axis %= x.ndim
    shape = (*x.shape[:axis], num_blocks, size, *x.shape[axis + 1 :])
    return jnp.moveaxis(x.reshape(shape), axis, 0)


def _join(x, axis):
    axis = axis % (x.ndim - 1)
    x = jnp.moveaxis(x, 0, axis)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def _causal_mask(blocks, i, j):
    if not blocks.is_causal:
        return None
    return _sees(i * blocks.queries + jnp.arange(blocks.queries), j * blocks.keys + jnp.arange(blocks.keys))


def _sees(rows, columns):
    return columns[None, :] <= rows[:, None]


def _dot(query, key):
    return jnp.einsum("...gtd,...sd->...gts", query, key)


def _weigh(weights, value):
    return jnp.einsum("...gts,...sv->...gtv", weights, value)


def _scores(query, key, bias, *masks):
    s = _dot(query, key)
    if bias is not None:
        s = s + bias
    for mask in masks:
        if mask is not None:
            s = jnp.where(jnp.expand_dims(mask, tuple(range(s.ndim - mask.ndim))), s, -jnp.inf)
    return s


def _finite(maximum):
    return jnp.where(jnp.isneginf(maximum), 0, maximum)


def _normalized(weighted, total, maximum):
    sees_none = total == 0
    total = jnp.where(sees_none, 1, total)
    return weighted / total, jnp.where(sees_none, -jnp.inf, maximum + jnp.log(total))
