"""Programs started as a user starts them, the same programs called here, and a learner that costs nothing."""

import contextlib
import fcntl
import gc
import json
import os
import pathlib
import pickle
import runpy
import signal
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from experiments import metrics, run_loop, train
from experiments.configuration import RUN_DEFAULTS
from experiments.suites.options import SIZES, Options
from experiments.tasks import Task
from mathai.learners.base import Learner
from tests.compilation import XLA_FLAGS

ROOT = pathlib.Path(__file__).parents[2]
TINY = "tests/experiments/tiny_config.py"
# Flags of `experiments.placement` as they are where nobody sets them: this process alone, and its own devices.
ALONE = dict.fromkeys(("mesh", "coordinator_address", "num_processes", "process_id")) | {"shard_parameters": False}
TINY_CLASSIFIER = "tests/experiments/tiny_classifier.py"


class Programs:
    """`python -m experiments.…` from the repository root, compiled as these tests are."""

    config = f"--config={TINY}"
    classifier_config = f"--config={TINY_CLASSIFIER}"

    @staticmethod
    def command(program, *flags):
        is_quick = jax.config.read("jax_disable_most_optimizations")
        return {
            "args": [sys.executable, "-m", f"experiments.{program}", *map(str, flags)],
            "cwd": ROOT,
            "env": os.environ
            | {
                "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
                "JAX_DISABLE_MOST_OPTIMIZATIONS": str(is_quick),
            }
            | ({"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {XLA_FLAGS}"} if is_quick else {}),
            "text": True,
        }

    def run(self, program, *flags):
        return subprocess.run(**self.command(program, *flags), capture_output=True, timeout=300)

    @contextlib.contextmanager
    def start(self, program, *flags):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(**self.command(program, *flags), **pipes) as process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture(scope="session")
def programs():
    return Programs()


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """Make something expensive once in a session, however many processes share it: (folder, what `make` returned)."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def make_once(name, make):
        folder, result = base / f"once_{name}", base / f"once_{name}.pickle"
        with (base / f"once_{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not result.exists():
                folder.mkdir(exist_ok=True)
                result.write_bytes(pickle.dumps(make(folder)))
            return folder, pickle.loads(result.read_bytes())

    return make_once


@pytest.fixture
def tiny_config():
    """The tiny config, unlocked."""
    return runpy.run_path(str(ROOT / TINY))["get_config"]()


@pytest.fixture
def digits_config():
    """The tiny config of a classifier, unlocked."""
    return runpy.run_path(str(ROOT / TINY_CLASSIFIER))["get_config"]()


@contextlib.contextmanager
def own_handlers():
    """Signals that reach nobody fail the test instead of ending pytest, and what a program installs is removed."""

    def unheard(number, frame):
        raise AssertionError(f"nobody handles {signal.Signals(number).name}")

    before = {number: signal.signal(number, unheard) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture
def train_here(monkeypatch, capsys):
    """Call the program `train` in this process; returns what it printed."""

    def call(config, workdir, **flags):
        values = {"seeds": 1, "overwrite": False, "platform": "any", "profile": False} | ALONE | flags
        monkeypatch.setattr(train, "FLAGS", types.SimpleNamespace(config=config, workdir=str(workdir), **values))
        with own_handlers():
            train.main([])
        return capsys.readouterr().out

    return call


@pytest.fixture
def signal_at(monkeypatch):
    """Send this process a signal as soon as the row of a step is written."""

    def arrange(step, number=signal.SIGTERM, times=1):
        def write(log, row, speed):
            original(log, row, speed)
            if row["step"] == step:
                for _ in range(times):
                    os.kill(os.getpid(), number)

        monkeypatch.setattr(metrics.MetricsLog, "write", write)

    original = metrics.MetricsLog.write
    return arrange


def chaos(nan_metric_at=None, nan_state_at=None):
    """A learner of four lines: the logistic map x ← 3.9 x (1 − x), in which a wrong bit soon shows, and a count.

    Its loss is the x before the update.
    """

    def init(key):
        x = jnp.float32(0.1) + (jax.random.key_data(key)[1] % 7) / jnp.float32(10)
        return {"key": key, "x": x, "count": jnp.int32(0)}

    def update(state, batch=None):
        del batch
        count, x = state["count"] + 1, 3.9 * state["x"] * (1.0 - state["x"])
        if nan_state_at is not None:
            x = jnp.where(count >= nan_state_at, jnp.nan, x)
        loss = state["x"] if nan_metric_at is None else jnp.where(count == nan_metric_at, jnp.nan, state["x"])
        return {"key": state["key"], "x": x, "count": count}, {"loss": loss, "count": count}

    def evaluate(key, state):
        return {"score": state["x"] + (jax.random.key_data(key)[0] % 1000) / jnp.float32(1000)}

    return Learner(init, update, evaluate)


@pytest.fixture(scope="session")
def chaotic():
    """The learner, to be made with a NaN somewhere."""
    return chaos


@pytest.fixture(scope="session")
def run_chaos():
    """Run it: 30 updates in chunks of 4, evaluated and saved every 8."""

    def go(workdir, num_seeds=None, *, profile=False, nan_metric_at=None, nan_state_at=None, **run):
        config = RUN_DEFAULTS | {"best_metric": "score", "updates_per_chunk": 4}
        config |= {"evaluate_every": 8, "checkpoint_every": 8} | run
        task = Task(chaos(nan_metric_at, nan_state_at), 30)
        with own_handlers():
            return run_loop.run(task, ConfigDict(config), workdir, num_seeds, profile=profile)

    return go


@pytest.fixture
def rows():
    """The rows of a run's metrics.jsonl, read by JSON alone."""
    return lambda workdir: [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def bits():
    """The bytes of every leaf of a state."""

    def of(state):
        def plain(leaf):
            is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

        return {
            jax.tree_util.keystr(path): (plain(leaf).dtype, plain(leaf).shape, plain(leaf).tobytes())
            for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        }

    return of


@pytest.fixture(autouse=True, scope="session")
def orbax_may_close_its_loop():
    """Let pass what orbax leaves behind when a read fails: its other reads find their event loop closed.

    They say so when they are collected as garbage, in any test. What the programs print is tested where they are
    started as programs.
    """
    hook = sys.unraisablehook

    def quiet(unraisable):
        if "Event loop is closed" not in str(unraisable.exc_value):
            hook(unraisable)

    sys.unraisablehook = quiet
    yield
    gc.collect()
    sys.unraisablehook = hook


@pytest.fixture
def flip_a_byte():
    """Damage a file in its middle."""

    def flip(path):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    return flip


@pytest.fixture
def files():
    """Every file below a folder with its bytes."""
    return lambda folder: {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def figures_of(monkeypatch):
    """(module that draws) → what it draws from then on, by the name of its file, and not yet rendered."""

    def of(module):
        drawn = {}

        def save(path, draw, size):
            drawn[path.name] = Figure(figsize=size, layout="constrained")
            draw(drawn[path.name])
            return path

        monkeypatch.setattr(module, "save", save)
        return drawn

    return of


@pytest.fixture(scope="session")
def tiny():
    """Options of the benchmark's smallest sizes, some of them changed."""
    return lambda **changes: Options(**(SIZES["tiny"] | changes))
