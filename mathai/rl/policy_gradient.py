"""Policies as distributions over actions, and the losses whose gradients are policy gradients.

Logits that are −inf mask their actions: probability 0. Sums run in at least float32 and come back in the common dtype
of the arrays, where integers count as floats.
"""

import math

import chex
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Integer, Real

from mathai.rl._arrays import mean_where, per_step, promote
from mathai.rl.returns import discounted_returns


def log_probability(
    logits: Float[ArrayLike, "*batch A"],
    action: Integer[ArrayLike, "*batch"],
) -> Float[Array, "*batch"]:
    """Log-probability of an action under a categorical policy.

        log π(a) = z_a − log Σⱼ exp zⱼ,      ∂ log π(a) / ∂zⱼ = [j = a] − π(j)

    A masked action (z_a = −inf) has −inf, with the finite gradient above, as has every action where all are masked.
    An action outside [0, A) has NaN, with gradient 0: it is never wrapped or clamped. A logit of +inf or NaN gives NaN.

    Args:
      logits: z, [..., A].
      action: a, integers, [...].

    Returns:
      log π(a), [...].

    Raises:
      TypeError: if the logits are not floating-point or the actions not integers.
      AssertionError: if the shapes do not match; broadcasting is an error.

    Source:
      Sutton & Barto (2018), Reinforcement Learning, 2nd ed., eqs. 13.2 and 13.9 (softmax in action preferences).

    >>> log_probability(jnp.array([[0.0, -jnp.inf], [0.0, 0.0], [0.0, 0.0]]), jnp.array([0, 1, 2]))
    Array([ 0.       , -0.6931472,        nan], dtype=float32)
    """
    z, _, log_normalizer, dtype = _normalized(logits)
    action = jnp.asarray(action)
    if not jnp.issubdtype(action.dtype, jnp.integer):
        raise TypeError(f"actions must be integers in [0, {z.shape[-1]}), got dtype {action.dtype}")
    chex.assert_shape(action, z.shape[:-1])
    # A comparison with every index, not a gather: no wrapping, and a gradient without a scatter.
    chosen = _one_hot(action, z.shape[-1])
    log_p = jnp.sum(jnp.where(chosen, z, 0), axis=-1) - log_normalizer
    return jnp.where(jnp.any(chosen, axis=-1), log_p, jnp.nan).astype(dtype)


def entropy(logits: Float[ArrayLike, "*batch A"]) -> Float[Array, "*batch"]:
    """Entropy of a categorical policy, in nats.

        H(π) = −Σⱼ π(j) log π(j),   0 log 0 = 0,      ∂H/∂zⱼ = −π(j) (log π(j) + H)

    Masked actions (z = −inf) add 0 and have gradient 0; where all actions are masked the entropy is 0, and so is its
    gradient. A deterministic policy has exactly 0. A logit of +inf or NaN gives NaN.

    Args:
      logits: z, [..., A].

    Returns:
      H, between 0 and log A, [...].

    Raises:
      TypeError: if the logits are not floating-point.

    Source:
      Shannon (1948), A Mathematical Theory of Communication, §6; as a bonus in Williams & Peng (1991), Function
      Optimization Using Connectionist Reinforcement Learning Algorithms.

    >>> entropy(jnp.array([[0.0, 0.0], [0.0, -jnp.inf]]))
    Array([0.6931472, 0.       ], dtype=float32)
    """
    z, p, log_normalizer, dtype = _normalized(logits)
    surprise = jnp.expand_dims(log_normalizer, -1) - jnp.where(jnp.isneginf(z), 0, z)
    return jnp.sum(p * surprise, axis=-1).astype(dtype)


