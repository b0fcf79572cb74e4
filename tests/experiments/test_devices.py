"""Seeds on devices. Here JAX counts one CPU device; what needs two runs in a process of its own."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import devices
from tests.experiments.conftest import ROOT, TINY

TWO = """
import json, os, sys
import jax, jax.numpy as jnp, numpy as np
from experiments import devices
os.sched_getaffinity = lambda pid: {0, 1}
devices.prepare(int(sys.argv[1]))
function = devices.over_seeds(lambda key, scale: jax.random.normal(key, (3,)) * scale, 4)
result = jax.jit(function)(jax.random.split(jax.random.key(0), 4), jnp.float32(2))
print(json.dumps({
    "devices": jax.device_count(),
    "threads": os.environ["NPROC"],
    "spread": len(result.sharding.device_set),
    "seeds": {str(n): getattr(devices.seed_sharding(n), "num_devices", 1) for n in (1, 2, 3, 4)},
    "result": np.asarray(result).tolist(),
}))
"""


def in_process(num_seeds, **environment):
    kept = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "NPROC")}
    command = [sys.executable, "-c", TWO, str(num_seeds)]
    done = subprocess.run(command, env=kept | environment, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(done.stdout)


def expected(num_seeds=4):
    keys = jax.random.split(jax.random.key(0), num_seeds)
    return np.array([jax.random.normal(key, (3,)) * 2 for key in keys])


def test_seeds_are_spread_over_the_cores():
    found = in_process(4)
    assert (found["devices"], found["spread"], found["threads"]) == (2, 2, "18")
    assert found["seeds"] == {"1": 1, "2": 2, "3": 1, "4": 2}  # as many as divide the seeds
    np.testing.assert_array_equal(np.float32(found["result"]), expected())


@pytest.mark.parametrize(
    ("num_seeds", "environment", "num_devices", "threads"),
    [
        (1, {}, 1, "18"),
        (8, {"JAX_NUM_CPU_DEVICES": "1"}, 1, "18"),
        (8, {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "NPROC": "9"}, 4, "9"),
    ],
)
def test_what_a_user_sets_holds_and_one_seed_needs_one_device(num_seeds, environment, num_devices, threads):
    found = in_process(num_seeds, **environment)
    assert (found["devices"], found["threads"]) == (num_devices, threads)
    np.testing.assert_array_equal(np.float32(found["result"]), expected())


def test_on_one_device_every_seed_has_its_own_arguments(monkeypatch):
    mapped = devices.over_seeds(lambda each, shared: {"sum": each[0] + each[1] * shared}, 3)
    result = mapped((jnp.arange(3), jnp.array([1, 10, 100])), 2)
    assert result["sum"].tolist() == [2, 21, 202]
    assert devices.seed_sharding(3) is None
    monkeypatch.setenv("NPROC", "4")
    devices.prepare(8)  # JAX has begun: nothing changes, nothing fails
    assert jax.device_count() == 1


RUN = """
import json, os, sys
os.sched_getaffinity = lambda pid: {0, 1}
sys.argv = json.loads(sys.argv[1])
import runpy
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=False)
"""


def program(name, *flags, **environment):
    kept = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "NPROC")}
    arguments = json.dumps([f"experiments.{name}", *flags])
    done = subprocess.run(
        [sys.executable, "-c", RUN, arguments],
        cwd=ROOT,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow  # programs of their own, six of them
@pytest.mark.parametrize(("before", "after"), [({}, {"JAX_NUM_CPU_DEVICES": "1"}), ({"JAX_NUM_CPU_DEVICES": "1"}, {})])
def test_a_run_goes_on_and_is_scored_where_there_are_more_devices_or_fewer(tmp_path, before, after):
    flags = [f"--config={TINY}", f"--workdir={tmp_path}", "--seeds=2"]
    said = program("train", *flags, "--config.run.num_updates=4", **before)
    assert ("cpu x 2" in said) == (not before)
    scores = [program("evaluate", f"--workdir={tmp_path}", **where) for where in (before, after)]
    assert scores[0] == scores[1]
    config = json.loads((tmp_path / "config.json").read_text())
    config["config"]["run"]["num_updates"] = 6  # as if it had been stopped at 4 of 6
    (tmp_path / "config.json").write_text(json.dumps(config))
    said = program("train", *flags, "--config.run.num_updates=6", **after)
    assert "from the checkpoint of update 4" in said
    assert "corrupt" not in said
