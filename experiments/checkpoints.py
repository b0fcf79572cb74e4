"""Checkpoints by orbax: the last few and the best one, each with a digest that tells whether it is whole."""

import hashlib
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from experiments.errors import UserError


class Checkpoints:
    """The checkpoints of one run, in `workdir/checkpoints`.

    Saving goes on in the background; a checkpoint appears under its step only when it is whole. One that was damaged
    later is recognized by its digest, set aside, and the one before is used.
    """

    def __init__(self, workdir: pathlib.Path, *, keep: int, best_mode: str, read_only: bool = False):
        self._directory = (workdir / "checkpoints").resolve()
        self._options = ocp.CheckpointManagerOptions(
            best_fn=_score,
            best_mode=best_mode,
            preservation_policy=AnyPreservationPolicy(
                [
                    LatestN(keep),
                    BestN(
                        get_metric_fn=_score, reverse=best_mode == "min", n=1, keep_checkpoints_without_metrics=False
                    ),
                ]
            ),
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
        )
        self._manager = ocp.CheckpointManager(self._directory, options=self._options)

    def save(self, step: int, state: PyTree, score: float | None) -> None:
        """Begin to save a state; `score` is the metric by which the best checkpoint is kept."""
        info = {"digest": digest(state)}
        self._manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(state), info=ocp.args.JsonSave(info)),
            metrics=None if score is None else {"score": score},
        )

    def steps(self) -> list[int]:
        """Return the steps of all whole checkpoints, in order."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """Return the step of the best checkpoint, or None where none has a score."""
        return self._manager.best_step()

    def restore(self, step: int, target: PyTree) -> PyTree:
        """Read one checkpoint into the structure of `target`.

        Raises:
          UserError: it cannot be read, or is not what was written.
        """
        try:
            items = ocp.args.Composite(state=ocp.args.StandardRestore(target), info=ocp.args.JsonRestore())
            restored = self._manager.restore(step, args=items)
            if restored.info["digest"] == digest(restored.state):
                return restored.state
            reason = "its digest does not match"
        except Exception as error:  # orbax and tensorstore raise many types, and any of them means the same here
            reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"checkpoint {self._directory / str(step)} is corrupt: {reason}")

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
        for step in steps:
            place = self._directory.with_name("checkpoints_corrupt") / str(step)
            shutil.rmtree(place, ignore_errors=True)
            place.parent.mkdir(exist_ok=True)
            shutil.move(self._directory / str(step), place)
        self._manager = ocp.CheckpointManager(self._directory, options=self._options)

    def close(self) -> None:
        """Wait until everything is saved."""
        self._manager.wait_until_finished()
        self._manager.close()


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


def _score(metrics: dict[str, float]) -> float:
    return metrics["score"]
