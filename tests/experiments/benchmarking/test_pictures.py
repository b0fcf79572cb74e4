"""Pictures of a benchmark: what stands where, in units that axes name."""

import numpy as np
import pytest

from experiments.benchmarking import pictures

PEAKS = {"dtype": "float32", "flops_per_second": 1e11, "bytes_per_second": 1e10, "matrix_size": 8, "array_bytes": 8}


def row(case, seconds, **changes):
    made = {"suite": "nn", "case": case, "contestant": "mathai", "is_ours": True, "dtype": "float32", "peaks": PEAKS}
    made |= {"seconds": [seconds], "median_seconds": seconds, "flops": 1e6, "bytes": 1e6, "variable": "points"}
    made |= {"size": 10, "family": case, "temporary_bytes": 4, "resident_bytes": None}
    made |= {"host": {"processor": "Fast", "cores": 2}}
    return made | {"device": {"platform": "cpu", "kind": "cpu", "count": 1}} | changes


def test_the_roof_is_the_lower_of_both_peaks_and_a_case_stands_at_its_intensity_and_speed(figures_of, tmp_path):
    drawn = figures_of(pictures)
    rows = [row("a", 0.5), row("b", 0.1, bytes=None, suite="ppo"), row("c", 1.0, is_ours=False)]
    assert pictures.roofline(tmp_path, rows) == tmp_path / "roofline.png"
    (panel,) = drawn["roofline.png"].axes
    x, y = panel.lines[0].get_data()
    np.testing.assert_allclose(y, np.minimum(1e11, 1e10 * x))
    (inside,), (outside,) = (collection.get_offsets() for collection in panel.collections[:2])
    np.testing.assert_allclose(inside, [1.0, 2e6])
    assert outside[1] == pytest.approx(1e7)
    assert outside[0] > x.max()  # its bytes are not known
    assert panel.get_title() == "ours on 2 cores of Fast"
    assert panel.get_xlabel().endswith("(FLOP/B)")
    assert panel.get_ylabel().endswith("(FLOP/s)")


def test_a_bar_for_each_peer_ends_at_the_median_ratio(figures_of, tmp_path):
    drawn = figures_of(pictures)
    peer = {"contestant": "jax.nn", "is_ours": False}
    rows = [row("a", 0.5), row("a", 1.0, ours_is_faster_by=[2.0, 2.2, 1.8], **peer)]
    rows += [row("b", 1.0, ours_is_faster_by=[0.5], **peer)]
    assert pictures.ratios(tmp_path, rows) == tmp_path / "ratios.png"
    (panel,) = drawn["ratios.png"].axes
    assert [bar.get_x() + bar.get_width() for bar in panel.patches] == [pytest.approx(2.0), pytest.approx(0.5)]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["nn: a, jax.nn", "nn: b, jax.nn"]
    assert "ours is faster" in panel.get_xlabel()
    assert pictures.ratios(tmp_path, [row("a", 0.5)]) is None


def test_growth_has_a_panel_for_each_variable(figures_of, tmp_path):
    drawn = figures_of(pictures)
    rows = [row("a", 1e-3 * n, size=n) for n in (10, 20, 40)]
    rows += [row("b", 1.0, size=n, variable="tokens") for n in (1, 2)]
    assert pictures.growth(tmp_path, rows) == tmp_path / "scaling.png"
    first, second = drawn["scaling.png"].axes
    assert (first.get_xlabel(), second.get_xlabel()) == ("points", "tokens")
    assert first.get_legend().get_texts()[0].get_text() == "nn: a, mathai: N^1.00"
    np.testing.assert_allclose(first.lines[0].get_ydata(), [0.01, 0.02, 0.04])
    assert pictures.growth(tmp_path, [row("a", 1.0)]) is None


def test_without_times_or_counts_there_is_no_roofline(tmp_path):
    assert pictures.roofline(tmp_path, [row("a", None), row("b", 1.0, flops=None)]) is None
