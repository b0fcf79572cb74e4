"""High-precision references and the units in which errors are counted."""

import jax
import mpmath as mp
import numpy as np
from jax.test_util import check_grads

mp.mp.dps = 60

# Where tails, roundings and branches are: also just around tanh's 0.625 and the last normal numbers of e^z.
POINTS = np.array(
    [0, 1e-30, 1e-8, 1e-3, 0.1, 0.3, 0.6, 0.624, 0.626, 0.66, 1, 1.5, 2.3, 2.71, 5, 5.75, 9, 10, 16.7, 20, 40, 41, 43.6]
    + [60, 87, 200],
    np.float32,
)
POINTS = np.concatenate([-POINTS[::-1], POINTS])


def reference(function, *arguments):
    """`function` of mpmath numbers, elementwise; the arguments' float values are exact."""
    return np.vectorize(lambda *xs: function(*(mp.mpf(float(x)) for x in xs)), otypes=[object])(*arguments)


def ulps(actual, exact, flushed=0.0):
    """|actual − exact| in units of the last place of `exact`.

    What is below `flushed`, or below the normal range, may be 0.
    """
    actual = np.asarray(actual)
    info = np.finfo(actual.dtype)
    errors = []
    for x, y in zip(actual.ravel(), np.asarray(exact, object).ravel(), strict=True):
        y = mp.mpf(y)
        if abs(y) < mp.mpf(float(info.tiny)) or (x == 0 and abs(y) < flushed):
            errors.append(0.0 if abs(float(x)) <= info.tiny else np.inf)
        else:
            unit = mp.mpf(2) ** (mp.floor(mp.log(abs(y), 2)) - info.nmant)
            errors.append(float(abs(mp.mpf(float(x)) - y) / unit))
    return max(errors)


def relative_error(actual, exact):
    """Worst |actual − exact| / |exact|; an exact 0 must be met exactly."""
    errors = []
    for x, y in zip(np.ravel(np.asarray(actual, np.float64)), np.asarray(exact, object).ravel(), strict=True):
        errors.append(float(abs(mp.mpf(float(x)) - y) / abs(y)) if y else (0.0 if x == 0 else np.inf))
    return max(errors)


def softmax(z):
    z = [mp.mpf(float(x)) for x in z]
    e = [mp.exp(x - max(z)) for x in z]
    return [x / mp.fsum(e) for x in e]


def log_softmax(z):
    z = [mp.mpf(float(x)) for x in z]
    log_sum = mp.log(mp.fsum(mp.exp(x) for x in z))
    return [x - log_sum for x in z]


def check_derivatives(function, arguments, order=2):
    """Forward and reverse mode against finite differences, compiled: operation by operation it takes much longer."""
    check_grads(jax.jit(function), arguments, order=order, modes=("fwd", "rev"))
