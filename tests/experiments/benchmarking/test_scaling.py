"""Exponents are those of the power laws that costs follow."""

import numpy as np
import pytest

from experiments.benchmarking import scaling


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 3.0])
def test_the_exponent_of_a_power_law_is_found(power):
    sizes = [100, 300, 1000, 3000]
    found, error = scaling.exponent(sizes, [5e-9 * n**power for n in sizes])
    assert (found, error) == (pytest.approx(power), pytest.approx(0, abs=1e-6))


def test_the_standard_error_is_that_of_a_straight_line():
    x, y = np.log([1, 2, 4, 8]), np.array([0.0, 1.0, 1.0, 2.0])
    slope, covariance = np.polyfit(x, y, 1, cov=True)[0][0], np.polyfit(x, y, 1, cov=True)[1]
    assert scaling.exponent([1, 2, 4, 8], np.exp(y)) == (
        pytest.approx(slope),
        pytest.approx(np.sqrt(covariance[0, 0])),
    )


def row(size, median, **changes):
    made = {"suite": "s", "family": "f", "variable": "points", "contestant": "mathai", "dtype": "float32"}
    made |= {"size": size, "seconds": [median], "median_seconds": median, "temporary_bytes": 8 * size}
    return made | {"resident_bytes": None} | changes


def test_time_and_memory_of_each_contestant_of_a_family_are_fitted():
    rows = [row(n, 1e-6 * n**2) for n in (300, 100, 1000)] + [row(n, 1e-3, contestant="peer") for n in (100, 200)]
    ours, peer = scaling.fit(rows)
    assert ours["sizes"] == [100, 300, 1000]
    assert (ours["time_exponent"], ours["last_time_exponent"]) == (pytest.approx(2), pytest.approx(2))
    assert ours["memory_exponent"] == pytest.approx(1)
    assert (peer["contestant"], peer["time_exponent"]) == ("peer", pytest.approx(0))
    assert "N^2.00 (± 0.00; at the end 2.00), memory 0.8 KiB to 7.8 KiB ∝ N^1.00" in scaling.line(ours)


@pytest.mark.parametrize(
    "rows",
    [
        [row(100, 1.0)],
        [row(100, 1.0), row(200, 1.0, seconds=[])],
        [row(100, 1.0, variable=""), row(200, 1.0, variable="")],
        [row(100, 1.0), row(100, 2.0)],
    ],
    ids=["one size", "a wrong result", "nothing grows", "one size twice"],
)
def test_what_has_no_two_sizes_is_not_fitted(rows):
    assert scaling.fit(rows) == []


def test_memory_that_is_not_known_is_left_out():
    (found,) = scaling.fit([row(n, 1.0, temporary_bytes=0) for n in (1, 2)])
    assert "memory_exponent" not in found
    assert "memory" not in scaling.line(found)
