"""Temporal-difference errors of action values, and the tabular update.

Each is target − Q(s, a) for one step. The target is a constant: a gradient flows into Q(s, a) alone, with derivative
−1, so that the gradient of ½ error² is the semi-gradient of Q-learning. Where `discount_t` is 0 (terminated) the values
of the next state are not looked at, be they inf or NaN; a value of −inf masks its action. An action outside [0, A)
gives NaN: it is never wrapped or clamped. Leading axes are independent steps. Results come back in the common dtype of
the arrays, where integers count as floats.
"""

import chex
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer, Real

from mathai.rl._arrays import promote


def q_learning_error(
    q_tm1: Real[ArrayLike, "*batch A"],
    a_tm1: Integer[ArrayLike, "*batch"],
    r_t: Real[ArrayLike, "*batch"],
    discount_t: Real[ArrayLike, "*batch"],
    q_t: Real[ArrayLike, "*batch A"],
) -> Float[Array, "*batch"]:
    """Q-learning: the next state is worth its best action.

        e = r + γ maxₐ Q(s', a) − Q(s, a)

    Args:
      q_tm1: Q(s, ·), [A].
      a_tm1: the action taken in s, an integer.
      r_t: r, the reward that followed.
      discount_t: γ, or 0 where s' is terminal.
      q_t: Q(s', ·), [A], of the network or of a target network.

    Returns:
      e, a scalar; one for each leading index.

    Raises:
      TypeError: the actions are not integers.
      AssertionError: the shapes do not match; broadcasting is an error.

    Source:
      Watkins & Dayan (1992), Q-learning, eq. 1; Sutton & Barto (2018), Reinforcement Learning, 2nd ed., eq. 6.8.

    >>> q_learning_error(jnp.array([1.0, 2.0]), 1, 0.5, 0.5, jnp.array([0.0, 4.0]))
    Array(0.5, dtype=float32)
    """
    return double_q_learning_error(q_tm1, a_tm1, r_t, discount_t, q_t, q_t)


def double_q_learning_error(
    q_tm1: Real[ArrayLike, "*batch A"],
    a_tm1: Integer[ArrayLike, "*batch"],
    r_t: Real[ArrayLike, "*batch"],
    discount_t: Real[ArrayLike, "*batch"],
    q_t_value: Real[ArrayLike, "*batch A"],
    q_t_selector: Real[ArrayLike, "*batch A"],
) -> Float[Array, "*batch"]:
    """Double Q-learning: one estimate chooses the next action, another one values it, so that noise is not maximized.

        e = r + γ Q_value(s', argmaxₐ Q_selector(s', a)) − Q(s, a)

    Of several best actions the first is chosen.

    Args:
      q_tm1: Q(s, ·), [A].
      a_tm1: the action taken in s, an integer.
      r_t: r, the reward that followed.
      discount_t: γ, or 0 where s' is terminal.
      q_t_value: Q_value(s', ·), [A]: of the target network.
      q_t_selector: Q_selector(s', ·), [A]: of the network.

    Returns:
      e, a scalar; one for each leading index.

    Raises:
      TypeError: the actions are not integers.
      AssertionError: the shapes do not match; broadcasting is an error.

    Source:
      van Hasselt, Guez & Silver (2016), Deep Reinforcement Learning with Double Q-learning, eq. 4.

    >>> double_q_learning_error(jnp.zeros(2), 0, 1.0, 0.5, jnp.array([2.0, 4.0]), jnp.array([1.0, 0.0]))
    Array(2., dtype=float32)
    """
    (q_tm1, r_t, discount_t, q_t_value, q_t_selector), dtype = promote(q_tm1, r_t, discount_t, q_t_value, q_t_selector)
    chex.assert_equal_shape([q_tm1, q_t_value, q_t_selector])
    best = _take(q_t_value, jnp.argmax(q_t_selector, axis=-1))
    return _error(q_tm1, a_tm1, r_t, discount_t, best).astype(dtype)


def sarsa_error(
    q_tm1: Real[ArrayLike, "*batch A"],
    a_tm1: Integer[ArrayLike, "*batch"],
    r_t: Real[ArrayLike, "*batch"],
    discount_t: Real[ArrayLike, "*batch"],
    q_t: Real[ArrayLike, "*batch A"],
    a_t: Integer[ArrayLike, "*batch"],
) -> Float[Array, "*batch"]:
    """Sarsa: the next state is worth the action that was taken there.

        e = r + γ Q(s', a') − Q(s, a)

    Args:
      q_tm1: Q(s, ·), [A].
      a_tm1: the action taken in s, an integer.
      r_t: r, the reward that followed.
      discount_t: γ, or 0 where s' is terminal; a' then may be anything.
      q_t: Q(s', ·), [A].
      a_t: a', the action taken in s', an integer.

    Returns:
      e, a scalar; one for each leading index.

    Raises:
      TypeError: the actions are not integers.
      AssertionError: the shapes do not match; broadcasting is an error.

    Source:
      Rummery & Niranjan (1994), On-line Q-learning Using Connectionist Systems; Sutton & Barto (2018), eq. 6.7.

    >>> sarsa_error(jnp.array([1.0, 2.0]), 1, 0.5, 0.5, jnp.array([0.0, 4.0]), 0)
    Array(-1.5, dtype=float32)
    """
    (q_tm1, r_t, discount_t, q_t), dtype = promote(q_tm1, r_t, discount_t, q_t)
    chex.assert_equal_shape([q_tm1, q_t])
    return _error(q_tm1, a_tm1, r_t, discount_t, _take(q_t, a_t)).astype(dtype)


