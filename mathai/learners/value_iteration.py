"""Value iteration on a finite MDP, one backup of all states per update."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mathai.learners.base import Learner, check_between, check_positive, hyperparameters
from mathai.rl import mdp


@hyperparameters
class Config:
    """Hyperparameters; floats may be traced, all else is static.

    Attributes:
      tolerance: the value no longer changes once it is known to be so close to V*, in the units of the reward.
      num_updates: updates in all.
    """

    tolerance: float = 1e-4
    num_updates: int = 1000


class State(NamedTuple):
    """Everything that changes.

    Attributes:
      value: V_k, [S].
      residual: ‖V_k − V_{k−1}‖∞; ∞ before the first update.
      iterations: k.
    """

    value: Float[Array, "S"]
    residual: Float[Array, ""]
    iterations: Int[Array, ""]


def make(config: Config, problem: mdp.MDP) -> Learner[State]:
    """Value iteration as a learner: one update is one application of Bellman's optimality operator.

        V_k = B* V_{k−1},   V₀ = 0,      while ‖V_k − V_{k−1}‖∞ > tolerance · (1 − γ)/γ

    after which V_k is within `tolerance` of V*, and stays. With γ = 1 it is repeated until nothing changes.

    Args:
      config: hyperparameters.
      problem: the MDP.

    Returns:
      A learner whose batch is None. Update metrics: `residual`, and `iterations` made. Evaluation metrics:
      `value_error` ‖V_k − V*‖∞, with V* by policy iteration; `policy_regret`, how much a state can lose by the greedy
      policy at most.

    Raises:
      ValueError: a number is out of its range.

    Source:
      Puterman (1994), Markov Decision Processes, section 6.3.
    """
    check_positive(config, "num_updates")
    check_between(config, 0, math.inf, "tolerance")

    def init(key):
        del key  # nothing here is random
        dtype = mdp.bellman_optimality(problem, jnp.zeros(problem.num_states)).dtype
        return State(jnp.zeros(problem.num_states, dtype), jnp.asarray(jnp.inf, dtype), jnp.int32(0))

    def update(state, batch=None):
        del batch
        value = mdp.bellman_optimality(problem, state.value)
        residual = jnp.max(jnp.abs(value - state.value))
        is_done = problem.discount * state.residual <= config.tolerance * (1 - problem.discount)
        state = State(
            jnp.where(is_done, state.value, value),
            jnp.where(is_done, state.residual, residual),
            jnp.where(is_done, state.iterations, state.iterations + 1),
        )
        return state, {"residual": state.residual, "iterations": state.iterations}

    def evaluate(key, state):
        del key
        best = mdp.policy_iteration(problem).value
        policy = mdp.greedy_policy(mdp.action_values(problem, state.value))
        return {
            "value_error": jnp.max(jnp.abs(state.value - best)),
            "policy_regret": jnp.max(best - mdp.policy_value(problem, policy)),
        }

    return Learner(init, update, evaluate)
