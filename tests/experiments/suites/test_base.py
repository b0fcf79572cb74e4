"""A case of the benchmark: contestants in turns, measurements long enough, wrong results without a time."""

import jax.numpy as jnp
import pytest

from experiments.suites import base


def contestant(name, program=lambda x: x + 1, right=True):
    return base.Contestant(name, program, lambda result: 8.0 if right else 1.0)


@pytest.fixture
def rows(monkeypatch):
    monkeypatch.setattr(base, "SHORTEST", 1e-3)
    contestants = [contestant("ours"), contestant("slow", lambda x: jnp.sort(x) + 1), contestant("wrong", right=False)]
    case = base.Case("add one", contestants, 1000.0, "elements", 5.0, (jnp.arange(200_000.0) % 977,))
    return base.run_case(case, repeats=3)


def test_every_contestant_has_its_row_with_as_many_times_as_repeats(rows):
    assert [row["contestant"] for row in rows] == ["ours", "slow", "wrong"]
    assert all(len(row["seconds"]) == 3 and min(row["seconds"]) > 0 for row in rows)
    assert all(row["compile_seconds"] > 0 for row in rows)


def test_ratios_are_to_the_first_pair_by_pair(rows):
    ours, slow, _ = rows
    assert ours["ours_is_faster_by"] == [1.0, 1.0, 1.0]
    assert slow["ours_is_faster_by"] == [b / a for a, b in zip(ours["seconds"], slow["seconds"], strict=True)]
    assert min(slow["ours_is_faster_by"]) > 1  # sorting is more than adding


def test_the_rate_is_work_over_the_median(rows):
    assert rows[0]["elements_per_second"] == pytest.approx(1000 / sorted(rows[0]["seconds"])[1])


def test_a_wrong_result_is_no_time(rows):
    assert "times as fast" in base.describe(rows[0])
    assert base.describe(rows[2]).endswith("wrong result: no time")


def test_without_arguments_every_run_gets_a_key_of_its_own(monkeypatch):
    monkeypatch.setattr(base, "SHORTEST", 1e-6)
    seen = []
    ours = base.Contestant("ours", lambda key: key, lambda key: seen.append(key.tolist()) or 1.0)
    base.run_case(base.Case("keys", [ours], 1, "keys", 0.0), repeats=2)
    assert len({tuple(key) for key in seen}) == 3
