"""Whole runs on simulated devices and in several processes: started, killed and resumed as a user does it."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.multi.processes import ROOT, environment_of, run

pytestmark = pytest.mark.multi
TINY = ["--config=tests/experiments/tiny_config.py", "--config.learner.num_envs=8"]
PPO = [*TINY, "--config.learner.total_env_steps=1536"]  # 24 updates
LONG = [*TINY, "--config.learner.total_env_steps=10240"]  # 160 updates
NO_SEARCH = ["--config.search.gammas=()", "--config.search.prices=()"]
CLASSIFIER = [  # without batch normalization, before which biases make steps of rounding errors
    *("--config=tests/experiments/tiny_classifier.py", "--config.learner.normalization=none"),
    "--config.learner.batch_size=120",
]
PATIENCE = 300.0


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def commands(program, flags, num_processes):
    """The command of each process."""
    start = [sys.executable, "-m", f"experiments.{program}", *flags]
    if num_processes == 1:
        return [start]
    address = f"--coordinator_address=127.0.0.1:{free_port()}"
    return [
        [*start, address, f"--num_processes={num_processes}", f"--process_id={index}"] for index in range(num_processes)
    ]


def finished(program, *flags, devices=4, num_processes=1):
    """What each process printed."""
    found = commands(program, flags, num_processes)
    return run(found, [environment_of(devices // num_processes)] * num_processes, timeout=PATIENCE)


@contextlib.contextmanager
def started(program, *flags, devices, num_processes):
    """The processes, which do not outlive the test."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT, "start_new_session": True}
    env = environment_of(devices // num_processes)
    processes = [subprocess.Popen(command, env=env, **pipes) for command in commands(program, flags, num_processes)]
    try:
        yield processes
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def assert_close(found, expected, tolerance):
    assert len(found) == len(expected)
    for row, other in zip(found, expected, strict=True):
        assert row.keys() == other.keys()
        for name in row:
            np.testing.assert_allclose(row[name], other[name], rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The classifier on one device."""
    workdir = tmp_path_factory.mktemp("alone")
    finished("train", *CLASSIFIER, f"--workdir={workdir}", devices=1)
    return workdir


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """PPO in two processes with two devices each, never interrupted."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, finished("train", *LONG, f"--workdir={workdir}", num_processes=2)


@pytest.mark.parametrize(
    ("flags", "devices", "num_processes", "mesh"),
    [
        ((), 8, 1, "data:8"),  # by itself: all devices, for they divide the batch
        ((), 7, 1, "data:6"),  # the most of them that divide it
        (("--mesh=data:4,model:2", "--shard_parameters"), 8, 1, "data:4,model:2, parameters over data too"),
        ((), 4, 2, "data:4"),
        (("--mesh=data:2,model:2",), 4, 2, "data:2,model:2"),
        (("--mesh=model:4",), 4, 2, "data:1,model:4"),  # each process needs all of every batch
    ],
)
def test_a_run_on_a_mesh_is_the_run_of_one_device(tmp_path, alone, flags, devices, num_processes, mesh):
    said, *silent = finished(
        "train", *CLASSIFIER, f"--workdir={tmp_path}", *flags, devices=devices, num_processes=num_processes
    )
    assert f"cpu x {devices}, mesh {mesh}; jax" in said
    assert not any(silent)
    assert_close(rows(tmp_path), rows(alone), 2e-3)  # rounding, grown over 24 updates
    assert_close(rows(tmp_path)[:1], rows(alone)[:1], 2e-4)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in alone.iterdir()}


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_ends_the_run_and_the_same_command_resumes_bit_for_bit(tmp_path, whole, lost):
    with started("train", *LONG, f"--workdir={tmp_path}", devices=4, num_processes=2) as processes:
        wait_for(lambda: (tmp_path / "checkpoints" / "16").exists())
        processes[lost].send_signal(signal.SIGKILL)
        began = time.monotonic()
        errors = [process.communicate(timeout=PATIENCE)[1] for process in processes]
        assert time.monotonic() - began < 90
        assert processes[1 - lost].returncode != 0
    again = "All processes, started again with the same command, resume from the last checkpoint."
    last = errors[1 - lost].strip().splitlines()[-1]
    assert re.fullmatch(rf"error: process {1 - lost} of 2 (is gone|lost another one).*{again}", last)
    said, _ = finished("train", *LONG, f"--workdir={tmp_path}", num_processes=2)
    assert re.search(r"resume +from the checkpoint of update \d+", said)
    assert "corrupt" not in said
    assert (tmp_path / "metrics.jsonl").read_bytes() == (whole[0] / "metrics.jsonl").read_bytes()


def test_a_signal_to_any_process_stops_all_and_another_number_of_devices_goes_on(tmp_path, whole):
    with started("train", *LONG, f"--workdir={tmp_path}", devices=4, num_processes=2) as processes:
        wait_for(lambda: (tmp_path / "checkpoints" / "8").exists())
        processes[1].send_signal(signal.SIGTERM)
        said = [process.communicate(timeout=PATIENCE)[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0]
    step = int(re.search(r"at update (\d+) of 160; the same command resumes", said[0])[1])
    assert step < 160
    (said,) = finished("train", *LONG, f"--workdir={tmp_path}", devices=2)
    assert f"from the checkpoint of update {step}" in said
    assert "warning    device.count is 2, was 4" in said
    found, expected = rows(tmp_path), rows(whole[0])
    assert found[: step // 4] == expected[: step // 4]
    assert_close(found[step // 4 : step // 4 + 1], expected[step // 4 : step // 4 + 1], 1e-3)
    assert [row["step"] for row in found] == [row["step"] for row in expected]


def test_seeds_are_spread_over_the_devices_of_all_processes(tmp_path):
    flags = [*PPO, "--seeds=4"]
    finished("train", *flags, f"--workdir={tmp_path / 'one'}", devices=1)
    finished("train", *flags, f"--workdir={tmp_path / 'two'}", num_processes=2)
    assert_close(rows(tmp_path / "two"), rows(tmp_path / "one"), 1e-4)
    (said,) = finished("evaluate", f"--workdir={tmp_path / 'two'}", devices=1)
    assert "interquartile mean of 4 seeds" in said


@pytest.mark.parametrize(
    "flags",
    [
        CLASSIFIER,
        ["--config=configs/svm_moons.py", "--config.data.num_train=60", "--config.run.num_updates=2", *NO_SEARCH],
    ],
)
def test_seeds_of_learners_that_alone_spread_their_own_work_lie_on_one_device_each(tmp_path, flags):
    """Rows of a batch and of Gram matrices: several seeds take the devices for themselves."""
    finished("train", *flags, "--seeds=2", f"--workdir={tmp_path / 'one'}", devices=1)
    (said,) = finished("train", *flags, "--seeds=2", "--mesh=data:2", f"--workdir={tmp_path / 'two'}", devices=2)
    assert "mesh data:2" in said
    assert_close(rows(tmp_path / "two"), rows(tmp_path / "one"), 2e-3)


@pytest.mark.parametrize("flags", [PPO, CLASSIFIER])
def test_a_sweep_is_spread_over_the_devices_of_all_processes(tmp_path, flags):
    flags = [*flags, "--over=learner.learning_rate=1e-3,1e-4", "--seeds=2"]
    one, two = tmp_path / "one", tmp_path / "two"
    finished("sweep", *flags, f"--workdir={one}", devices=1)
    said, _ = finished("sweep", *flags, f"--workdir={two}", num_processes=2)
    assert "2 points x 2 seeds = 4 runs" in said
    assert "cpu x 4, mesh data:4" in said
    assert re.search(r"1 block of 4 runs; a block takes [\d.]+ MiB of [\d.]+ GiB", said)
    points = [[json.loads(line) for line in (at / "sweep.jsonl").read_text().splitlines()] for at in (one, two)]
    for row, other in zip(*points, strict=True):
        assert row["point"] == other["point"]
        np.testing.assert_allclose(row["score"], other["score"], rtol=2e-3)


def test_streamed_batches_are_the_same_for_any_number_of_processes_and_resume_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    for name, n in (("train-0", 100), ("train-1", 83), ("test-0", 40)):
        np.savez(tmp_path / f"{name}.npz", inputs=rng.normal(size=(n, 5)), labels=rng.integers(0, 3, n))
    flags = [
        *CLASSIFIER[:2],
        *(f"--config.data.directory={tmp_path}", "--config.data.shards=train-*", "--config.data.test_shards=test-*"),
        "--config.learner.batch_size=12",
    ]
    finished("train", *flags, f"--workdir={tmp_path / 'one'}", devices=1)
    finished("train", *flags, f"--workdir={tmp_path / 'two'}", num_processes=2)
    assert_close(rows(tmp_path / "two"), rows(tmp_path / "one"), 2e-3)
    finished("train", *flags, f"--workdir={tmp_path / 'cut'}", "--config.run.num_updates=16", num_processes=2)
    config = json.loads((tmp_path / "cut" / "config.json").read_text())
    config["config"]["run"]["num_updates"] = None  # as if it had been stopped there
    (tmp_path / "cut" / "config.json").write_text(json.dumps(config))
    said, _ = finished("train", *flags, f"--workdir={tmp_path / 'cut'}", num_processes=2)
    assert "from the checkpoint of update 16" in said
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (tmp_path / "two" / "metrics.jsonl").read_bytes()


def test_one_mistake_is_told_by_every_process_and_none_waits(tmp_path):
    flags = [*CLASSIFIER, f"--workdir={tmp_path}", "--mesh=data:7"]
    with started("train", *flags, devices=4, num_processes=2) as processes:
        errors = [process.communicate(timeout=60)[1] for process in processes]
        assert [process.returncode for process in processes] == [1, 1]
    for error in errors:
        assert "error: --mesh=data:7,model:1 needs 7 devices; JAX finds 4" in error
        assert "JAX_NUM_CPU_DEVICES=4 simulates so many for each process" in error
        assert "gone" not in error


def test_a_workdir_of_another_config_is_refused_once_and_none_waits(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"config": {}, "versions": {}, "device": {}}))
    with started("train", *CLASSIFIER, f"--workdir={tmp_path}", devices=4, num_processes=2) as processes:
        errors = [process.communicate(timeout=60)[1] for process in processes]
        assert [process.returncode for process in processes] == [1, 1]
    assert "holds a run of another config" in errors[0]
    assert "error: process 0 of the run ended; its own output says why." in errors[1]
