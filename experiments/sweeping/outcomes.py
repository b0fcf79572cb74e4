"""From blocks to what a sweep found: a row for each point, a table, and the command that trains the best."""

import math
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.metrics import json_line
from experiments.statistics import bootstrap_interval, format_score, interquartile_mean, summarize
from experiments.sweeping.search_space import Group, Point
from experiments.workdir import read_json, write_text

FOLDER, RESULT, ROWS = "sweep_blocks", "result.json", "sweep.jsonl"
MOST_LINES = 30  # of a table


class Search(NamedTuple):
    """What a sweep goes over.

    Attributes:
      points: all of them.
      groups: those that share a program.
      num_seeds: of each point.
      seed: the first.
      metric: by which points are compared.
      mode: "max" or "min".
    """

    points: Sequence[Point]
    groups: Sequence[Group]
    num_seeds: int
    seed: int
    metric: str
    mode: str

    @property
    def worst(self) -> float:
        """The score of a run that diverged."""
        return -math.inf if self.mode == "max" else math.inf

    def members(self, group: Group) -> list[int]:
        """The runs of a group, numbered through the sweep: seed by seed, point by point."""
        return [point * self.num_seeds + seed for point in group.points for seed in range(self.num_seeds)]


def blocks_in(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Return the results of all blocks that are finished."""
    found = [read_json(path) for path in (workdir / FOLDER).glob(f"*/{RESULT}")]
    return sorted(found, key=lambda block: block["members"])


def done_in(blocks: Sequence[Mapping[str, Any]]) -> set[int]:
    """The runs that blocks have finished."""
    return {member for block in blocks for member in block["members"]}


def rows_of(
    search: Search, blocks: Sequence[Mapping[str, Any]], known: dict[int, dict[str, Any]]
) -> list[dict[str, Any]]:
    """One row for each point whose seeds are all finished, in the order of the points.

    A seed that diverged counts as the worst there can be. Rows hold nothing that depends on the clock, so that a sweep
    that was interrupted ends with the same bytes as one that was not. `known` are the rows, by number, that are not
    computed again; new ones are added.
    """
    found: dict[int, dict[str, Any]] = {}
    for block in blocks:
        for place, member in enumerate(block["members"]):
            evaluation = {name: float(values[place]) for name, values in block["evaluation"].items()}
            found[member] = {
                "evaluation": evaluation,
                "diverged": block["diverged"][place],
                "updates": block["updates"],
            }
    group_of = {point: group.number for group in search.groups for point in group.points}
    for number, point in enumerate(search.points):
        members = range(number * search.num_seeds, (number + 1) * search.num_seeds)
        if number not in known and all(member in found for member in members):
            runs = [found[member] for member in members]
            known[number] = {"point": point, "group": group_of[number], **_row(search, runs)}
    return [known[number] for number in sorted(known)]


def _row(search: Search, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    scores = [search.worst if run["diverged"] else run["evaluation"][search.metric] for run in runs]
    return {
        "seeds": [search.seed + index for index in range(search.num_seeds)],
        "score": interquartile_mean(scores),
        "interval_95": list(bootstrap_interval(scores)),
        "worst": max(scores) if search.mode == "min" else min(scores),
        "diverged": sum(run["diverged"] for run in runs),
        "updates": runs[0]["updates"],
        "evaluation": {name: summarize([run["evaluation"][name] for run in runs]) for name in runs[0]["evaluation"]},
    }


def write_rows(workdir: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write `sweep.jsonl`, whole or not at all."""
    write_text(workdir / ROWS, "".join(json_line(row) for row in rows))


def ordered(search: Search, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows from best to worst; of equal ones the first point first."""
    return sorted(rows, key=lambda row: row["score"], reverse=search.mode == "max")


def short_names(paths: Sequence[str]) -> list[str]:
    """The last part of each path where that tells them apart.

    >>> short_names(["learner.learning_rate", "learner.seed", "data.seed"])
    ['learning_rate', 'learner.seed', 'data.seed']
    """
    last = [path.rpartition(".")[2] for path in paths]
    return [name if last.count(name) == 1 else path for name, path in zip(last, paths, strict=True)]


def format_values(values: Sequence[Any]) -> list[str]:
    """Write values of one field for a person: four digits, or as many as tell them apart.

    >>> format_values([0.00025, 1 / 3]), format_values([0.99999, 0.999991]), format_values([(32, 32), True])
    (['0.00025', '0.3333'], ['0.99999', '0.999991'], ['(32, 32)', 'True'])
    """
    written: list[str] = []
    for digits in range(4, 18):  # 17 tell any two apart
        written = [f"{value:.{digits}g}" if isinstance(value, float) else str(value) for value in values]
        if len(set(written)) >= len(set(values)):
            break
    return written


def table(search: Search, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines of a table of rows; beyond `MOST_LINES`, how many more there are."""
    several = search.num_seeds > 1
    names = [*short_names(list(search.points[0])), search.metric]
    names += ["95 % interval", "worst seed"] if several else []
    cells = [[*names, "diverged"]]
    columns = [format_values([row["point"][path] for row in rows]) for path in search.points[0]]
    for row, *values in zip(rows[:MOST_LINES], *(column[:MOST_LINES] for column in columns), strict=True):
        low, high = map(format_score, row["interval_95"])
        found = [*values, format_score(row["score"])]
        found += [f"{low} to {high}", format_score(row["worst"])] if several else []
        cells.append([*found, str(row["diverged"]) if row["diverged"] else "-"])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    more = len(rows) - MOST_LINES
    return lines + ([f"and {more} more points, in {ROWS}"] if more > 0 else [])


def command(config: str, given: Mapping[str, Any], point: Point, num_seeds: int) -> str:
    """The command that trains a point, with what else the user had set.

    >>> command("configs/a.py", {"run.seed": 3}, {"learner.hidden_sizes": (8, 8)}, 2)
    "python -m experiments.train --config=configs/a.py --config.run.seed=3 '--config.learner.hidden_sizes=(8, 8)' \
--seeds=2 --workdir=runs/best"
    """
    flags = [f"--config={config}"]
    flags += [f"--config.{path}={value}" for path, value in {**given, **point}.items()]
    return shlex.join(["python", "-m", "experiments.train", *flags, f"--seeds={num_seeds}", "--workdir=runs/best"])


def is_nan(row: Mapping[str, Any], num_members: int) -> np.ndarray:
    """Which members have a NaN in a row of `metrics.jsonl`."""
    found = np.zeros(num_members, bool)
    for value in row.values():
        if isinstance(value, list):
            found |= np.isnan(np.asarray(value, float))
    return found
