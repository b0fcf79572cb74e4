"""Configs: how a file in configs/ is built, how it becomes a learner's hyperparameters, how two of them differ."""

import contextlib
import dataclasses
import difflib
import importlib
import importlib.metadata
import json
import os
import pathlib
import pkgutil
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
from ml_collections import config_dict

import mathai.learners
from experiments.errors import UserError, one_line

RUN_DEFAULTS = {
    "seed": 0,  # the first seed; --seeds=N takes this and the N − 1 after it
    "updates_per_chunk": 16,  # updates in one call of the compiled program
    "evaluate_every": 0,  # in updates, a multiple of updates_per_chunk; 0: at the end only
    "checkpoint_every": 0,  # likewise
    "keep_checkpoints": 2,  # the last so many, and the best one
    "best_metric": "episode_return",  # of evaluate()
    "best_mode": "max",  # or "min"
}

# Who has a section `search`, and the module that knows it.
SEARCHES = {"svm": "kernel_machines", "tsne": "embedding", "umap": "embedding"}


def make_config(
    algorithm: str,
    *,
    environment: str = "",
    environment_params: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    text: Mapping[str, Any] | None = None,
    problem: Mapping[str, Any] | None = None,
    search: Mapping[str, Any] | None = None,
    learner: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
) -> ml_collections.ConfigDict:
    """Build a config in which every hyperparameter of the learner can be overridden by a flag.

    Args:
      algorithm: a module of `mathai.learners` with `Config` and `make`.
      environment: a gymnax environment.
      environment_params: fields of the environment's parameters to replace.
      data: instead of an environment, fields of `experiments.data.DEFAULTS` that differ.
      text: instead of an environment, fields of `experiments.text.DEFAULTS` that differ.
      problem: instead of an environment, fields of `experiments.planning.DEFAULTS` that differ.
      search: of a support vector machine, t-SNE or UMAP, fields of `DEFAULTS` that differ in
        `experiments.kernel_machines` or `experiments.embedding`.
      learner: fields of the learner's `Config` that differ from its defaults.
      run: fields of `RUN_DEFAULTS` that differ, and `num_updates` where the learner's `Config` does not know it.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(learner_module(algorithm).Config)}
    sections: dict[str, Any] = {"environment": environment, "environment_params": dict(environment_params or {})}
    for name, given in (("data", data), ("text", text), ("problem", problem)):
        if given is not None:
            home = "planning" if name == "problem" else name
            known = importlib.import_module(f"experiments.{home}").DEFAULTS
            sections = {name: _merge(name, known, given)}
    if algorithm in SEARCHES:
        known = importlib.import_module(f"experiments.{SEARCHES[algorithm]}").DEFAULTS
        sections["search"] = _merge("search", known, search or {})
    config = ml_collections.ConfigDict(
        {
            "algorithm": algorithm,
            **sections,
            "learner": _merge("learner", defaults, learner or {}),
            "run": _merge("run", RUN_DEFAULTS, run or {}),
        }
    )
    config.run.num_updates = config_dict.placeholder(int)  # None: as many as the learner's hyperparameters say
    if "num_updates" in (run or {}):
        config.run.num_updates = run["num_updates"]
    return config


def _merge(section: str, defaults: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    known = {*defaults, "num_updates"} if section == "run" else set(defaults)
    for name in changes:
        if name not in known:
            raise UserError(f"config.{section} has no field {name!r}{did_you_mean(name, known)}.")
    given = {name: value for name, value in changes.items() if name in defaults}
    # A field has one type, whether or not its number is whole: flags take no 0.5 for a field that holds 1.
    floats = {name for name, value in given.items() if type(value) is int and isinstance(defaults[name], float)}
    return {**defaults, **given, **{name: float(given[name]) for name in floats}}


def learner_module(algorithm: str) -> Any:
    """Return the module of `mathai.learners` that holds an algorithm."""
    helpers = {
        *("base", "batches", "environments", "mdp_environment", "normalization", "policies", "replay", "samples")
    }
    learners = sorted({module.name for module in pkgutil.iter_modules(mathai.learners.__path__)} - helpers)
    if algorithm not in learners:
        raise UserError(
            f"algorithm {algorithm!r} is unknown{did_you_mean(algorithm, learners)}; "
            f"the learners are {', '.join(learners)}."
        )
    return importlib.import_module(f"mathai.learners.{algorithm}")


def learner_config(config: ml_collections.ConfigDict) -> Any:
    """Return the frozen dataclass of hyperparameters that `config.learner` describes."""
    cls = learner_module(config.algorithm).Config
    given = config.learner.to_dict()
    check_types("learner", given, {field.name: field.default for field in dataclasses.fields(cls)})
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


def check_types(section: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raise a `UserError` for a value that is not of the type of its default."""
    for name, value in given.items():
        if name not in defaults:
            raise UserError(f"config.{section} has no field {name!r}{did_you_mean(name, defaults)}.")
        default = defaults[name]
        if isinstance(default, bool) or isinstance(value, bool):
            fits = isinstance(default, bool) and isinstance(value, bool)
        elif isinstance(default, float):
            fits = isinstance(value, (int, float))
        elif isinstance(default, (tuple, list)):
            kinds = (int, float) if isinstance(default[0], float) else type(default[0])
            fits = isinstance(value, (tuple, list)) and all(isinstance(item, kinds) for item in value)
        else:
            fits = isinstance(value, type(default))
        if not fits:
            raise UserError(
                f"config.{section}.{name} is {value!r}; it must be of type {type(default).__name__}, as {default!r} is."
            )