def expected_sarsa_error(
    q_tm1: Real[ArrayLike, "*batch A"],
    a_tm1: Integer[ArrayLike, "*batch"],
    r_t: Real[ArrayLike, "*batch"],
    discount_t: Real[ArrayLike, "*batch"],
    q_t: Real[ArrayLike, "*batch A"],
    policy_t: Real[ArrayLike, "*batch A"],
) -> Float[Array, "*batch"]:
    """Expected Sarsa: the next state is worth what a policy gets there on average.

        e = r + γ Σₐ π(a | s') Q(s', a) − Q(s, a),      0 · ±∞ = 0

    Args:
      q_tm1: Q(s, ·), [A].
      a_tm1: the action taken in s, an integer.
      r_t: r, the reward that followed.
      discount_t: γ, or 0 where s' is terminal.
      q_t: Q(s', ·), [A].
      policy_t: π(· | s'), [A]; it has no gradient either.

    Returns:
      e, a scalar; one for each leading index.

    Raises:
      TypeError: the actions are not integers.
      AssertionError: the shapes do not match; broadcasting is an error.

    Source:
      van Seijen et al. (2009), A Theoretical and Empirical Analysis of Expected Sarsa; Sutton & Barto (2018), eq. 6.9.

    >>> expected_sarsa_error(jnp.array([1.0, 2.0]), 1, 0.5, 0.5, jnp.array([0.0, 4.0]), jnp.array([0.5, 0.5]))
    Array(-0.5, dtype=float32)
    """
    (q_tm1, r_t, discount_t, q_t, policy_t), dtype = promote(q_tm1, r_t, discount_t, q_t, policy_t)
    chex.assert_equal_shape([q_tm1, q_t, policy_t])
    value = jnp.sum(jnp.where(policy_t == 0, 0, policy_t * q_t), axis=-1)
    return _error(q_tm1, a_tm1, r_t, discount_t, value).astype(dtype)


def q_learning_update(
    q: Real[ArrayLike, "S A"],
    s_tm1: Integer[ArrayLike, ""],
    a_tm1: Integer[ArrayLike, ""],
    r_t: Real[ArrayLike, ""],
    discount_t: Real[ArrayLike, ""],
    s_t: Integer[ArrayLike, ""],
    *,
    step_size: Real[ArrayLike, ""],
) -> Float[Array, "S A"]:
    """One step of tabular Q-learning.

        Q(s, a) ← Q(s, a) + α (r + γ max Q(s', ·) − Q(s, a)),      all other entries stay

    Args:
      q: Q, [S, A].
      s_tm1: s, an integer.
      a_tm1: a, an integer.
      r_t: r.
      discount_t: γ, or 0 where s' is terminal; s' then may be anything.
      s_t: s', an integer.
      step_size: α.

    Returns:
      The new Q, [S, A]. A step from outside the table changes nothing; one that leads out of it makes its entry NaN.

    Raises:
      TypeError: states or actions are not integers.
      AssertionError: the shapes do not match.

    Source:
      Watkins & Dayan (1992), Q-learning, eq. 1.

    >>> q_learning_update(jnp.zeros((2, 2)), 0, 1, 1.0, 0.9, 1, step_size=0.5)
    Array([[0. , 0.5],
           [0. , 0. ]], dtype=float32)
    """
    (q,), dtype = promote(q)
    num_states, num_actions = q.shape
    s_tm1, a_tm1, s_t = _index(s_tm1, num_states), _index(a_tm1, num_actions), _index(s_t, num_states)
    chex.assert_shape([s_tm1, a_tm1, s_t], ())
    q_tm1, q_t = (q.at[s].get(mode="fill", fill_value=jnp.nan) for s in (s_tm1, s_t))
    error = q_learning_error(q_tm1, a_tm1, r_t, discount_t, q_t)
    return q.at[s_tm1, a_tm1].add(jnp.asarray(step_size, q.dtype) * error.astype(q.dtype), mode="drop").astype(dtype)


def _error(q_tm1, a_tm1, r_t, discount_t, value_t):
    """The error r + γ v − Q(s, a), where nothing but Q(s, a) has a gradient, and no v where γ is 0."""
    a_tm1 = jnp.asarray(a_tm1)
    chex.assert_equal_shape([a_tm1, r_t, discount_t, value_t])
    target = r_t + jnp.where(discount_t == 0, 0, discount_t * value_t)
    return lax.stop_gradient(target) - _take(q_tm1, a_tm1)


def _take(q, action):
    """Q(·, a), NaN for an action that does not exist."""
    action = _index(action, q.shape[-1])
    chex.assert_shape(action, q.shape[:-1])
    # A comparison with every index, not a gather: no wrapping, and a gradient without a scatter.
    chosen = jnp.expand_dims(jnp.arange(q.shape[-1]), tuple(range(action.ndim))) == jnp.expand_dims(action, -1)
    value = jnp.sum(jnp.where(chosen, q, 0), axis=-1)
    return jnp.where(jnp.any(chosen, axis=-1), value, jnp.nan)


def _index(index, size):
    """The index, or one past the end for any outside [0, size): JAX would count negative ones from the end."""
    index = jnp.asarray(index)
    if not jnp.issubdtype(index.dtype, jnp.integer):
        raise TypeError(f"states and actions must be integers, got dtype {index.dtype}")
    return jnp.where((index < 0) | (index >= size), size, index)
