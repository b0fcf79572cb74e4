"""The programs `train` and `evaluate` from end to end: what a run leaves, and that nothing that ends it is lost."""

import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest

from experiments import evaluate, members
from experiments.checkpoints import Checkpoints
from experiments.errors import UserError
from experiments.tasks import make_task
from tests.experiments.conftest import ALONE

ROOT = pathlib.Path(__file__).parents[2]
NUM_UPDATES = 240
STEPS = list(range(4, NUM_UPDATES + 1, 4))
EVALUATED = list(range(40, NUM_UPDATES + 1, 40))


@pytest.fixture(scope="module")
def finished(once, programs):
    """A run that nothing interrupted: its workdir, and how the program ended. Not to be changed."""
    return once("finished", lambda folder: programs.run("train", programs.config, f"--workdir={folder}"))


@pytest.fixture
def copy(finished, tmp_path):
    """The workdir of a finished run, to be changed."""
    return shutil.copytree(finished[0], tmp_path / "copy")


@pytest.fixture
def short_config(tiny_config):
    """A third of the tiny run."""
    tiny_config.run.num_updates = 80
    return tiny_config


@pytest.fixture
def evaluate_here(monkeypatch, capsys):
    """Call the program `evaluate` in this process; returns the results that it printed, by name."""

    def call(workdir, checkpoint="best", seed=1):
        values = types.SimpleNamespace(workdir=str(workdir), checkpoint=checkpoint, seed=seed, **ALONE)
        monkeypatch.setattr(evaluate, "FLAGS", values)
        evaluate.main([])
        return capsys.readouterr().out

    return call


def load(workdir, config, step, num_seeds=None):
    """The state of a checkpoint."""
    seeds = members.of_seeds(config.run.seed, num_seeds)
    checkpoints = Checkpoints(workdir, keep=2, best_mode="max", read_only=True)
    state = checkpoints.restore(step, jax.eval_shape(members.make_programs(make_task(config)).init, seeds))
    checkpoints.close()
    return state


def whole_checkpoints(workdir):
    folder = workdir / "checkpoints"
    return sorted(int(name) for name in os.listdir(folder) if name.isdigit()) if folder.exists() else []


def unfinished_checkpoints(workdir):
    folder = workdir / "checkpoints"
    return [name for name in os.listdir(folder) if "orbax-checkpoint-tmp" in name] if folder.exists() else []


def wait(process, condition):
    """Wait until a condition holds in a program that is still running."""
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, f"the run ended before it could be interrupted: {process.communicate()}"
        assert time.monotonic() < deadline
        time.sleep(0.002)


# What a run leaves.


def test_a_run_ends_well_and_says_what_it_did(finished):
    workdir, done = finished
    assert (done.returncode, done.stderr) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert lines["run"] == f"{workdir}: ppo on CartPole-v1, 240 updates"
    assert lines["device"].startswith(jax.default_backend())
    assert re.fullmatch(r"\d+\.\d s", lines["compile"])
    assert re.match(r"240 updates in \d+\.\d s \([\d,]+ environment steps/s", lines["done"])
    names = ("summary.json", "learning_curve.png", "rollout.png", "rollout.gif")
    assert lines["wrote"] == ", ".join(str(workdir / name) for name in names)


def test_config_json_tells_what_was_run(finished, tiny_config):
    stored = json.loads((finished[0] / "config.json").read_text())
    assert stored["config"] == json.loads(json.dumps({**tiny_config.to_dict(), "seeds": 1}))
    assert stored["config"]["learner"]["hidden_sizes"] == [8]
    assert stored["config"]["learner"]["discount"] == 0.99  # the learner's default
    assert stored["versions"]["jax"] == jax.__version__
    assert stored["device"]["platform"] == jax.default_backend()
    assert set(stored["git"]) == {"commit", "modified"}


