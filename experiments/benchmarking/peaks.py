"""The most that this device was seen to do: products per second, and bytes per second of a copy."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

LONG_ENOUGH = 0.03  # seconds of one call, so that neither its start nor a cache decides
MOST_ROWS, MOST_BYTES = 32_768, 2**30  # of a matrix, of an array
CALLS = 5


class Peaks(NamedTuple):
    """What one device reaches.

    Attributes:
      dtype: of the numbers.
      flops_per_second: of a square matrix product at JAX's default precision, one multiplication and one addition
        counted as two.
      bytes_per_second: read and written where an array is scaled in place, so that no new memory has to be made.
      matrix_size: rows of the matrix.
      array_bytes: size of the array.
    """

    dtype: str
    flops_per_second: float
    bytes_per_second: float
    matrix_size: int
    array_bytes: int


def measure(dtype: str = "float32", *, long_enough: float = LONG_ENOUGH) -> Peaks:
    """Measure both peaks of the first device; sizes double until a call takes `long_enough` seconds."""
    size, seconds = 256, 0.0
    while seconds < long_enough and size <= MOST_ROWS:
        matrix = jax.random.normal(jax.random.key(0), (size, size), dtype)
        seconds = _median(jax.jit(lambda x: x @ x), matrix)
        size *= 2
    rate, count, seconds = 2 * (size // 2) ** 3 / seconds, 2**22, 0.0
    while seconds < long_enough and count * jnp.dtype(dtype).itemsize <= MOST_BYTES:
        scale = jax.jit(lambda x: -x, donate_argnums=0)
        seconds = _median(scale, jnp.ones(count, dtype), is_in_place=True)
        count *= 2
    nbytes = (count // 2) * jnp.dtype(dtype).itemsize
    return Peaks(dtype, rate, 2 * nbytes / seconds, size // 2, nbytes)


def _median(program: Callable[[jax.Array], jax.Array], argument: jax.Array, *, is_in_place: bool = False) -> float:
    """Seconds of the median of a few calls after two of warm-up: a peak that is held, not a lucky moment."""
    seconds = []
    for _ in range(CALLS + 2):
        began = time.perf_counter()
        result = jax.block_until_ready(program(argument))
        seconds.append(time.perf_counter() - began)
        argument = result if is_in_place else argument
    return statistics.median(seconds[2:])
