"""Finite Markov decision processes, solved exactly.

States and actions are numbers, and policies are arrays of probabilities [S, A]. Every function runs under `jit` and
`grad`, and under `vmap` over many problems of one size. Matrix products are taken in full precision on every device;
sums run in at least float32.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer, Real

from mathai.rl._arrays import promote


class MDP(NamedTuple):
    """A finite Markov decision process.

    A state whose rows of P are all 0 is terminal: nothing follows, and with reward 0 its value is 0. More generally,
    what a row lacks to 1 is the probability that the episode ends with that action.

    Attributes:
      transition: P(s' | s, a), [S, A, S]; rows sum to at most 1.
      reward: r(s, a), expected, [S, A].
      discount: γ in [0, 1], a scalar; 1 only where every policy ends.
    """

    transition: Float[Array, "S A S"]
    reward: Real[Array, "S A"]
    discount: Real[ArrayLike, ""]

    @property
    def num_states(self) -> int:
        """S."""
        return jnp.shape(self.reward)[0]

    @property
    def num_actions(self) -> int:
        """A."""
        return jnp.shape(self.reward)[1]


class Solution(NamedTuple):
    """A solved problem.

    Attributes:
      value: V, [S].
      policy: greedy for V, one-hot, [S, A].
      iterations: how many were made.
      residual: of value iteration ‖V_k − V_{k−1}‖∞; of policy iteration ‖B*V − V‖∞.
    """

    value: Float[Array, "S"]
    policy: Float[Array, "S A"]
    iterations: Integer[Array, ""]
    residual: Float[Array, ""]


def action_values(mdp: MDP, value: Real[ArrayLike, "S"]) -> Float[Array, "S A"]:
    """Action values that follow from state values.

        Q(s, a) = r(s, a) + γ Σ_s' P(s' | s, a) V(s')

    Args:
      mdp: the problem.
      value: V, [S].

    Returns:
      Q, [S, A].

    Raises:
      AssertionError: if the shapes do not match.

    Source:
      Sutton & Barto (2018), Reinforcement Learning, 2nd ed., eq. 4.6.

    >>> swap = MDP(jnp.array([[[0.0, 1.0]], [[1.0, 0.0]]]), jnp.array([[1.0], [0.0]]), 0.5)
    >>> action_values(swap, jnp.array([0.0, 4.0]))
    Array([[3.],
           [0.]], dtype=float32)
    """
    mdp, value, dtype = _promoted(mdp, value)
    chex.assert_shape(value, (mdp.num_states,))
    return _backup(mdp, value).astype(dtype)


def bellman_optimality(mdp: MDP, value: Real[ArrayLike, "S"]) -> Float[Array, "S"]:
    """Bellman's optimality operator: the best that one step and then V can give.

        (B*V)(s) = maxₐ r(s, a) + γ Σ_s' P(s' | s, a) V(s')

    It contracts distances in the maximum norm by γ and is monotone; its fixed point is V*. Where actions tie, the
    gradient is shared among them.

    Args:
      mdp: the problem.
      value: V, [S].

    Returns:
      B*V, [S].

    Raises:
      AssertionError: if the shapes do not match.

    Source:
      Bellman (1957), Dynamic Programming, chapter III; Sutton & Barto (2018), Reinforcement Learning, eq. 4.10.

    >>> stay_or_go = MDP(jnp.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]]), jnp.eye(2), 0.5)
    >>> bellman_optimality(stay_or_go, jnp.array([0.0, 4.0]))
    Array([2., 3.], dtype=float32)
    """
    return jnp.max(action_values(mdp, value), axis=1)


def bellman_expectation(mdp: MDP, policy: Real[ArrayLike, "S A"], value: Real[ArrayLike, "S"]) -> Float[Array, "S"]:
    """Bellman's operator of a policy: one step of it and then V.

        (B^π V)(s) = Σₐ π(a | s) (r(s, a) + γ Σ_s' P(s' | s, a) V(s'))

    Args:
      mdp: the problem.
      policy: π, [S, A]; rows sum to 1.
      value: V, [S].

    Returns:
      B^π V, [S].

    Raises:
      AssertionError: if the shapes do not match.

    Source:
      Sutton & Barto (2018), Reinforcement Learning, 2nd ed., eq. 4.5.

    >>> stay_or_go = MDP(jnp.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]]), jnp.eye(2), 0.5)
    >>> bellman_expectation(stay_or_go, jnp.full((2, 2), 0.5), jnp.array([0.0, 4.0]))
    Array([1.5, 2.5], dtype=float32)
    """
    mdp, policy, value, dtype = _promoted(mdp, policy, value)
    chex.assert_shape(policy, (mdp.num_states, mdp.num_actions))
    chex.assert_shape(value, (mdp.num_states,))
    return jnp.sum(policy * _backup(mdp, value), axis=1).astype(dtype)


def greedy_policy(q: Real[ArrayLike, "*S A"]) -> Float[Array, "*S A"]:
    """The deterministic policy that takes the best action, of several best ones the first.

        π(a | s) = [a = argmaxⱼ Q(s, j)]

    Args:
      q: Q, [..., A]; −inf masks an action.

    Returns:
      π, one-hot, [..., A]. It has no gradient.

    Source:
      Sutton & Barto (2018), Reinforcement Learning, 2nd ed., eq. 4.9.

    >>> greedy_policy(jnp.array([[0.0, 2.0, 2.0], [1.0, 1.0, 1.0]]))
    Array([[0., 1., 0.],
           [1., 0., 0.]], dtype=float32)
    """
    (_,), dtype = promote(q)
    q = jnp.asarray(q)
    return jax.nn.one_hot(jnp.argmax(q, axis=-1), q.shape[-1], dtype=dtype)


def policy_value(mdp: MDP, policy: Real[ArrayLike, "S A"]) -> Float[Array, "S"]:
    """The value of a policy, by a linear solve.

        V = (I − γ P^π)⁻¹ r^π,      P^π = Σₐ π(a | s) P(· | s, a),   r^π = Σₐ π(a | s) r(s, a)

    Differentiable in the policy and in the problem.

    Args:
      mdp: the problem.
      policy: π, [S, A]; rows sum to 1.

    Returns:
      V^π, [S]; not finite where γ = 1 and the policy need not end.

    Raises:
      AssertionError: if the shapes do not match.

    Source:
      Puterman (1994), Markov Decision Processes, theorem 6.1.1.

    >>> swap = MDP(jnp.array([[[0.0, 1.0]], [[1.0, 0.0]]]), jnp.array([[3.0], [0.0]]), 0.5)
    >>> policy_value(swap, jnp.ones((2, 1)))
    Array([4., 2.], dtype=float32)
    """
    mdp, policy, dtype = _promoted(mdp, policy)
    chex.assert_shape(policy, (mdp.num_states, mdp.num_actions))
    transition = jnp.einsum("sa,sat->st", policy, mdp.transition, precision=lax.Precision.HIGHEST)
    reward = jnp.sum(policy * mdp.reward, axis=1)
    return jnp.linalg.solve(jnp.eye(mdp.num_states, dtype=reward.dtype) - mdp.discount * transition, reward).astype(
        dtype
    )


def expected_return(
    mdp: MDP, policy: Real[ArrayLike, "S A"], initial_distribution: Real[ArrayLike, "S"]
) -> Float[Array, ""]:
    """The objective of policy gradients, exactly.

        J(π) = Σ_s d₀(s) V^π(s)

    With π = softmax θ, `jax.grad` of it in θ is the exact policy gradient, with its factors γᵗ.

    Args:
      mdp: the problem.
      policy: π, [S, A]; rows sum to 1.
      initial_distribution: d₀, [S].

    Returns:
      J, a scalar.

    Raises:
      AssertionError: if the shapes do not match.

    Source:
      Sutton et al. (2000), Policy Gradient Methods for Reinforcement Learning with Function Approximation, §1.

    >>> swap = MDP(jnp.array([[[0.0, 1.0]], [[1.0, 0.0]]]), jnp.array([[3.0], [0.0]]), 0.5)
    >>> expected_return(swap, jnp.ones((2, 1)), jnp.array([0.5, 0.5]))
    Array(3., dtype=float32)
    """
    value = policy_value(mdp, policy)
    (value, distribution), dtype = promote(value, initial_distribution)
    chex.assert_equal_shape([value, distribution])
    return jnp.sum(distribution * value).astype(dtype)


def value_iteration(mdp: MDP, *, tolerance: float = 1e-6, max_iterations: int = 10_000) -> Solution:
    """The optimal value, by repeating Bellman's optimality operator.

        V₀ = 0,   V_k = B* V_{k−1},      until ‖V_k − V_{k−1}‖∞ ≤ tolerance

    Then ‖V_k − V*‖∞ ≤ γ/(1 − γ) · tolerance, and rounding, which keeps the residual above ε·max|V|: a tolerance below
    that makes all `max_iterations`. The value is differentiable in the problem, by the implicit function theorem.

    Args:
      mdp: the problem.
      tolerance: largest residual to stop at, in the units of the reward.
      max_iterations: at most so many.

    Returns:
      The last V_k, the first greedy policy for it, k, and the residual.

    Raises:
      AssertionError: if the shapes do not match.

    Source:
      Puterman (1994), Markov Decision Processes, section 6.3.

    >>> stay_or_go = MDP(jnp.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]]), jnp.eye(2), 0.5)
    >>> value_iteration(stay_or_go, tolerance=1e-3).value.round(2)
    Array([2., 2.], dtype=float32)
    """
    mdp, dtype = _promoted(mdp)

    def solve(equation, start):
        del equation  # the value only; what differs from it is the tangents' business

        def is_unsettled(carry):
            _, iterations, residual = carry
            return (residual > tolerance) & (iterations < max_iterations)

        def improve(carry):
            value, iterations, _ = carry
            successor = jnp.max(_backup(mdp, value), axis=1)
            return successor, iterations + 1, jnp.max(jnp.abs(successor - value), initial=0)

        infinity = jnp.asarray(jnp.inf, start.dtype)
        value, iterations, residual = lax.while_loop(is_unsettled, improve, (start, jnp.int32(0), infinity))
        return value, (iterations.astype(value.dtype), residual)  # integers have tangents that `custom_root` refuses

    def tangent_solve(linear, right_side):
        return jnp.linalg.solve(jax.jacobian(linear)(jnp.zeros_like(right_side)), right_side)

    value, (iterations, residual) = lax.custom_root(
        lambda value: value - jnp.max(_backup(mdp, value), axis=1),
        jnp.zeros(mdp.num_states, mdp.reward.dtype),
        solve,
        tangent_solve,
        has_aux=True,
    )
    policy = greedy_policy(_backup(mdp, value))
    return Solution(value.astype(dtype), policy.astype(dtype), iterations.astype(jnp.int32), residual.astype(dtype))


def policy_iteration(mdp: MDP) -> Solution:
    """The optimal value and policy, by solving for a policy's value and making it greedy, until it is.

        π_{k+1}(s) = argmaxₐ Q^{π_k}(s, a),      which keeps π_k(s) where that is as good

    Values rise from policy to policy. Where rounding lets tied actions look better in turn, the sum of their rises is
    not positive, and that ends it. The first policy is greedy for V = 0. The value is
    differentiable in the problem, as that of a fixed policy.

    Args:
      mdp: the problem.

    Returns:
      V and the policy whose value it is, how many policies were evaluated, and ‖B*V − V‖∞.

    Raises:
      AssertionError: if the shapes do not match.

    Source:
      Howard (1960), Dynamic Programming and Markov Processes; Puterman (1994), section 6.4.

    >>> stay_or_go = MDP(jnp.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]]), jnp.eye(2), 0.5)
    >>> policy_iteration(stay_or_go).value
    Array([2., 2.], dtype=float32)
    """
    mdp, dtype = _promoted(mdp)
    fixed = jax.tree.map(lax.stop_gradient, mdp)

    def value_of(policy):
        return policy_value(fixed, jax.nn.one_hot(policy, mdp.num_actions, dtype=mdp.reward.dtype))

    def improved(policy, value):
        q = _backup(fixed, value)
        best = jnp.argmax(q, axis=1)
        kept = jnp.take_along_axis(q, policy[:, None], axis=1)[:, 0] >= jnp.max(q, axis=1)
        return jnp.where(kept, policy, best)

    def is_rising(carry):
        _, _, iterations, rises = carry
        return rises & (iterations < most)

    def improve(carry):
        policy, value, iterations, _ = carry
        candidate = improved(policy, value)
        candidate_value = value_of(candidate)
        rises = jnp.sum(candidate_value - value) > 0  # not of two sums: small rises would drown in them
        return (
            jnp.where(rises, candidate, policy),
            jnp.where(rises, candidate_value, value),
            iterations + 1,
            rises,
        )

    most = max(100, mdp.num_states * mdp.num_actions)
    policy = jnp.argmax(fixed.reward, axis=1)
    policy, value, iterations, _ = lax.while_loop(
        is_rising, improve, (policy, value_of(policy), jnp.int32(1), jnp.asarray(True))
    )
    one_hot = jax.nn.one_hot(policy, mdp.num_actions, dtype=mdp.reward.dtype)
    residual = jnp.max(jnp.abs(jnp.max(_backup(fixed, value), axis=1) - value), initial=0)
    value = policy_value(mdp, one_hot)
    return Solution(value.astype(dtype), one_hot.astype(dtype), iterations, residual.astype(dtype))


def _backup(mdp, value):
    return mdp.reward + mdp.discount * jnp.matmul(mdp.transition, value, precision=lax.Precision.HIGHEST)


def _promoted(mdp, *arrays):
    """The problem and arrays about it in a dtype fit to accumulate in, their shapes checked, and the result's dtype."""
    arrays, dtype = promote(mdp.transition, mdp.reward, *arrays)
    transition, reward, *rest = arrays
    chex.assert_rank(reward, 2)
    chex.assert_shape(transition, (*reward.shape, reward.shape[0]))
    discount = jnp.asarray(mdp.discount, reward.dtype)
    chex.assert_shape(discount, ())
    return MDP(transition, reward, discount), *rest, dtype
