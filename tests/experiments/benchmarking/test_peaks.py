"""What a device reaches, and what a row reaches of it."""

import numpy as np
import pytest

from experiments.benchmarking import memory, peaks, report


def test_peaks_are_rates_of_what_was_done():
    found = peaks.measure("float32", long_enough=1e-3)
    assert 1e8 < found.flops_per_second < 1e16
    assert 1e7 < found.bytes_per_second < 1e14
    assert found.dtype == "float32"


def test_fractions_are_of_both_peaks_and_of_all_devices():
    given = peaks.Peaks("float32", 1e9, 1e8, 2, 4)
    row = {"median_seconds": 2.0, "flops": 1e9, "bytes": 1e8, "num_devices": 1}
    assert report.fractions(row, given) == {"gemm_fraction": 0.5, "copy_fraction": 0.5}
    assert report.fractions(row | {"num_devices": 4}, given)["gemm_fraction"] == pytest.approx(0.125)
    assert report.fractions(row | {"flops": None}, given) == {"copy_fraction": 0.5}
    assert report.fractions(row | {"median_seconds": None}, given) == {}


@pytest.mark.parametrize("count", [6, 7, 9, 20])
def test_the_interval_of_a_median_holds_it_as_often_as_it_says(count):
    drawn = np.random.default_rng(count).exponential(size=(4000, count))
    intervals = [report.median_interval(values) for values in drawn]
    assert np.mean([low <= np.log(2) <= high for low, high in intervals]) >= 0.945


def test_the_interval_of_few_values_is_their_range_and_of_many_it_is_narrower():
    assert report.median_interval([3.0, 1.0, 2.0, 9.0, 5.0]) == (1.0, 9.0)
    low, high = report.median_interval(range(101))
    assert 35 < low < 50 < high < 65


def test_memory_is_what_a_call_took_at_its_highest():
    _, rise = memory.peak_of(lambda: len(bytearray(200_000_000)))
    if rise is None:
        pytest.skip("this system keeps no record")
    assert 190_000_000 < rise < 400_000_000
    _, rise = memory.peak_of(lambda: 1)
    assert rise < 100_000_000  # the earlier peak is forgotten


@pytest.mark.parametrize(
    ("temporary", "resident", "shown"),
    [(4, 10**9, 4), (None, 10**9, 10**9), (None, 10**6, None), (None, None, None)],
    ids=["compiled", "large growth", "small growth", "no record"],
)
def test_the_memory_of_a_row_is_what_is_known_of_it(temporary, resident, shown):
    assert report.memory({"temporary_bytes": temporary, "resident_bytes": resident}) == shown


def test_where_there_is_no_record_the_call_is_made_all_the_same(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "CLEAR", tmp_path / "none" / "clear_refs")
    assert memory.peak_of(lambda: 5) == (5, None)
