"""The folder of a run: who may write there, what began it, and what `--overwrite` removes."""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from experiments import processes
from experiments.configuration import differences
from experiments.errors import UserError

CONFIG, SUMMARY = "config.json", "summary.json"
OURS = (CONFIG, SUMMARY, "metrics.jsonl", "learning_curve.png", "confusion_matrix.png", "worst_mistakes.png")
OURS += ("sweep.jsonl", "sweep.png", "measures.json")
OUR_FOLDERS = ("checkpoints", "checkpoints_corrupt", "tensorboard", "profile", "sweep_blocks")


@contextlib.contextmanager
def claim(workdir: pathlib.Path) -> Iterator[None]:
    """Create the folder and hold it: one run at a time. Of several processes the first one holds it for all.

    Raises:
      UserError: it cannot be written, or another run holds it.
    """
    lock = processes.by_first(lambda: _lock(workdir), None)
    with lock or contextlib.nullcontext():
        yield


def _lock(workdir: pathlib.Path) -> Any:
    """The file by which a folder is held, until it is closed."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("w")
    except OSError as error:
        raise UserError(f"workdir {workdir} cannot be written: {error.strerror}; choose another --workdir.") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise UserError(f"another process is running in {workdir}; wait for it or choose another --workdir.") from error
    return lock


def begin(
    workdir: pathlib.Path, config: Mapping[str, Any], provenance: Mapping[str, Any], *, overwrite: bool
) -> list[str]:
    """Write `config.json`, or compare with the one that is there.

    Args:
      workdir: a folder that this process holds.
      config: what must be equal for the run to go on: the config and the number of seeds.
      provenance: versions, device and git state, recorded beside it.
      overwrite: remove what an earlier run left.

    Returns:
      Warnings: what differs in provenance, which makes bit-for-bit resumption unlikely.

    Raises:
      UserError: the folder holds a run of another config.
    """
    if overwrite:
        remove(workdir)
    path = workdir / CONFIG
    if not path.exists():
        write_json(path, {"config": config, **provenance})
        return []
    stored = read_json(path)
    changed = differences(stored["config"], config)
    if changed:
        raise UserError(
            f"{workdir} holds a run of another config: {'; '.join(changed)}. "
            "Choose another --workdir, or --overwrite to start anew."
        )
    return differences(
        {key: stored.get(key) for key in ("versions", "device")},
        {key: provenance[key] for key in ("versions", "device")},
    )


def remove(workdir: pathlib.Path) -> None:
    """Remove the files of a run, and nothing else; `config.json` last, so that a half-removed run is still a run."""
    for name in OUR_FOLDERS:
        shutil.rmtree(workdir / name, ignore_errors=True)
    for name in reversed(OURS):
        (workdir / name).unlink(missing_ok=True)


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a file so that it is there whole or not at all; of several processes the first one writes."""
    if not processes.is_first():
        return
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Write a JSON file so that it is there whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: pathlib.Path) -> Any:
    """Read a JSON file of a run.

    Raises:
      UserError: it is missing or unreadable.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); is {path.parent} the workdir of a run?") from error