def test_metrics_have_a_row_per_chunk(finished, rows):
    found = rows(finished[0])
    assert [row["step"] for row in found] == STEPS
    assert [row["env_steps"] for row in found] == [16 * step for step in STEPS]
    assert [row["step"] for row in found if "evaluation/episode_return" in row] == EVALUATED
    assert np.all(np.isfinite([value for row in found for value in row.values()]))
    episodes = [row["episodes"] for row in found]
    assert episodes == sorted(episodes)
    assert all(0 < row["entropy"] <= np.log(2) + 1e-6 for row in found)  # two actions
    assert all(0 <= row["episode_return"] <= 20 for row in found)  # the episodes are cut at 20 steps


def test_tensorboard_events_hold_the_same_metrics(finished):
    (events,) = (finished[0] / "tensorboard").iterdir()
    content = events.read_bytes()
    for tag in (b"train/episode_return", b"train/value_loss", b"evaluation/episode_return", b"speed/"):
        assert content.count(tag) > 0


def test_the_last_checkpoints_and_the_best_are_there(finished, rows):
    scores = {row["step"]: row.get("evaluation/episode_return") for row in rows(finished[0])}
    kept = whole_checkpoints(finished[0])
    assert kept[-2:] == [232, 240]
    assert len(kept) <= 3
    assert max(score for score in scores.values() if score) in [scores[step] for step in kept]


def test_the_summary_is_the_last_evaluation(finished, rows):
    summary = json.loads((finished[0] / "summary.json").read_text())
    assert (summary["algorithm"], summary["problem"]) == ("ppo", "CartPole-v1")
    assert (summary["updates"], summary["seeds"], summary["this_process"]["updates"]) == (240, 1, 240)
    last = rows(finished[0])[-1]
    for name in ("episode_return", "episode_return_std", "episode_length"):
        assert summary["evaluation"][name]["per_seed"] == [last[f"evaluation/{name}"]]
        assert summary["evaluation"][name]["mean"] == last[f"evaluation/{name}"]


