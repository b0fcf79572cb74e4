"""The run loop on a learner that costs nothing: rows, evaluation, stops, NaN, seeds."""

import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import members, run_loop
from experiments.checkpoints import Checkpoints
from experiments.configuration import RUN_DEFAULTS
from experiments.errors import UserError
from experiments.tasks import Task

TARGET = jax.eval_shape(lambda: {"key": jax.random.key(0), "x": jnp.float32(0), "count": jnp.int32(0)})
SEEDS_TARGET = jax.eval_shape(
    lambda: {"key": jax.random.split(jax.random.key(0), 3), "x": jnp.zeros(3), "count": jnp.zeros(3, jnp.int32)}
)


def load(workdir, step, target=TARGET):
    checkpoints = Checkpoints(workdir, keep=2, best_mode="max", read_only=True)
    state = checkpoints.restore(step, target)
    checkpoints.close()
    return state


def saved_steps(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def whole(once, run_chaos):
    """A run that nothing interrupted: its folder, and how it ended."""
    return once("whole_chaos", run_chaos)


def test_a_row_per_chunk_and_the_last_one_short(whole, rows):
    folder, outcome = whole
    assert [row["step"] for row in rows(folder)] == [4, 8, 12, 16, 20, 24, 28, 30]
    assert [row["count"] for row in rows(folder)] == [4, 8, 12, 16, 20, 24, 28, 30]
    assert (outcome.step, outcome.finished, outcome.updates) == (30, True, 30)


def test_a_row_is_what_single_updates_give(whole, rows, chaotic):
    folder, _ = whole
    learner = chaotic()
    state, seen = learner.init(jax.random.key(0)), []
    for _ in range(4):  # the learner driven by hand
        state, metrics = learner.update(state)
        seen.append(float(metrics["loss"]))
    assert rows(folder)[0]["loss"] == pytest.approx(np.mean(seen), rel=1e-6)


def test_evaluation_comes_when_it_is_due_and_at_the_end(whole, rows):
    folder, outcome = whole
    evaluated = {row["step"]: row["evaluation/score"] for row in rows(folder) if "evaluation/score" in row}
    assert list(evaluated) == [8, 16, 24, 30]
    assert outcome.evaluation["score"] == np.float32(evaluated[30])


def test_without_intervals_only_the_end_is_evaluated_and_saved(tmp_path, run_chaos, rows):
    run_chaos(tmp_path, evaluate_every=0, checkpoint_every=0)
    assert [row["step"] for row in rows(tmp_path) if "evaluation/score" in row] == [30]
    assert saved_steps(tmp_path) == [30]


def test_the_last_checkpoints_and_the_best_are_kept(whole, rows):
    folder, _ = whole
    scores = {row["step"]: row["evaluation/score"] for row in rows(folder) if "evaluation/score" in row}
    assert saved_steps(folder) == sorted({max(scores, key=scores.get), 24, 30})


def test_evaluating_more_often_does_not_change_training(tmp_path, run_chaos, whole, rows, bits):
    run_chaos(tmp_path, evaluate_every=4)

    def training(folder):
        return [{name: row[name] for name in ("step", "loss", "count")} for row in rows(folder)]

    assert training(tmp_path) == training(whole[0])
    assert bits(load(tmp_path, 30)) == bits(load(whole[0], 30))


def test_evaluation_keys_are_those_of_step_seed_and_place_and_of_no_training():
    one, three = (members.of_seeds(5, num_seeds) for num_seeds in (None, 3))
    keys = [members.evaluation_keys(one, step, seed) for step in (8, 16) for seed in (0, 1)]
    keys += [one.keys, *jax.random.split(one.keys, 3)]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == len(keys)
    together = members.evaluation_keys(three, 8)
    np.testing.assert_array_equal(jax.random.key_data(together[0]), jax.random.key_data(keys[0]))
    assert len(np.unique(jax.random.key_data(together), axis=0)) == 3


def test_seeds_are_the_first_one_and_those_after_it():
    together = members.of_seeds(5, 3).keys
    expected = [jax.random.key_data(jax.random.key(seed)) for seed in (5, 6, 7)]
    np.testing.assert_array_equal(jax.random.key_data(together), expected)


@pytest.mark.parametrize("step", [4, 8, 12, 16, 28, 30])
def test_a_run_that_was_stopped_ends_with_the_same_bits(tmp_path, run_chaos, whole, bits, signal_at, step, capsys):
    # at 8 and 16 the signal comes while the checkpoint of that very step is about to be saved
    signal_at(step)
    first = run_chaos(tmp_path)
    assert first.step in (step, step + 4, 30)
    assert first.finished == (first.step == 30)
    assert saved_steps(tmp_path)[-1] == first.step
    signal_at(None)
    second = run_chaos(tmp_path)
    assert f"from the checkpoint of update {first.step}" in capsys.readouterr().out
    assert (second.step, second.finished, second.updates) == (30, True, 30 - first.step)
    assert second.evaluation == whole[1].evaluation
    assert (tmp_path / "metrics.jsonl").read_bytes() == (whole[0] / "metrics.jsonl").read_bytes()
    assert bits(load(tmp_path, 30)) == bits(load(whole[0], 30))


def test_a_run_stopped_at_every_chunk_ends_with_the_same_bits(tmp_path, run_chaos, whole, bits, monkeypatch):
    class Impatient:
        def __init__(self):
            self.times = 0

        @property
        def asked(self):
            self.times += 1
            return self.times > 1

        def release(self):
            pass

    monkeypatch.setattr(run_loop, "StopSignal", Impatient)
    steps = [run_chaos(tmp_path).step for _ in range(8)]
    assert steps == [4, 8, 12, 16, 20, 24, 28, 30]
    assert (tmp_path / "metrics.jsonl").read_bytes() == (whole[0] / "metrics.jsonl").read_bytes()
    assert bits(load(tmp_path, 30)) == bits(load(whole[0], 30))


def test_a_second_signal_stops_at_once(tmp_path, run_chaos, signal_at):
    signal_at(12, signal.SIGINT, times=2)
    with pytest.raises(KeyboardInterrupt):
        run_chaos(tmp_path)
    assert saved_steps(tmp_path) == [8]


def test_a_finished_run_is_not_run_again(tmp_path, whole, run_chaos, files):
    folder, outcome = shutil.copytree(whole[0], tmp_path / "copy"), whole[1]
    before = {path: content for path, content in files(folder).items() if path.parts[0] != "tensorboard"}
    again = run_chaos(folder)
    assert (again.step, again.finished, again.updates) == (30, True, 0)
    assert again.evaluation == outcome.evaluation
    assert {path: content for path, content in files(folder).items() if path.parts[0] != "tensorboard"} == before


def test_three_seeds_give_lists_and_each_its_own_run(tmp_path, run_chaos, rows):
    run_chaos(tmp_path, 3)
    for row in rows(tmp_path):
        assert all(len(value) == 3 for name, value in row.items() if name != "step")
    for seed in range(3):
        alone = tmp_path / str(seed)
        alone.mkdir()
        run_chaos(alone, seed=seed)
        # the map triples an error in each update: rounding may show after a dozen of them
        assert rows(tmp_path)[0]["loss"][seed] == pytest.approx(rows(alone)[0]["loss"], rel=1e-5)


def test_several_seeds_resume_too(tmp_path, run_chaos, signal_at, bits):
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    run_chaos(tmp_path / "whole", 3)
    signal_at(12)
    assert not run_chaos(tmp_path / "stopped", 3).finished
    signal_at(None)
    assert run_chaos(tmp_path / "stopped", 3).finished
    whole, stopped = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "stopped"))
    assert stopped == whole
    states = [load(tmp_path / name, 30, SEEDS_TARGET) for name in ("whole", "stopped")]
    assert bits(states[0]) == bits(states[1])


