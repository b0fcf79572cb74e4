"""Compiling what is tested for its logic, not for its speed or its last bits, in half the time."""

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def compiled_quickly() -> Iterator[None]:
    """Leave out XLA's expensive optimizations."""
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


def is_slow_tier(config: object) -> bool:
    """Whether the tests that learn to a score are to run: they keep every optimization."""
    return "not slow" not in config.option.markexpr
