"""What the formulas of this package do to their arrays before the mathematics, and what they demand of them."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Shaped

T = TypeVar("T")


def promote(*inputs: ArrayLike) -> tuple[tuple[Array, ...], np.dtype]:
    """The arrays in a dtype fit to accumulate in, and the dtype in which results go back."""
    arrays = tuple(jnp.asarray(x) for x in inputs)
    dtype = jnp.result_type(*arrays)
    if not jnp.issubdtype(dtype, jnp.floating):
        dtype = jnp.result_type(dtype, float)
    return tuple(x.astype(accumulator(dtype)) for x in arrays), dtype


def accumulator(dtype: DTypeLike) -> np.dtype:
    """The dtype that statistics of a dtype run in: at least float32; integers count as JAX's default float."""
    dtype = jnp.result_type(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        dtype = jnp.result_type(dtype, float)
    return jnp.promote_types(dtype, jnp.float32)


def contract(subscripts: str, *operands: Array) -> Array:
    """`einsum` with products at full precision on every device: distances are differences of large numbers."""
    return jnp.einsum(subscripts, *operands, precision=jax.lax.Precision.HIGHEST)


def check_finite(name: str, X: ArrayLike) -> None:
    """Raise a `ValueError` for points that are known and hold NaN or infinities; it says how many and where."""
    if isinstance(X, jax.core.Tracer):
        return
    with jax.ensure_compile_time_eval():  # it may be a constant of a program that is being traced
        is_finite = jnp.all(jnp.isfinite(jnp.asarray(X)), axis=tuple(range(1, jnp.ndim(X))))
    is_bad = ~np.asarray(is_finite)
    if is_bad.any():
        raise ValueError(
            f"{name}: {is_bad.sum()} of {len(is_bad)} rows hold NaN or infinite numbers, row {is_bad.argmax()} the "
            "first; remove or impute them."
        )


def gather(values: Shaped[Array, "n ..."], indices: Array) -> Array:
    """`values[indices]` of indices that are known to lie within."""
    return values.at[indices].get(mode="promise_in_bounds")


def centre(X: Float[Array, "n d"]) -> Float[Array, "1 d"]:
    """The mean, to subtract before products; the mean of large numbers loses digits, that of differences does not."""
    return X[:1] + jnp.mean(X - X[:1], axis=0, keepdims=True)


def over_blocks(function: Callable[[tuple[Array, ...]], T], arrays: tuple[Array, ...], size: int) -> T:
    """A function of rows, one block after another; the last block is filled up with zeros."""
    n = len(arrays[0])
    padded = [jnp.pad(a, ((0, -n % size),) + ((0, 0),) * (a.ndim - 1)) for a in arrays]
    result = jax.lax.map(function, tuple(a.reshape(len(a) // size, size, *a.shape[1:]) for a in padded))
    return jax.tree.map(lambda x: x.reshape(x.shape[0] * size, *x.shape[2:])[:n], result)
