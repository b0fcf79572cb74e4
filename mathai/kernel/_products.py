"""Gram matrices of the kernels of dot products and distances, by one matrix product, and on several devices.

Rows may be some of the columns, at `places` that are known: their distance to themselves is then exactly 0.
"""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from mathai.kernel._arrays import check_at_least, contract
from mathai.kernel._distances import weighted_distances
from mathai.nn import _sharding


def linear_gram(X: Array, Z: Array | None, places: Array | None) -> Array:
    """XZᵀ."""
    del places  # no distance is taken
    return contract("nd,md->nm", X, X if Z is None else Z)


def polynomial_gram(X: Array, Z: Array | None, places: Array | None, *, degree=3, c=1.0, gamma=1.0) -> Array:
    """(γ XZᵀ + c)ᵖ."""
    return power(linear_gram(X, Z, places), degree, c, gamma)


def rbf_gram(X: Array, Z: Array | None, places: Array | None, *, gamma) -> Array:
    """exp(−γ ‖x − z‖²) of all pairs."""
    return jnp.exp(-weighted_distances(X, Z, widths(gamma, X), places))


def power(product: Array, degree, c, gamma) -> Array:
    """(γ xᵀz + c)ᵖ of dot products; parameters that are known and out of range are an error."""
    check_at_least("polynomial: degree", degree, 1)
    if isinstance(degree, float) and not degree.is_integer():
        raise ValueError(
            f"polynomial: degree is {degree}; it must be an integer: no other power of a product is a kernel."
        )
    check_at_least("polynomial: c", c, 0)
    check_at_least("polynomial: gamma", gamma, 0)
    chex.assert_rank([degree, c, gamma], 0)
    if isinstance(degree, int | np.integer):
        return jax.lax.integer_pow(gamma * product + c, int(degree))
    return (gamma * product + c) ** jnp.asarray(degree)


def widths(gamma, x: Array) -> Array:
    """γ as a scalar or as one number per feature."""
    check_at_least("rbf: gamma", gamma, 0)
    each = jnp.asarray(gamma, x.dtype)
    if each.ndim:
        chex.assert_shape(each, x.shape[-1:])
    return each


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def on_devices(gram: Callable[..., Array], kernel: Any, X: Array, Z: Array | None, mesh: Mesh, axis: str) -> Array:
    """`gram(kernel, rows, columns, places)` of some rows on each device; the kernel is a pytree of its parameters."""
    count = mesh.shape[axis]
    places = _sharding.fill_up(jnp.arange(len(X), dtype=jnp.int32), count) if Z is None else None
    specs = P(), P(axis), P(), P(axis)
    of_device = _sharding.on_devices(gram, mesh, specs, P(axis))
    return of_device(kernel, _sharding.fill_up(X, count), X if Z is None else Z, places)[: len(X)]
