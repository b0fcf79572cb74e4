"""Probabilities from the decisions of a machine that was not made to give any."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Num

from mathai.kernel._arrays import promote
from mathai.kernel._checks import check_classes, classes_like

MOST_STEPS = 100
HALVINGS = 30
TOLERANCE = 1e-5


class PlattScaling(NamedTuple):
    """The logistic curve P(y = +1 | d) = σ(slope · d + offset).

    Attributes:
      slope: of the decision.
      offset: added to it.
      iterations: Newton steps made.
      converged: whether the gradient, per example, is below 1e-5 where the largest decision is 1.
    """

    slope: Float[Array, ""]
    offset: Float[Array, ""]
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]


def platt_scaling(decisions: Float[ArrayLike, "n"], y: Num[ArrayLike, "n"]) -> PlattScaling:
    """Fit a logistic curve to decisions, best to those of examples that the machine did not learn from.

        minimize −Σᵢ tᵢ log pᵢ + (1 − tᵢ) log(1 − pᵢ),   pᵢ = σ(a dᵢ + b)

    with t = (n₊ + 1)/(n₊ + 2) for class +1 and 1/(n₋ + 2) for class −1, which keep the slope finite where decisions
    separate the classes. By Newton's method with a line search.

    Args:
      decisions: d, above 0 for class +1.
      y: the classes, −1 or +1.

    Returns:
      The curve. Decisions that are NaN or infinite give NaN, not converged.

    Raises:
      AssertionError: shapes do not match.
      ValueError: outside jit, y holds anything but −1 and +1, or one class only.

    Source:
      Platt (1999), Probabilistic Outputs for Support Vector Machines, section 2.2; Lin, Lin & Weng (2007), A Note on
      Platt's Probabilistic Outputs, algorithm 1.

    >>> scaling = platt_scaling(jnp.array([-2.0, -1.0, 1.0, 2.0]), jnp.array([-1, -1, 1, 1]))
    >>> platt_probability(scaling, jnp.array([0.0])).round(3)
    Array([0.5], dtype=float32)
    """
    (d,), dtype = promote(decisions)
    chex.assert_rank(d, 1)
    check_classes("platt_scaling", y)
    y = classes_like(y, d)
    positive, negative = jnp.sum(y > 0), jnp.sum(y < 0)
    target = jnp.where(y > 0, (positive + 1) / (positive + 2), 1 / (negative + 2)).astype(d.dtype)
    unit = jnp.max(jnp.abs(d), initial=0)  # in which no square of a decision overflows, whatever they are measured in
    unit = jnp.where(unit > 0, unit, 1)
    d = d / unit
    columns = jnp.stack([d, jnp.ones_like(d)])

    rounding = 4 * jnp.finfo(d.dtype).eps
    aim = 0.01 * jnp.finfo(d.dtype).eps ** 0.5  # of the gradient; what converged is held to less

    def loss(v):
        z = v[0] * d + v[1]
        return jnp.mean(jax.nn.softplus(z) - target * z)

    def gradient_of(v):
        return jnp.mean(columns * (jax.nn.sigmoid(v[0] * d + v[1]) - target)[None], axis=1)

    def size_of(gradient):
        return jnp.max(jnp.abs(gradient))

    def goes_on(carry):
        v, before, steps = carry
        size = size_of(gradient_of(v))
        improves = (size < 0.5 * before) | (size > TOLERANCE)  # rounding ends it some time
        return (size > aim) & improves & (steps < MOST_STEPS)

    def step(carry):
        v, _, steps = carry
        p = jax.nn.sigmoid(v[0] * d + v[1])
        curvature = jnp.mean(columns[:, None] * columns[None] * (p * (1 - p))[None, None], axis=2)
        (aa, ab), (_, bb) = curvature
        # Relative, since one far decision makes all others small; the determinant stays above 0.
        aa, bb = ((1 + 8 * rounding) * x + jnp.finfo(d.dtype).tiny ** 0.5 for x in (aa, bb))
        slope_a, slope_b = gradient_of(v)
        direction = -jnp.stack([bb * slope_a - ab * slope_b, aa * slope_b - ab * slope_a]) / (aa * bb - ab * ab)
        promised, here = direction[0] * slope_a + direction[1] * slope_b, loss(v)

        def is_too_long(search):
            length, count = search
            return (loss(v + length * direction) > here + 1e-4 * length * promised + rounding * here) & (
                count < HALVINGS
            )

        length, _ = jax.lax.while_loop(is_too_long, lambda s: (0.5 * s[0], s[1] + 1), (d.dtype.type(1), 0))
        return v + length * direction, size_of(jnp.stack([slope_a, slope_b])), steps + 1

    start = jnp.stack([jnp.zeros((), d.dtype), jnp.log((positive + 1) / (negative + 1)).astype(d.dtype)])
    v, _, steps = jax.lax.while_loop(goes_on, step, (start, d.dtype.type(jnp.inf), jnp.int32(0)))
    is_valid = jnp.all(jnp.isfinite(d)) & (positive > 0) & (negative > 0)
    slope, offset = jnp.where(is_valid, v / jnp.stack([unit, jnp.ones_like(unit)]), jnp.nan).astype(dtype)
    return PlattScaling(slope, offset, steps, is_valid & (size_of(gradient_of(v)) <= TOLERANCE))


def platt_probability(scaling: PlattScaling, decisions: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    """The probability of class +1.

        P(y = +1 | d) = σ(a d + b)

    Args:
      scaling: a and b, of `platt_scaling`.
      decisions: d, any shape.

    Returns:
      Probabilities in the decisions' shape.

    Source:
      Platt (1999), Probabilistic Outputs for Support Vector Machines, eq. 6, with the signs of a and b turned.

    >>> platt_probability(PlattScaling(jnp.float32(1), jnp.float32(0), 1, True), jnp.array([0.0, 100.0]))
    Array([0.5, 1. ], dtype=float32)
    """
    decisions = jnp.asarray(decisions)
    return jax.nn.sigmoid(scaling.slope * decisions + scaling.offset)
