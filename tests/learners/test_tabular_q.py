"""Tabular Q-learning where its every step is known, against linear algebra, and on the frozen lake to the optimum."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mathai.learners import tabular_q
from mathai.learners.base import train
from mathai.learners.environments import EpisodeStatistics
from mathai.rl import small_mdps
from mathai.rl.mdp import MDP

UPDATE_METRICS = {"td_error", "epsilon", "episode_return", "episode_length", "episodes", "env_steps"}
EVALUATION_METRICS = {"value_error", "expected_return", "best_return"}
COUNTERS = {"episodes", "env_steps"}
SURE = tabular_q.Config(step_size=1.0, step_size_exponent=0.0)  # what a step tells is taken for the truth


@functools.partial(jax.jit, static_argnames="num_updates")
def learn(config, problem, num_updates, start=None, seed=0):
    """The state after each update, the metrics of each, and the evaluation of the last."""
    learner = tabular_q.make(config, problem, start)

    def update(state, _):
        state, metrics = learner.update(state, None)
        return state, (state, metrics)

    last, (states, metrics) = jax.lax.scan(update, learner.init(jax.random.key(seed)), length=num_updates)
    return states, metrics, learner.evaluate(jax.random.key(1), last)


def exact_action_values(problem):
    """Q* by NumPy in float64: a hundred thousand backups at most."""
    transition, reward = np.asarray(problem.transition, np.float64), np.asarray(problem.reward, np.float64)
    q = np.zeros_like(reward)
    for _ in range(100_000):
        new = reward + float(problem.discount) * transition @ q.max(1)
        if np.array_equal(new, q):
            break
        q = new
    return q


# A grid on which everything is sure


LAYOUT = ("S..#", ".#.G", "..H.")
GRID = small_mdps.grid_world(LAYOUT, discount=0.5, step_reward=-1.0, goal_reward=4.0, hole_reward=-8.0)
LETTERS = np.array(list("".join(LAYOUT)))
IS_TERMINAL = np.isin(LETTERS, list("G#H"))
GRID_CONFIG = dataclasses.replace(SURE, num_steps=500, max_episode_steps=20)


@functools.cache
def on_the_grid(seed=0):
    return learn(GRID_CONFIG, GRID, 8, seed=seed)


def test_sure_steps_make_q_exactly_the_optimum():
    # All rewards and the discount are powers of two, which no rounding touches; the goal is at most 7 steps away.
    states, _, evaluation = on_the_grid()
    assert np.asarray(states.visits[-1])[~IS_TERMINAL].min() > 2 * 7
    np.testing.assert_array_equal(states.q[-1], exact_action_values(GRID))
    assert evaluation["value_error"] <= 1e-6
    np.testing.assert_allclose(evaluation["expected_return"], evaluation["best_return"], rtol=1e-6)


def test_entries_of_terminal_states_and_of_those_never_visited_stay_0():
    states, _, _ = on_the_grid()
    np.testing.assert_array_equal(np.asarray(states.q)[:, IS_TERMINAL], 0.0)
    np.testing.assert_array_equal(np.asarray(states.visits)[:, IS_TERMINAL], 0)
    assert not np.any(IS_TERMINAL[np.asarray(states.state)])  # no episode stands where it ended
    learner = make()
    few, _ = learner.update(learner.init(jax.random.key(0)))
    np.testing.assert_array_equal(np.asarray(few.q)[np.asarray(few.visits) == 0], 0.0)


def test_every_step_is_one_visit():
    states, metrics, _ = on_the_grid()
    np.testing.assert_array_equal(np.sum(states.visits, axis=(1, 2)), 500 * np.arange(1, 9))
    np.testing.assert_array_equal(states.env_steps, 500 * np.arange(1, 9))
    np.testing.assert_array_equal(metrics["env_steps"], states.env_steps)


def test_the_lengths_of_episodes_sum_to_the_steps():
    # The mean over the episodes that ended in each update times their number, and the steps of the running one.
    states, metrics, _ = on_the_grid()
    ended = np.diff(np.asarray(metrics["episodes"]), prepend=0)
    assert np.all(ended > 0)
    total = np.cumsum(ended * np.asarray(metrics["episode_length"])) + np.asarray(states.time)
    np.testing.assert_allclose(total, np.asarray(states.env_steps), rtol=1e-5)
    assert np.all(np.asarray(metrics["episode_length"]) <= 20)
    assert np.max(states.time) < 20
    np.testing.assert_array_equal(states.episodes.running_length[:, 0], states.time)


def test_the_same_key_gives_the_same_bits_and_another_others():
    again = learn(GRID_CONFIG, GRID, 8, seed=0)
    plain = [jax.tree.map(np.asarray, run[0]._replace(key=0)) for run in (on_the_grid(), again, on_the_grid(seed=1))]
    jax.tree.map(np.testing.assert_array_equal, plain[0], plain[1])
    assert jnp.array_equal(jax.random.key_data(again[0].key), jax.random.key_data(on_the_grid()[0].key))
    assert np.any(plain[0].visits != plain[2].visits)


# One state that is never left: n visits in n steps


ALONE = MDP(jnp.ones((1, 1, 1)), jnp.ones((1, 1)), 0.5)


def visits_in_numpy(num_visits, step_size, exponent, discount=0.5):
    """Q and |error| after each visit: Q ← Q + α n^−ω (1 + γQ − Q)."""
    q, history = 0.0, []
    for n in range(1, num_visits + 1):
        error = 1 + discount * q - q
        q += step_size * n**-exponent * error
        history.append((q, abs(error)))
    return np.array(history).T


def alone(step_size, exponent):
    """40 steps in episodes of 16."""
    config = tabular_q.Config(num_steps=10, step_size=step_size, step_size_exponent=exponent, max_episode_steps=16)
    return learn(config, ALONE, 4)


STEP_SIZES, EXPONENTS = (1.0, 0.5, 0.5), (0.6, 1.0, 0.0)


@functools.cache
def alone_with_all():
    return jax.jit(jax.vmap(alone))(jnp.array(STEP_SIZES), jnp.array(EXPONENTS))


@pytest.mark.parametrize("index", range(3))
def test_the_nth_visit_has_step_size_alpha_over_n_to_the_omega(index):
    states, metrics, evaluation = alone_with_all()
    q, error = visits_in_numpy(40, STEP_SIZES[index], EXPONENTS[index])
    np.testing.assert_allclose(states.q[index, :, 0, 0], q[9::10], rtol=1e-5)
    np.testing.assert_allclose(metrics["td_error"][index], error.reshape(4, 10).mean(1), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(states.visits[index, :, 0, 0], [10, 20, 30, 40])
    # Q* = 1/(1 − γ)
    np.testing.assert_allclose(evaluation["value_error"][index], 2 - q[-1], rtol=1e-4, atol=1e-6)


def test_a_hyperparameter_alone_or_in_a_batch_gives_the_same():
    states, _, _ = alone_with_all()
    for index in range(3):
        one, _, _ = alone(STEP_SIZES[index], EXPONENTS[index])
        np.testing.assert_allclose(one.q, states.q[index], rtol=1e-6)


def test_cut_episodes_are_counted_and_the_value_of_where_they_stood_still_counts():
    """The endless reward of 1 is worth 1/(1 − γ), as if nothing were cut; what is reported is that of the last end."""
    states, metrics, _ = alone(1.0, 0.6)
    np.testing.assert_allclose(states.q[:, 0, 0], visits_in_numpy(40, 1.0, 0.6)[0][9::10], rtol=1e-5)
    assert 1.9 < states.q[-1, 0, 0] < 2
    np.testing.assert_array_equal(metrics["episodes"], [0, 1, 1, 2])  # 40 steps hold 2½ episodes of 16
    np.testing.assert_array_equal(metrics["episode_length"], [0, 16, 16, 16])
    np.testing.assert_array_equal(metrics["episode_return"], [0, 16, 16, 16])
    np.testing.assert_array_equal(states.time, [10, 4, 14, 8])


def test_an_end_is_worth_its_reward_alone():
    """Two steps of −1 to a terminal state, γ = 1: values −2 and −1, and as many episodes as pairs of steps."""
    corridor = MDP(jnp.array([[[0.0, 1, 0]], [[0, 0, 1]], [[0, 0, 0]]]), jnp.array([[-1.0], [-1], [0]]), 1.0)
    config = dataclasses.replace(SURE, num_steps=10)
    states, metrics, evaluation = learn(config, corridor, 3, start=jnp.array([1.0, 0.0, 0.0]))
    np.testing.assert_array_equal(states.q[-1], [[-2.0], [-1.0], [0.0]])
    np.testing.assert_array_equal(states.visits[-1], [[15], [15], [0]])
    np.testing.assert_array_equal(metrics["episodes"], [5, 10, 15])
    np.testing.assert_array_equal(metrics["episode_length"], 2.0)
    np.testing.assert_array_equal(metrics["episode_return"], -2.0)
    # the first errors: −1 and −1, then −2 − (−1) once; all later ones are 0
    np.testing.assert_allclose(metrics["td_error"], [0.3, 0, 0], atol=1e-6)
    assert evaluation == {"value_error": 0.0, "expected_return": -2.0, "best_return": -2.0}


def test_lost_probability_ends_an_episode_and_says_nothing_about_the_next():
    """With γ = 1 and probability ½ to stay, the value of a reward of 1 a step is the mean length, 2."""
    problem = MDP(0.5 * jnp.eye(2)[:, None], jnp.ones((2, 1)), 1.0)
    config = tabular_q.Config(num_steps=4000, step_size_exponent=1.0, max_episode_steps=1000)
    states, metrics, _ = learn(config, problem, 1)
    # lengths have standard deviation √2 and mean square 6; five standard errors of 2000 episodes are 0.16
    assert abs(metrics["episode_length"][0] - 2) < 0.16
    np.testing.assert_array_equal(metrics["episode_length"], metrics["episode_return"])
    np.testing.assert_allclose(states.q[0], 2, atol=0.3)
    # an episode stays where it began, in either state as often: half of √(2000 · 6) steps is a standard error
    np.testing.assert_allclose(states.visits[0], 2000, atol=5 * np.sqrt(2000 * 6) / 2)


# Exploration

CHOICE = MDP(jnp.ones((1, 4, 1)), jnp.zeros((1, 4)), 0.5)  # four actions that are all alike: the first is greedy


@functools.cache
def explored():
    """With ε = 0, ½ and 1 throughout: 2000 steps."""
    config = tabular_q.Config(num_steps=2000)

    def run(epsilon):
        return learn(dataclasses.replace(config, epsilon_start=epsilon, epsilon_end=epsilon), CHOICE, 1)

    return jax.jit(jax.vmap(run))(jnp.array([0.0, 0.5, 1.0]))


def test_with_probability_epsilon_an_action_is_random_and_otherwise_the_first_best():
    # P(first) = 1 − ε + ε/4 and P(each other) = ε/4; five standard errors of 2000 choices.
    frequency = np.asarray(explored()[0].visits)[:, 0, 0] / 2000
    for found, epsilon in zip(frequency, (0.0, 0.5, 1.0), strict=True):
        expected = (1 - epsilon) * np.eye(4)[0] + epsilon / 4
        assert np.all(np.abs(found - expected) <= 5 * np.sqrt(expected * (1 - expected) / 2000))
    np.testing.assert_array_equal(explored()[1]["epsilon"][:, 0], [0.0, 0.5, 1.0])


FEW = dataclasses.replace(SURE, num_steps=10, total_env_steps=80, exploration_fraction=0.5)


def test_greedy_choices_follow_what_was_learned():
    """The first action disappoints at once; the second earns and is then taken for ever."""
    problem = MDP(jnp.ones((1, 4, 1)), jnp.array([[-1.0, 1.0, 5.0, 0.0]]), 0.0)
    config = dataclasses.replace(FEW, epsilon_start=0.0, epsilon_end=0.0)
    states, _, evaluation = learn(config, problem, 6)
    np.testing.assert_array_equal(states.visits[-1, 0], [1, 59, 0, 0])
    np.testing.assert_array_equal(states.q[-1, 0], [-1, 1, 0, 0])
    assert evaluation == {"value_error": 5.0, "expected_return": 1.0, "best_return": 5.0}


def test_epsilon_falls_linearly_with_steps_and_then_stays():
    _, metrics, _ = learn(dataclasses.replace(FEW, epsilon_start=0.9, epsilon_end=0.1), CHOICE, 6)
    np.testing.assert_allclose(metrics["epsilon"], [0.7, 0.5, 0.3, 0.1, 0.1, 0.1], rtol=1e-6)


# Metrics, state and keys


SMALL = tabular_q.Config(num_steps=5, max_episode_steps=3)


@functools.cache
def make():
    learner = tabular_q.make(SMALL, GRID, small_mdps.start_distribution(LAYOUT))
    return learner._replace(**{name: jax.jit(getattr(learner, name)) for name in learner._fields})


def assert_sound(metrics, names):
    assert set(metrics) == names
    for name, value in metrics.items():
        assert value.shape == ()
        assert np.isfinite(value), name
        assert jnp.issubdtype(value.dtype, jnp.integer if name in COUNTERS else jnp.floating), name


def test_metrics_are_finite_scalars_with_the_documented_names():
    learner = make()
    state, metrics = learner.update(learner.init(jax.random.key(0)))
    assert_sound(metrics, UPDATE_METRICS)
    assert_sound(learner.evaluate(jax.random.key(1), state), EVALUATION_METRICS)


def test_evaluation_is_exact_and_never_changes_the_state():
    learner = make()
    state, _ = learner.update(learner.init(jax.random.key(0)))
    q = np.random.default_rng(0).normal(size=state.q.shape).astype(np.float32)
    state = state._replace(q=jnp.asarray(q))
    before = jax.tree.map(np.array, state._replace(key=0))
    found = learner.evaluate(jax.random.key(0), state)
    assert found == learner.evaluate(jax.random.key(7), state)
    jax.tree.map(np.testing.assert_array_equal, state._replace(key=0), before)
    best, each = exact_action_values(GRID), np.arange(len(q))
    transition = np.asarray(GRID.transition, np.float64)[each, q.argmax(1)]
    value = np.linalg.solve(np.eye(len(q)) - 0.5 * transition, np.asarray(GRID.reward)[each, q.argmax(1)])
    np.testing.assert_allclose(found["value_error"], np.abs(q - best).max(), rtol=1e-5)
    np.testing.assert_allclose(found["expected_return"], value[0], rtol=1e-5)  # episodes begin at `S`
    np.testing.assert_allclose(found["best_return"], best[0].max(), rtol=1e-5)


def test_episodes_begin_where_the_distribution_says():
    learner = make()
    keys = jax.random.split(jax.random.key(0), 200)
    np.testing.assert_array_equal(jax.jit(jax.vmap(learner.init))(keys).state, 0)
    anywhere = jax.jit(jax.vmap(tabular_q.make(SMALL, GRID).init))(keys).state
    assert set(np.asarray(anywhere).tolist()) == set(np.flatnonzero(~IS_TERMINAL).tolist())


def test_raw_and_typed_keys_give_the_same_numbers():
    learner = make()
    typed, raw = (learner.update(learner.init(key(7))) for key in (jax.random.key, jax.random.PRNGKey))
    assert typed[1] == raw[1]
    jax.tree.map(np.testing.assert_array_equal, typed[0]._replace(key=0), raw[0]._replace(key=0))


def test_the_state_starts_empty_and_keeps_its_shapes_and_types():
    learner = make()
    start = learner.init(jax.random.key(0))
    assert (start.q.shape, start.q.dtype, start.visits.dtype) == ((12, 4), jnp.float32, jnp.int32)
    zeros = start.q, start.visits, start.time, start.env_steps
    assert not any(np.any(x) for x in zeros)
    jax.tree.map(np.testing.assert_array_equal, start.episodes, EpisodeStatistics.zeros(1))
    for dtype in (jnp.bfloat16, jnp.float32):
        problem = jax.tree.map(lambda x, dtype=dtype: x.astype(dtype), GRID)
        abstract = jax.eval_shape(tabular_q.make(SMALL, problem).init, jax.random.key(0))
        after, _ = jax.eval_shape(tabular_q.make(SMALL, problem).update, abstract)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), abstract)


# The plan of a run, and mistakes


@pytest.mark.parametrize(
    ("num_steps", "total", "num_updates"), [(1000, 1_000_000, 1000), (1000, 1999, 1), (7, 20, 2), (10, 9, 0)]
)
def test_the_number_of_updates_is_that_of_whole_ones(num_steps, total, num_updates):
    assert tabular_q.Config(num_steps=num_steps, total_env_steps=total).num_updates == num_updates


@pytest.mark.parametrize("name", ["num_steps", "max_episode_steps", "total_env_steps"])
@pytest.mark.parametrize("value", [0, -1])
def test_counts_must_be_positive(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be at least 1"):
        tabular_q.make(dataclasses.replace(SMALL, **{name: value}), GRID)


# To the optimum


@pytest.mark.slow
def test_q_converges_on_the_slippery_frozen_lake():
    # Three seeds; the theorem needs ω in (½, 1] and all pairs visited for ever, which random actions do.
    config = tabular_q.Config(num_steps=10_000, total_env_steps=3_000_000, step_size_exponent=0.6)
    problem, start = small_mdps.frozen_lake(), small_mdps.start_distribution(small_mdps.FROZEN_LAKE)
    learner = tabular_q.make(config, problem, start)

    @jax.jit
    @jax.vmap
    def run(key):
        state, _ = train(learner, key, None, config.num_updates)
        return state, learner.evaluate(key, state)

    states, evaluation = run(jax.random.split(jax.random.key(0), 3))
    best = exact_action_values(problem)
    assert np.all(np.abs(np.asarray(states.q) - best).max(axis=(1, 2)) <= 0.05)
    assert np.all(evaluation["value_error"] <= 0.05)
    np.testing.assert_allclose(evaluation["best_return"], best[0].max(), rtol=1e-4)  # 0.542
    assert np.all(evaluation["expected_return"] >= evaluation["best_return"] - 0.01)
