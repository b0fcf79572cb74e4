"""What the terminal shows between chunks: a bar where there is a terminal, a line now and then where there is none."""

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Reporter:
    """Progress of one run; both forms count only what the device has finished."""

    def __init__(self, total: int, done: int):
        self._total, self._start, self._done = total, done, done
        self._began = time.perf_counter()
        self._last_line = self._began
        self._bar = None
        if sys.stdout.isatty():
            self._bar = Progress(
                TextColumn("train"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(),
            )
            self._task = self._bar.add_task("train", total=total, completed=done, rate="", note="")
            self._bar.start()

    @property
    def rate(self) -> float:
        """Updates per second since the loop began."""
        return (self._done - self._start) / max(time.perf_counter() - self._began, 1e-9)

    def advance(self, done: int, note: str) -> None:
        """Report that `done` updates are finished."""
        self._done = done
        if self._bar is not None:
            self._bar.update(self._task, completed=done, rate=f"{self.rate:,.0f} updates/s", note=note)
        elif done == self._total or time.perf_counter() - self._last_line > 5:
            self._last_line = time.perf_counter()
            left = (self._total - done) / max(self.rate, 1e-9)
            say("train", f"{done}/{self._total} updates, {self.rate:,.0f} updates/s, {left:.0f} s left  {note}")

    def close(self) -> None:
        """Take the bar from the terminal's last line."""
        if self._bar is not None:
            self._bar.stop()


def say(subject: str, text: Any) -> None:
    """Print a line of the report, at once even into a pipe."""
    print(f"{subject:<11}{text}", flush=True)