def test_the_learning_curve_is_a_picture(finished):
    assert (finished[0] / "learning_curve.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_nothing_unfinished_is_left(finished):
    ours = {"config.json", "metrics.jsonl", "tensorboard", "checkpoints", "summary.json", ".lock"}
    pictures = {"learning_curve.png", "rollout.png", "rollout.gif"}
    assert {path.name for path in finished[0].iterdir()} == ours | pictures


def test_the_same_command_again_says_that_the_run_was_finished(copy, tiny_config, train_here, files):
    def metrics_and_checkpoints():
        return {p: c for p, c in files(copy).items() if p.parts[0] in ("metrics.jsonl", "config.json", "checkpoints")}

    before, summary = metrics_and_checkpoints(), json.loads((copy / "summary.json").read_text())
    printed = train_here(tiny_config, copy)
    assert "already finished" in printed
    assert metrics_and_checkpoints() == before
    assert json.loads((copy / "summary.json").read_text())["evaluation"] == summary["evaluation"]


# What ends a run, and what resumes it.


@pytest.fixture(scope="module")
def interrupted(once, programs):
    """The run of `finished`, killed twice, stopped twice and resumed each time: its workdir, and what each part said.

    It is killed as soon as it runs, killed again while a checkpoint is being written, then stopped by SIGTERM, then by
    SIGINT, as Ctrl-C does.
    """

    def go(workdir):
        parts = {}
        command = "train", programs.config, f"--workdir={workdir}"

        with programs.start(*command) as process:
            for line in process.stdout:
                if line.startswith("compile"):
                    break
            process.kill()
            parts["killed early"] = process.wait(), whole_checkpoints(workdir), unfinished_checkpoints(workdir)

        with programs.start(*command) as process:
            while True:
                wait(process, lambda: unfinished_checkpoints(workdir) and 24 in whole_checkpoints(workdir))
                process.send_signal(signal.SIGSTOP)  # frozen, it may be looked at
                time.sleep(0.02)
                if unfinished_checkpoints(workdir):
                    break
                process.send_signal(signal.SIGCONT)
            process.kill()
            parts["killed in a save"] = process.wait(), whole_checkpoints(workdir), unfinished_checkpoints(workdir)

        for name in ("SIGTERM", "SIGINT"):
            begin = max(whole_checkpoints(workdir))
            with programs.start(*command) as process:
                wait(process, lambda: max(whole_checkpoints(workdir)) > begin + 16)  # noqa: B023
                process.send_signal(signal.Signals[name])
                parts[name] = (*process.communicate(timeout=120), process.wait(), whole_checkpoints(workdir))

        done = programs.run(*command)
        parts["resumed"] = done.stdout, done.stderr, done.returncode, unfinished_checkpoints(workdir)
        return parts

    return once("interrupted", go)


@pytest.mark.slow
def test_kills_leave_a_workdir_that_resumes(interrupted):
    _, parts = interrupted
    status, whole, _ = parts["killed early"]
    assert (status, max(whole, default=0) < NUM_UPDATES) == (-signal.SIGKILL, True)
    status, whole, unfinished = parts["killed in a save"]
    assert (status, len(unfinished)) == (-signal.SIGKILL, 1)
    stdout, stderr, _, _ = parts["SIGTERM"]
    assert f"resume     from the checkpoint of update {whole[-1]}" in stdout
    assert stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_saves_says_so_and_ends_with_status_0(interrupted, name):
    stdout, stderr, status, whole = interrupted[1][name]
    assert (status, stderr) == (0, "")
    assert f"stopped    at update {whole[-1]} of 240; the same command resumes" in stdout
    assert "done" not in stdout


@pytest.mark.slow
def test_the_resumed_run_ends_well_and_cleans_up(interrupted):
    stdout, stderr, status, unfinished = interrupted[1]["resumed"]
    assert (status, stderr, unfinished) == (0, "", [])
    assert "resume     from the checkpoint of update" in stdout


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_metrics_byte_for_byte(interrupted, finished):
    assert (interrupted[0] / "metrics.jsonl").read_bytes() == (finished[0] / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_state_bit_for_bit(interrupted, finished, tiny_config, bits):
    states = [bits(load(workdir, tiny_config, NUM_UPDATES)) for workdir in (interrupted[0], finished[0])]
    assert states[0] == states[1]
    assert len(states[0]) > 10  # parameters, moments, environments, key, counters


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_summary(interrupted, finished):
    summaries = [json.loads((workdir / "summary.json").read_text()) for workdir in (interrupted[0], finished[0])]
    assert summaries[0]["evaluation"] == summaries[1]["evaluation"]


@pytest.mark.slow
def test_kills_at_random_moments_change_no_bit(programs, finished, tmp_path, tiny_config, bits):
    moments, kills = random.Random(0), 0
    for _ in range(60):
        with programs.start("train", programs.config, f"--workdir={tmp_path}") as process:
            try:
                stdout, stderr = process.communicate(timeout=moments.uniform(1.5, 9.0))
            except subprocess.TimeoutExpired:
                kills += 1
                continue  # killed on leaving the block
            assert (process.returncode, stderr) == (0, ""), stdout
            break
    else:  # on a busy machine every moment came too early
        done = programs.run("train", programs.config, f"--workdir={tmp_path}")
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert kills >= 3
    assert (tmp_path / "metrics.jsonl").read_bytes() == (finished[0] / "metrics.jsonl").read_bytes()
    assert bits(load(tmp_path, tiny_config, NUM_UPDATES)) == bits(load(finished[0], tiny_config, NUM_UPDATES))


def damage(workdir, steps, flip_a_byte):
    for step in steps:
        data = [path for path in (workdir / "checkpoints" / str(step) / "state").rglob("d/*") if path.is_file()]
        assert data
        for path in data:
            flip_a_byte(path)


def test_a_corrupt_checkpoint_is_reported_and_the_run_ends_with_the_same_bits(
    copy, finished, programs, tiny_config, flip_a_byte, bits
):
    damage(copy, [240], flip_a_byte)
    done = programs.run("train", programs.config, f"--workdir={copy}")
    assert re.search(r"\nwarning .*checkpoints/240 is corrupt: .*; falling back to the one before\n", done.stdout)
    assert "resume     from the checkpoint of update 232" in done.stdout
    assert done.returncode == 0
    assert (copy / "metrics.jsonl").read_bytes() == (finished[0] / "metrics.jsonl").read_bytes()
    assert bits(load(copy, tiny_config, 240)) == bits(load(finished[0], tiny_config, 240))
    assert done.stderr == ""


def test_where_every_checkpoint_is_corrupt_the_run_is_refused_and_left(
    copy, tiny_config, train_here, flip_a_byte, files
):
    damage(copy, whole_checkpoints(copy), flip_a_byte)
    before = files(copy)
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read; --overwrite starts anew"):
        train_here(tiny_config, copy)
    assert files(copy) == before


# Who may use a workdir.


def test_a_workdir_of_another_config_is_refused_by_its_fields_and_untouched(copy, tiny_config, train_here, files):
    before = files(copy)
    tiny_config.learner.learning_rate = 1e-3
    with pytest.raises(UserError) as caught:
        train_here(tiny_config, copy, seeds=2)
    message = str(caught.value)
    assert "learner.learning_rate is 0.001, was 0.00025; seeds is 2, was 1" in message
    assert message.count(" was ") == 2
    assert files(copy) == before


@pytest.mark.slow
def test_overwrite_starts_anew_and_profile_writes_a_trace(copy, short_config, train_here, rows):
    (copy / "notes.txt").write_text("mine")
    printed = train_here(short_config, copy, overwrite=True, profile=True)
    assert "resume" not in printed
    assert [row["step"] for row in rows(copy)] == list(range(4, 81, 4))
    assert json.loads((copy / "config.json").read_text())["config"]["run"]["num_updates"] == 80
    assert whole_checkpoints(copy)[-1] == 80
    assert len(list((copy / "tensorboard").iterdir())) == 1
    assert list((copy / "profile").rglob("*.xplane.pb"))
    assert (copy / "notes.txt").read_text() == "mine"


def test_a_workdir_in_use_is_refused(copy, tiny_config, train_here, files):
    before = files(copy)
    holder = (
        "import fcntl, sys; lock = open(sys.argv[1], 'w'); fcntl.flock(lock, fcntl.LOCK_EX); "
        "print('held', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", holder, copy / ".lock"], **pipes) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="another process is running in"):
            train_here(tiny_config, copy)
        process.stdin.close()
    assert files(copy) == before


