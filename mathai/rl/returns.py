"""Returns and advantages along one stream of steps.

Step t acts in a state, earns `r_t[t]` and reaches the state whose value is `v_t[t]`; `discount_t[t]` is γ, or 0 where
that state is terminal. A stream may hold many episodes. Nothing crosses the end of one, neither in values nor in
gradients, be it inf or NaN: where `discount_t` is 0 (terminated) whatever lies beyond is ignored, and where
`truncation_t` is true (cut short, by a time limit say) the bootstrap from `v_t` stays and the recursion stops.

Conventions of all functions here. Time is the first axis and T = 0 is allowed; further axes are independent streams.
Results are differentiable in every input, so callers stop the gradients that they do not want; the derivative in
`discount_t` is 0 where it is 0. Sums run in at least float32 and come back in the common dtype of the arrays, where
integers count as floats; hyperparameters do not widen it.
"""

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real, Shaped

from mathai.rl._arrays import per_step, promote


def discounted_returns(
    r_t: Real[ArrayLike, "T *batch"],
    discount_t: Real[ArrayLike, "T *batch"],
    bootstrap_value: Real[ArrayLike, "*#batch"],
) -> Float[Array, "T *batch"]:
    """Discounted returns: the rewards still to come, and the value of where the stream stops.

        Gₜ = rₜ + γₜ Gₜ₊₁,      G_T = v_T

    Truncated episodes inside the stream need a bootstrap each: `lambda_returns` with λ = 1 takes it.

    Args:
      r_t: rewards, [T, ...].
      discount_t: γₜ, 0 where step t terminated, [T, ...].
      bootstrap_value: v_T, the value of the state after the last step, a scalar or [...]; unused if that is terminal.

    Returns:
      Gₜ, [T, ...]. Where γₜ = 0, Gₜ = rₜ whatever follows.

    Raises:
      AssertionError: if the shapes differ.

    Source:
      Sutton & Barto (2018), Reinforcement Learning, 2nd ed., eq. 3.9.

    >>> discounted_returns(jnp.array([1.0, 2.0, 3.0]), jnp.array([0.5, 0.0, 0.5]), 8.0)
    Array([2., 2., 7.], dtype=float32)
    """
    (r_t, discount_t, bootstrap_value), dtype = promote(r_t, discount_t, bootstrap_value)
    chex.assert_equal_shape([r_t, discount_t])
    if bootstrap_value.ndim:
        chex.assert_shape(bootstrap_value, r_t.shape[1:])
    discount_t = jnp.where(discount_t == 0, 0, discount_t)  # the same number, but no gradient into a termination
    return _backward_recursion(r_t, discount_t, bootstrap_value).astype(dtype)


def n_step_returns(
    r_t: Real[ArrayLike, "T *batch"],
    discount_t: Real[ArrayLike, "T *batch"],
    v_t: Real[ArrayLike, "T *batch"],
    n: int,
    *,
    truncation_t: Shaped[ArrayLike, "T *batch"] | None = None,
) -> Float[Array, "T *batch"]:
    """n-step returns: n rewards, then the value of the state reached.

        Gₜ = rₜ + γₜ rₜ₊₁ + … + γₜ⋯γₜ₊ₙ₋₂ rₜ₊ₙ₋₁ + γₜ⋯γₜ₊ₙ₋₁ vₜ₊ₙ₋₁

    where `v_t[t]` is the value after step t. The last steps, and those before a truncation, have fewer than n rewards
    ahead and bootstrap from the last value there is.

    Args:
      r_t: rewards, [T, ...].
      discount_t: γₜ, 0 where step t terminated, [T, ...].
      v_t: value of the state that step t truly reached (the final observation where an episode ended), [T, ...].
      n: the number of rewards, a Python integer ≥ 1; n ≥ T gives the return to the end of the stream.
      truncation_t: 1 or True where an episode was cut short without terminating, [T, ...].

    Returns:
      Gₜ, [T, ...].

    Raises:
      ValueError: if n < 1.
      AssertionError: if the shapes differ.

    Source:
      Sutton & Barto (2018), Reinforcement Learning, 2nd ed., eq. 7.1.

    >>> n_step_returns(jnp.array([1.0, 2.0, 3.0]), jnp.full(3, 0.5), jnp.array([10.0, 20.0, 30.0]), 2)
    Array([ 7., 11., 18.], dtype=float32)
    """
    if n < 1:
        raise ValueError(f"n_step_returns needs n >= 1 rewards before the bootstrap, got n = {n}")
    (r_t, discount_t, v_t), dtype = promote(r_t, discount_t, v_t)
    chex.assert_equal_shape([r_t, discount_t, v_t])
    num_steps = r_t.shape[0]
    n = min(n, num_steps)
    discount_t = jnp.where(discount_t == 0, 0, discount_t)  # the same number, but no gradient into a termination
    bootstraps_t = _ends(truncation_t, r_t)

    def padded(x):
        return jnp.pad(x, [(0, n)] + [(0, 0)] * (x.ndim - 1))

    streams = jax.tree.map(padded, (r_t, discount_t, v_t, bootstraps_t))

    def one_step_earlier(target, i):
        r, discount, v, bootstraps = (lax.dynamic_slice_in_dim(x, i, num_steps) for x in streams)
        return r + _product(discount, jnp.where(bootstraps | (i == n - 1), v, target)), None

    offsets = jnp.arange(n)
    target, _ = lax.scan(one_step_earlier, jnp.zeros_like(r_t), offsets, reverse=True)
    return target.astype(dtype)


