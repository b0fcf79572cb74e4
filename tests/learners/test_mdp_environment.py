"""Steps of an MDP against its matrices: how often what follows, where episodes end, and what rounding must not do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mathai.learners.environments import make_environments
from mathai.learners.mdp_environment import draw_initial, draw_successor, is_terminal, make_mdp_environment
from mathai.rl import small_mdps
from mathai.rl.mdp import MDP

LARGEST = np.nextafter(np.float32(1), np.float32(0))

# States 0 to 2 are left by two actions; 3 is terminal; 4 is left, and never entered.
PROBLEM = MDP(
    transition=jnp.array(
        [
            [[0.5, 0.25, 0, 0.25, 0], [0, 0, 1, 0, 0]],
            [[0.1, 0.2, 0.3, 0, 0], [0, 0, 0, 0.75, 0]],  # loses 0.4 and 0.25
            [[0, 0, 0, 1, 0], [0, 0.9, 0.1, 0, 0]],
            [[0, 0, 0, 0, 0], [0, 0, 0, 0, 0]],
            [[0.25, 0.25, 0.25, 0.25, 0], [1, 0, 0, 0, 0]],
        ]
    ),
    reward=jnp.array([[1.0, -1.0], [0.5, 2.0], [3.0, 0.0], [0.0, 0.0], [7.0, -7.0]]),
    discount=0.8,
)
NUM_STATES, NUM_ACTIONS, TERMINAL = 5, 2, 3
ENV, PARAMS = make_mdp_environment(PROBLEM)


def expected_successors():
    """[S, A, S], with what is lost on the diagonal, and the probability of an end [S, A]."""
    transition = np.asarray(PROBLEM.transition, np.float64)
    lost = 1 - transition.sum(-1)
    return transition + lost[..., None] * np.eye(NUM_STATES)[:, None], transition[..., TERMINAL] + lost


def frequencies(successor, num_states):
    """Shares of each state along the first axis, as a last axis."""
    return np.mean(np.asarray(successor)[..., None] == np.arange(num_states), axis=0)


def assert_within_standard_errors(found, probability, num_draws, num_errors=5.0):
    """Where the probability is 0 or 1 its standard error is 0, and the frequency must be exact."""
    error = np.sqrt(np.maximum(probability * (1 - probability), 0) / num_draws)
    assert np.all(np.abs(found - probability) <= num_errors * error + 1e-7)


@functools.cache
def all_steps(num_draws=4000):
    """Outcomes of `step_env` for every state and action, [num_draws, S, A]."""

    def step(key, state, action):
        _, start = ENV.reset_env(key, PARAMS)
        observation, after, reward, terminated, _ = ENV.step_env(key, start._replace(state=state), action, PARAMS)
        return observation, after.state, after.time, reward, terminated

    over_actions = jax.vmap(step, in_axes=(None, None, 0))
    over_states = jax.vmap(over_actions, in_axes=(None, 0, None))
    every = jax.jit(jax.vmap(over_states, in_axes=(0, None, None)))
    return every(jax.random.split(jax.random.key(0), num_draws), jnp.arange(NUM_STATES), jnp.arange(NUM_ACTIONS))


# The distribution of what follows


def test_successors_are_as_frequent_as_the_matrix_says():
    # Five standard errors of 4000 draws; what has probability 0 never happens, and what has 1 always does.
    _, successor, *_ = all_steps()
    assert_within_standard_errors(frequencies(successor, NUM_STATES), expected_successors()[0], 4000)


def test_episodes_end_in_terminal_states_and_with_lost_probability():
    *_, terminated = all_steps()
    assert terminated.dtype == bool
    assert_within_standard_errors(np.mean(terminated, axis=0), expected_successors()[1], 4000)


def test_a_step_shows_its_state_counts_itself_and_earns_the_expected_reward():
    observation, successor, time, reward, _ = all_steps()
    np.testing.assert_array_equal(observation, successor)
    np.testing.assert_array_equal(time, 1)
    np.testing.assert_array_equal(reward, np.broadcast_to(PROBLEM.reward, reward.shape))


@functools.cache
def drawn_evenly(num_draws=1000):
    """(successor, terminated) of every state and action for the middles of `num_draws` equal parts of [0, 1)."""
    uniform = (jnp.arange(num_draws) + 0.5) / num_draws
    over_actions = jax.vmap(draw_successor, in_axes=(None, None, None, 0))
    over_states = jax.vmap(over_actions, in_axes=(None, None, 0, None))
    every = jax.jit(jax.vmap(over_states, in_axes=(0, None, None, None)))
    return every(uniform, PROBLEM, jnp.arange(NUM_STATES), jnp.arange(NUM_ACTIONS))


def test_even_numbers_are_split_as_the_probabilities_split_one():
    # The number of middles in an interval of length p differs from p · num_draws by less than 1.
    successor, terminated = drawn_evenly()
    probability, end = expected_successors()
    np.testing.assert_allclose(frequencies(successor, NUM_STATES), probability, atol=1.5e-3)
    np.testing.assert_allclose(np.mean(terminated, axis=0), end, atol=1.5e-3)


def test_where_probability_is_lost_the_episode_ends_and_the_state_stays():
    successor, terminated = drawn_evenly()
    lost = np.arange(1000) >= 600  # state 1, action 0: successors take the first 0.6 of [0, 1), and none is terminal
    np.testing.assert_array_equal(terminated[:, 1, 0], lost)
    np.testing.assert_array_equal(np.asarray(successor)[lost, 1, 0], 1)


def test_a_terminal_state_stays_and_ends_at_once():
    successor, terminated = drawn_evenly()
    np.testing.assert_array_equal(successor[:, TERMINAL], TERMINAL)
    assert np.all(terminated[:, TERMINAL])


def test_terminal_states_are_those_that_nothing_follows():
    letters = "".join(small_mdps.FROZEN_LAKE)
    found = is_terminal(small_mdps.frozen_lake())
    np.testing.assert_array_equal(found, [letter in "GH" for letter in letters])
    # losing all probability with one action, or some with each, makes no state terminal
    np.testing.assert_array_equal(is_terminal(MDP(jnp.array([[[1.0], [0.0]]]), jnp.zeros((1, 2)), 0.9)), [False])
    np.testing.assert_array_equal(is_terminal(PROBLEM), [False, False, False, True, False])


# Rounding


def random_rows(num_rows, num_states, seed=0):
    """Distributions in float32, about half of whose probabilities are 0."""
    rng = np.random.default_rng(seed)
    rows = np.where(rng.random((num_rows, num_states)) < 0.5, 0, rng.exponential(size=(num_rows, num_states)))
    rows[np.arange(num_rows), rng.integers(num_states, size=num_rows)] += 1e-3  # so that none is empty
    return (rows / rows.sum(1, keepdims=True)).astype(np.float32)


@jax.jit
def draw_from_rows(uniform, rows):
    """(successor, terminated, first state) for every row and its numbers.

    As a successor it is drawn from state 0 of a problem in which every state can be left.
    """

    def of_row(uniform, row):
        transition = jnp.zeros((row.size, 1, row.size)).at[:, 0, 0].set(1.0).at[0, 0].set(row)
        problem = MDP(transition, jnp.zeros((row.size, 1)), 0.9)
        draw = jax.vmap(draw_successor, in_axes=(0, None, None, None))
        return *draw(uniform, problem, jnp.int32(0), jnp.int32(0)), jax.vmap(draw_initial, in_axes=(0, None))(
            uniform, row
        )

    return jax.vmap(of_row)(uniform, rows)


def numbers_near_the_borders(rows):
    """Both ends of [0, 1), and the neighbours in float32 of every partial sum, [num_rows, numbers]."""
    partial = np.cumsum(rows.astype(np.float64), axis=1).astype(np.float32)
    down, up = np.nextafter(partial, np.float32(-1)), np.nextafter(partial, np.float32(2))
    ends = np.broadcast_to(np.array([0, 1e-30, LARGEST], np.float32), (len(rows), 3))
    near = np.concatenate([partial, down, up, np.nextafter(down, np.float32(-1)), np.nextafter(up, np.float32(2))], 1)
    return np.concatenate([ends, np.clip(near, 0, LARGEST)], axis=1)


@pytest.mark.parametrize(
    ("num_rows", "num_states"),
    [
        (300, 7),
        (8, 400),
    ],
)
def test_no_rounding_reaches_what_has_probability_0_or_ends_an_episode(num_rows, num_states):
    rows = random_rows(num_rows, num_states)
    successor, terminated, first = draw_from_rows(numbers_near_the_borders(rows), rows)
    assert not np.any(terminated)  # the rows sum to 1 up to rounding
    for found in (successor, first):
        assert np.all(np.take_along_axis(rows, np.asarray(found), axis=1) > 0)
        # the ends of [0, 1) belong to the first and the last that are possible
        np.testing.assert_array_equal(found[:, 0], np.argmax(rows > 0, axis=1))
        np.testing.assert_array_equal(found[:, 2], num_states - 1 - np.argmax(rows[:, ::-1] > 0, axis=1))


# Where episodes begin


def test_episodes_begin_anywhere_but_in_terminal_states():
    np.testing.assert_allclose(PARAMS.initial_distribution, [0.25, 0.25, 0.25, 0, 0.25])
    assert PARAMS.initial_distribution.dtype == jnp.float32


def test_first_states_are_as_frequent_as_their_distribution_says():
    distribution = np.array([0.0, 0.3, 0.0, 0.1, 0.6])
    env, params = make_mdp_environment(PROBLEM, distribution)
    first, state = jax.jit(jax.vmap(lambda key: env.reset_env(key, params)))(jax.random.split(jax.random.key(1), 4000))
    assert_within_standard_errors(frequencies(first, NUM_STATES), distribution, 4000)
    np.testing.assert_array_equal(first, state.state)
    np.testing.assert_array_equal(state.time, 0)


# As an environment


@functools.partial(jax.jit, static_argnames=("num_steps", "num_envs"))
def roll_out(params, num_steps, num_envs):
    """Uniformly random actions: the first observation, and (action, next observation, Step) of each step."""
    environments = make_environments(ENV, params, num_envs)
    reset_key, noise_key, action_key = jax.random.split(jax.random.key(2), 3)
    first, state = environments.reset(reset_key)
    actions = jax.random.randint(action_key, (num_steps, num_envs), 0, NUM_ACTIONS)

    def step(state, x):
        observation, state, outcome = environments.step(state, *x)
        return state, (observation, outcome)

    _, history = jax.lax.scan(step, state, (actions, environments.draw_noise(noise_key, num_steps)))
    return first, actions, *history


NUM_STEPS, NUM_ENVS = 30, 1000


def test_an_episode_that_does_not_end_is_cut_after_its_steps():
    # Everything leads to state 0, which is left for itself.
    forever = MDP(jnp.zeros((5, 2, 5)).at[:, :, 0].set(1.0), jnp.ones((5, 2)), 0.9)
    _, params = make_mdp_environment(forever, max_steps_in_episode=3)
    *_, outcome = roll_out(params, NUM_STEPS, NUM_ENVS)
    assert not np.any(outcome.terminated)
    every_third = np.arange(1, NUM_STEPS + 1) % 3 == 0
    np.testing.assert_array_equal(outcome.truncated, np.broadcast_to(every_third[:, None], (NUM_STEPS, NUM_ENVS)))
    np.testing.assert_array_equal(outcome.final_observation, 0)


def test_the_mean_return_of_a_policy_is_its_value():
    # Five standard errors of 1000 episodes; 0.8³⁰ of the last value is all that is missed of those still running.
    first, _, _, outcome = roll_out(PARAMS, NUM_STEPS, NUM_ENVS)
    done = np.asarray(outcome.terminated | outcome.truncated)
    is_first_episode = np.cumsum(done, axis=0) - done == 0
    returns = np.sum(np.asarray(outcome.reward) * 0.8 ** np.arange(NUM_STEPS)[:, None] * is_first_episode, axis=0)
    policy = np.full((NUM_STATES, NUM_ACTIONS), 0.5)
    transition = np.einsum("sa,sat->st", policy, np.asarray(PROBLEM.transition, np.float64))
    value = np.linalg.solve(np.eye(NUM_STATES) - 0.8 * transition, (policy * np.asarray(PROBLEM.reward)).sum(1))
    rest = returns - value[np.asarray(first)]
    assert abs(rest.mean()) < 5 * rest.std() / np.sqrt(NUM_ENVS)
    assert not np.any(outcome.truncated)  # 1000 steps are far


def test_what_follows_an_end_is_a_fresh_start():
    _, _, observation, outcome = roll_out(PARAMS, NUM_STEPS, NUM_ENVS)
    done = np.asarray(outcome.terminated)
    after = np.asarray(observation)[done]
    assert_within_standard_errors(frequencies(after, NUM_STATES), np.array([0.25, 0.25, 0.25, 0, 0.25]), len(after))
    np.testing.assert_array_equal(np.asarray(observation)[~done], np.asarray(outcome.final_observation)[~done])
    assert np.all(np.asarray(observation) != TERMINAL)


def test_spaces_and_counts_are_those_of_the_problem():
    assert ENV.action_space(PARAMS).n == ENV.num_actions == NUM_ACTIONS
    assert ENV.observation_space(PARAMS).n == NUM_STATES
    lake, params = make_mdp_environment(small_mdps.frozen_lake())
    assert (lake.action_space(params).n, lake.observation_space(params).n) == (4, 16)


def test_problems_of_one_size_share_an_environment_and_can_be_batched():
    assert make_mdp_environment(PROBLEM._replace(discount=0.5))[0] is ENV

    def reward_of_a_step(reward):
        env, params = make_mdp_environment(PROBLEM._replace(reward=jnp.full((NUM_STATES, NUM_ACTIONS), reward)))
        _, state = env.reset_env(jax.random.key(0), params)
        return env.step_env(jax.random.key(1), state, jnp.int32(1), params)[2]

    rewards = jnp.array([2.0, 5.0])
    np.testing.assert_array_equal(jax.jit(jax.vmap(reward_of_a_step))(rewards), rewards)
