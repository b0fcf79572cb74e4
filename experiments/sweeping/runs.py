"""The runs of a sweep: tasks for its groups, blocks for their members, and what every block leaves."""

import pathlib
import shutil
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import PyTree

from experiments import metrics, processes, progress
from experiments.errors import UserError
from experiments.members import Members, Programs, learner_of, make_programs, members_of, trace
from experiments.placement import OneDevice
from experiments.run_loop import Outcome, StopSignal, floats_of, run_members, validate
from experiments.sweeping import blocks, outcomes, search_space
from experiments.sweeping.blocks import count
from experiments.sweeping.outcomes import FOLDER, RESULT, Search
from experiments.sweeping.search_space import Group, Point
from experiments.tasks import Task, make_task
from experiments.workdir import read_json, write_json

MOST_KEPT = 2**30  # bytes of prepared data that wait for their turn
MOST_TRACED = 8  # values of a float; of more, which were drawn, the smallest and the largest: checks are of ranges


class Built(NamedTuple):
    """The task of a group, the section `run` of its config, and the shapes that `validate` found."""

    task: Task
    run: Any
    shapes: PyTree


class Tasks:
    """The tasks of groups, all built before anything is written: a mistake in the last one ends the sweep at once.

    Those with much data are built again when their turn comes. `problem` is what the first of them learns on.
    """

    def __init__(self, config: Any, search: Search, groups: Sequence[Group]):
        self._config, self._search, self._kept = config, search, dict[int, Built]()
        self.problem: str | None = None
        size = 0.0
        for group in groups:
            built = self._build(group)
            self.problem = self.problem or built.task.problem
            size += _data_of(built)
            if size <= MOST_KEPT or not self._kept:
                self._kept[group.number] = built

    def take(self, group: Group) -> Built:
        """The task of a group, which is not kept any longer."""
        return self._kept.pop(group.number, None) or self._build(group)

    @property
    def kept(self) -> float:
        """Bytes of the data that wait."""
        return sum(map(_data_of, self._kept.values()))

    def _build(self, group: Group) -> Built:
        points = [self._search.points[number] for number in group.points]
        try:
            built = _build(search_space.at(self._config, points[0]))
        except UserError as error:
            self._raise_of_base(error)
            raise UserError(f"at {search_space.describe(points[0])}: {error}") from error
        if group.traced:
            _check_floats(built.task, points, group.traced)
        return built

    def _raise_of_base(self, found: UserError) -> None:
        """Raise what was found without the name of a point, where the config says the same without its values."""
        try:
            _build(self._config)
        except UserError as error:
            if str(error) == str(found):
                raise


def _build(config: Any) -> Built:
    task = make_task(config)._replace(on_evaluation=None)
    return Built(task, config.run, validate(task, config.run))


def _data_of(built: Built) -> float:
    return blocks.size_of((built.task.data, built.task.evaluation_data))


def _check_floats(task: Task, points: Sequence[Point], names: Sequence[str]) -> None:
    """Raise a `UserError` for floats that a learner refuses when it is made, or its formulas when they are traced.

    In the sweep's program they are traced themselves, and nothing looks at their values.
    """
    to_trace = _covering(points, [f"learner.{name}" for name in names]) - {0}  # which is traced already
    for number, point in enumerate(points):
        try:
            learner = learner_of(task, {name: point[f"learner.{name}"] for name in names})
            if number in to_trace:
                trace(task._replace(learner=learner))
        except ValueError as error:
            raise UserError(f"at {search_space.describe(point)}: {' '.join(str(error).split())}") from error


def _covering(points: Sequence[Point], paths: Sequence[str]) -> set[int]:
    """Numbers of points that have, among them, every value of each field; of a grid as few as its fields' sum."""
    wanted = set[tuple[str, Any]]()
    for path in paths:
        values = {point[path] for point in points}
        wanted |= {(path, v) for v in (values if len(values) <= MOST_TRACED else (min(values), max(values)))}
    chosen = set[int]()
    for number, point in enumerate(points):
        new = wanted & {(path, point[path]) for path in paths}
        chosen |= {number} if new else set()
        wanted -= new
    return chosen


