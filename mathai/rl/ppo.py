"""Proximal policy optimization: the clipped objectives and the divergence by which one watches them.

What was computed before the update (old log-probabilities, old values, advantages, targets) is data: no gradient flows
into it. Arithmetic is in at least float32 and results come back in the common dtype of the inputs.
"""

import math

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Real

from mathai.rl._arrays import mean_where, promote


def probability_ratio(
    log_prob: Float[ArrayLike, "*shape"],
    old_log_prob: Float[ArrayLike, "*shape"],
) -> Float[Array, "*shape"]:
    """Probability ratio of the new policy to the one that acted.

        ρ = π(a | s) / π_old(a | s) = exp(log π − log π_old),      ∂ρ/∂ log π = ρ,   ∂ρ/∂ log π_old ≔ 0

    An action that the new policy rules out (log π = −inf) has ρ = 0 and derivative 0. One that the old policy could not
    have taken gives +inf, or NaN if neither could.

    Args:
      log_prob: log π(a | s), any shape.
      old_log_prob: log π_old(a | s), the same shape, a constant.

    Returns:
      ρ ≥ 0, elementwise.

    Raises:
      AssertionError: if the shapes differ; broadcasting is an error.

    Source:
      Schulman et al. (2017), Proximal Policy Optimization Algorithms, §3.

    >>> probability_ratio(jnp.log(jnp.array([0.5, 0.3])), jnp.log(jnp.array([0.25, 0.3])))
    Array([2., 1.], dtype=float32)
    """
    (log_prob, old_log_prob), dtype = promote(log_prob, old_log_prob)
    chex.assert_equal_shape([log_prob, old_log_prob])
    return jnp.exp(log_prob - lax.stop_gradient(old_log_prob)).astype(dtype)


def clipped_surrogate_loss(
    ratio_t: Float[ArrayLike, "*T"],
    adv_t: Real[ArrayLike, "*T"],
    *,
    epsilon: Real[ArrayLike, ""] = 0.2,
    where: Bool[ArrayLike, "*T"] | None = None,
) -> Float[Array, ""]:
    """PPO's clipped surrogate, to be minimized: no reward for moving further than ε from the old policy.

        L = −mean_t  min(ρₜ Âₜ, clip(ρₜ, 1 − ε, 1 + ε) Âₜ),      Âₜ constant

    The gradient in ρₜ is −Âₜ/T, and 0 where ρₜ > 1 + ε and Âₜ > 0, or ρₜ < 1 − ε and Âₜ < 0. On the border itself it is
    −Âₜ/T. An advantage of 0 adds 0, even where the ratio has overflowed.

    Args:
      ratio_t: ρₜ from `probability_ratio`, [T]; any number of axes, averaged over alike.
      adv_t: Âₜ, the same shape; no gradient flows into it.
      epsilon: ε ≥ 0.
      where: True for the steps that take part, [T]. The others may hold anything, inf and NaN included.

    Returns:
      The mean over the steps that take part, a scalar; 0, with gradient 0, if there are none.

    Raises:
      AssertionError: if the shapes differ; broadcasting is an error.

    Source:
      Schulman et al. (2017), Proximal Policy Optimization Algorithms, eq. 7.

    >>> clipped_surrogate_loss(jnp.array([2.0, 1.5]), jnp.array([1.0, -2.0]), epsilon=0.25)
    Array(0.875, dtype=float32)
    """
    (ratio_t, adv_t), dtype = promote(ratio_t, adv_t)
    chex.assert_equal_shape([ratio_t, adv_t])
    if where is not None:
        where = jnp.asarray(where, bool)
        chex.assert_equal_shape([ratio_t, where])
        ratio_t = jnp.where(where, ratio_t, 1)  # masked before, for the sake of gradients
        adv_t = jnp.where(where, adv_t, 0)
    adv_t = lax.stop_gradient(adv_t)
    epsilon = jnp.asarray(epsilon, ratio_t.dtype)
    # The minimum clips only the side on which the ratio has moved in the advantage's favour. Selecting that side,
    # rather than taking min and clip, gives the whole gradient at their ties.
    above = (ratio_t > 1 + epsilon) & (adv_t >= 0)
    below = (ratio_t < 1 - epsilon) & (adv_t <= 0)
    clipped_t = jnp.where(above, 1 + epsilon, jnp.where(below, 1 - epsilon, ratio_t))
    return mean_where(-clipped_t * adv_t, where).astype(dtype)