def test_nan_stops_the_run_and_the_last_good_checkpoint_stays(tmp_path, run_chaos, rows):
    for _ in range(2):  # what is resumed fails in the same way, and loses nothing either
        with pytest.raises(
            UserError, match=r"metric 'loss' is NaN at step 19; the last good checkpoint is update 16\."
        ):
            run_chaos(tmp_path, nan_metric_at=19)
        assert saved_steps(tmp_path)[-1] == 16
        state = load(tmp_path, 16)
        assert (state["count"], np.isfinite(state["x"])) == (16, True)
        assert [row["step"] for row in rows(tmp_path)] == [4, 8, 12, 16]


def test_nan_before_any_checkpoint_says_so(tmp_path, run_chaos):
    with pytest.raises(UserError, match=r"'loss' is NaN at step 3; no checkpoint had been saved yet"):
        run_chaos(tmp_path, nan_metric_at=3)
    assert saved_steps(tmp_path) == []


def test_nan_in_an_evaluation_is_named(tmp_path, run_chaos):
    with pytest.raises(UserError, match=r"'evaluation/score' is NaN at step 16; .* update 8"):
        run_chaos(tmp_path, nan_state_at=16)
    assert saved_steps(tmp_path) == [8]


def test_a_state_that_is_nan_before_any_metric_shows_it_is_not_saved(tmp_path, run_chaos):
    # x becomes NaN in update 16, and the loss, which is the x before, only in update 17
    with pytest.raises(UserError, match=r"NaN at step 1[67].*the last good checkpoint is update 8"):
        run_chaos(tmp_path, nan_state_at=16, evaluate_every=0)
    assert saved_steps(tmp_path)[-1] == 8


def test_a_profile_of_the_first_chunk_is_written(tmp_path, run_chaos, whole):
    run_chaos(tmp_path, profile=True)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert (tmp_path / "metrics.jsonl").read_bytes() == (whole[0] / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"updates_per_chunk": 0}, "updates_per_chunk is 0; it must be at least 1"),
        ({"evaluate_every": 6}, "evaluate_every is 6; .* multiple of config.run.updates_per_chunk = 4"),
        ({"checkpoint_every": -4}, "checkpoint_every is -4"),
        ({"keep_checkpoints": 0}, "keep_checkpoints is 0; it must be at least 1"),
        ({"best_mode": "most"}, "best_mode is 'most'; it must be 'max' or 'min'"),
        ({"best_metric": "scor"}, r"best_metric is 'scor' \(did you mean 'score'\?\); evaluation gives score"),
    ],
)
def test_a_run_that_could_not_end_well_does_not_begin(chaotic, change, message):
    good = RUN_DEFAULTS | {"updates_per_chunk": 4, "best_metric": "score"}
    run_loop.validate(Task(chaotic(), 8), ConfigDict(good))
    with pytest.raises(UserError, match=message):
        run_loop.validate(Task(chaotic(), 8), ConfigDict(good | change))
