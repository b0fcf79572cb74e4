"""What every test runs under: strict rank promotion, and compilation that is quick and kept for the next run."""

import os
import pathlib

import jax

from tests.compilation import compile_quickly

CACHE = pathlib.Path(__file__).parents[1] / ".cache" / "jax"

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR", str(CACHE)))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def pytest_configure(config):
    """The slow tier, which learns to a score, compiles as for a user."""
    jax.config.update("jax_disable_most_optimizations", "not slow" in config.option.markexpr)
    compile_quickly()