def lambda_returns(
    r_t: Real[ArrayLike, "T *batch"],
    discount_t: Real[ArrayLike, "T *batch"],
    v_t: Real[ArrayLike, "T *batch"],
    lambda_: Real[ArrayLike, ""] | Real[ArrayLike, "T *batch"],
    *,
    truncation_t: Shaped[ArrayLike, "T *batch"] | None = None,
) -> Float[Array, "T *batch"]:
    """λ-returns: the geometric mixture of all n-step returns.

        Gₜ = rₜ + γₜ ((1 − λₜ) vₜ + λₜ Gₜ₊₁),      G_T = v_{T−1}

    where `v_t[t]` is the value after step t. λ = 0 is the one-step target rₜ + γₜvₜ, λ = 1 the discounted return
    bootstrapped from the last value; each ignores what it weighs by 0, be it inf or NaN.

    Args:
      r_t: rewards, [T, ...].
      discount_t: γₜ, 0 where step t terminated, [T, ...].
      v_t: value of the state that step t truly reached (the final observation where an episode ended), [T, ...].
      lambda_: λ in [0, 1], a scalar or one per step, [T, ...].
      truncation_t: 1 or True where an episode was cut short without terminating, [T, ...]; Gₜ = rₜ + γₜvₜ there.

    Returns:
      Gₜ, [T, ...].

    Raises:
      AssertionError: if the shapes differ.

    Source:
      Sutton & Barto (2018), Reinforcement Learning, 2nd ed., eqs. 12.2 and 12.18.

    >>> lambda_returns(jnp.array([1.0, 2.0]), jnp.full(2, 0.5), jnp.array([10.0, 20.0]), 0.5)
    Array([ 6.5, 12. ], dtype=float32)
    """
    (r_t, discount_t, v_t), dtype = promote(r_t, discount_t, v_t)
    chex.assert_equal_shape([r_t, discount_t, v_t])
    lambda_t = per_step(lambda_, r_t)
    lives = discount_t != 0
    lambda_t = jnp.where(_ends(truncation_t, r_t), 0, lambda_t)
    bootstrap_t = discount_t * _product(1 - lambda_t, jnp.where(lives, v_t, 0))
    weight_t = jnp.where(lives, discount_t * lambda_t, 0)
    return _backward_recursion(r_t + bootstrap_t, weight_t, jnp.zeros(())).astype(dtype)


