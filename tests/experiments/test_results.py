"""The results section: every figure stands in a record, and README.md holds what the records give."""

import json
import pathlib
import re

import pytest

from experiments import results
from experiments.benchmarking import tables
from experiments.configuration import provenance
from experiments.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
MACHINE = {"device": {"platform": "cpu", "kind": "cpu", "count": 1}, "host": {"processor": "p", "cores": 2}}
PEAKS = {"flops_per_second": 2e11, "bytes_per_second": 3e10}


def run_row(name="ppo_cartpole", seeds=1, score=500.0):
    evaluation = {"episode_return": {"interquartile_mean": score, "interval_95": [score - 1, score + 1]}}
    command = f"python -m experiments.train --config=configs/{name}.py"
    row = {"kind": "run", "name": name, "seeds": seeds, "evaluation": evaluation, "measures": {}, "command": command}
    return row | {"seconds": 4.04, "compile_seconds": 5.01} | MACHINE


def measurement(case, contestant, median, **changes):
    row = {"kind": "measurement", "suite": "ppo", "case": case, "contestant": contestant, "dtype": "float32", "size": 4}
    row |= {
        "unit": "env_steps",
        "work": 5,
        "seconds": [median],
        "median_seconds": median,
        "first_call_seconds": 9.0,
        "score": 450.0,
        "peaks": PEAKS,
    }
    row |= {"temporary_bytes": 2048, "resident_bytes": None, "command": "python -m experiments.benchmark --suite=ppo"}
    return row | MACHINE | changes


