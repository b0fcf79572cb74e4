"""The program `sweep`: points equal to single runs bit for bit, blocks, what diverges, stops and kills, the report.

Most run the logistic map x ← r x (1 − x), in which a wrong bit soon shows, as a learner with hyperparameters.
"""

import itertools
import json
import math
import os
import re
import shlex
import signal
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import configuration, metrics, run_loop, sweep, tasks
from experiments.configuration import RUN_DEFAULTS
from experiments.errors import UserError
from experiments.sweeping import blocks, outcomes, runs, search_space
from experiments.tasks import Task
from mathai.learners.base import Learner, hyperparameters
from tests.experiments.conftest import ALONE, own_handlers

RATES = (3.6, 3.75, 3.9, 4.0)
OVER = ("learner.rate=3.6,3.75,3.9,4", "learner.shift=0,0.01")
TRACES = []


@hyperparameters
class Config:
    """Of the map: r, what evaluation adds, at which count x becomes NaN, and iterations in an update.

    `shift` is refused above 1 by the formula of the update, and below 0 by that of evaluation.
    """

    rate: float = 3.9
    shift: float = 0.0
    nan_at: float = math.inf
    repeats: int = 1


def make(config):
    def check(name, is_right, rule):
        value = getattr(config, name)
        if not isinstance(value, jax.core.Tracer) and not is_right(value):
            raise ValueError(f"{name} is {value}; it must be {rule}.")

    check("rate", lambda rate: rate >= 0, "at least 0")

    def init(key):
        x = jnp.float32(0.1) + (jax.random.key_data(key)[1] % 7) / jnp.float32(10)
        return {"key": key, "x": x, "count": jnp.int32(0)}

    def update(state, batch=None):
        TRACES.append(config)
        check("shift", lambda shift: not 1 < shift < math.inf, "at most 1")
        x, count = state["x"], state["count"] + 1
        for _ in range(config.repeats):
            x = config.rate * x * (1.0 - x)
        x = jnp.where(count >= config.nan_at, jnp.nan, x)
        return {"key": state["key"], "x": x, "count": count}, {"loss": x, "count": count}

    def evaluate(key, state):
        check("shift", lambda shift: shift >= 0, "at least 0")
        noise = (jax.random.key_data(key)[0] % 1000) / jnp.float32(1000)
        return {"score": state["x"] + noise + config.shift, "x": state["x"]}

    return Learner(init, update, evaluate)


@pytest.fixture(scope="module")
def small():
    """30 updates in chunks of 4, evaluated and saved every 8."""
    run = {
        "best_metric": "score",
        "updates_per_chunk": 4,
        "evaluate_every": 8,
        "checkpoint_every": 8,
        "num_updates": 30,
    }
    learner = {"rate": 3.9, "shift": 0.0, "nan_at": math.inf, "repeats": 1}
    return ConfigDict({"algorithm": "chaos", "learner": learner, "run": RUN_DEFAULTS | run})


@pytest.fixture(scope="module", autouse=True)
def chaos_is_a_learner():
    """A module of learners that the package does not have."""
    patch, module = pytest.MonkeyPatch(), types.SimpleNamespace(Config=Config, make=make)
    for where in (configuration, tasks, search_space):
        patch.setattr(where, "learner_module", lambda name: module)

    def make_task(config, module, hyperparameters):
        return Task(make(hyperparameters), 30, problem="the map", hyperparameters=hyperparameters, make=make)

    patch.setattr(tasks, "_builder", lambda config: make_task)
    yield
    patch.undo()


@pytest.fixture
def sweep_here(monkeypatch, capsys):
    """Call the program in this process; returns what it printed."""

    def call(config, workdir, *over, given=None, **changes):
        values = {"points": None, "search_seed": 0, "seeds": 2, "overwrite": False, "platform": "any"} | changes
        values = {"memory_gib": None} | values
        given_flags = types.SimpleNamespace(config=config, over=list(over), workdir=str(workdir), **ALONE, **values)
        monkeypatch.setattr(sweep, "FLAGS", given_flags)
        monkeypatch.setattr(sweep, "_given", lambda: ("configs/chaos.py", given or {}))
        with own_handlers():
            sweep.main([])
        return capsys.readouterr().out

    return call


