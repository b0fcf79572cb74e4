"""On which devices and processes a program runs: its flags, and the placement that they ask for."""

import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from jax.sharding import AxisType, Mesh

from experiments import devices, processes
from experiments.errors import UserError
from experiments.placement import DATA, MODEL, OneDevice, Placement
from experiments.tasks import SEQUENCE, Task


def define_flags() -> None:
    """Define the flags that say on which devices and processes a program runs."""
    define_mesh_flags()
    processes.define_flags()
    flags.adopt_module_key_flags(processes)


@contextlib.contextmanager
def started(values: Any, num_programs: int) -> Iterator[None]:
    """Prepare the devices that flags ask for, and join the other processes, before JAX's first computation.

    Args:
      values: of the flags.
      num_programs: that could run side by side.
    """
    devices.prepare(num_programs, devices_of(values.mesh, values.coordinator_address, values.num_processes))
    with processes.joined(values.coordinator_address, values.num_processes, values.process_id):
        yield


def define_mesh_flags() -> None:
    """Define the flags that say on which devices a program runs."""
    flags.DEFINE_string("mesh", None, "Devices by axis, as data:4,model:2; default: all of them on data.")
    flags.DEFINE_bool("shard_parameters", False, "Spread parameters and optimizer state over data as well.")


def parse_mesh(text: str) -> dict[str, int]:
    """Read the flag: sizes by axis.

    >>> parse_mesh("data:4,model:2")
    {'data': 4, 'model': 2}
    """
    axes: dict[str, int] = {}
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\w+)\s*:\s*(\d+)\s*", part)
        if not found or found[1] not in (DATA, SEQUENCE, MODEL) or found[1] in axes or not int(found[2]):
            raise UserError(f"--mesh={text} is not understood at {part!r}; write sizes by axis, as data:4,model:2.")
        axes[found[1]] = int(found[2])
    shared = {SEQUENCE: axes[SEQUENCE]} if axes.get(SEQUENCE, 1) > 1 else {}
    return {DATA: axes.get(DATA, 1), **shared, MODEL: axes.get(MODEL, 1)}


def devices_of(mesh: str | None, address: str | None, num_processes: int | None) -> int | None:
    """How many devices of this process the flags ask for; None where they do not say."""
    if mesh is None or (address is not None and num_processes is None):
        return None
    return max(1, math.prod(parse_mesh(mesh).values()) // (num_processes or 1))


def placement_of(task: Task, num_members: int | None, mesh: str | None, *, shard_parameters: bool = False) -> OneDevice:
    """Choose where a run lies.

    Args:
      task: the task.
      num_members: how many train side by side; None is one alone.
      mesh: the flag. None puts all devices on `data`: of one process, as many as divide the rows of a batch.
      shard_parameters: spread parameters and optimizer state over `data`.

    Raises:
      UserError: more devices than there are, rows that they do not divide, or axes that have nothing to hold.
    """
    if shard_parameters and num_members is not None:
        raise UserError("--shard_parameters is of one run; seeds and points of a sweep lie on one device each.")
    rows, noun = _rows_of(task) if num_members is None else (num_members, "runs side by side")
    available = jax.device_count()
    if mesh is None and not processes.are_several():
        if num_members is not None:
            return OneDevice()
        axes = {DATA: max(n for n in range(1, available + 1) if (rows or 1) % n == 0), MODEL: 1}
        if axes[DATA] == 1 and shard_parameters:
            raise UserError(
                f"--shard_parameters spreads over data, which is one device ({available} found); give --mesh."
            )
        if axes[DATA] == 1:
            return OneDevice()
    else:
        axes = _asked(mesh, rows, noun, num_members, None if num_members is not None else task.sequence)
    return Placement(_mesh_of(axes), shard_parameters)


def of_sweep(mesh: str | None) -> OneDevice:
    """Where the runs of a sweep lie, in blocks that the devices on `data` divide."""
    if mesh is None and not processes.are_several():
        return OneDevice()
    return Placement(_mesh_of(_asked(mesh, None, "runs of a sweep", 0, None)))


def _asked(
    mesh: str | None, rows: int | None, noun: str, num_members: int | None, sequence: int | None
) -> dict[str, int]:
    """The axes that the flag asks for, all devices on `data` without it, if they fit what is spread over them."""
    axes = {DATA: jax.device_count(), MODEL: 1} if mesh is None else parse_mesh(mesh)
    _check(axes, rows, noun, num_members, is_given=mesh is not None)
    _check_sequence(axes.get(SEQUENCE, 1), sequence)
    return axes


def _mesh_of(axes: Mapping[str, int]) -> Mesh:
    found = jax.devices()[: math.prod(axes.values())]
    return jax.make_mesh(tuple(axes.values()), tuple(axes), devices=found, axis_types=(AxisType.Auto,) * len(axes))


def _check(axes: Mapping[str, int], rows: int | None, noun: str, num_members: int | None, *, is_given: bool) -> None:
    count, available = math.prod(axes.values()), jax.device_count()
    written = ",".join(f"{axis}:{size}" for axis, size in axes.items())
    name = f"--mesh={written}" if is_given else f"all devices, data:{axes[DATA]}"
    if count > available:
        here = -(-count // processes.number())
        raise UserError(
            f"{name} needs {count} devices; JAX finds {available} ({jax.default_backend()}). On a CPU "
            f"JAX_NUM_CPU_DEVICES={here} simulates {'them' if here == count else 'so many for each process'}."
        )
    if count < available and processes.are_several():
        raise UserError(f"{name} has {count} of {available} devices; all processes must have all of theirs.")
    if rows is not None and rows % axes[DATA]:
        raise UserError(f"{name}: {axes[DATA]} devices do not divide the {rows} {noun}; choose a divisor by --mesh.")
    if num_members is not None and axes[MODEL] > 1:
        raise UserError(f"{name}: {noun} are spread over data alone; leave model out.")


def _check_sequence(size: int, length: int | None) -> None:
    if size > 1 and length is None:
        raise UserError(f"--mesh: sequence:{size} is for the tokens of one run of a language model; leave it out.")
    if size > 1 and length % size:
        raise UserError(f"--mesh: sequence:{size} does not divide config.learner.context_length = {length}.")


def _rows_of(task: Task) -> tuple[int | None, str]:
    """What is spread over `data`: how many, and what they are; None where there is nothing."""
    if task.draw is not None:
        batch = jax.eval_shape(task.draw, jax.random.key(0), task.data, jnp.int32(0))
        return len(jax.tree.leaves(batch)[0]), "rows of a batch"
    if task.stream is not None:
        return task.stream.batch_size, "rows of a batch"
    if num_envs := getattr(task.hyperparameters, "num_envs", None):
        return num_envs, "environments"
    return None, ""