def did_you_mean(name: str, known: Any) -> str:
    """Return ` (did you mean …?)`, or nothing where nothing is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def as_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return the config as JSON would give it back, so that it can be compared with a stored one."""
    return json.loads(json.dumps(config.to_dict()))


def from_json(stored: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """Return the config that `as_json` stored."""

    def tuples(value):
        return {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}

    return ml_collections.ConfigDict(
        {name: tuples(value) if isinstance(value, Mapping) else value for name, value in stored.items()}
    )


def loaded(config: Any) -> Any:
    """Return the config of a flag; what went wrong in its file is a `UserError` where it is the user's."""
    try:
        config.algorithm  # noqa: B018  a config that failed to load raises when it is first read
    except Exception as error:
        reason = error.__cause__ or error
        if isinstance(reason, (OSError, UserError)):
            raise UserError(one_line(reason)) from error
        raise
    return config


def differences(stored: Mapping[str, Any], given: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Name every field in which two configs differ, with both values."""
    found = []
    for name in sorted({*stored, *given}):
        here, there, path = given.get(name), stored.get(name), f"{prefix}{name}"
        if isinstance(here, Mapping) and isinstance(there, Mapping):
            found += differences(there, here, f"{path}.")
        elif here != there:
            found.append(f"{path} is {here!r}, was {there!r}")
    return found


def provenance() -> dict[str, Any]:
    """Return what else a result depends on: the command, versions, device, host and the state of the source."""
    return {
        "command": command(sys.argv),
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "gymnax")},
        "device": {
            "platform": jax.default_backend(),
            "kind": jax.devices()[0].device_kind,
            "count": jax.device_count(),
        },
        "host": {"processor": _processor(), "cores": num_cores()},
        "git": {
            "commit": _git("rev-parse", "HEAD"),
            "modified": bool(_git("status", "--porcelain", "--untracked-files=no")),
        },
    }


def command(argv: Sequence[str]) -> str:
    """Return the command that does the same again: without the folder of its results, or folders of this machine.

    >>> command(["/x/experiments/train.py", "--config=configs/a.py", "--workdir=runs/a", "--config.data.directory=/x"])
    'python -m experiments.train --config=configs/a.py --config.data.directory=DIR'
    """
    program, *words = argv
    given: list[str] = []
    for word in words:  # `--flag value` is `--flag=value`
        if given and not word.startswith("-") and "=" not in given[-1]:
            given[-1] += f"={word}"
        else:
            given.append(word)
    left_out = ("--workdir", "--out", "--overwrite", "--compare")
    kept = [flag for flag in given if not flag.startswith(left_out)]
    kept = [re.sub(r"^(--[\w.]+)=[/~].*$", r"\1=DIR", flag) for flag in kept]
    return shlex.join(["python", "-m", f"experiments.{pathlib.Path(program).stem}", *kept])


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    """The name of the host's processor, since JAX calls every one of them cpu."""
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