@pytest.fixture
def room_for(monkeypatch):
    """Let every member need 1000 bytes, and so many of them fit."""

    def arrange(number):
        monkeypatch.setattr(blocks, "memory", lambda *rest: blocks.Memory(1000.0 * number, "a test's"))
        monkeypatch.setattr(blocks, "needed", lambda programs, task, run, members, place: 1000.0 * len(members.keys))

    return arrange


def read(workdir):
    """The rows of `sweep.jsonl`, by JSON alone."""
    return [json.loads(line) for line in (workdir / "sweep.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, small):
    """Eight points, two seeds of each, in one program that nothing interrupted: its workdir."""
    patch, folder = pytest.MonkeyPatch(), tmp_path_factory.mktemp("whole") / "sweep"
    flags = {"points": None, "search_seed": 0, "seeds": 2, "overwrite": False, "platform": "any", "memory_gib": None}
    given_flags = types.SimpleNamespace(config=small, over=list(OVER), workdir=str(folder), **ALONE, **flags)
    patch.setattr(sweep, "FLAGS", given_flags)
    patch.setattr(sweep, "_given", lambda: ("configs/chaos.py", {}))
    with own_handlers():
        sweep.main([])
    patch.undo()
    return folder


# Points and single runs


def test_a_point_is_the_run_of_its_hyperparameters_and_seed_bit_for_bit(whole, small, tmp_path, rows):
    found = {(row["point"]["learner.rate"], row["point"]["learner.shift"]): row for row in read(whole)}
    (log,) = whole.glob("sweep_blocks/*/metrics.jsonl")
    losses = [json.loads(line)["loss"] for line in log.read_text().splitlines()]
    for place, (rate, shift, seed) in enumerate(itertools.product(RATES, (0.0, 0.01), (0, 1))):
        if shift == 0.01 and rate != 3.9:
            continue  # one of these will do
        folder = tmp_path / f"{rate}_{shift}_{seed}"
        folder.mkdir()
        with own_handlers():
            run = ConfigDict({**small.run, "seed": seed})
            alone = run_loop.run(Task(make(Config(rate=rate, shift=shift)), 30), run, folder, None)
        for name in ("score", "x"):
            assert found[rate, shift]["evaluation"][name]["per_seed"][seed] == float(alone.evaluation[name])
        assert [row["loss"] for row in rows(folder)] == [loss[place] for loss in losses]


def test_rows_hold_points_seeds_scores_and_how_long(whole):
    found = read(whole)
    expected = [{"learner.rate": rate, "learner.shift": shift} for rate in RATES for shift in (0.0, 0.01)]
    assert [row["point"] for row in found] == expected
    for row in found:
        score = row["evaluation"]["score"]
        assert (row["seeds"], row["updates"], row["diverged"], row["group"]) == ([0, 1], 30, 0, 0)
        assert row["score"] == pytest.approx(np.mean(score["per_seed"]))  # two are too few to cut any
        assert row["interval_95"] == [min(score["per_seed"]), max(score["per_seed"])]
        assert row["worst"] == min(score["per_seed"])


def test_a_workdir_holds_what_was_found_and_the_learning_curves(whole):
    assert {path.name for path in whole.iterdir()} == {
        *("config.json", "summary.json", "sweep.jsonl", "sweep.png", "sweep_blocks", ".lock")
    }
    (block,) = (path for path in (whole / "sweep_blocks").iterdir() if path.is_dir())
    assert {path.name for path in block.iterdir()} == {"metrics.jsonl", "result.json"}
    result = json.loads((block / "result.json").read_text())
    assert result["members"] == list(range(16))
    assert {"versions", "device", "git", "seconds", "compile_seconds"} <= set(result)
    summary = json.loads((whole / "summary.json").read_text())
    assert (summary["points"], summary["seeds"], summary["problem"]) == (8, 2, "the map")
    assert summary["best"] == max(read(whole), key=lambda row: row["score"])


# Programs, groups and blocks


def test_a_group_is_compiled_once_and_a_choice_makes_a_group(tmp_path, small, sweep_here, room_for, monkeypatch):
    room_for(3)
    traced = []
    keep = outcomes.write_rows
    monkeypatch.setattr(outcomes, "write_rows", lambda *rest: (traced.append(len(TRACES)), keep(*rest))[1])
    printed = sweep_here(small, tmp_path, "learner.rate=3.6,3.7,3.8,3.9", "learner.repeats=1,2")
    assert "16 runs in 2 groups: learner.repeats take a program for each value" in printed
    # groups of 8 runs in 3 blocks each; nothing is traced after the first one of a group
    assert traced[0] == traced[1] == traced[2] < traced[3] == traced[4] == traced[5]
    assert [row["group"] for row in read(tmp_path)] == [0, 1, 0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(("room", "sizes"), [(6, [6, 6, 4]), (15, [8, 8])])
def test_blocks_are_equal_the_fewest_that_fit_and_change_no_bit(
    tmp_path, small, whole, sweep_here, room_for, room, sizes
):
    room_for(room)
    printed = sweep_here(small, tmp_path, *OVER)
    assert (tmp_path / "sweep.jsonl").read_bytes() == (whole / "sweep.jsonl").read_bytes()
    found = [json.loads(path.read_text())["members"] for path in (tmp_path / "sweep_blocks").glob("*/result.json")]
    assert sorted(map(len, found)) == sorted(sizes)
    assert sorted(itertools.chain(*found)) == list(range(16))
    assert f"{len(sizes)} blocks of {sizes[0]} runs; a block takes" in printed
    # every program has the same shapes: the last block is filled with what is thrown away
    for log in (tmp_path / "sweep_blocks").glob("*/metrics.jsonl"):
        assert len(json.loads(log.read_text().splitlines()[0])["loss"]) == sizes[0]


def test_a_row_is_computed_once_however_many_blocks_follow(tmp_path, small, whole, sweep_here, room_for, monkeypatch):
    computed, original = [], outcomes.bootstrap_interval
    monkeypatch.setattr(outcomes, "bootstrap_interval", lambda scores: (computed.append(1), original(scores))[1])
    room_for(2)
    sweep_here(small, tmp_path, *OVER)
    assert len(list(tmp_path.glob("sweep_blocks/*/result.json"))) == len(computed) == 8
    assert (tmp_path / "sweep.jsonl").read_bytes() == (whole / "sweep.jsonl").read_bytes()


def test_one_run_that_does_not_seem_to_fit_is_tried_all_the_same(tmp_path, small, sweep_here):
    printed = sweep_here(small, tmp_path, "learner.rate=3.6,3.9", seeds=1, memory_gib=1e-9)
    assert "2 blocks of 1 run; a block takes 0.0 MiB of 0.0 MiB, the limit of --memory_gib" in printed
    assert "warning    even one run on each device seems to need more memory than that; trying it" in printed
    assert len(read(tmp_path)) == 2


@pytest.mark.parametrize(
    ("num_members", "most", "num_devices", "size"),
    [(10, 100, 1, 10), (10, 4, 1, 4), (10, 4, 2, 4), (10, 5, 2, 4), (7, 100, 2, 8), (1, 5, 2, 1), (3, 1, 2, 2)],
)
def test_blocks_fill_the_devices(monkeypatch, num_members, most, num_devices, size):
    monkeypatch.setattr(jax, "local_device_count", lambda: num_devices)
    assert blocks.cut(num_members, most) == size
    assert size % min(num_devices, num_members) == 0


def test_a_state_of_known_size_is_counted(small):
    # a key of 8 bytes, a float and a count; two metrics of 4 bytes
    shapes = run_loop.validate(Task(make(Config()), 30), small.run)
    assert blocks.size_of(shapes[0]) == 16
    assert blocks.first_guess(100, shapes, Task(make(Config()), 30), 4, 20 * (3 * 16 + 2 * 4 * 8)) == 20


def test_what_the_user_allows_the_device_has_or_the_host_has_free(monkeypatch):
    assert blocks.memory(2.0).bytes == 2 * 2**30
    monkeypatch.setattr(blocks, "_free_ram", lambda: 1e9)
    assert blocks.memory(None).bytes == 0.5e9
    device = types.SimpleNamespace(memory_stats=lambda: {"bytes_limit": 1e10})
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [device, device])
    assert blocks.memory(None).bytes == 0.8e10
    assert blocks.memory(None, 1e9).bytes == 0.7e10  # data of other groups lies there
    assert blocks.memory(2.0).bytes == 2 * 2**30  # of each


# What diverges


@pytest.mark.parametrize(("mode", "worst"), [("max", "-inf"), ("min", "inf")])
def test_a_point_that_diverges_is_recorded_as_the_worst_and_the_others_finish(tmp_path, small, sweep_here, mode, worst):
    config = small.copy_and_resolve_references()
    config.run.best_mode = mode
    printed = sweep_here(config, tmp_path, "learner.nan_at=inf,19,30")
    good, *bad = read(tmp_path)
    assert (good["diverged"], [row["diverged"] for row in bad]) == (0, [2, 2])
    assert math.isfinite(good["score"])
    assert [(row["score"], row["interval_95"], row["worst"]) for row in bad] == [(worst, [worst] * 2, worst)] * 2
    assert bad[0]["evaluation"]["score"]["per_seed"] == ["nan", "nan"]
    lines = printed.splitlines()
    table = next(index for index, line in enumerate(lines) if line.split()[:1] == ["nan_at"])
    assert [line.split()[0] for line in lines[table + 1 : table + 4]] == ["inf", "19", "30"]
    assert [line.split()[-1] for line in lines[table + 1 : table + 4]] == ["-", "2", "2"]
    assert "--config.learner.nan_at=inf" in printed
    json.loads((tmp_path / "summary.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_where_all_diverge_there_is_no_best(tmp_path, small, sweep_here):
    printed = sweep_here(small, tmp_path, "learner.nan_at=3,4")
    assert "best       none: so many seeds of every point diverged" in printed
    assert "experiments.train" not in printed


def test_an_infinite_score_is_one_that_diverged(tmp_path, small, sweep_here):
    # beside a seed with NaN, which counts as -inf, a mean with +inf would be NaN; the same holds for one seed
    sweep_here(small, tmp_path, "learner.shift=0,inf")
    good, bad = read(tmp_path)
    assert (good["diverged"], bad["diverged"]) == (0, 2)
    assert (bad["score"], bad["interval_95"], bad["worst"]) == ("-inf", ["-inf", "-inf"], "-inf")
    assert bad["evaluation"]["score"]["per_seed"] == ["inf", "inf"]
    assert json.loads((tmp_path / "summary.json").read_text())["best"]["point"] == {"learner.shift": 0.0}


def test_a_nan_that_shows_only_in_a_metric_counts(tmp_path):
    found = outcomes.is_nan({"step": 4, "loss": [1.0, "nan", "inf"], "count": [1, 2, 3]}, 3)
    assert found.tolist() == [False, True, False]


# What ends a sweep, and what resumes it


@pytest.fixture
def signal_at_row(monkeypatch):
    """Send this process a signal after so many rows of metrics."""

    def arrange(number):
        written, original = [], metrics.MetricsLog.write

        def write(log, row, speed):
            original(log, row, speed)
            written.append(row)
            if len(written) == number:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(metrics.MetricsLog, "write", write)

    return arrange


# a block of 8 of 16 runs has 8 rows: in the first block, at its end, in the middle of the second
@pytest.mark.parametrize("row", [3, 8, 13])
def test_an_interrupted_sweep_ends_with_the_same_bytes(
    tmp_path, small, whole, sweep_here, room_for, signal_at_row, row
):
    room_for(8)
    signal_at_row(row)
    printed = sweep_here(small, tmp_path, *OVER)
    left = 16 if row < 8 else 8
    assert f"stopped    with {left} runs to finish; the same command resumes" in printed
    assert not (tmp_path / "summary.json").exists()
    printed = sweep_here(small, tmp_path, *OVER)
    assert ("from the checkpoint of update" in printed) == (row != 8)
    assert (tmp_path / "sweep.jsonl").read_bytes() == (whole / "sweep.jsonl").read_bytes()
    assert not list(tmp_path.rglob("checkpoints"))


@pytest.mark.parametrize("place", ["result", "rows", "removal"])
def test_a_kill_at_the_end_of_a_block_loses_and_repeats_nothing(
    tmp_path, small, whole, sweep_here, room_for, monkeypatch, place
):
    def kill(*rest, **options):
        raise KeyboardInterrupt

    room_for(8)
    with monkeypatch.context() as patch:
        if place == "result":
            write = runs.write_json
            patch.setattr(runs, "write_json", lambda path, v: kill() if path.stem == "result" else write(path, v))
        elif place == "rows":
            patch.setattr(outcomes, "write_rows", kill)
        else:
            patch.setattr(runs.shutil, "rmtree", kill)
        with pytest.raises(KeyboardInterrupt):
            sweep_here(small, tmp_path, *OVER)
    assert len(list(tmp_path.glob("sweep_blocks/*/checkpoints"))) == 1
    sweep_here(small, tmp_path, *OVER)
    assert (tmp_path / "sweep.jsonl").read_bytes() == (whole / "sweep.jsonl").read_bytes()
    assert not list(tmp_path.rglob("checkpoints"))


def test_other_blocks_after_a_stop_repeat_no_run_that_is_finished(
    tmp_path, small, whole, sweep_here, room_for, signal_at_row
):
    room_for(8)
    signal_at_row(9)
    sweep_here(small, tmp_path, *OVER)
    room_for(3)
    printed = sweep_here(small, tmp_path, *OVER, memory_gib=1.0)
    assert "group      1 of 1: 8 runs" in printed
    assert "3 blocks of 3 runs" in printed
    assert (tmp_path / "sweep.jsonl").read_bytes() == (whole / "sweep.jsonl").read_bytes()
    assert len(list((tmp_path / "sweep_blocks").glob("group*_run*"))) == 4  # what was begun otherwise is gone


def test_a_finished_sweep_is_not_run_again(tmp_path, small, sweep_here, files):
    first = sweep_here(small, tmp_path, "learner.rate=3.6,3.9")
    before = files(tmp_path)
    (tmp_path / "sweep.png").unlink()
    again = sweep_here(small, tmp_path, "learner.rate=3.6,3.9")
    assert files(tmp_path) == before
    assert "compile" not in again
    assert first.splitlines()[-6:] == again.splitlines()[-6:]  # table, times, best and command


@pytest.mark.parametrize(
    ("over", "flags", "message"),
    [
        (
            ("learner.rate=3.6,3.8", OVER[1]),
            {},
            r"over.learner.rate is \[3.6, 3.8\], was \[3.6, 3.75, 3.9, 4.0\]\. Choose",
        ),
        (OVER, {"seeds": 3}, r"config: seeds is 3, was 2\. Choose"),
        (OVER, {"points": 2}, r"points is 2, was None; search_seed is 0, was None\."),
        (OVER[:1], {}, r"over.learner.shift is None, was \[0.0, 0.01\]; over_order is \['learner.rate'\], was"),
        # results are numbered by the points, and those by the order of the fields
        (
            OVER[::-1],
            {},
            r"over_order is \['learner.shift', 'learner.rate'\], was \['learner.rate', 'learner.shift'\]\.",
        ),
    ],
    ids=["values", "seeds", "points", "fields", "order"],
)
def test_another_sweep_in_the_workdir_is_refused_by_its_differences(
    whole, small, sweep_here, files, over, flags, message
):
    before = files(whole)
    with pytest.raises(UserError, match=message):
        sweep_here(small, whole, *over, **flags)
    assert files(whole) == before


def test_overwrite_starts_anew_and_leaves_what_is_not_ours(tmp_path, small, sweep_here):
    sweep_here(small, tmp_path, "learner.rate=3.6,3.9")
    (tmp_path / "notes.txt").write_text("mine")
    sweep_here(small, tmp_path, "learner.shift=0", seeds=1, overwrite=True)
    assert [(row["point"], row["seeds"]) for row in read(tmp_path)] == [({"learner.shift": 0.0}, [0])]
    assert len(list(tmp_path.glob("sweep_blocks/*/result.json"))) == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("over", "flags", "message"),
    [
        ("learner.rate=3.9,-1", {}, r"at learner.rate=-1.0: rate is -1.0; it must be at least 0"),
        ("learner.shift=0,0.5,2", {}, r"at learner.shift=2.0: shift is 2.0; it must be at most 1"),
        ("learner.shift=0,0.5,-1", {}, r"at learner.shift=-1.0: shift is -1.0; it must be at least 0"),
        ("learner.shift=uniform:0.5..1.1", {"points": 40}, r"at learner.shift=1\.\d*: shift .* at most 1"),
        ("run.evaluate_every=8,6", {}, r"at run.evaluate_every=6: config.run.evaluate_every is 6; it must be 0"),
        ("learner.rat=1", {}, "did you mean 'learner.rate'"),
        ("learner.rate=1", {"memory_gib": 0.0}, "--memory_gib=0; it must be above 0"),
    ],
    ids=["a float of a point", "in an update", "in evaluation", "of many points", "a group", "a field", "memory"],
)
def test_a_mistake_in_any_point_ends_the_sweep_before_anything_is_written(
    tmp_path, small, sweep_here, over, flags, message
):
    with pytest.raises(UserError, match=message):
        sweep_here(small, tmp_path / "sweep", over, **flags)
    assert not (tmp_path / "sweep").exists()


def test_every_value_of_a_float_is_traced_once_and_not_every_point(small):
    def traced(*texts, num=None):
        points = search_space.points_of(search_space.read(small, texts), num, 0)
        search = outcomes.Search(points, search_space.groups_of(small, points), 1, 0, "score", "max")
        TRACES.clear()
        runs.Tasks(small, search, search.groups)
        return [(config.rate, config.shift) for config in TRACES], [tuple(point.values()) for point in points]

    found, _ = traced(*OVER, "learner.nan_at=20,30,inf")  # of 4 x 2 x 3 points, all with the first value or but one
    assert len(found) == 1 + (4 - 1) + (2 - 1) + (3 - 1)
    assert {rate for rate, _ in found} == set(RATES)
    assert {shift for _, shift in found} == {0.0, 0.01}
    found, points = traced("learner.rate=uniform:3..4", "learner.shift=uniform:0..1", num=50)
    assert len(found) <= 1 + 4
    assert {*found} <= {*points}
    for drawn, place in ((found, 0), (found, 1)):
        values = [point[place] for point in points]
        assert {min(values), max(values)} <= {point[place] for point in drawn}


def test_a_mistake_of_the_config_itself_is_not_blamed_on_a_point(tmp_path, small, sweep_here):
    config = small.copy_and_resolve_references()
    config.run.checkpoint_every = 7
    with pytest.raises(UserError, match=r"^config.run.checkpoint_every is 7; it must be 0"):
        sweep_here(config, tmp_path, "learner.rate=3.6,3.9")
    sweep_here(config, tmp_path, "run.checkpoint_every=8", "learner.rate=3.6")  # which no point has


@pytest.mark.parametrize(("where", "name"), [(blocks, "needed"), (runs, "run_members")])
def test_what_does_not_fit_says_what_to_do(tmp_path, small, sweep_here, monkeypatch, where, name):
    def exhaust(*rest, **options):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8589934592 bytes.")

    monkeypatch.setattr(where, name, exhaust)
    with pytest.raises(
        UserError, match=r"^4 runs at a time do not fit .* with a lower --memory_gib goes on with fewer"
    ):
        sweep_here(small, tmp_path, "learner.rate=3.6,3.9")


# The report


def test_the_table_goes_from_best_to_worst_and_the_command_trains_the_best(tmp_path, small, sweep_here):
    printed = sweep_here(small, tmp_path, *OVER, given={"run.num_updates": 30, "learner.rate": 1.0}).splitlines()
    head = next(index for index, line in enumerate(printed) if line.split()[:1] == ["rate"])
    assert re.split(r"\s{2,}", printed[head].strip()) == [
        *("rate", "shift", "score", "95 % interval", "worst seed", "diverged")
    ]
    shown = [line.split()[:3] for line in printed[head + 1 : head + 9]]
    found = sorted(read(tmp_path), key=lambda row: -row["score"])
    assert [float(line[2]) for line in shown] == [float(f"{row['score']:.4g}") for row in found]
    assert [(float(line[0]), float(line[1])) for line in shown] == [tuple(row["point"].values()) for row in found]
    best = found[0]["point"]
    words = shlex.split(next(line for line in printed if line.startswith("python -m experiments.train")))
    assert words[2:] == [
        *("experiments.train", "--config=configs/chaos.py", "--config.run.num_updates=30"),
        *(f"--config.learner.rate={best['learner.rate']}", f"--config.learner.shift={best['learner.shift']}"),
        *("--seeds=2", "--workdir=runs/best"),
    ]
    assert any(re.fullmatch(r"done +16 runs in \d+\.\d s, and \d+\.\d s of compilation", line) for line in printed)


def test_a_long_table_is_cut_and_says_how_much_is_missing():
    points = [{"learner.rate": float(k)} for k in range(40)]
    search = outcomes.Search(points, [], 1, 0, "score", "max")
    row = {"score": 1.0, "interval_95": [1.0, 1.0], "worst": 1.0, "diverged": 0}
    lines = outcomes.table(search, [{"point": point, **row} for point in points])
    assert len(lines) == 1 + 30 + 1
    assert lines[0].split() == ["rate", "score", "diverged"]  # one seed has no interval
    assert lines[-1] == "and 10 more points, in sweep.jsonl"


def test_values_that_four_digits_do_not_tell_apart_have_more():
    points = [{"learner.discount": value, "learner.rate": 0.001} for value in (0.99999, 0.999995, 0.9)]
    search = outcomes.Search(points, [], 1, 0, "score", "max")
    row = {"score": 1.0, "interval_95": [1.0, 1.0], "worst": 1.0, "diverged": 0}
    lines = outcomes.table(search, [{"point": point, **row} for point in points])
    assert [line.split()[:2] for line in lines[1:]] == [["0.99999", "0.001"], ["0.999995", "0.001"], ["0.9", "0.001"]]


def test_what_was_found_is_said_before_anything_is_drawn(tmp_path, small, sweep_here, monkeypatch, capsys):
    monkeypatch.setattr(sweep.pictures, "draw", lambda *rest: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sweep_here(small, tmp_path, "learner.rate=3.6,3.9")
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["rate", "score"] for line in lines)
    assert lines[-1].startswith("python -m experiments.train")


def test_random_points_are_run(tmp_path, small, sweep_here):
    sweep_here(small, tmp_path, "learner.rate=uniform:3.6..4", "learner.shift=0,0.1", points=5, seeds=1)
    found = [row["point"] for row in read(tmp_path)]
    assert len(found) == 5
    assert all(3.6 <= point["learner.rate"] <= 4 and point["learner.shift"] in (0, 0.1) for point in found)
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


# As a program


def test_a_sweep_of_ppo_from_end_to_end(programs, tmp_path):
    """Two devices, where there are two cores; four points, two seeds of each."""
    flags = ["--over=learner.learning_rate=1e-3,1e-2", "--over=learner.entropy_coefficient=0,0.01", "--seeds=2"]
    flags += ["--config.run.num_updates=40", f"--out={tmp_path}"]
    done = programs.run("sweep", programs.config, *flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"sweep      {tmp_path}: ppo on CartPole-v1, 4 points x 2 seeds = 8 runs in 1 group" in done.stdout
    assert re.search(
        r"memory +1 block of 8 runs; a block takes 0\.\d MiB of [\d.]+ GiB, half of the host's", done.stdout
    )
    found = read(tmp_path)
    rates = [(row["point"]["learner.learning_rate"], row["point"]["learner.entropy_coefficient"]) for row in found]
    assert rates == [(0.001, 0.0), (0.001, 0.01), (0.01, 0.0), (0.01, 0.01)]
    assert all(8 <= score <= 20 for row in found for score in row["evaluation"]["episode_return"]["per_seed"])
    assert json.loads((tmp_path / "summary.json").read_text())["algorithm"] == "ppo"
    words = shlex.split(next(line for line in done.stdout.splitlines() if line.startswith("python -m")))
    assert words[2:5] == ["experiments.train", programs.config, "--config.run.num_updates=40"]


@pytest.mark.slow
def test_a_sweep_killed_in_the_middle_of_a_block_ends_with_the_same_bytes(programs, tmp_path):
    flags = [programs.config, "--over=learner.learning_rate=1e-3,1e-2", "--seeds=2", "--config.run.num_updates=400"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    with programs.start("sweep", *flags, f"--workdir={killed}") as process:
        while not list(killed.glob("sweep_blocks/*/checkpoints/[0-9]*/state")):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert list(killed.rglob("checkpoints"))
    assert not [*killed.rglob("result.json"), *killed.glob("sweep.jsonl")]
    resumed = programs.run("sweep", *flags, f"--workdir={killed}")
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert "resume     from the checkpoint of update" in resumed.stdout
    assert programs.run("sweep", *flags, f"--workdir={whole}").returncode == 0
    assert (killed / "sweep.jsonl").read_bytes() == (whole / "sweep.jsonl").read_bytes()
    logs = [list(folder.glob("sweep_blocks/*/metrics.jsonl")) for folder in (killed, whole)]
    assert [path.read_bytes() for path in logs[0]] == [path.read_bytes() for path in logs[1]]


def test_a_mistake_ends_in_one_line(programs, tmp_path):
    flags = [f"--workdir={tmp_path / 'sweep'}", "--over=learner.learning_rate=1e-3,fast"]
    done = programs.run("sweep", programs.config, *flags)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: --over=learner.learning_rate: 'fast' is not a number")
    assert not (tmp_path / "sweep").exists()
