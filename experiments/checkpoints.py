"""Checkpoints by orbax: the last few and the best one, each with a digest that tells whether it is whole."""

import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, LatestN, PreservationPolicy

from experiments import processes
from experiments.errors import UserError
from experiments.workdir import write_json

SEAL = "digests.json"


class Checkpoints:
    """The checkpoints of one run, in `workdir/checkpoints`.

    Saving goes on in the background; a checkpoint appears under its step only when it is whole. One that was damaged
    later is recognized by its digests, set aside, and the one before is used.
    """

    def __init__(self, workdir: pathlib.Path, *, keep: int, best_mode: str, read_only: bool = False):
        self._directory = (workdir / "checkpoints").resolve()
        self._scores = _read_scores(self._directory)
        self._sign = {"max": 1.0, "min": -1.0}[best_mode]
        self._unsealed: int | None = None
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy([LatestN(keep), _KeepStep(self.best_step)]),
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
        )
        self._manager = ocp.CheckpointManager(self._directory, options=self._options)

    def save(self, step: int, state: PyTree, score: float | None, stream: dict[str, Any] | None = None) -> None:
        """Begin to save a state, and where its data stand; `score` is what the best checkpoint is kept by."""
        self._seal()
        if score is not None:
            self._scores[step] = score
        info = {"digest": _digest_or_none(state), "score": score, "stream": stream}
        self._manager.save(
            step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), info=ocp.args.JsonSave(info))
        )
        self._unsealed = step

    def stream(self, step: int) -> dict[str, Any] | None:
        """Where the data stood at a checkpoint; None where they lie on the devices."""
        return json.loads((self._directory / str(step) / "info" / "metadata").read_text()).get("stream")

    def steps(self) -> list[int]:
        """Return the steps of all whole checkpoints, in order."""
        return processes.told(lambda: sorted(self._manager.all_steps()))

    def best_step(self) -> int | None:
        """Return the step of the best checkpoint, the last one of equals, or None where none has a score."""
        scored = [(self._sign * score, step) for step, score in self._scores.items()]
        return max(scored)[1] if scored else None

    def restore(self, step: int, target: PyTree) -> PyTree:
        """Read one checkpoint into the structure of `target`.

        Raises:
          UserError: it cannot be read, or is not what was written.
        """
        place = self._directory / str(step)
        reason = processes.told(lambda: _damage(place))
        if reason is None:
            try:
                items = ocp.args.Composite(state=ocp.args.StandardRestore(target), info=ocp.args.JsonRestore())
                restored = self._manager.restore(step, args=items)
                here = _digest_or_none(restored.state)
                if None in (here, restored.info["digest"]) or here == restored.info["digest"]:
                    state = restored.state
                else:
                    reason = "its digest does not match"
            except Exception as error:  # orbax and tensorstore raise many types, and any of them means the same here
                reason = " ".join(str(error).split())[:120] or type(error).__name__
            if processes.any_of(reason is not None):
                reason = reason or "another process could not read it"
        if reason is None:
            return state
        raise UserError(f"checkpoint {place} is corrupt: {reason}")

    def restore_last(self, target: PyTree, report: Callable[[str], None]) -> tuple[int, PyTree] | None:
        """Read the last good checkpoint, setting aside those after it that are damaged; None where there is none.

        Raises:
          UserError: there are checkpoints, and none is good.
        """
        steps = self.steps()
        damaged: list[int] = []
        for step in reversed(steps):
            try:
                state = self.restore(step, target)
            except UserError as error:
                report(f"{error}; falling back to the one before")
                damaged.append(step)
                continue
            if damaged:
                self._set_aside(damaged)
            return step, state
        if steps:
            raise UserError(f"no checkpoint in {self._directory} can be read; --overwrite starts anew.")
        return None

    def _set_aside(self, steps: list[int]) -> None:
        self._manager.close()
        processes.by_first(lambda: [self._move(step) for step in steps], [])
        for step in steps:
            self._scores.pop(step, None)
        self._manager = ocp.CheckpointManager(self._directory, options=self._options)

    def _move(self, step: int) -> None:
        place = self._directory.with_name("checkpoints_corrupt") / str(step)
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(exist_ok=True)
        shutil.move(self._directory / str(step), place)

    def _seal(self) -> None:
        """Write the digests of the files of the checkpoint that was saved last."""
        self._manager.wait_until_finished()
        if self._unsealed is not None:
            place = self._directory / str(self._unsealed)
            if processes.is_first():
                write_json(place / SEAL, {name: _sha(place / name) for name in _files(place)})
            self._unsealed = None

    def close(self) -> None:
        """Wait until everything is saved."""
        self._seal()
        self._manager.close()


class _KeepStep(PreservationPolicy):
    """Keep the step that a function names."""

    def __init__(self, step: Callable[[], int | None]):
        self._step = step

    def should_preserve(self, checkpoints, *, context):
        del context
        return [checkpoint.step == self._step() for checkpoint in checkpoints]


def _files(place: pathlib.Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file() and path.name != SEAL)


def _sha(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _damage(place: pathlib.Path) -> str | None:
    """Name what changed since a checkpoint was sealed; None where nothing did, or where it never was sealed.

    A run that is killed before it seals its last checkpoint leaves a good one; the digest of its state decides then.
    """
    try:
        sealed = json.loads((place / SEAL).read_text())
        damaged = [name for name, sha in sealed.items() if _sha(place / name) != sha]
    except FileNotFoundError as error:
        return None if str(error.filename).endswith(SEAL) else f"{error.filename} is missing"
    except (OSError, ValueError) as error:
        return " ".join(str(error).split())
    return f"{damaged[0]} is not what was written" if damaged else None


def _read_scores(directory: pathlib.Path) -> dict[int, float]:
    """Read the scores of all checkpoints that can be read."""
    scores = {}
    for path in directory.glob("*/info/metadata"):
        try:
            step, score = int(path.parents[1].name), json.loads(path.read_text())["score"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if score is not None:
            scores[step] = score
    return scores


def _digest_or_none(state: PyTree) -> str | None:
    """The digest of a state; None where no process has all of it, whose files alone tell whether it is whole."""
    leaves = jax.tree.leaves(state)
    return digest(state) if all(isinstance(x, np.ndarray) or x.is_fully_addressable for x in leaves) else None


def digest(state: PyTree) -> str:
    """Return a SHA-256 of every leaf's dtype, shape and bytes, in the order of the tree.

    >>> digest({"a": np.zeros(2)}) == digest({"a": np.zeros(2)}) != digest({"a": np.ones(2)})
    True
    """
    sha = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        values = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        sha.update(f"{values.dtype}{values.shape}".encode())
        sha.update(np.ascontiguousarray(values).tobytes())
    return sha.hexdigest()


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