def policy_gradient_loss(
    logits_t: Float[ArrayLike, "*T A"],
    a_t: Integer[ArrayLike, "*T"],
    adv_t: Real[ArrayLike, "*T"],
    *,
    where: Bool[ArrayLike, "*T"] | None = None,
) -> Float[Array, ""]:
    """Policy-gradient loss: its negative gradient is the score-function estimate of ∇J.

        L = −mean_t  Âₜ log π(aₜ | sₜ),      Âₜ constant

    Args:
      logits_t: zₜ, [T, A]; any number of leading axes, averaged over alike.
      a_t: the actions taken, integers, [T].
      adv_t: Âₜ, advantages or returns, [T]; no gradient flows into them.
      where: True for the steps that take part, [T]. The others may hold anything, inf and NaN included.

    Returns:
      The mean over the steps that take part, a scalar; 0, with gradient 0, if there are none.

    Raises:
      TypeError: if the logits are not floating-point or the actions not integers.
      AssertionError: if the shapes do not match; broadcasting is an error.

    Source:
      Sutton et al. (2000), Policy Gradient Methods for Reinforcement Learning with Function Approximation, eq. 2.

    >>> policy_gradient_loss(jnp.zeros((3, 2)), jnp.array([0, 1, 0]), jnp.array([1.0, 3.0, -1.0]))
    Array(0.6931472, dtype=float32)
    """
    _check_float(logits_t)
    logits_t, a_t, adv_t = jnp.asarray(logits_t), jnp.asarray(a_t), jnp.asarray(adv_t)
    chex.assert_equal_shape([a_t, adv_t])
    if where is not None:
        where = jnp.asarray(where, bool)
        chex.assert_equal_shape([a_t, where])
        chex.assert_equal_shape_prefix([logits_t, a_t], a_t.ndim)
        logits_t = jnp.where(jnp.expand_dims(where, -1), logits_t, 0)  # masked before, for the sake of gradients
    (z_t, adv_t), dtype = promote(logits_t, adv_t)
    return mean_where(-lax.stop_gradient(adv_t) * log_probability(z_t, a_t), where).astype(dtype)


def reinforce_loss(
    logits_t: Float[ArrayLike, "T *batch A"],
    a_t: Integer[ArrayLike, "T *batch"],
    r_t: Real[ArrayLike, "T *batch"],
    discount: Real[ArrayLike, ""] | Real[ArrayLike, "T *batch"],
    *,
    baseline_t: Real[ArrayLike, "T *batch"] | None = None,
    where: Bool[ArrayLike, "T *batch"] | None = None,
) -> Float[Array, ""]:
    """REINFORCE: each action is weighed by the return that followed it.

        L = −mean_t  (Gₜ − bₜ) log π(aₜ | sₜ),      Gₜ = Σ_{k≥t} γᵏ⁻ᵗ rₖ,   Gₜ − bₜ constant

    There is no factor γᵗ: as all practice does, states late in an episode count as much as early ones. Returns stop at
    the end of the stream without a bootstrap.

    Args:
      logits_t: zₜ, [T, A]; axes between are independent streams, averaged over alike.
      a_t: the actions taken, integers, [T].
      r_t: the rewards that followed, [T].
      discount: γ, a scalar; or one per step, [T], and then 0 where an episode terminated.
      baseline_t: bₜ, an estimate of Gₜ that does not depend on aₜ, [T]; none is 0.
      where: True for the steps that take part, [T]. The others may hold anything, inf and NaN included: they are
        neither in the mean nor in the returns of the steps before them, which end there. For padding after episodes.

    Returns:
      The mean over the steps that take part, a scalar; 0, with gradient 0, if there are none. It has no gradient in
      rewards, discount or baseline.

    Raises:
      TypeError: if the logits are not floating-point or the actions not integers.
      AssertionError: if the shapes do not match; broadcasting is an error.

    Source:
      Williams (1992), Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning;
      Sutton & Barto (2018), Reinforcement Learning, 2nd ed., eq. 13.11, here without γᵗ.

    >>> reinforce_loss(jnp.zeros((2, 2)), jnp.array([0, 1]), jnp.array([1.0, 2.0]), 0.5)
    Array(1.3862944, dtype=float32)
    """
    _check_float(logits_t)
    baseline_t = jnp.zeros_like(r_t) if baseline_t is None else baseline_t
    (logits_t, r_t, baseline_t), dtype = promote(logits_t, r_t, baseline_t)
    chex.assert_equal_shape([r_t, baseline_t])
    discount_t = per_step(discount, r_t)
    if where is not None:
        where = jnp.asarray(where, bool)
        chex.assert_equal_shape([r_t, where])
        r_t = jnp.where(where, r_t, 0)
        discount_t = jnp.where(where, discount_t, 0)
    adv_t = discounted_returns(r_t, discount_t, 0.0) - baseline_t
    return policy_gradient_loss(logits_t, a_t, adv_t, where=where).astype(dtype)