def test_a_run_is_a_line_with_its_score_times_device_and_command():
    (line,) = [line for line in tables.render([run_row()]).splitlines() if line.startswith("| PPO")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    command = "`--config=configs/ppo_cartpole.py`"
    assert cells == ["PPO on CartPole-v1", "return 500.00", "4.04 s + 5.01 s", "", "2 CPU cores", command]


def test_several_seeds_have_an_interval_and_the_last_record_counts():
    text = tables.render([run_row(seeds=8, score=1.0), run_row(seeds=8, score=480.0)])
    assert "| PPO on CartPole-v1, 8 seeds | return 480.00 (479.00 to 481.00) |" in text
    assert text.count("| PPO") == 1


def test_the_best_peer_is_the_quickest_that_was_right():
    case = "CartPole-v1, 4 envs"
    rows = [run_row(), measurement(case, "mathai", 1.0)]
    rows += [
        measurement(case, "slow", 3.0, ours_is_faster_by=[3.0]),
        measurement(case, "quick", 2.0, ours_is_faster_by=[2.0]),
    ]
    rows += [measurement(case, "wrong", 0.1, seconds=[])]
    assert "| 2.00 (2.00 to 2.00) times as fast as quick |" in tables.render(rows)
    assert "wrong" not in tables.render(rows)


def test_a_suite_is_a_table_with_a_column_for_each_peer():
    rows = [measurement("a", "mathai", 1.0), measurement("a", "peer", 2.0, ours_is_faster_by=[2.0], score=440.0)]
    text = tables.render(rows)
    assert "| a | 1.00 s | 9.00 s | 2.0 KiB | 2.00 s: 2.00 (2.00 to 2.00) times | 450, 440 |" in text
    assert "products reached 200 GFLOP/s and copies 30 GB/s (`python -m experiments.benchmark --suite=ppo`)" in text


def test_a_formula_is_one_line_with_its_gradient():
    rows = [measurement("tanh", "mathai", 1.0, suite="nn", score=7.0, unit="elements")]
    rows += [measurement("tanh", "jax.nn", 2.0, suite="nn", score=6.5, unit="elements", ours_is_faster_by=[2.0])]
    rows += [measurement("tanh, gradient", "jax.nn", 2.0, suite="nn", unit="elements", ours_is_faster_by=[0.5])]
    assert "| tanh | 7.0 | 6.5 jax.nn | 2.00 jax.nn | 0.50 jax.nn |" in tables.render(rows)


def test_another_machine_and_another_dtype_have_tables_of_their_own_and_no_say_in_each_others_ratios():
    case = "CartPole-v1, 4 envs"
    gpu = {"device": {"platform": "gpu", "kind": "H100", "count": 1}}
    rows = [run_row(), measurement(case, "mathai", 1.0), measurement(case, "peer", 2.0, ours_is_faster_by=[2.0])]
    rows += [measurement(case, "mathai", 0.1, **gpu), measurement(case, "peer", 3.0, ours_is_faster_by=[30.0], **gpu)]
    rows += [measurement(case, "mathai", 7.0, dtype="bfloat16")]
    text = tables.render(rows)
    assert "| 2.00 (2.00 to 2.00) times as fast as peer | 2 CPU cores |" in text
    assert [line.split(", whose")[0] for line in text.splitlines() if line.startswith("**PPO")] == [
        "**PPO, whole trainings**, on 2 CPU cores",
        "**PPO, whole trainings**, on H100",
        "**PPO, whole trainings** in bfloat16, on 2 CPU cores",
    ]
    assert text.count("1.00 s") == text.count("100 ms") == text.count("7.00 s") == 1


def test_more_steps_are_another_line():
    text = tables.render([measurement("a", "mathai", 1.0), measurement("a", "mathai", 5.0, work=25)])
    assert "| a | 1.00 s |" in text
    assert "| a | 5.00 s |" in text


def test_without_records_nothing_is_written(tmp_path):
    with pytest.raises(UserError, match="holds no record"):
        results.section(tmp_path)


def test_what_was_copied_is_said_to_be():
    row = {"kind": "transcribed", "name": "ppo_cartpole", "seeds": 64, "score": "return 500", "time": "12 s"}
    text = tables.render([row | {"machine": "NVIDIA H200", "command": "--config=x --seeds=64"}])
    assert "| PPO on CartPole-v1, 64 seeds † | return 500 | 12 s |  | NVIDIA H200 | `--config=x --seeds=64` |" in text
    assert "† copied from" in text


@pytest.fixture
def workdir(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    command = {"command": "python -m experiments.train --config=configs/mlp_digits.py --seeds=5"}
    (folder / "config.json").write_text(json.dumps({"config": {}, **provenance(), **command}))
    spent = {"updates": 8, "seconds": 1.5, "compile_seconds": 2.5}
    evaluation = {"accuracy": {"interquartile_mean": 0.98, "interval_95": [0.97, 0.99]}}
    summary = {"updates": 8, "seeds": 5, "problem": "digits", "evaluation": evaluation, "this_process": spent}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_a_finished_run_is_recorded(workdir):
    row = results.record(workdir)
    assert (row["kind"], row["name"], row["seeds"], row["seconds"]) == ("run", "mlp_digits", 5, 1.5)
    assert "| MLP on 8 × 8 digits, 5 seeds | test accuracy 0.98 (0.97 to 0.99) |" in tables.render([row])


def test_a_run_that_was_resumed_is_refused(workdir):
    path = workdir / "summary.json"
    path.write_text(path.read_text().replace('"updates": 8, "seconds"', '"updates": 4, "seconds"'))
    with pytest.raises(UserError, match=r"was resumed: its time is not known\. Run it anew"):
        results.record(workdir)


def test_only_the_text_between_the_marks_is_replaced():
    document = f"before\n{results.BEGIN}\nold\n{results.END}\nafter\n"
    assert results.replaced(document, "new") == f"before\n{results.BEGIN}\n\nnew\n\n{results.END}\nafter\n"
    with pytest.raises(UserError, match="lacks the marks"):
        results.replaced("before", "new")


def test_a_record_that_is_no_json_is_named(tmp_path):
    (tmp_path / "runs.jsonl").write_text('{"kind": "other"}\nbroken\n')
    with pytest.raises(UserError, match=r"runs\.jsonl, line 2 is no JSON"):
        results.section(tmp_path)


def test_the_readme_holds_what_its_records_give():
    readme = (ROOT / "README.md").read_text()
    assert results.replaced(readme, results.section(ROOT / "results")) == readme, "run `make results`"


def test_every_recorded_system_has_its_line_and_its_config():
    names = {path.stem for path in (ROOT / "configs").glob("*.py")} | {"truncation_bias"}
    assert {system.name for system in tables.SYSTEMS} <= names
    keys = [(system.name, system.seeds) for system in tables.SYSTEMS]
    assert len(set(keys)) == len(keys)
    recorded = [json.loads(line) for line in (ROOT / "results" / "runs.jsonl").read_text().splitlines()]
    recorded = [row for row in recorded if row["kind"] != "transcribed_peer"]
    assert {(row["name"], row["seeds"]) for row in recorded} <= set(keys)


def test_records_name_no_folder_of_a_machine():
    for path in (ROOT / "results").glob("*.jsonl"):
        for row in map(json.loads, path.read_text().splitlines()):
            assert not re.search(r"=[/~]", row.get("command", ""))
