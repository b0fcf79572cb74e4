"""Causal attention of 8 heads of 64 features, forward and with its gradient, beside jax.nn.

The score counts right digits of the last queries' outputs and of the gradient in them, against the definition in
float64; gradients in keys and values are left to the tests.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from experiments.suites.base import Case, Contestant
from mathai.nn.attention import scaled_dot_product_attention

LENGTHS = (256, 512, 520, 1024, 1100, 2048, 4096)
NUM_HEADS, NUM_FEATURES = 8, 64
SHOWN = 32  # the last queries, which are compared
LEAST_DIGITS = 4.0


def cases(*, with_peers: bool) -> Iterator[Case]:
    """Every length, forward and then with its gradient."""
    for length in LENGTHS:
        keys = jax.random.split(jax.random.key(length), 4)
        q, k, v, cotangent = (jax.random.normal(key, (1, length, NUM_HEADS, NUM_FEATURES)) for key in keys)
        exact = _by_definition(q, k, v, cotangent)
        programs = {"mathai": scaled_dot_product_attention}
        if with_peers:
            programs["jax.nn"] = jax.nn.dot_product_attention
        digits = functools.partial(_digits, exact)
        forward = [Contestant(name, functools.partial(f, is_causal=True), digits) for name, f in programs.items()]
        gradient = [Contestant(name, _with_gradient(f), digits) for name, f in programs.items()]
        flops = 2 * 2 * length**2 / 2 * NUM_HEADS * NUM_FEATURES  # of the half that causality leaves
        yield Case(f"{length} tokens", forward, flops, "FLOP", LEAST_DIGITS, (q, k, v))
        yield Case(f"{length} tokens, gradient", gradient, 3.5 * flops, "FLOP", LEAST_DIGITS, (q, k, v, cotangent))


def _with_gradient(attention: Any) -> Any:
    def outputs_and_gradients(q, k, v, cotangent):
        out, pull_back = jax.vjp(lambda *args: attention(*args, is_causal=True), q, k, v)
        return out, *pull_back(cotangent)

    return outputs_and_gradients


def _by_definition(*arrays: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """Outputs of the last queries and the gradient in them."""
    q, k, v, cotangent = (np.asarray(x, np.float64)[0] for x in arrays)
    q, cotangent = q[-SHOWN:], cotangent[-SHOWN:]
    scale = NUM_FEATURES**-0.5
    s = scale * np.einsum("thd,shd->hts", q, k)
    length = k.shape[0]
    s = np.where(np.arange(length) <= np.arange(length - SHOWN, length)[:, None], s, -np.inf)
    p = np.exp(s - s.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    dp = np.einsum("thv,shv->hts", cotangent, v)
    ds = p * (dp - np.sum(p * dp, -1, keepdims=True))
    return np.einsum("hts,shv->thv", p, v), scale * np.einsum("hts,shd->thd", ds, k)


def _digits(exact: tuple[np.ndarray, ...], result: jax.Array | tuple[jax.Array, ...]) -> float:
    results = result if isinstance(result, tuple) else (result,)
    errors = [
        np.max(np.abs(np.asarray(found, np.float64)[0, -SHOWN:] - right)) / np.max(np.abs(right))
        for right, found in zip(exact, results, strict=False)
    ]
    return float(-np.log10(np.max(errors) + 1e-16))  # NaN if one of them is
