"""Causal attention of 8 heads of 64 features, forward and with its gradient, beside jax.nn and PyTorch.

The score counts right digits of the last queries' outputs and of the gradient in them, against the definition in
float64; gradients in keys and values are left to the tests.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from experiments import progress
from experiments.benchmarking import work
from experiments.peers import pytorch
from experiments.suites.base import Case, Contestant
from experiments.suites.options import Options
from mathai.nn.attention import scaled_dot_product_attention

NUM_HEADS, NUM_FEATURES = 8, 64
SHOWN = 32  # the last queries, which are compared
LEAST_DIGITS = {"float64": 10.0, "float32": 4.0, "float16": 1.5, "bfloat16": 1.0}


def cases(options: Options) -> Iterator[Case]:
    """Every length, forward and then with its gradient."""
    if options.with_peers and not pytorch.is_here():
        progress.say("peer", "PyTorch is not installed, or not for this device")
    for length in options.tokens:
        keys = jax.random.split(jax.random.key(length), 4)
        shape = 1, length, NUM_HEADS, NUM_FEATURES
        q, k, v, cotangent = (jax.random.normal(key, shape, options.dtype) for key in keys)
        digits = functools.partial(_digits, _by_definition(q, k, v, cotangent))
        flops = 2 * 2 * length**2 / 2 * NUM_HEADS * NUM_FEATURES  # of the half that causality leaves
        forward = functools.partial(scaled_dot_product_attention, is_causal=True)
        gradient = _with_gradient(scaled_dot_product_attention)
        for suffix, ours, arguments, operations in (
            ("", forward, (q, k, v), flops),
            (", gradient", gradient, (q, k, v, cotangent), 3.5 * flops),
        ):
            contestants = [Contestant("mathai", ours, digits)]
            if options.with_peers:
                contestants += _peers(arguments, digits, bool(suffix))
            yield Case(
                f"{length} tokens{suffix}",
                contestants,
                operations,
                "FLOP",
                LEAST_DIGITS[options.dtype],
                arguments,
                flops=operations,
                bytes=work.traffic(ours, *arguments),
                dtype=options.dtype,
                family=f"causal attention{suffix}",
                variable="tokens",
                size=length,
            )


def _peers(arguments: tuple[jax.Array, ...], digits: Any, gradient: bool) -> list[Contestant]:
    jax_nn = jax.nn.dot_product_attention
    program = _with_gradient(jax_nn) if gradient else functools.partial(jax_nn, is_causal=True)
    found = [Contestant("jax.nn", program, digits)]
    if pytorch.is_here():
        theirs = _torch_gradient if gradient else _torch_attention
        found.append(
            Contestant(
                pytorch.NAME,
                pytorch.program(theirs, arguments, needs_gradient=gradient),
                lambda result: digits(pytorch.as_numpy(result)),
                compiles=False,
            )
        )
    return found


def _torch_attention(q: Any, k: Any, v: Any) -> Any:
    """PyTorch wants heads before tokens."""
    import torch

    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


def _torch_gradient(q: Any, k: Any, v: Any, cotangent: Any) -> Any:
    import torch

    inputs = [x.detach().requires_grad_(True) for x in (q, k, v)]
    out = _torch_attention(*inputs)
    return out.detach(), *torch.autograd.grad(out, inputs, cotangent)


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
