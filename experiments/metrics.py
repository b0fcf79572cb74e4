"""Metrics on their way to files: JSON lines that a resumed run continues byte for byte, and TensorBoard events."""

import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorboardX

from experiments.errors import UserError

FILE = "metrics.jsonl"


def reduce_chunk(metrics: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Reduce each metric over the updates of a chunk, its last axis: floats to their mean, counters to the last.

    >>> reduce_chunk({"loss": np.array([1.0, 3.0]), "env_steps": np.array([512, 1024])})
    {'loss': 2.0, 'env_steps': 1024}
    """
    return {
        name: (
            values[..., -1] if np.issubdtype(values.dtype, np.integer) else values.mean(-1, dtype=np.float64)
        ).tolist()
        for name, values in metrics.items()
    }


def check_not_nan(metrics: Mapping[str, np.ndarray], first_step: int, advice: Callable[[], str]) -> None:
    """Raise a `UserError` that names the first NaN: its metric, step and, with several seeds, its seed.

    Args:
      metrics: each [updates] or [seeds, updates].
      first_step: the step of the first update.
      advice: gives the end of the sentence: what to do about it.
    """
    bad = [
        (int(place[-1]), name, place[:-1])
        for name, values in metrics.items()
        if np.issubdtype(values.dtype, np.floating)
        for place in np.argwhere(np.isnan(values))
    ]
    if bad:
        index, name, seed = min(bad)
        which = f" of seed {int(seed[0])}" if len(seed) else ""
        raise UserError(f"metric {name!r}{which} is NaN at step {first_step + index}; {advice()}")


class MetricsLog:
    """Append rows to `metrics.jsonl`, and to TensorBoard unless `events` is False.

    Rows hold nothing that depends on the clock, so that a resumed run ends with the same bytes as one that was never
    stopped. Opening the log for a run that resumes at `step` drops the rows beyond it.
    """

    def __init__(self, workdir: pathlib.Path, step: int, *, events: bool = True):
        self._path = workdir / FILE
        rows = [row for row in read(workdir) if row["step"] <= step]
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text("".join(json_line(row) for row in rows))
        os.replace(temporary, self._path)
        self._file = self._path.open("a")
        self._tensorboard = None
        if events:
            self._tensorboard = tensorboardX.SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def write(self, row: Mapping[str, Any], speed: float) -> None:
        """Write one row; `speed` in updates per second goes to TensorBoard alone."""
        self._file.write(json_line(row))
        if self._tensorboard is None:
            return
        step = row["step"]
        self._tensorboard.add_scalar("speed/updates_per_second", speed, step)
        for name, value in row.items():
            if name != "step":
                tag = name if "/" in name else f"train/{name}"
                self._tensorboard.add_scalar(tag, float(np.mean(value)), step)

    def flush(self) -> None:
        """Return when every row is on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._tensorboard is not None:
            self._tensorboard.flush()

    def close(self) -> None:
        """Flush and close both files."""
        self.flush()
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()


class NoLog:
    """In place of a log, where another process writes it."""

    def write(self, row: Mapping[str, Any], speed: float) -> None:
        """Write nothing."""

    def flush(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


def read(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Return the rows of `metrics.jsonl`; a last line that was cut short is left out."""
    path = workdir / FILE
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def json_line(row: Mapping[str, Any]) -> str:
    """One line of JSON; what is infinite or NaN becomes a string, as JSON has no number for it.

    `float` reads the string back.

    >>> json_line({"step": 4, "loss": [0.5, math.inf]}).strip()
    '{"step": 4, "loss": [0.5, "inf"]}'
    """
    return json.dumps(plain(row)) + "\n"


def plain(value: Any) -> Any:
    """A value as JSON can hold it, within lists and mappings too."""
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
