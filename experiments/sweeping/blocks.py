"""Blocks of a sweep: as many members in one program as the devices' memory holds."""

import contextlib
import math
import os
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from experiments.errors import UserError
from experiments.members import Members, Programs, evaluation_keys
from experiments.placement import OneDevice
from experiments.tasks import Task

GIB = 2**30
SHARE_OF_DEVICE, SHARE_OF_HOST = 0.8, 0.5
STATES = 3  # alive at a time: what goes into a chunk, what comes out of it, what is being saved


class Memory(NamedTuple):
    """What blocks may take.

    Attributes:
      bytes: of each device; where the devices are the cores of a host, its share of the host's.
      why: where the number comes from.
    """

    bytes: float
    why: str


class Size(NamedTuple):
    """How many members a block has.

    Attributes:
      members: in one program.
      bytes: that it needs on each device.
      seconds: that it took to find out, most of it compilation.
    """

    members: int
    bytes: float
    seconds: float


def memory(gib: float | None, kept: float = 0.0) -> Memory:
    """What a sweep may take: what the user says, else a share of what JAX has of the device, or the host has free.

    JAX takes three quarters of a GPU unless its own settings say otherwise; `kept` bytes of that hold other data.
    """
    devices, own = jax.local_devices(), jax.default_backend() != "cpu"
    limit = (devices[0].memory_stats() or {}).get("bytes_limit") if own else None
    if gib is not None:
        return Memory(gib * GIB / (1 if own else len(devices)), "the limit of --memory_gib")
    if limit:
        return Memory(SHARE_OF_DEVICE * limit - kept, f"{SHARE_OF_DEVICE:.0%} of what JAX has taken of the device")
    return Memory(SHARE_OF_HOST * _free_ram() / len(devices), "half of the host's free memory")


def describe(need: float, room: Memory) -> str:
    """Say how much of its room a block takes: of one accelerator, or of the host."""
    number = 1 if jax.default_backend() != "cpu" else jax.local_device_count()
    return f"{format_bytes(need * number)} of {format_bytes(room.bytes * number)}, {room.why}"


def format_bytes(number: float) -> str:
    """Write an amount of memory.

    >>> format_bytes(3 * 2**30), format_bytes(2**16)
    ('3.0 GiB', '0.1 MiB')
    """
    return f"{number / GIB:.1f} GiB" if number >= GIB else f"{number * 1024 / GIB:.1f} MiB"


def count(number: int, noun: str) -> str:
    """Write a number of things.

    >>> count(1, "seed"), count(2000, "run")
    ('1 seed', '2,000 runs')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@contextlib.contextmanager
def in_memory(num_members: int) -> Iterator[None]:
    """Say what to do where so many members do not fit."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"{count(num_members, 'run')} at a time do not fit in the device's memory after all; "
            "the same command with a lower --memory_gib goes on with fewer."
        ) from error


def _free_ram() -> float:
    """Bytes that the host, or the container in it, has to give."""
    free = [float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))]
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        free += [1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")]
        free.append(float(pathlib.Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # another system, or a container without a limit
        pass
    return min(free)


def count_devices(num_members: int, spread: int | None = None) -> int:
    """Devices that so many members can occupy, or those that a mesh spreads them over."""
    return spread or max(1, min(num_members, jax.local_device_count()))


def cut(num_members: int, most: int, spread: int | None = None) -> int:
    """The size of equal blocks: the fewest of at most `most` members, filled up to a multiple of the devices.

    >>> cut(10, 10), cut(10, 4)
    (10, 4)
    """
    devices = count_devices(num_members, spread)
    blocks = math.ceil(num_members / max(most // devices * devices, devices))
    return math.ceil(math.ceil(num_members / blocks) / devices) * devices


def first_guess(
    num_members: int,
    shapes: PyTree,
    task: Task,
    updates_per_chunk: int,
    limit: float,
    place: OneDevice | None = None,
) -> int:
    """The size of blocks by what is known before compilation: states, metrics and data, but no temporary values."""
    state, metrics, _ = shapes
    each = STATES * size_of(state) + 2 * updates_per_chunk * size_of(metrics)
    chunk = None if task.stream is None else task.stream.shapes(2 * updates_per_chunk)  # the next one is there as well
    room = limit - size_of((task.data, task.evaluation_data, chunk))
    spread = (place or OneDevice()).width
    most = count_devices(num_members, spread) * max(1, int(room // max(each, 1)))
    return cut(num_members, most, spread)


def fit(
    programs: Programs,
    task: Task,
    run_config: Any,
    members_of_size: Any,
    num_members: int,
    guess: int,
    limit: float,
    place: OneDevice | None = None,
) -> Size:
    """The largest blocks that fit, beginning with a guess; each size that is tried is compiled.

    Args:
      programs: of the task.
      task: the task.
      run_config: the section `run` of the config.
      members_of_size: a number → so many members.
      num_members: of all blocks.
      guess: the size to begin with.
      limit: bytes on each device.
      place: where the members lie; None is on the devices of this process.

    Returns:
      A size that fits, or that of one member on each device.
    """
    spread = (place or OneDevice()).width
    began, size, devices = time.perf_counter(), guess, count_devices(num_members, spread)
    data = size_of((task.data, task.evaluation_data))
    while True:
        with in_memory(size):
            need = needed(programs, task, run_config, members_of_size(size), place)
        if need <= limit or size <= devices:
            return Size(size, need, time.perf_counter() - began)
        most = devices * int(size // devices * (limit - data) / max(need - data, 1))
        size = cut(num_members, min(max(most, devices), size - devices), spread)


def needed(programs: Programs, task: Task, run_config: Any, members: Members, place: OneDevice | None = None) -> float:
    """Bytes on each device: of the compiled program that needs most, with the state that is being saved meanwhile."""
    place = place or OneDevice()
    state = programs.init(members)
    length = min(run_config.updates_per_chunk, task.num_updates)
    compiled = (
        programs.chunk.lower(state, members, place.shapes(task, length), np.int32(0), length).compile(),
        programs.evaluate.lower(evaluation_keys(members, 0), state, members, task.evaluation_data).compile(),
    )
    saved = size_of(state) / count_devices(len(members.keys), place.width) if jax.default_backend() == "cpu" else 0
    return max(_program_bytes(program) for program in compiled) + saved


def _program_bytes(compiled: Any) -> float:
    found = compiled.memory_analysis()  # of one device
    if found is None:
        return 0.0  # not every backend tells
    return float(found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes)


def size_of(tree: PyTree) -> float:
    """The bytes of all arrays, or of what stands for them."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype")]
    return float(sum(np.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves))


def parts(members: Sequence[int], size: int) -> list[list[int]]:
    """Cut members into blocks.

    >>> parts([4, 5, 6], 2)
    [[4, 5], [6]]
    """
    return [list(members[start : start + size]) for start in range(0, len(members), size)]
