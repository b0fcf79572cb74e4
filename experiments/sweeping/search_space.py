"""What a sweep searches: fields of a config, the values of each, the points that come of them, and groups of points."""

import ast
import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from experiments.configuration import check_types, did_you_mean, learner_module
from experiments.errors import UserError
from experiments.tasks import chosen_by_search, used_outside

LAWS = ("uniform", "log_uniform")
RANGE = re.compile(r"(\w+):(.*)\.\.(.*)")
DIGITS = 4  # that a drawn float keeps, so that a person can read and type it
NOT_SWEPT = {
    "algorithm": "another algorithm has other hyperparameters: sweep it in a workdir of its own",
    "run.seed": "seeds are those of --seeds, from config.run.seed on",
    "run.best_metric": "points are compared by it",
    "run.best_mode": "points are compared by it",
    "data.evaluate_on": "points are compared on the same examples",
}
Point = dict[str, Any]  # values by the dotted names of fields


class Range(NamedTuple):
    """Numbers to draw from.

    Attributes:
      law: of LAWS; the second is uniform in the logarithm.
      low: the smallest.
      high: the largest.
      is_whole: draw whole numbers.
    """

    law: str
    low: float
    high: float
    is_whole: bool

    def draw(self, generator: np.random.Generator) -> float | int:
        """One number; a whole one stands for all that round to it, those at the ends too."""
        margin = 0.5 if self.is_whole else 0.0
        low, high = self.low - margin, self.high + margin
        if self.law == "log_uniform":
            x = math.exp(generator.uniform(math.log(low), math.log(high)))
        else:
            x = generator.uniform(low, high)
        x = round(x) if self.is_whole else float(f"{x:.{DIGITS}g}")
        return min(max(x, self.low), self.high)


class Axis(NamedTuple):
    """One field and what it goes over.

    Attributes:
      path: the field, as `learner.learning_rate`.
      values: a list of its values; empty where there is a range.
      range: numbers to draw from, or None.
      text: as the user wrote it.
    """

    path: str
    values: tuple[Any, ...]
    range: Range | None
    text: str


class Group(NamedTuple):
    """Points that one compiled program can run.

    Attributes:
      number: 0, 1, …
      values: of the fields that need a program of their own, the same for all of these points.
      points: their numbers.
      traced: names of the learner's floats that may differ among them.
    """

    number: int
    values: Point
    points: tuple[int, ...]
    traced: tuple[str, ...]


def read(config: ml_collections.ConfigDict, texts: Sequence[str]) -> list[Axis]:
    """Read every `PATH=values` of `--over`.

    Raises:
      UserError: a field that is not there, named twice, or not for sweeps; no value, one twice, or one of another type.
    """
    axes = [_axis(config, text) for text in texts]
    for path in {axis.path for axis in axes}:
        if sum(axis.path == path for axis in axes) > 1:
            raise UserError(f"--over names {path} twice; give all of its values in one list.")
    _refuse_what_is_searched(config, axes)
    return axes


def points_of(axes: Sequence[Axis], num_points: int | None, seed: int) -> list[Point]:
    """The grid of all values, or so many points that are drawn; of more points the first ones are the same.

    Raises:
      UserError: a range without a number of points, or more points than there are.
    """
    paths = [axis.path for axis in axes]
    if num_points is not None:
        return [dict(zip(paths, values, strict=True)) for values in _draw(axes, num_points, seed)]
    for axis in axes:
        if axis.range:
            raise UserError(
                f"--over={axis.path}={axis.text} is a range, which a grid has no points of; "
                "give a list of values, or draw from it with --points=N."
            )
    return [dict(zip(paths, values, strict=True)) for values in itertools.product(*(axis.values for axis in axes))]


def groups_of(config: ml_collections.ConfigDict, points: Sequence[Point]) -> list[Group]:
    """Part points into groups, in the order in which they come up.

    The floats of a learner's hyperparameters may differ within a group; shapes, choices, data, environments, and what a
    task uses outside its program may not.
    """
    floats = _floats(config, points)
    traced = tuple(path.partition(".")[2] for path in points[0] if path in floats)
    found: dict[tuple[Any, ...], list[int]] = {}
    for number, point in enumerate(points):
        outside = tuple((path, value) for path, value in point.items() if path not in floats)
        found.setdefault(outside, []).append(number)
    return [
        Group(index, dict(outside), tuple(numbers), traced) for index, (outside, numbers) in enumerate(found.items())
    ]


