"""What travels between devices in one update, as the compiled program has it; nothing is trained.

python -m experiments.communication --config=configs/transformer_text.py --mesh=data:4,model:2
python -m experiments.communication --config=configs/transformer_text.py --mesh=data:8 --shard_parameters
"""

import collections
import math
import re
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from experiments import devices, members, mesh, progress, run_loop
from experiments.configuration import loaded
from experiments.errors import UserError, run_program
from experiments.placement import OneDevice
from experiments.tasks import make_task

FLAGS = flags.FLAGS
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BITS = {"pred": 8, "bf16": 16}  # of other types the name tells them
MIB = 2**20


class Traffic(NamedTuple):
    """The collectives of one kind, over groups of so many devices, in one run of a program.

    Attributes:
      kind: one of `KINDS`.
      devices: in a group.
      count: how often.
      bytes: of the arrays on each device, of the larger side of each: what is gathered, or what is summed.
      sent: bytes that each device sends where the collective goes round a ring.
    """

    kind: str
    devices: int
    count: int
    bytes: float
    sent: float


def define_flags() -> None:
    """Define the flags of this program."""
    config_flags.DEFINE_config_file("config", None, "A file of configs/, with get_config().", lock_config=True)
    mesh.define_mesh_flags()
    flags.adopt_module_key_flags(mesh)
    flags.mark_flags_as_required(["config", "mesh"])


def main(argv: list[str]) -> None:
    """Compile one update, and tabulate its collectives."""
    del argv
    config = loaded(FLAGS.config)
    devices.prepare(1, mesh.devices_of(FLAGS.mesh, None, None))
    task = make_task(config)
    run_loop.validate(task, config.run)
    place = mesh.placement_of(task, None, FLAGS.mesh, shard_parameters=FLAGS.shard_parameters)
    if place.mesh is None or place.mesh.size == 1:
        raise UserError(f"--mesh={FLAGS.mesh} is one device: nothing travels.")
    found, state = of_update(task, place, config.run.seed)
    progress.say("device", f"{devices.describe()}{place.describe()}")
    progress.say("state", f"{state / MIB:.2f} MiB on each device")
    print(table(found))


def of_update(task: Any, place: OneDevice, seed: int) -> tuple[list[Traffic], float]:
    """The collectives of one update of a task, and the bytes of its state on each device."""
    with_data = place.place(task, None)
    programs, who = members.make_programs(with_data, place), place.put(members.of_seeds(seed, None))
    state = members.restore_target(programs, who, place)
    data = place.shapes(with_data, 1)
    compiled = programs.chunk.lower(state, who, data, np.int32(0), 1).compile()
    held = sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)
    )
    return collectives(compiled.as_text()), held


def table(found: list[Traffic]) -> str:
    """One line for each kind, and their sum."""
    lines = [f"{'collective':<20}{'devices':>8}{'times':>8}{'MiB':>10}{'MiB sent by each':>18}"]
    for one in found:
        lines.append(f"{one.kind:<20}{one.devices:>8}{one.count:>8}{one.bytes / MIB:>10.3f}{one.sent / MIB:>18.3f}")
    total = sum(one.sent for one in found)
    return "\n".join([*lines, f"{'in all':<36}{'':>10}{total / MIB:>18.3f}"])


def collectives(text: str) -> list[Traffic]:
    """Read the optimized HLO of a program; what stands in a loop counts as often as it runs, if that is known.

    >>> collectives('''ENTRY %main (x: f32[8]) -> f32[8] {
    ...   ROOT %sum = f32[8]{0} all-reduce(%x), replica_groups={{0,1},{2,3}}, to_apply=%add
    ... }''')
    [Traffic(kind='all-reduce', devices=2, count=1, bytes=32.0, sent=32.0)]
    """
    bodies = _bodies(text)
    everyone = int(next(iter(re.findall(r"num_partitions=(\d+)", text)), 1))
    totals: dict[tuple[str, int], list[float]] = collections.defaultdict(lambda: [0, 0.0, 0.0])

    def visit(name: str, times: int) -> None:
        for line in bodies.get(name, ()):
            found = re.search(rf" = (.*?) ({'|'.join(KINDS)})(-start)?\(", line)
            if found:
                kind, group = found[2], _group(line, found[2], everyone)
                size = _bytes(_result(found[1], kind) if found[3] else found[1])
                size *= group if kind == "reduce-scatter" else 1
                entry = totals[kind, group]
                entry[0] += times
                entry[1] += times * size
                entry[2] += times * size * _sent(kind, group)
            trips = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line) if " while(" in line else None
            for called in re.findall(
                r"(?:body|to_apply|calls|condition|true_computation|false_computation)=%?([\w.\-]+)", line
            ):
                visit(called, times * (int(trips[1]) if trips else 1))
            for branches in re.findall(r"branch_computations=\{(.*?)\}", line):
                for branch in branches.split(","):
                    visit(branch.strip().lstrip("%"), times)

    visit(next(name for name in bodies if name.startswith("ENTRY ")), 1)
    return [Traffic(kind, group, int(n), size, sent) for (kind, group), (n, size, sent) in sorted(totals.items())]


def _bodies(text: str) -> dict[str, list[str]]:
    """The lines of each computation by its name; that of the program begins with ENTRY."""
    bodies: dict[str, list[str]] = {}
    name = None
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{\s*$", line) if not line.startswith(" ") else None
        if head:
            name = f"ENTRY {head[2]}" if head[1] else head[2]
            bodies[name] = []
        elif name and line.startswith(" "):
            bodies[name].append(line)
    return bodies


def _bytes(shapes: str) -> float:
    """The bytes of a shape, or of a tuple of them."""
    total = 0.0
    for kind, sizes in re.findall(r"\b(pred|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\]", shapes):
        bits = BITS.get(kind) or int(re.search(r"\d+", kind)[0])  # type: ignore[index]
        total += math.prod(int(size) for size in sizes.split(",") if size) * bits / 8
    return total


def _result(shapes: str, kind: str) -> str:
    """Of what begins a collective that goes on meanwhile, the part of its tuple that is the result.

    >>> _result("(f32[2]{0}, (f32[8]{0}, u8[4]))", "all-gather"), _result("f32[8]{0}", "all-reduce")
    ('(f32[8]{0}, u8[4])', 'f32[8]{0}')
    """
    if kind == "all-reduce":  # which ends where it began
        return shapes
    parts, depth = [""], 0
    for character in shapes.strip()[1:-1]:
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(character, 0)
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts[1].strip() if len(parts) > 1 else shapes


def _group(line: str, kind: str, everyone: int) -> int:
    """How many devices take part together."""
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", line)
    if listed:
        return listed[1].count(",") + 1
    counted = re.search(r"replica_groups=\[(\d+),(\d+)\]", line)
    if counted:
        return int(counted[2])
    named = re.search(r"replica_groups=mesh\[(.*?)\].*?\{('.*?)\}", line)
    if named:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", named[2]))
    if kind != "collective-permute":
        return everyone
    pairs = dict(re.findall(r"\{(\d+),(\d+)\}", line.partition("source_target_pairs=")[2]))
    seen, at = set[str](), next(iter(pairs), None)
    while at is not None and at not in seen:  # a ring, or a row
        seen.add(at)
        at = pairs.get(at)
    return len(seen)


def _sent(kind: str, group: int) -> float:
    """What a device sends round a ring, as a part of the array."""
    if kind == "collective-permute":
        return 1.0
    return (2 if kind == "all-reduce" else 1) * (group - 1) / group


if __name__ == "__main__":
    define_flags()
    run_program(main)