def clipped_value_loss(
    value: Float[ArrayLike, "*shape"],
    old_value: Float[ArrayLike, "*shape"],
    target: Float[ArrayLike, "*shape"],
    *,
    epsilon: Real[ArrayLike, ""],
) -> Float[Array, "*shape"]:
    """PPO's clipped value loss: the worse of the error and the error of a value that moved at most ε.

        L = ½ max((v − y)², (clip(v, v_old − ε, v_old + ε) − y)²)

    The derivative in v is v − y, and 0 where the clipped error is the greater one. Where both are equal, at the border
    of the clip and at the tie beyond it, it is v − y. `old_value` and `target` are constants.

    Args:
      value: v, the prediction, any shape.
      old_value: v_old, the prediction before the update, the same shape.
      target: y, the return, the same shape.
      epsilon: ε ≥ 0, in the units of the value; inf never clips.

    Returns:
      One loss per element.

    Raises:
      AssertionError: if the shapes differ; broadcasting is an error.

    Source:
      Not in the paper: the authors' code (OpenAI baselines, ppo2), documented by Huang et al. (2022), The 37
      Implementation Details of Proximal Policy Optimization, detail 9.

    >>> clipped_value_loss(jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0]), jnp.array([2.0, 4.0]), epsilon=0.5)
    Array([0.5  , 3.125], dtype=float32)
    """
    (value, old_value, target), dtype = promote(value, old_value, target)
    chex.assert_equal_shape([value, old_value, target])
    old_value, target = lax.stop_gradient((old_value, target))
    epsilon = jnp.asarray(epsilon, value.dtype)
    error = value - target
    # Where the clip does nothing both errors are the same and the first is taken, so the second needs no gradient.
    clipped_error = jnp.clip(lax.stop_gradient(value), old_value - epsilon, old_value + epsilon) - target
    worse = jnp.where(jnp.abs(clipped_error) <= jnp.abs(error), error, clipped_error)
    return (0.5 * worse**2).astype(dtype)


def approximate_kl(log_ratio: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    """An estimate of KL(π_old ‖ π) from one action of π_old: unbiased, never negative, of low variance.

        k(x) = eˣ − 1 − x,      x = log π(a) − log π_old(a),   k′(x) = eˣ − 1

    Accurate to a few units in the last place for all x, small ones included, where the terms cancel to x²/2.
    k(±inf) = inf, with derivatives inf and −1; k(0) = k′(0) = 0.

    Args:
      log_ratio: x, any shape. Average the result over actions drawn from π_old.

    Returns:
      k(x) ≥ 0, elementwise.

    Source:
      Schulman (2020), Approximating KL Divergence, http://joschu.net/blog/kl-approx.html, estimator k₃.

    >>> approximate_kl(jnp.array([0.0, 1e-4, 1.0]))
    Array([0.0000000e+00, 5.0001665e-09, 7.1828175e-01], dtype=float32)
    """
    (log_ratio,), dtype = promote(log_ratio)
    return _expm1_minus_identity(log_ratio).astype(dtype)


@jax.custom_jvp
def _expm1_minus_identity(x):
    # Below 1 the Taylor series x² Σ xᵏ/(k + 2)!, to the precision of the dtype; beyond, the difference loses two bits.
    last = 11 if x.dtype == jnp.float32 else 18
    series = jnp.full_like(x, 1 / math.factorial(last))
    for k in range(last - 1, 1, -1):
        series = series * x + 1 / math.factorial(k)
    exponential = jnp.expm1(x)
    difference = jnp.where(jnp.isposinf(x), jnp.inf, exponential - x)
    return jnp.where(jnp.abs(x) < 1, x * x * series, difference)


@_expm1_minus_identity.defjvp
def _expm1_minus_identity_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return _expm1_minus_identity(x), jnp.expm1(x) * dx