def at(config: ml_collections.ConfigDict, point: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The config of a point."""
    changed = config.copy_and_resolve_references()
    changed.unlock()
    with changed.ignore_type():
        for path, value in point.items():
            section, _, name = path.rpartition(".")
            (changed[section] if section else changed)[name] = value
    return changed


def describe(point: Mapping[str, Any]) -> str:
    """Write a point for a person.

    >>> describe({"learner.learning_rate": 0.001, "learner.hidden_sizes": (32, 32)})
    'learner.learning_rate=0.001, learner.hidden_sizes=(32, 32)'
    """
    return ", ".join(f"{path}={value}" for path, value in point.items())


def _draw(axes: Sequence[Axis], num_points: int, seed: int) -> list[tuple[Any, ...]]:
    """Different points, drawn one after another."""
    generator, found = np.random.default_rng(seed), dict[tuple[Any, ...], None]()
    for _ in range(1000 + 100 * num_points):
        found[
            tuple(
                axis.range.draw(generator) if axis.range else axis.values[generator.integers(len(axis.values))]
                for axis in axes
            )
        ] = None
        if len(found) == num_points:
            return list(found)
    raise UserError(
        f"--points={num_points} asks for more points than --over has: {len(found)} different ones were drawn."
    )


def _floats(config: ml_collections.ConfigDict, points: Sequence[Point]) -> set[str]:
    """The fields that may be traced in a compiled program, whatever the points set elsewhere."""
    elsewhere = {tuple(item for item in point.items() if not item[0].startswith("learner.")) for point in points}
    outside = frozenset[str]().union(*(used_outside(at(config, dict(items))) for items in elsewhere))
    fields = dataclasses.fields(learner_module(config.algorithm).Config)
    return {f"learner.{f.name}" for f in fields if f.type in (float, "float") and f.name not in outside}


def _refuse_what_is_searched(config: ml_collections.ConfigDict, axes: Sequence[Axis]) -> None:
    """Raise a `UserError` for a field whose value the task's own search would replace, at any point."""
    searches = [axis for axis in axes if axis.path.startswith("search.") and axis.values]
    for values in itertools.product(*(axis.values for axis in searches)):
        chosen = chosen_by_search(at(config, {axis.path: v for axis, v in zip(searches, values, strict=True)}))
        for axis in axes:
            if axis.path.removeprefix("learner.") in chosen:
                raise UserError(
                    f"--over={axis.path} cannot be swept: config.search chooses it among its gammas and prices; "
                    "leave them empty."
                )


def _axis(config: ml_collections.ConfigDict, text: str) -> Axis:
    path, equals, values = (part.strip() for part in text.partition("="))
    path = path.removeprefix("config.")
    default = _default(config, path)
    if not (equals and values):
        raise UserError(f"--over={text} gives no value; write --over={path}=VALUE,VALUE.")
    found = RANGE.fullmatch(values)
    is_number = isinstance(default, (int, float)) and not isinstance(default, bool)
    if found and (is_number or found[1] in LAWS):
        return Axis(path, (), _range(path, default if is_number else None, *found.groups()), values)
    parsed = tuple(_value(path, default, item) for item in _split(path, values))
    for index, value in enumerate(parsed):
        if value in parsed[:index]:
            raise UserError(f"--over={path} gives {value!r} twice.")
    return Axis(path, parsed, None, values)


def _default(config: ml_collections.ConfigDict, path: str) -> Any:
    """A value of the type that a field has: the learner's own default, elsewhere the config's value."""
    fields: dict[str, Any] = {}
    for name, value in config.to_dict().items():
        fields |= {f"{name}.{field}": inner for field, inner in value.items()} if isinstance(value, dict) else {}
        fields |= {} if isinstance(value, dict) else {name: value}
    if path in NOT_SWEPT:
        raise UserError(f"--over={path} cannot be swept: {NOT_SWEPT[path]}.")
    if path not in fields:
        inside = [field for field in fields if field.startswith(f"{path}.")]
        if inside:
            raise UserError(f"--over={path} is a section of the config; name one of its fields, as {inside[0]}.")
        raise UserError(f"--over={path}: the config has no field {path!r}{did_you_mean(path, fields)}.")
    if path == "run.num_updates":
        return 1  # None where the learner knows how many
    known = {field.name: field.default for field in dataclasses.fields(learner_module(config.algorithm).Config)}
    section, _, name = path.partition(".")
    return known.get(name, fields[path]) if section == "learner" else fields[path]


def _range(path: str, default: float | int | None, law: str, low: str, high: str) -> Range:
    if default is None:
        raise UserError(f"--over={path}={law}:{low}..{high} is a range, and the field holds no number; give a list.")
    if law not in LAWS:
        raise UserError(f"--over={path}: law {law!r} is unknown{did_you_mean(law, LAWS)}; use {' or '.join(LAWS)}.")
    least, most = (_value(path, default, end) for end in (low, high))
    if not (math.isfinite(least) and math.isfinite(most) and least < most):
        raise UserError(f"--over={path}={law}:{low}..{high}: the range must go from a number to a larger one.")
    if law == "log_uniform" and least <= 0:
        raise UserError(f"--over={path}={law}:{low}..{high}: a logarithm needs numbers above 0; use uniform.")
    return Range(law, least, most, isinstance(default, int))


def _split(path: str, text: str) -> list[str]:
    """Part a list at the commas that stand outside brackets and quotes."""
    items, depth, quote = [""], 0, ""
    for character in text:
        if quote or character in "'\"":
            quote = "" if character == quote else quote or character
        depth += (character in "([{") - (character in ")]}") if not quote else 0
        if character == "," and depth == 0 and not quote:
            items.append("")
        else:
            items[-1] += character
    items = [item.strip() for item in items]
    if depth or quote:
        raise UserError(f"--over={path}={text}: a {'quote' if quote else 'bracket'} is not closed.")
    if not all(items):
        raise UserError(f"--over={path}={text} has an empty value.")
    return items


def _value(path: str, default: Any, text: str) -> Any:
    """Read one value as the type of the default."""
    kinds = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(default, int):
            return int(text)
        if isinstance(default, float):
            value = float(text)
            if math.isnan(value):
                raise ValueError("NaN is no value to learn with")
            return value
        if isinstance(default, str):
            return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
        value = ast.literal_eval(text)
        if not isinstance(value, (tuple, list)):
            raise ValueError("no tuple")
    except (KeyError, SyntaxError, ValueError) as error:
        kind = kinds.get(type(default), "a tuple")
        raise UserError(f"--over={path}: {text!r} is not {kind}, as {default!r} is.") from error
    section, _, name = path.partition(".")
    if default:
        check_types(section, {name: tuple(value)}, {name: default})
    return tuple(value)
