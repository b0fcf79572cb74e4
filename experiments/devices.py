"""Several seeds in one compiled program, spread over the devices; on CPUs, every core is one.

Networks of reinforcement learning are too small to occupy two cores, and a program that runs two of them side by side
on each core is twice as fast as one that computes both in step.
"""

import contextlib
import os
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from experiments.configuration import num_cores
from experiments.errors import UserError

AXIS = "seeds"
SPARE_THREADS = 16


def prepare(num_programs: int, num_devices: int | None = None) -> None:
    """Make a device of each core, no more than there are programs to run at once; before JAX's first computation.

    A mesh says how many devices it takes instead, which then are simulated where they are more than the cores.

    Programs are seeds, or the fits of a search. Devices are left as they are where there is one program, or where JAX's
    own settings already count them. In any case XLA's CPU gets threads to spare, unless `NPROC` says how many: all
    devices share one pool, and jaxlib's batched LAPACK calls (seen with 0.10.2: QR, of initial weights) wait in it for
    others of its threads. Where all of them wait, nothing ever ends; the more threads, the more such calls it takes.
    """
    cores = num_cores()
    os.environ.setdefault("NPROC", str(max(cores, num_devices or 0) + SPARE_THREADS))
    is_set = jax.config.jax_num_cpu_devices > 0 or "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    wanted = min(cores, num_programs) if num_devices is None else num_devices
    if not is_set and wanted > 1:
        with contextlib.suppress(RuntimeError):  # JAX has begun to compute: its devices stay as they are
            jax.config.update("jax_num_cpu_devices", wanted)


def demand_platform(platform: str) -> None:
    """Check that JAX computes where a flag demands it."""
    try:
        if platform == "cpu":
            jax.config.update("jax_platforms", "cpu")
        found = jax.default_backend()
    except RuntimeError as error:
        raise UserError(f"JAX finds no device: {' '.join(str(error).split())[:200]}") from error
    if platform not in ("any", found):
        extra = {"gpu": "mathai[cuda]", "tpu": "mathai[tpu]"}.get(platform)
        raise UserError(
            f"--platform={platform} was demanded, but JAX finds only {found}. "
            f"Install {extra} on a machine that has one, or leave --platform out."
        )


def describe() -> str:
    """Which devices there are."""
    return f"{jax.default_backend()}, {jax.devices()[0].device_kind} x {jax.device_count()}"


def over_seeds(function: Callable[..., PyTree], num_seeds: int) -> Callable[..., PyTree]:
    """Map a function over seeds: on all devices at once, on a CPU one after another, on an accelerator in step.

    Args:
      function: (arguments of one seed, what all share) → result.
      num_seeds: how many; devices beyond the largest number that divides it are left idle.

    Returns:
      The function of arguments with a leading axis of seeds, and of what all share; its result has that axis too.

    >>> over_seeds(lambda x, y: x + y, 3)(jax.numpy.arange(3), 10).tolist()
    [10, 11, 12]
    """
    sharding = seed_sharding(num_seeds)
    return on_one_device(function) if sharding is None else over_axis(function, sharding.mesh, AXIS)


def on_one_device(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Map a function as `over_seeds` does, on one device."""

    def mapped(each: PyTree, shared: PyTree) -> PyTree:
        one = lambda x: function(x, shared)  # noqa: E731
        return jax.lax.map(one, each) if jax.default_backend() == "cpu" else jax.vmap(one)(each)

    return mapped


def over_axis(function: Callable[..., PyTree], mesh: Mesh, axis: str) -> Callable[..., PyTree]:
    """Map a function as `over_seeds` does, over an axis of a mesh that divides the seeds."""
    specs: Any = (PartitionSpec(axis), PartitionSpec())
    return jax.shard_map(on_one_device(function), mesh=mesh, in_specs=specs, out_specs=specs[0], check_vma=False)


def seed_sharding(num_seeds: int) -> NamedSharding | None:
    """How arrays with a leading axis of seeds lie on the devices; None where they lie on one."""
    count = max(n for n in range(1, min(num_seeds, jax.local_device_count()) + 1) if num_seeds % n == 0)
    if count == 1:
        return None
    mesh = jax.make_mesh((count,), (AXIS,), devices=jax.local_devices()[:count], axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec(AXIS))