def generalized_advantage_estimation(
    r_t: Real[ArrayLike, "T *batch"],
    discount_t: Real[ArrayLike, "T *batch"],
    v_tm1: Real[ArrayLike, "T *batch"],
    v_t: Real[ArrayLike, "T *batch"],
    lambda_: Real[ArrayLike, ""] | Real[ArrayLike, "T *batch"],
    *,
    truncation_t: Shaped[ArrayLike, "T *batch"] | None = None,
) -> Float[Array, "T *batch"]:
    """Generalized advantage estimation: exponentially weighted sums of TD errors, within each episode.

        δₜ = rₜ + γₜ vₜ − vₜ₋₁
        Aₜ = δₜ + γₜ λ (1 − truncationₜ) Aₜ₊₁,      A_T = 0

    where vₜ₋₁ is the value of the state that step t leaves and vₜ of the one that it reaches. λ = 0 is the TD error,
    λ = 1 the return minus the baseline; Aₜ + vₜ₋₁ is the λ-return. Only termination removes the bootstrap γₜvₜ.

    Args:
      r_t: rewards, [T, ...].
      discount_t: γ (1 − terminated), [T, ...].
      v_tm1: value of the state in which step t acted, [T, ...].
      v_t: value of the state that step t truly reached: the final observation where an episode ended, never the first
        one of the next episode, [T, ...]. Ignored where `discount_t` is 0.
      lambda_: λ in [0, 1], a scalar or one per step, [T, ...].
      truncation_t: 1 or True where an episode was cut short without terminating, [T, ...]. Without it a stream with
        truncations leaks the next episode into the last.

    Returns:
      Aₜ, [T, ...].

    Raises:
      AssertionError: if the shapes differ.

    Source:
      Schulman et al. (2016), High-Dimensional Continuous Control Using Generalized Advantage Estimation, eq. 16;
      Pardo et al. (2018), Time Limits in Reinforcement Learning, for the bootstrap at truncations.

    >>> r_t, v_tm1, v_t = jnp.array([1.0, 1.0, 1.0]), jnp.array([4.0, 2.0, 2.0]), jnp.array([2.0, 2.0, 8.0])
    >>> generalized_advantage_estimation(r_t, jnp.full(3, 0.5), v_tm1, v_t, 0.5)
    Array([-1.8125,  0.75  ,  3.    ], dtype=float32)
    >>> generalized_advantage_estimation(r_t, jnp.full(3, 0.5), v_tm1, v_t, 0.5, truncation_t=jnp.array([0, 1, 0]))
    Array([-2.,  0.,  3.], dtype=float32)
    """
    (r_t, discount_t, v_tm1, v_t), dtype = promote(r_t, discount_t, v_tm1, v_t)
    chex.assert_equal_shape([r_t, discount_t, v_tm1, v_t])
    lambda_t = per_step(lambda_, r_t)
    lives = discount_t != 0
    delta_t = r_t + discount_t * jnp.where(lives, v_t, 0) - v_tm1
    weight_t = jnp.where(lives & ~_ends(truncation_t, r_t), discount_t * lambda_t, 0)
    return _backward_recursion(delta_t, weight_t, jnp.zeros(())).astype(dtype)


def _ends(truncation_t, r_t):
    """True where a value stands in for all that follows: at truncations, and at the last step of the stream."""
    last = jnp.arange(r_t.shape[0]) == r_t.shape[0] - 1
    last = jnp.broadcast_to(jnp.expand_dims(last, tuple(range(1, r_t.ndim))), r_t.shape)
    if truncation_t is None:
        return last
    truncation_t = jnp.asarray(truncation_t)
    chex.assert_equal_shape([r_t, truncation_t])
    return last | (truncation_t != 0)


def _product(weight, x):
    """The product weight · x, where a weight of 0 removes even inf and NaN; d/dweight is x wherever x is finite."""
    return weight * jnp.where((weight == 0) & ~jnp.isfinite(x), 0, x)


def _backward_recursion(x_t, weight_t, y_T):
    """yₜ = xₜ + wₜ yₜ₊₁ for all t, from y_T back."""

    def one_step_earlier(y, xs):
        x, weight = xs
        y = x + _product(weight, y)
        return y, y

    y_T = jnp.broadcast_to(y_T.astype(x_t.dtype), x_t.shape[1:])
    _, y_t = lax.scan(one_step_earlier, y_T, (x_t, weight_t), reverse=True)
    return y_t
