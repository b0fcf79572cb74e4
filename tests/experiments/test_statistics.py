"""The interquartile mean and its interval, against hand-worked numbers and SciPy's bootstrap."""

import numpy as np
import pytest
import scipy.stats

from experiments.statistics import bootstrap_interval, interquartile_mean, summarize

SEVEN = [489.0, 500.0, 497.5, 312.0, 500.0, 478.0, 493.0]


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ([7.0], 7.0),
        ([1.0, 5.0], 3.0),  # a quarter of two is less than one: nothing is cut
        ([1.0, 2.0, 9.0], 4.0),
        ([100.0, 4.0, 2.0, -50.0], 3.0),
        ([0.0, 1.0, 2.0, 3.0, 100.0], 2.0),  # a quarter of five, rounded down, is one
        ([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0], 4.5),  # 3, 4, 5, 6 remain
    ],
)
def test_interquartile_mean_is_the_mean_of_the_middle_half(values, mean):
    assert interquartile_mean(values) == mean


def test_interquartile_mean_does_not_feel_a_failed_seed():
    assert interquartile_mean([500.0, 500.0, 500.0, 500.0, 9.0]) == 500.0


def test_a_single_value_is_its_own_interval():
    assert bootstrap_interval([3.5]) == (3.5, 3.5)


@pytest.mark.parametrize(("confidence", "interval"), [(0.95, (0.0, 1.0)), (0.4, (0.5, 0.5))])
def test_the_interval_of_two_values_is_known_exactly(confidence, interval):
    # resampled means are 0, ½, 1 with probabilities ¼, ½, ¼: their 2.5 % quantile is 0, their 30 % quantile ½
    assert bootstrap_interval([0.0, 1.0], confidence=confidence) == interval


@pytest.mark.parametrize("worst", [-np.inf, np.inf])
def test_infinite_values_have_a_mean_and_an_interval(worst):
    assert interquartile_mean([1.0, worst]) == worst
    assert bootstrap_interval([worst, worst]) == (worst, worst)
    assert worst in bootstrap_interval([worst, *range(7)])  # in 6.7 % of resamples three or more of eight are infinite
    assert np.isfinite(bootstrap_interval([worst, *range(19)])).all()  # in 0.03 %, six or more of twenty


def test_the_interval_contains_the_mean_and_lies_within_the_values():
    low, high = bootstrap_interval(SEVEN)
    assert min(SEVEN) <= low < interquartile_mean(SEVEN) < high <= max(SEVEN)


def test_the_interval_is_deterministic_and_its_seed_counts():
    assert bootstrap_interval(SEVEN) == bootstrap_interval(SEVEN)
    few = [bootstrap_interval(SEVEN, num_resamples=20, seed=seed) for seed in range(5)]
    assert len(set(few)) > 1


def test_the_interval_agrees_with_scipy():
    values = np.random.default_rng(1).normal(450.0, 40.0, size=30)
    theirs = scipy.stats.bootstrap(
        (values,),
        lambda x, axis: scipy.stats.trim_mean(x, 0.25, axis=axis),
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    width = theirs.high - theirs.low
    np.testing.assert_allclose(bootstrap_interval(values), [theirs.low, theirs.high], rtol=0, atol=0.05 * width)


def test_more_confidence_is_a_wider_interval():
    (low, high), (lower, higher) = bootstrap_interval(SEVEN, confidence=0.5), bootstrap_interval(SEVEN, confidence=0.99)
    assert lower < low < high < higher


def test_a_summary_holds_every_seed():
    summary = summarize([4.0, 1.0, 2.0, 3.0])
    assert summary == {
        "mean": 2.5,
        "interquartile_mean": 2.5,
        "interval_95": list(bootstrap_interval([4.0, 1.0, 2.0, 3.0])),
        "per_seed": [4.0, 1.0, 2.0, 3.0],
    }


def test_a_summary_of_one_seed_takes_a_scalar():
    assert summarize(np.float32(0.5)) == {
        "mean": 0.5,
        "interquartile_mean": 0.5,
        "interval_95": [0.5, 0.5],
        "per_seed": [0.5],
    }
