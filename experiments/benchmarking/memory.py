"""How much memory a call takes of the host at its highest."""

import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax

STATUS, CLEAR = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")


def peak_of(call: Callable[[], Any]) -> tuple[Any, int | None]:
    """Return what a call returns, and by how many bytes the resident memory of this process rose above what it was.

    Memory that the process had freed and kept is not counted again, so that a small call may show 0 and only large
    growth means something. None where the system has no such record (it is Linux's), or where JAX computes elsewhere;
    other processes are not counted.

    >>> import numpy as np
    >>> _, rise = peak_of(lambda: np.ones(8_000_000).sum())
    >>> rise is None or rise > 40_000_000
    True
    """
    if jax.default_backend() != "cpu":
        return call(), None
    try:
        CLEAR.write_text("5")  # the highest mark begins anew
        before = _read("VmRSS")
    except (OSError, TypeError):
        return call(), None
    result = call()
    return result, max(_read("VmHWM") - before, 0)


def _read(name: str) -> int:
    return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", STATUS.read_text())[1])  # type: ignore[index]
