"""The width of a Gaussian around a point at which its neighbours have a given perplexity."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

MOST_STEPS = 100  # of Newton's method inside a bracket; 5 to 10 are usual
WIDEST = 60.0  # |log β| in units of the mean squared distance, where a search ends
TOLERANCE = 1e-6  # of an entropy in nats, in float32; in proportion to the root of the precision in others


def affinities(
    squared_distances: Float[Array, "n k"], is_neighbor: Bool[Array, "n k"], perplexity: Float[Array, ""]
) -> Float[Array, "n k"]:
    """Rows p ∝ exp(−β d²) over their neighbours whose entropy is log perplexity; NaN makes its row NaN."""
    is_lost = jnp.any(is_neighbor & jnp.isnan(squared_distances), axis=1, keepdims=True)
    lowest = jnp.min(jnp.where(is_neighbor, squared_distances, jnp.inf), axis=1, keepdims=True)
    excess = jnp.where(is_neighbor, squared_distances - jnp.where(jnp.isfinite(lowest), lowest, 0), jnp.inf)
    # p is the same in all units, and in this one neither β nor a variance leaves the range of the numbers.
    excess = excess / jax.lax.stop_gradient(_mean_of_finite(excess))[:, None]
    beta = precision(excess, perplexity)
    # Where nearest points at one distance share a row, p jumps as they part: no derivative stands for that.
    has_width = beta < math.exp(WIDEST - 1)
    p = _softmin(beta, jnp.where(has_width[:, None], excess, jax.lax.stop_gradient(excess)))
    return jnp.where(is_lost, jnp.nan, p)


@jax.custom_jvp
def precision(excess: Float[Array, "n k"], perplexity: Float[Array, ""]) -> Float[Array, "n"]:
    """β of each row of squared distances beyond the smallest, in units of their mean; ∞ marks what is no neighbour.

    The entropy falls from log(number of neighbours) at β = 0 to log(number of nearest ones) at β = ∞. Beyond these
    ends the nearer end is the answer.
    """
    target = jnp.log(perplexity)
    tolerance = TOLERANCE * math.sqrt(float(jnp.finfo(excess.dtype).eps) / 1.2e-7)

    def gap_and_slope(log_beta):
        beta = jnp.exp(log_beta)
        p = _softmin(beta, excess)
        entropy = -jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1)), 0), axis=1)
        return entropy - target, -beta * beta * _moments(p, excess)[1]  # dH / d log β = −β² var(d²)

    def is_open(state):
        step, _, is_closed, *_ = state
        return (step < MOST_STEPS) & ~jnp.all(is_closed)

    def refine(state):
        step, log_beta, _, low, high = state
        gap, slope = gap_and_slope(log_beta)
        low, high = jnp.where(gap > 0, log_beta, low), jnp.where(gap > 0, high, log_beta)
        newton = log_beta - gap / jnp.minimum(slope, -1e-30)
        is_inside = (newton > low) & (newton < high)
        is_closed = (jnp.abs(gap) <= tolerance) | (high - low <= 1e-12)
        proposal = jnp.where(is_inside, newton, (low + high) / 2)
        return step + 1, jnp.where(is_closed, log_beta, proposal), is_closed, low, high

    edge = jnp.full_like(excess[:, 0], WIDEST)
    state = (jnp.int32(0), jnp.zeros_like(edge), jnp.zeros(edge.shape, bool), -edge, edge)
    return jnp.exp(jax.lax.while_loop(is_open, refine, state)[1])


@precision.defjvp
def _precision_jvp(primals, tangents):
    """H(β, d²) = log perplexity stays true: dβ = −β (d log perplexity + cov(e, β dd²)) / var(e), with e = β d².

    With m = Σ p d², ∂H/∂d²ⱼ = −β² pⱼ (d²ⱼ − m), and ∂H/∂β = −β var(d²).
    """
    excess, perplexity = primals
    d_excess, d_perplexity = tangents
    beta = precision(excess, perplexity)
    p = _softmin(beta, excess)
    exponents = jnp.where(p > 0, beta[:, None] * excess, 0)
    mean, variance = _moments(p, exponents)
    covariance = jnp.sum(p * (exponents - mean[:, None]) * beta[:, None] * jnp.where(p > 0, d_excess, 0), axis=1)
    gain = jnp.where(variance > 0, beta / jnp.where(variance > 0, variance, 1), 0)
    return beta, -gain * (d_perplexity / perplexity + covariance)


def _softmin(beta, excess):
    """exp(−β d²) over its sum; a row without neighbours is 0."""
    is_finite = jnp.isfinite(excess)
    weight = jnp.where(is_finite, jnp.exp(-beta[:, None] * jnp.where(is_finite, excess, 0)), 0)
    total = jnp.sum(weight, axis=1, keepdims=True)
    return weight / jnp.where(total > 0, total, 1)


def _mean_of_finite(values):
    """The mean of each row, 1 where that is 0."""
    is_finite = jnp.isfinite(values)
    mean = jnp.sum(jnp.where(is_finite, values, 0), axis=1) / jnp.maximum(jnp.sum(is_finite, axis=1), 1)
    return jnp.where(mean > 0, mean, 1)


def _moments(p, values):
    values = jnp.where(p > 0, values, 0)
    mean = jnp.sum(p * values, axis=1)
    return mean, jnp.sum(p * (values - mean[:, None]) ** 2, axis=1)