# Seeds.


@pytest.fixture
def joint(tmp_path, short_config, train_here):
    """Three seeds in one program, from 5 on: the workdir, and what was printed."""
    short_config.run.seed = 5
    workdir = tmp_path / "joint"
    return workdir, train_here(short_config, workdir, seeds=3)


def test_several_seeds_in_one_program(joint, rows, short_config, train_here, signal_at, tmp_path, bits):
    workdir, printed = joint
    for row in rows(workdir):
        assert all(len(value) == 3 for name, value in row.items() if name != "step")
    assert len(set(rows(workdir)[0]["value_loss"])) == 3
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["seeds"] == 3
    score = summary["evaluation"]["episode_return"]
    assert score["per_seed"] == rows(workdir)[-1]["evaluation/episode_return"]
    assert score["interquartile_mean"] == pytest.approx(np.mean(score["per_seed"]))  # three are too few to cut any
    assert min(score["per_seed"]) <= score["interval_95"][0] <= score["interval_95"][1] <= max(score["per_seed"])
    assert re.search(r"3 seeds: interquartile mean [\d.]+, 95 % interval [\d.]+ to [\d.]+, worst [\d.]+", printed)
    assert (workdir / "learning_curve.png").exists()

    # interrupted and resumed
    stopped = tmp_path / "stopped"
    signal_at(28)
    assert "the same command resumes" in train_here(short_config, stopped, seeds=3)
    signal_at(None)
    assert "resume" in train_here(short_config, stopped, seeds=3)
    assert (stopped / "metrics.jsonl").read_bytes() == (workdir / "metrics.jsonl").read_bytes()
    assert bits(load(stopped, short_config, 80, 3)) == bits(load(workdir, short_config, 80, 3))

    # one of them alone: the same numbers, rounded otherwise
    short_config.run.seed = 6
    short_config.run.num_updates = 8
    train_here(short_config, tmp_path / "alone")
    for together, alone in zip(rows(workdir)[:2], rows(tmp_path / "alone"), strict=True):
        for name, value in alone.items():
            if name in together and name != "step":
                assert together[name][1] == pytest.approx(value, rel=1e-3, abs=1e-5), name


