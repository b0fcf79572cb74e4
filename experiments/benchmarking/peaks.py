"""The most that this device was seen to do: products per second, and bytes per second of a copy."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

LONG_ENOUGH = 0.03  # seconds of one call, so that neither its start nor a cache decides
MOST_BYTES = 2**30  # of an array
CALLS = 5


class Peaks(NamedTuple):
    """What one device reaches.

    Attributes:
      dtype: of the numbers.
      flops_per_second: of a square matrix product at JAX's default precision, one multiplication and one addition
        counted as two.
      bytes_per_second: read and written by the scaling of an array, whichever of a few sizes was fastest.
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
    size, rate, longest = 256, 0.0, 0.0
    while longest < long_enough and size <= 32_768:
        matrix = jax.random.normal(jax.random.key(0), (size, size), dtype)
        longest = _fastest(jax.jit(lambda x: x @ x), matrix)
        rate = max(rate, 2 * size**3 / longest)
        size *= 2
    count, speed, longest = 2**22, 0.0, 0.0
    while longest < long_enough and count * jnp.dtype(dtype).itemsize <= MOST_BYTES:
        array = jnp.ones(count, dtype)
        longest = _fastest(jax.jit(lambda x: 2 * x), array)
        speed = max(speed, 2 * array.nbytes / longest)
        count *= 2
    return Peaks(dtype, rate, speed, size // 2, array.nbytes)


def _fastest(program: Callable[[jax.Array], jax.Array], argument: jax.Array) -> float:
    """Seconds of the median of a few calls after two of warm-up: a peak that is held, not a lucky moment."""
    seconds = []
    for _ in range(CALLS + 2):
        began = time.perf_counter()
        jax.block_until_ready(program(argument))
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[2:])