def gaussian_log_probability(
    mean: Float[ArrayLike, "*batch D"],
    log_std: Float[ArrayLike, "D"] | Float[ArrayLike, "*batch D"],
    action: Float[ArrayLike, "*batch D"],
) -> Float[Array, "*batch"]:
    """Log-density of an action under a Gaussian policy with independent components.

        log π(a) = Σᵢ −½ ((aᵢ − μᵢ) / σᵢ)² − log σᵢ − ½ log 2π

    Differentiable in all inputs; σ must be representable (|log σ| < 87 in float32).

    Args:
      mean: μ, [..., D].
      log_std: log σ, [D], or [..., D] where it depends on the state.
      action: a, [..., D]; broadcasting against the mean is an error.

    Returns:
      log π(a), summed over the last axis, [...].

    Raises:
      AssertionError: if the shapes do not match.

    Source:
      Sutton & Barto (2018), Reinforcement Learning, 2nd ed., eq. 13.19; Williams (1992), §6.

    >>> gaussian_log_probability(jnp.zeros((2, 1)), jnp.zeros(1), jnp.array([[0.0], [1.0]]))
    Array([-0.9189385, -1.4189385], dtype=float32)
    """
    (mean, log_std, action), dtype = promote(mean, log_std, action)
    chex.assert_equal_shape([mean, action])
    if log_std.ndim == 1:
        chex.assert_shape(log_std, mean.shape[-1:])
        log_std = jnp.broadcast_to(log_std, mean.shape)
    chex.assert_equal_shape([mean, log_std])
    z = (action - mean) * jnp.exp(-log_std)
    return jnp.sum(-0.5 * z**2 - log_std - 0.5 * math.log(2 * math.pi), axis=-1).astype(dtype)


def gaussian_entropy(log_std: Float[ArrayLike, "*batch D"]) -> Float[Array, "*batch"]:
    """Differential entropy of a Gaussian policy with independent components, in nats.

        H = Σᵢ log σᵢ + ½ log 2πe

    Args:
      log_std: log σ, [..., D].

    Returns:
      H, summed over the last axis, [...]; negative for narrow policies. Its gradient is 1 in each log σᵢ.

    Source:
      Cover & Thomas (2006), Elements of Information Theory, 2nd ed., eq. 8.9.

    >>> gaussian_entropy(jnp.zeros(2))
    Array(2.837877, dtype=float32)
    """
    (log_std,), dtype = promote(log_std)
    return jnp.sum(log_std + 0.5 * math.log(2 * math.pi * math.e), axis=-1).astype(dtype)


def _check_float(logits):
    dtype = jnp.result_type(logits)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"logits must be floating-point, got dtype {dtype}")


def _one_hot(action, num_actions):
    indices = jnp.expand_dims(jnp.arange(num_actions), tuple(range(action.ndim)))
    return indices == jnp.expand_dims(action, -1)


def _normalized(logits):
    """Logits z shifted so that their maximum is 0, π = softmax z and log Σ exp z; a row of −inf stays, with π = 0."""
    _check_float(logits)
    (z,), dtype = promote(logits)
    maximum = lax.stop_gradient(jnp.max(z, axis=-1, keepdims=True))
    z = z - jnp.where(jnp.isneginf(maximum), 0, maximum)
    weights = jnp.exp(z)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    total = jnp.where(total == 0, 1, total)
    return z, weights / total, jnp.squeeze(jnp.log(total), -1), dtype