# Evaluation.


def test_evaluating_otherwise_does_not_change_training(finished, short_config, tmp_path, train_here, rows):
    short_config.run.evaluate_every = 4
    short_config.run.num_updates = 40
    train_here(short_config, tmp_path)

    def training(workdir):
        return [{k: v for k, v in row.items() if not k.startswith("evaluation/")} for row in rows(workdir)][:10]

    assert training(tmp_path) == training(finished[0])
    assert sum("evaluation/episode_return" in row for row in rows(tmp_path)) == 10


def test_evaluate_scores_the_checkpoint_that_is_asked_for(finished, rows, evaluate_here, files):
    workdir = finished[0]
    before = files(workdir)
    scores = {row["step"]: row["evaluation/episode_return"] for row in rows(workdir) if row["step"] in EVALUATED}
    best = whole_checkpoints(workdir)[0] if len(whole_checkpoints(workdir)) == 3 else max(scores, key=scores.get)
    for which, step in {"best": best, "last": 240, "240": 240}.items():
        # seed 0 has the keys that the run's own evaluation had
        printed = evaluate_here(workdir, which, seed=0)
        assert f"checkpoint update {step} of {workdir}" in printed
        assert f"result     episode_return {scores[step]:.2f}\n" in printed
    assert "update 232 of" in evaluate_here(workdir, "232")
    assert files(workdir) == before


def test_evaluate_names_the_checkpoints_that_there_are(finished, evaluate_here):
    known = ", ".join(map(str, whole_checkpoints(finished[0])))
    for wrong in ("7", "bst", "-1"):
        with pytest.raises(UserError, match=f"--checkpoint={wrong} is not there; use best, last or one of {known}"):
            evaluate_here(finished[0], wrong)


def test_evaluate_before_the_first_checkpoint_says_so(copy, evaluate_here):
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(UserError, match="has no checkpoint yet"):
        evaluate_here(copy)


def test_evaluate_refuses_a_corrupt_checkpoint_in_one_line(copy, programs, flip_a_byte):
    damage(copy, [240], flip_a_byte)
    done = programs.run("evaluate", f"--workdir={copy}", "--checkpoint=last")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert re.match("error: checkpoint .*checkpoints/240 is corrupt: ", line)


def test_evaluate_of_several_seeds_gives_their_interval(joint, evaluate_here):
    printed = evaluate_here(joint[0], "last")
    assert re.search(r"episode_return [\d.]+  \(interquartile mean of 3 seeds, 95 % interval [\d.]+ to", printed)


# The scores that the config promises.


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 5])
def test_ppo_solves_cartpole(programs, tmp_path, seeds):
    done = programs.run("train", "--config=configs/ppo_cartpole.py", f"--workdir={tmp_path}", f"--seeds={seeds}")
    assert (done.returncode, done.stderr) == (0, "")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert len(summary["evaluation"]["episode_return"]["per_seed"]) == seeds
    assert summary["evaluation"]["episode_return"]["interquartile_mean"] >= 475  # gymnasium's bar for a solved task
    config = json.loads((tmp_path / "config.json").read_text())["config"]["learner"]
    assert config["num_evaluation_episodes"] >= 100
    assert config["total_env_steps"] <= 500_000
