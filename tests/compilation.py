"""Tests of logic leave out XLA's expensive optimizations and compile in half the time; tests of last bits do not."""

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def optimizations(wanted: bool) -> Iterator[None]:
    """Compile with XLA's optimizations, or quickly."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", not wanted)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
