"""Chunks reduced, NaN refused, and a log that a resumed run continues byte for byte."""

import json
import math

import numpy as np
import pytest

from experiments import metrics
from experiments.errors import UserError

NAN = float("nan")


def advice():
    return "do this."


@pytest.fixture
def log():
    """Open a log, write rows, close it."""

    def write(workdir, rows, resume_at=0):
        log = metrics.MetricsLog(workdir, resume_at)
        for row in rows:
            log.write(row, 1.0)
        log.close()
        return (workdir / "metrics.jsonl").read_bytes()

    return write


def test_floats_are_averaged_and_counters_keep_their_last_value():
    chunk = {"loss": np.float32([1.0, 2.0, 6.0]), "env_steps": np.int32([16, 32, 48])}
    assert metrics.reduce_chunk(chunk) == {"loss": 3.0, "env_steps": 48}


def test_every_seed_is_reduced_by_itself():
    chunk = {"loss": np.float32([[1.0, 3.0], [5.0, 7.0]]), "episodes": np.int32([[1, 2], [3, 4]])}
    assert metrics.reduce_chunk(chunk) == {"loss": [2.0, 6.0], "episodes": [2, 4]}


def test_means_are_taken_in_double_precision():
    # 2²⁴ + 1 is not a float32: a float32 sum would lose the ones
    assert metrics.reduce_chunk({"loss": np.float32([2.0**24, 1.0, 1.0, 2.0])}) == {"loss": (2.0**24 + 4) / 4}


def test_reduced_metrics_are_plain_numbers():
    reduced = metrics.reduce_chunk({"loss": np.float32([0.1]), "n": np.int64([3]), "on": np.array([True, False])})
    assert [type(value) for value in reduced.values()] == [float, int, float]
    json.dumps(reduced)


def test_finite_and_infinite_metrics_pass():
    metrics.check_not_nan({"loss": np.float32([1.0, np.inf]), "n": np.int32([1, 2])}, 1, advice)


def test_nan_names_the_metric_and_the_step():
    chunk = {"entropy": np.float32([0.6, 0.6, 0.6]), "value_loss": np.float32([1.0, NAN, NAN])}
    with pytest.raises(UserError, match=r"metric 'value_loss' is NaN at step 42; do this\."):
        metrics.check_not_nan(chunk, 41, advice)


def test_nan_names_the_first_of_several_metrics():
    chunk = {"a": np.float32([1.0, 1.0, NAN]), "b": np.float32([1.0, NAN, NAN])}
    with pytest.raises(UserError, match="'b' is NaN at step 2"):
        metrics.check_not_nan(chunk, 1, advice)


def test_nan_names_the_seed():
    with pytest.raises(UserError, match="'loss' of seed 1 is NaN at step 2"):
        metrics.check_not_nan({"loss": np.float32([[1.0, 1.0], [1.0, NAN]])}, 1, advice)


def test_nan_names_the_seed_that_failed_first():
    chunk = {"loss": np.float32([[1.0, 1.0, NAN], [NAN, NAN, NAN]])}
    with pytest.raises(UserError, match="'loss' of seed 1 is NaN at step 1"):
        metrics.check_not_nan(chunk, 1, advice)


def test_rows_are_json_lines(tmp_path, log, rows):
    written = [{"step": 4, "loss": 0.1, "n": 64}, {"step": 8, "loss": [0.2, 0.3], "n": [128, 128]}]
    log(tmp_path, written)
    assert rows(tmp_path) == written == metrics.read(tmp_path)


def test_a_workdir_without_metrics_has_no_rows(tmp_path):
    assert metrics.read(tmp_path) == []


def test_infinite_values_survive_as_strings(tmp_path, log):
    log(tmp_path, [{"step": 4, "loss": math.inf, "gain": [-math.inf, 1.0]}])
    text = (tmp_path / "metrics.jsonl").read_text()
    (row,) = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]  # `Infinity` is not JSON
    assert float(row["loss"]) == math.inf
    assert [float(value) for value in row["gain"]] == [-math.inf, 1.0]


def test_reopening_rewrites_the_same_bytes(tmp_path, log):
    numbers = [0.1, 1e-30, 1e300, 1 / 3, float(np.float32(0.1)), -0.0, 5.0]
    before = log(
        tmp_path, [{"step": 1 + k, "loss": x, "inf": [math.inf, x], "n": 2**40} for k, x in enumerate(numbers)]
    )
    assert log(tmp_path, [], resume_at=len(numbers)) == before


def test_resuming_drops_the_rows_beyond_the_checkpoint(tmp_path, log):
    rows = [{"step": step, "loss": 1.0 / step} for step in (4, 8, 12, 16)]
    whole = log(tmp_path, rows)
    assert log(tmp_path, rows[2:], resume_at=8) == whole


def test_a_line_that_was_cut_short_is_dropped(tmp_path, log):
    rows = [{"step": step, "loss": 1.0 / step} for step in (4, 8, 12)]
    whole = log(tmp_path, rows)
    path = tmp_path / "metrics.jsonl"
    for cut in (1, 2, len(whole.splitlines()[-1]) // 2):
        path.write_bytes(whole[:-cut])
        assert log(tmp_path, rows[2:], resume_at=8) == whole


def test_a_last_line_that_lacks_only_its_newline_is_kept_whole(tmp_path, log):
    whole = log(tmp_path, [{"step": 4, "loss": 0.5}])
    (tmp_path / "metrics.jsonl").write_bytes(whole.removesuffix(b"\n"))
    assert log(tmp_path, [{"step": 8, "loss": 0.5}], resume_at=4) == whole + whole.replace(b"4", b"8")


def test_flushed_rows_are_in_the_file(tmp_path):
    log = metrics.MetricsLog(tmp_path, 0)
    log.write({"step": 1, "loss": 2.0}, 1.0)
    log.flush()
    assert metrics.read(tmp_path) == [{"step": 1, "loss": 2.0}]
    log.close()


def test_tensorboard_gets_training_evaluation_and_speed(tmp_path, log):
    log(tmp_path, [{"step": 4, "loss": [1.0, 3.0], "evaluation/score": 2.0}])
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert all(tag in content for tag in (b"train/loss", b"evaluation/score", b"speed/updates_per_second"))


def test_without_events_only_the_rows_are_written(tmp_path):
    log = metrics.MetricsLog(tmp_path, 0, events=False)
    log.write({"step": 1, "loss": [2.0, math.nan]}, 1.0)
    log.close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert metrics.read(tmp_path) == [{"step": 1, "loss": [2.0, "nan"]}]


def test_what_json_cannot_hold_is_plain_within_lists_and_mappings():
    assert metrics.plain({"a": {"b": [math.inf, (1.0, -math.inf)]}, "c": True}) == {
        "a": {"b": ["inf", [1.0, "-inf"]]},
        "c": True,
    }