class Sweep:
    """Runs what is not finished, block by block; `rows` are those that it has completed, by the number of a point."""

    def __init__(
        self,
        search: Search,
        tasks: Tasks,
        workdir: pathlib.Path,
        stop: StopSignal,
        origin: dict[str, Any],
        memory_gib: float | None,
        place: OneDevice,
    ):
        self._place = place
        self._search, self._tasks, self._workdir = search, tasks, workdir
        self._stop, self._origin, self._memory_gib = stop, origin, memory_gib
        self.rows: dict[int, dict[str, Any]] = {}

    def go(self) -> None:
        """Run all groups, or until a signal asks to stop."""
        for group in self._search.groups:
            if not self._stop.asked:
                self._run_group(group)

    def _run_group(self, group: Group) -> None:
        done = outcomes.done_in(outcomes.blocks_in(self._workdir))
        left = processes.told(lambda: [member for member in self._search.members(group) if member not in done])
        if not left:
            return
        which = f" ({search_space.describe(group.values)})" if group.values else ""
        progress.say("group", f"{group.number + 1} of {len(self._search.groups)}{which}: {count(len(left), 'run')}")
        built = self._tasks.take(group)
        built = built._replace(task=self._place.place(built.task, len(left)))
        programs = make_programs(built.task, self._place)
        size = self._size(group, built, programs, left)
        parts = blocks.parts(left, size.members)
        for place, part in enumerate(parts):
            if self._stop.asked:
                return
            if len(parts) > 1:
                progress.say("block", f"{place + 1} of {len(parts)}")
            folder = self._workdir / FOLDER / f"group{group.number}_run{part[0]}_of{size.members}"
            outcome = self._run_block(built, programs, self._members(group, _filled(part, size.members)), folder)
            if outcome.finished:
                self._keep(group, part, built.task, outcome, folder, size.seconds)
                size = size._replace(seconds=0.0)

    def _members(self, group: Group, numbers: list[int]) -> Members:
        search = self._search
        points = [search.points[number // search.num_seeds] for number in numbers]
        floats = {name: [point[f"learner.{name}"] for point in points] for name in group.traced}
        return members_of([search.seed + number % search.num_seeds for number in numbers], floats)

    def _run_block(self, built: Built, programs: Programs, members: Members, folder: pathlib.Path) -> Outcome:
        folder.mkdir(parents=True, exist_ok=True)
        with blocks.in_memory(len(members.keys)):
            return run_members(
                built.task, programs, members, built.run, folder, self._stop, is_sweep=True, placement=self._place
            )

    def _size(self, group: Group, built: Built, programs: Programs, left: list[int]) -> blocks.Size:
        """The size of the blocks of a group: what it was when they were begun, unless the user says otherwise now."""
        path = self._workdir / FOLDER / f"group{group.number}.json"
        stored = processes.told(lambda: read_json(path) if path.exists() else None)
        if stored and stored["memory_gib"] == self._memory_gib:
            return blocks.Size(stored["members"], stored["bytes"], 0.0)
        room = blocks.memory(self._memory_gib, self._tasks.kept)
        room = room._replace(bytes=processes.told(lambda: room.bytes))
        guess = blocks.first_guess(
            len(left), built.shapes, built.task, built.run.updates_per_chunk, room.bytes, self._place
        )

        def members_of_size(size):
            return self._place.put(self._members(group, _filled(left[:size], size)))

        size = blocks.fit(programs, built.task, built.run, members_of_size, len(left), guess, room.bytes, self._place)
        progress.say("compile", f"{size.seconds:.1f} s")
        number_of_blocks = len(blocks.parts(left, size.members))
        each = f"{count(number_of_blocks, 'block')} of {count(size.members, 'run')}"
        progress.say("memory", f"{each}; a block takes {blocks.describe(size.bytes, room)}")
        if size.bytes > room.bytes:
            progress.say("warning", "even one run on each device seems to need more memory than that; trying it")
        path.parent.mkdir(exist_ok=True)
        write_json(path, {"members": size.members, "bytes": size.bytes, "memory_gib": self._memory_gib})
        return size

    def _keep(
        self, group: Group, part: list[int], task: Task, outcome: Outcome, folder: pathlib.Path, seconds: float
    ) -> None:
        """Write the result of a block, then the rows that it completes, then remove its checkpoints."""
        diverged = _diverged(outcome, folder, self._search.metric)[: len(part)].tolist()
        evaluation = outcome.evaluation or {}

        def keep():
            write_json(
                folder / RESULT,
                metrics.plain(
                    {
                        "group": group.number,
                        "members": part,
                        "problem": task.problem,
                        "updates": outcome.step,
                        "evaluation": {name: values[: len(part)].tolist() for name, values in evaluation.items()},
                        "diverged": diverged,
                        "seconds": outcome.seconds,
                        "compile_seconds": outcome.compile_seconds + seconds,
                        **self._origin,
                    }
                ),
            )
            rows = outcomes.rows_of(self._search, outcomes.blocks_in(self._workdir), self.rows)
            outcomes.write_rows(self._workdir, rows)
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)

        processes.by_first(keep, None)


def _filled(numbers: list[int], size: int) -> list[int]:
    """Members of a block that is full: the last one again and again, to be thrown away."""
    return numbers + numbers[-1:] * (size - len(numbers))


def _diverged(outcome: Outcome, folder: pathlib.Path, metric: str) -> np.ndarray:
    """Which members have had a NaN, in a metric, an evaluation or their last state, or end with an infinite score."""
    evaluation = {name: values.tolist() for name, values in (outcome.evaluation or {}).items()}
    num_members = len(evaluation[metric])
    found = ~np.isfinite(evaluation[metric])
    for row in [*metrics.read(folder), evaluation]:
        found |= outcomes.is_nan(row, num_members)
    for leaf in floats_of(processes.whole(outcome.state)):
        found |= np.isnan(np.asarray(leaf)).reshape(num_members, -1).any(1)
    return found
