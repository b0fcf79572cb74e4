"""What the formulas of this package do to their arrays and parameters before the mathematics."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array


def promote(*inputs: ArrayLike) -> tuple[tuple[Array, ...], np.dtype]:
    """The arrays in a dtype fit to accumulate in, and the dtype in which results go back."""
    arrays = tuple(jnp.asarray(x) for x in inputs)
    dtype = jnp.result_type(*arrays)
    if not jnp.issubdtype(dtype, jnp.floating):
        dtype = jnp.result_type(dtype, float)
    accumulator = jnp.promote_types(dtype, jnp.float32)
    return tuple(x.astype(accumulator) for x in arrays), dtype


def contract(subscripts: str, *operands: Array) -> Array:
    """`einsum` with products at full precision on every device: distances are differences of large numbers."""
    return jnp.einsum(subscripts, *operands, precision=jax.lax.Precision.HIGHEST)


def check_at_least(name: str, value: ArrayLike, least: int | float) -> None:
    """Raise a `ValueError` for a parameter that is known and has a number below the least, or NaN."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value)):
        return
    if not np.all(np.asarray(value) >= least):
        raise ValueError(f"{name} is {value}; it must be at least {least}.")


def per_example(C: Array, y: Array) -> Array:
    """A price for each example, from a scalar or as given."""
    if C.ndim:
        chex.assert_equal_shape([C, y])
    return jnp.broadcast_to(C, y.shape)


def over_blocks(function: Callable[[Array], Array], X: Array, *, size: int) -> Array:
    """A function of rows, one block after another, so that memory does not grow with their number.

    Unlike `lax.map` with a batch size it is given matrices, and not vectors in step.
    """
    if len(X) <= size:
        return function(X)
    blocks = jnp.pad(X, ((0, -len(X) % size), (0, 0))).reshape(-1, size, X.shape[1])
    result = jax.lax.map(function, blocks)
    return result.reshape(-1, *result.shape[2:])[: len(X)]
