"""Programs in processes of their own, on as many simulated CPU devices as they ask for, none of which outlives a test.

`on_devices(8, "tests.multi.test_kernels:measured", 3)` calls a function there and returns what it returns;
`on_devices(8, source)` runs source and returns the JSON in its last line; `run` runs any commands side by side.
"""

import contextlib
import importlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from tests.compilation import XLA_FLAGS

ROOT = pathlib.Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "jax"
SPARE_THREADS = 16  # of XLA's pool, which all devices share: collectives wait in it for each other
PERIOD = 0.05  # seconds between two looks at processes
FUNCTION = re.compile(r"[\w.]+:\w+")


def on_devices(
    num_devices: int,
    program: str,
    *arguments: Any,
    timeout: float = 300.0,
    optimized: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Any:
    """What a program prints as JSON in its last line, or what a function returns.

    Args:
      num_devices: CPU devices that JAX simulates in its process.
      program: "package.module:function", or Python source, which finds its arguments in `sys.argv[1:]`.
      *arguments: of the function, as JSON can hold; of source, as strings.
      timeout: seconds after which the process and all that it started are killed.
      optimized: whether XLA compiles as for a user, and not quickly.
      environment: further variables.

    Raises:
      RuntimeError: the program fails; the message holds the end of its output and errors.
      TimeoutError: it does not end in time.
    """
    if FUNCTION.fullmatch(program):
        command = [sys.executable, "-m", "tests.multi.processes", program, json.dumps(arguments)]
    else:
        command = [sys.executable, "-c", program, *map(str, arguments)]
    variables = environment_of(num_devices, optimized=optimized) | dict(environment or {})
    (output,) = run([command], [variables], timeout=timeout)
    return json.loads(output.splitlines()[-1])


def environment_of(num_devices: int, *, optimized: bool = False) -> dict[str, str]:
    """The variables of a process in which JAX has so many CPU devices, and is as strict as in all tests."""
    kept = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "NPROC")}
    wanted = {
        "JAX_NUM_CPU_DEVICES": str(num_devices),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
        "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", str(CACHE)),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
        "NPROC": str(num_devices + SPARE_THREADS),
    }
    quickly = {"XLA_FLAGS": XLA_FLAGS, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return kept | wanted | ({} if optimized else quickly)


def run(
    commands: Sequence[Sequence[str]],
    environments: Sequence[Mapping[str, str]],
    *,
    timeout: float = 300.0,
    directory: pathlib.Path = ROOT,
) -> list[str]:
    """What commands print that run at the same time; where one fails or is late, all are killed with what they started.

    Raises:
      RuntimeError: a command fails; the message holds the end of its output and errors.
      TimeoutError: not all end in time; the message holds the same of those that had not.
    """
    with tempfile.TemporaryDirectory() as folder:
        outputs = [pathlib.Path(folder, f"{i}.out") for i in range(len(commands))]
        errors = [path.with_suffix(".err") for path in outputs]
        processes: list[subprocess.Popen] = []
        try:
            for command, environment, output, error in zip(commands, environments, outputs, errors, strict=True):
                with output.open("w") as out, error.open("w") as err:
                    processes.append(
                        subprocess.Popen(
                            list(command),
                            cwd=directory,
                            env=dict(environment),
                            stdin=subprocess.DEVNULL,
                            stdout=out,
                            stderr=err,
                            start_new_session=True,
                        )
                    )
            _wait(processes, commands, outputs, errors, time.monotonic() + timeout)
            return [path.read_text() for path in outputs]
        finally:
            for process in processes:
                _kill_group(process)


def _wait(processes, commands, outputs, errors, deadline):
    while True:
        states = [process.poll() for process in processes]
        for state, command, *files in zip(states, commands, outputs, errors, strict=True):
            if state:
                raise RuntimeError(f"{command[:4]} ends with {state}:\n{_ends(files)}")
        if None not in states:
            return
        if time.monotonic() > deadline:
            late = states.index(None)
            raise TimeoutError(f"{commands[late][:4]} has not ended:\n{_ends([outputs[late], errors[late]])}")
        time.sleep(PERIOD)


def _ends(files):
    return "\n".join(path.read_text()[-4000:] for path in files)


def _kill_group(process):
    """The process and all that it started, which are of one session."""
    with contextlib.suppress(ProcessLookupError):  # all have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _call(program: str, arguments: Sequence[Any]) -> None:
    """Print what a function returns."""
    module, name = program.split(":")
    function = getattr(importlib.import_module(module), name)
    warnings.simplefilter("error")
    result = function(*arguments)
    print(json.dumps(result, default=lambda array: array.tolist()), flush=True)


if __name__ == "__main__":
    _call(sys.argv[1], json.loads(sys.argv[2]))
