"""How several seeds are summed up."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def interquartile_mean(values: Sequence[float]) -> float:
    """Mean of the middle half: robust as the median, efficient as the mean.

    A quarter of the values is cut at each end, rounded down, so that fewer than four seeds give their mean.

    Source:
      Agarwal et al. (2021), Deep Reinforcement Learning at the Edge of the Statistical Precipice, section 4.

    >>> interquartile_mean([0.0, 10.0, 12.0, 99.0])
    11.0
    """
    return float(_middle_half(values).mean(-1))


def bootstrap_interval(
    values: Sequence[float], *, confidence: float = 0.95, num_resamples: int = 5000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the interquartile mean; a single value is its own interval.

    >>> bootstrap_interval([3.0, 3.0, 3.0])
    (3.0, 3.0)
    """
    values = np.asarray(values, np.float64)
    drawn = values[np.random.default_rng(seed).integers(len(values), size=(num_resamples, len(values)))]
    means = _middle_half(drawn).mean(-1)
    # Between infinite means there is nothing to interpolate.
    method = "linear" if np.isfinite(means).all() else "nearest"
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2], method=method)
    return float(low), float(high)


def summarize(values: Sequence[float]) -> dict[str, object]:
    """Return mean, interquartile mean with its interval, and every seed's value."""
    values = [float(value) for value in np.atleast_1d(values)]
    return {
        "mean": float(np.mean(values)),
        "interquartile_mean": interquartile_mean(values),
        "interval_95": list(bootstrap_interval(values)),
        "per_seed": values,
    }


def format_score(score: float) -> str:
    """Write a score for a person: two digits after the point, or four significant ones below 10.

    >>> format_score(500.0), format_score(0.98765)
    ('500.00', '0.9877')
    """
    return f"{score:.2f}" if abs(score) >= 10 else f"{score:.4g}"


def _middle_half(values: ArrayLike) -> np.ndarray:
    ordered = np.sort(np.asarray(values, np.float64), axis=-1)
    cut = ordered.shape[-1] // 4
    return ordered[..., cut : ordered.shape[-1] - cut]
