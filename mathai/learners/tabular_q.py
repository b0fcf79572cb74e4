"""Tabular Q-learning on a finite MDP, with ε-greedy exploration."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mathai.learners.base import Learner, PRNGKey, check_between, check_positive, hyperparameters
from mathai.learners.environments import EpisodeStatistics
from mathai.learners.mdp_environment import draw_initial, draw_successor, make_mdp_environment
from mathai.learners.policies import epsilon_greedy, falling_epsilon
from mathai.rl import mdp, q_learning


@hyperparameters
class Config:
    """Hyperparameters; floats may be traced, all else is static.

    Attributes:
      num_steps: environment steps of one update.
      total_env_steps: environment steps in all.
      step_size: α of the first visit of a pair (s, a).
      step_size_exponent: ω; the n-th visit has α n^−ω. Q converges for ω in (½, 1]; 0 keeps α.
      epsilon_start: ε, the probability of a random action, at first,
      epsilon_end: and at last;
      exploration_fraction: share of all environment steps over which it falls linearly.
      max_episode_steps: where an episode is cut; the value of where it stood still counts.
    """

    num_steps: int = 1000
    total_env_steps: int = 1_000_000
    step_size: float = 1.0
    step_size_exponent: float = 0.6
    epsilon_start: float = 1.0
    epsilon_end: float = 1.0
    exploration_fraction: float = 1.0
    max_episode_steps: int = 100

    @property
    def num_updates(self) -> int:
        """Updates in all."""
        return self.total_env_steps // self.num_steps


class State(NamedTuple):
    """Everything that changes.

    Attributes:
      key: of all randomness to come.
      q: Q, [S, A].
      visits: how often each pair was updated, [S, A].
      state: where the episode stands.
      time: its steps so far.
      episodes: returns and lengths.
      env_steps: environment steps so far.
    """

    key: PRNGKey
    q: Float[Array, "S A"]
    visits: Int[Array, "S A"]
    state: Int[Array, ""]
    time: Int[Array, ""]
    episodes: EpisodeStatistics
    env_steps: Int[Array, ""]


def make(config: Config, problem: mdp.MDP, initial_distribution: Array | None = None) -> Learner[State]:
    """Q-learning as a learner: one update is `num_steps` steps of one stream of episodes.

        Q(s, a) ← Q(s, a) + α n(s, a)^−ω (r + γ maxⱼ Q(s', j) − Q(s, a))

    with a random action with probability ε, and otherwise the best one, of several the first. It is off-policy: with
    ε = 1 throughout, the greedy policy is learned all the same.

    Args:
      config: hyperparameters.
      problem: the MDP, whose discount is γ.
      initial_distribution: of the first state of an episode, [S]; None is uniform over states that are not terminal.

    Returns:
      A learner whose batch is None. Update metrics: `td_error`, the mean of |error|; `episode_return` and
      `episode_length`, of the episodes that ended in the last update in which any did; `episodes`, `env_steps` and
      `epsilon`. Evaluation metrics: `value_error` ‖Q − Q*‖∞, with Q* by policy iteration, and `expected_return` of the
      greedy policy and of the best one, `best_return`, both exact and discounted.

    Raises:
      ValueError: a number is out of its range.

    Source:
      Watkins & Dayan (1992), Q-learning; Even-Dar & Mansour (2003), Learning Rates for Q-learning.
    """
    check_positive(config, "num_steps", "max_episode_steps", "total_env_steps")
    check_between(config, 0, 1, "epsilon_start", "epsilon_end", "exploration_fraction")
    check_between(config, 0, math.inf, "step_size", "step_size_exponent")
    start = make_mdp_environment(problem, initial_distribution)[1].initial_distribution

    def init(key):
        key, start_key = jax.random.split(key)
        shape = problem.num_states, problem.num_actions
        state = draw_initial(jax.random.uniform(start_key), start)
        zero = jnp.int32(0)
        return State(key, jnp.zeros(shape), jnp.zeros(shape, jnp.int32), state, zero, EpisodeStatistics.zeros(1), zero)

    def update(state, batch=None):
        del batch  # the state makes its own data
        key, noise_key = jax.random.split(state.key)
        epsilon = falling_epsilon(config, state.env_steps)

        def step(carry, noise):
            q, visits, s_tm1, time = carry
            of_successor, of_start = noise[2:]
            a_tm1 = epsilon_greedy(q[s_tm1], epsilon, noise[:2])
            s_t, terminated = draw_successor(of_successor, problem, s_tm1, a_tm1)
            r_t = problem.reward[s_tm1, a_tm1].astype(jnp.float32)
            visits = visits.at[s_tm1, a_tm1].add(1)
            step_size = config.step_size * visits[s_tm1, a_tm1].astype(jnp.float32) ** -config.step_size_exponent
            discount_t = problem.discount * (1.0 - terminated)
            error = q_learning.q_learning_error(q[s_tm1], a_tm1, r_t, discount_t, q[s_t])
            new_q = q_learning.q_learning_update(q, s_tm1, a_tm1, r_t, discount_t, s_t, step_size=step_size)
            done = terminated | (time + 1 >= config.max_episode_steps)
            following = jnp.where(done, draw_initial(of_start, start), s_t)
            return (new_q, visits, following, jnp.where(done, 0, time + 1)), (r_t, done, error)

        noise = jax.random.uniform(noise_key, (config.num_steps, 4))
        carry, (rewards, done, errors) = jax.lax.scan(step, (state.q, state.visits, state.state, state.time), noise)
        episodes = state.episodes.after(rewards[:, None], done[:, None])
        state = State(key, *carry, episodes, state.env_steps + config.num_steps)
        return state, {
            "td_error": jnp.mean(jnp.abs(errors)),
            "epsilon": falling_epsilon(config, state.env_steps),
            "episode_return": episodes.mean_return,
            "episode_length": episodes.mean_length,
            "episodes": episodes.episodes,
            "env_steps": state.env_steps,
        }

    def evaluate(key, state):
        del key
        best = mdp.policy_iteration(problem)
        q = mdp.action_values(problem, best.value)
        return {
            "value_error": jnp.max(jnp.abs(state.q - q)),
            "expected_return": mdp.expected_return(problem, mdp.greedy_policy(state.q), start),
            "best_return": jnp.sum(start * best.value),
        }

    return Learner(init, update, evaluate)
