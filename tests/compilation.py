"""Tests of logic leave out XLA's expensive optimizations and compile in a third of the time."""

import contextlib
import functools
from collections.abc import Iterator

import jax
from jax._src import compiler

# Of XLA's CPU compiler: its older code generator, in one part, is the quicker one for programs that run once.
QUICK = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}
XLA_FLAGS = " ".join(f"--{name}={str(value).lower()}" for name, value in QUICK.items())  # for a program of its own


@contextlib.contextmanager
def optimizations(wanted: bool) -> Iterator[None]:
    """Compile with XLA's optimizations, or quickly."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", not wanted)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


def compile_quickly() -> None:
    """From now on, compile what is not optimized with `QUICK`, where this version of JAX and XLA knows it."""
    try:
        jax.jit(lambda x: x + 1, compiler_options=QUICK)(1.0)
        original = compiler.get_compile_options
    except (AttributeError, RuntimeError):
        return

    @functools.wraps(original)
    def get_compile_options(*args, env_options_overrides=None, **kwargs):
        if jax.config.read("jax_disable_most_optimizations"):
            env_options_overrides = QUICK | dict(env_options_overrides or {})
        return original(*args, env_options_overrides=env_options_overrides, **kwargs)

    compiler.get_compile_options = get_compile_options
