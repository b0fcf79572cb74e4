"""A case of the benchmark: contestants in turns, measurements long enough, wrong results without a time."""

import time

import jax.numpy as jnp
import pytest

from experiments.suites import base


def contestant(name, program=lambda x: x + 1, right=True):
    return base.Contestant(name, program, lambda result: 8.0 if right else 1.0)


def fails(x):
    raise RuntimeError("there is no memory\nfor this")


@pytest.fixture
def rows(monkeypatch):
    monkeypatch.setattr(base, "SHORTEST", 1e-3)
    contestants = [
        contestant("ours"),
        contestant("slow", lambda x: jnp.sort(x) + 1),
        contestant("wrong", right=False),
        contestant("failing", fails),
    ]
    case = base.Case("add one", contestants, 1000.0, "elements", 5.0, (jnp.arange(200_000.0) % 977,))
    return base.run_case(case, repeats=3)


def test_every_contestant_has_its_row_with_as_many_times_as_repeats(rows):
    assert [row["contestant"] for row in rows] == ["ours", "slow", "wrong", "failing"]
    assert [row["is_ours"] for row in rows] == [True, False, False, False]
    for row in rows[:2]:
        assert len(row["seconds"]) == 3
        assert min(row["seconds"]) > 0
        assert 0 < row["compile_seconds"] < row["first_call_seconds"]


def test_median_and_quartiles_are_those_of_three_times(rows):
    fast, middle, slow = sorted(rows[0]["seconds"])
    assert rows[0]["median_seconds"] == middle
    assert rows[0]["quartiles_seconds"] == [
        pytest.approx(value) for value in ((fast + middle) / 2, (middle + slow) / 2)
    ]


def test_ratios_are_to_the_first_pair_by_pair(rows):
    ours, slow, *_ = rows
    assert "ours_is_faster_by" not in ours
    assert slow["ours_is_faster_by"] == [b / a for a, b in zip(ours["seconds"], slow["seconds"], strict=True)]
    assert min(slow["ours_is_faster_by"]) > 1  # sorting is more than adding


def test_the_rate_is_work_over_the_median(rows):
    assert rows[0]["work_per_second"] == pytest.approx(1000 / sorted(rows[0]["seconds"])[1])


def test_a_wrong_result_is_no_time(rows):
    wrong = rows[2]
    assert (wrong["is_right"], wrong["error"], wrong["seconds"]) == (False, None, [])
    assert not {"median_seconds", "ours_is_faster_by"} & set(wrong)


def test_a_contestant_that_fails_says_why_and_the_others_go_on(rows):
    failing = rows[3]
    assert failing["error"] == "RuntimeError: there is no memory for this"
    assert (failing["is_right"], failing["seconds"], failing["score"]) == (False, [], None)


def test_where_ours_is_wrong_peers_have_no_ratio(monkeypatch):
    monkeypatch.setattr(base, "SHORTEST", 1e-6)
    case = base.Case("one", [contestant("ours", right=False), contestant("peer")], 1.0, "elements", 5.0, (jnp.ones(3),))
    ours, peer = base.run_case(case, repeats=3)
    assert (ours["seconds"], len(peer["seconds"])) == ([], 3)
    assert "ours_is_faster_by" not in peer


def test_contestants_take_turns_and_a_short_call_is_repeated(monkeypatch):
    monkeypatch.setattr(base, "SHORTEST", 0.02)
    calls = []
    contestants = [
        base.Contestant(name, lambda name=name: time.sleep(0.005) or calls.append(name), lambda _: 9.0, compiles=False)
        for name in "ab"
    ]
    rows = base.run_case(base.Case("sleep", contestants, 1, "naps", 0.0, ()), repeats=3)
    turns = [name for index, name in enumerate(calls) if index == 0 or calls[index - 1] != name]
    assert turns == list("ab" * 4)  # warm-up, then three turns
    assert calls.count("a") >= 2 + 3 * 3
    assert all(0.004 < seconds < 0.02 for row in rows for seconds in row["seconds"])  # of one call, not of all
    assert all(row["compile_seconds"] is None for row in rows)


def test_long_cases_have_fewer_turns_but_three(monkeypatch):
    monkeypatch.setattr(base, "SHORTEST", 1e-6)
    monkeypatch.setattr(base, "MOST_SECONDS", 0.0)
    case = base.Case("one", [contestant("ours")], 1.0, "elements", 5.0, (jnp.ones(3),))
    assert len(base.run_case(case, repeats=9)[0]["seconds"]) == 3


def test_without_arguments_every_run_gets_a_key_of_its_own(monkeypatch):
    monkeypatch.setattr(base, "SHORTEST", 1e-6)
    seen = []
    ours = base.Contestant("ours", lambda key: key, lambda key: seen.append(key.tolist()) or 1.0)
    base.run_case(base.Case("keys", [ours], 1, "keys", 0.0), repeats=3)
    assert len({tuple(key) for key in seen}) == 4
