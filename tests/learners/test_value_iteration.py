"""Value iteration as a learner against policy iteration, NumPy in float64, and the theorems about it."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mathai.learners import value_iteration
from mathai.learners.base import train
from mathai.rl import mdp, small_mdps
from mathai.rl.mdp import MDP

GAMMA = 0.9
NUM_PROBLEMS, NUM_STATES, NUM_ACTIONS, NUM_UPDATES = 20, 5, 3, 150
TOLERANCES = (1e-1, 1e-2, 1e-3)


@functools.cache
def problems():
    """Random problems, stacked."""

    @jax.jit
    @jax.vmap
    def draw(key):
        return small_mdps.garnet(key, num_states=NUM_STATES, num_actions=NUM_ACTIONS, branching=2, discount=GAMMA)

    return draw(jax.random.split(jax.random.key(0), NUM_PROBLEMS))


@functools.partial(jax.jit, static_argnames="num_updates")
def improve(config, problem, num_updates):
    """States and metrics before and after every update, and the evaluation of the last state."""
    learner = value_iteration.make(config, problem)

    def update(state, _):
        after, metrics = learner.update(state, None)
        return after, (after, metrics)

    start = learner.init(jax.random.key(0))
    last, (states, metrics) = jax.lax.scan(update, start, length=num_updates)
    states = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, states)
    return states, metrics, learner.evaluate(jax.random.key(1), last)


@functools.cache
def improved():
    """The same for every tolerance and every problem, [tolerances, problems, ...], in one program."""
    config = value_iteration.Config()

    def of(tolerance, problem):
        return improve(dataclasses.replace(config, tolerance=tolerance), problem, NUM_UPDATES)

    over_problems = jax.vmap(of, in_axes=(None, 0))
    all_runs = jax.jit(jax.vmap(over_problems, in_axes=(0, None)))(jnp.array(TOLERANCES), problems())
    return jax.tree.map(np.asarray, all_runs)


def in_float64(index):
    problem = jax.tree.map(lambda x: np.asarray(x, np.float64)[index], problems())
    return problem.transition, problem.reward


def exact_value(transition, reward, policies):
    """(I − γ P^π)⁻¹ r^π of policies that are one action for each state, [..., S]."""
    each = np.arange(NUM_STATES)
    matrix = np.eye(NUM_STATES) - GAMMA * transition[each, policies]
    return np.linalg.solve(matrix, reward[each, policies][..., None])[..., 0]


@functools.cache
def best_values():
    """The largest value of all policies, [problems, S]."""
    every = np.array(list(itertools.product(range(NUM_ACTIONS), repeat=NUM_STATES)))
    return np.array([exact_value(*in_float64(index), every).max(0) for index in range(NUM_PROBLEMS)])


def iterate(transition, reward):
    """V_k and ‖V_k − V_{k−1}‖∞ in float64, for every k."""
    values = [np.zeros(NUM_STATES)]
    for _ in range(NUM_UPDATES):
        values.append((reward + GAMMA * transition @ values[-1]).max(1))
    return np.array(values), np.abs(np.diff(values, axis=0, prepend=np.inf)).max(1)


# The value


def test_it_ends_within_its_tolerance_of_policy_iteration():
    states, _, _ = improved()
    planned = jax.jit(jax.vmap(mdp.policy_iteration))(problems()).value
    for value, tolerance in zip(states.value[:, :, -1], TOLERANCES, strict=True):
        assert jnp.max(jnp.abs(value - planned)) <= tolerance + 1e-5  # what float32 loses at values near 20


def test_it_ends_within_its_tolerance_of_the_best_of_all_policies():
    states, _, _ = improved()
    error = np.abs(states.value[:, :, -1] - best_values()).max(axis=(1, 2))
    assert np.all(error <= np.array(TOLERANCES) + 1e-5)
    assert np.all(error > np.array(TOLERANCES) / 100)  # and no work is done beyond


def test_it_is_a_loop_of_backups_up_to_the_first_residual_that_is_small_enough():
    states, _, _ = improved()
    for index in range(NUM_PROBLEMS):
        values, residuals = iterate(*in_float64(index))
        for t, tolerance in enumerate(TOLERANCES):
            k = int(states.iterations[t, index, -1])
            np.testing.assert_allclose(states.value[t, index, : k + 1], values[: k + 1], rtol=1e-5, atol=1e-5)
            # float32 loses 1e-5 in a residual at values near 20
            limit = tolerance * (1 - GAMMA) / GAMMA
            assert residuals[k] <= limit + 1e-5
            assert np.all(residuals[:k] > limit - 1e-5)
            assert k < NUM_UPDATES


def test_nothing_changes_once_it_is_done():
    states, _, _ = improved()
    iterations = states.iterations
    np.testing.assert_array_equal(iterations, np.minimum(np.arange(NUM_UPDATES + 1), iterations[..., -1:]))
    is_last = iterations == iterations[..., -1:]
    for found in (states.value, states.residual[..., None]):
        stays = np.all(found == found[:, :, -1:], axis=-1)
        assert np.all(stays[is_last])
        assert not np.any(stays[~is_last])


def test_residuals_and_errors_contract_at_rate_gamma():
    states, _, _ = jax.tree.map(lambda x: x[-1], improved())
    is_running = np.diff(states.iterations) > 0
    for distance in (states.residual, np.abs(states.value - best_values()[:, None]).max(-1)):
        assert np.all((distance[:, 1:] <= GAMMA * distance[:, :-1] + 1e-5)[is_running])
    np.testing.assert_array_equal(states.residual[:, 0], np.inf)  # nothing is known yet


def test_it_stops_where_its_bound_is_attained():
    """One state, one action, r = 1, γ = ½: V_k = 2 − 2¹⁻ᵏ, and its residual and its error are both 2¹⁻ᵏ."""
    problem = MDP(jnp.ones((1, 1, 1)), jnp.ones((1, 1)), 0.5)
    states, metrics, evaluation = improve(value_iteration.Config(tolerance=2.0**-4), problem, 8)
    k = np.minimum(np.arange(9), 5)  # 2¹⁻⁵ = 2⁻⁴
    np.testing.assert_array_equal(states.iterations, k)
    np.testing.assert_array_equal(states.value[:, 0], 2 - 2.0 ** (1 - k))
    np.testing.assert_array_equal(metrics["residual"], 2.0 ** (1 - k[1:]))
    assert evaluation == {"value_error": 2.0**-4, "policy_regret": 0.0}


@pytest.mark.parametrize(
    ("discount", "reward", "value"),
    [
        (0.0, 3.0, [0, 3, 3, 3]),  # each step is all
        (1.0, -1.0, [0, -1, -2, -3]),  # minus the distance
        (0.5, 1.0, [0, 1, 1.5, 1.75]),
    ],
)
def test_a_corridor_is_worth_the_discounted_sum_of_its_steps(discount, reward, value):
    problem = small_mdps.grid_world(["G..."], discount=discount, step_reward=reward, goal_reward=reward)
    only_left = problem._replace(transition=problem.transition[:, :1], reward=problem.reward[:, :1])
    states, _, evaluation = improve(value_iteration.Config(tolerance=1e-6), only_left, 6)
    np.testing.assert_array_equal(states.value[-1], value)
    assert evaluation == {"value_error": 0.0, "policy_regret": 0.0}


# Metrics


def test_updates_report_the_residual_and_the_number_of_backups():
    states, metrics, _ = improved()
    assert set(metrics) == {"residual", "iterations"}
    np.testing.assert_array_equal(metrics["residual"], states.residual[..., 1:])
    np.testing.assert_array_equal(metrics["iterations"], states.iterations[..., 1:])
    assert metrics["iterations"].dtype == jnp.int32


def test_evaluation_is_the_distance_to_the_optimum_and_what_the_greedy_policy_loses():
    states, _, evaluation = improved()
    assert set(evaluation) == {"value_error", "policy_regret"}
    for t, index in itertools.product(range(len(TOLERANCES)), range(NUM_PROBLEMS)):
        (transition, reward), best = in_float64(index), best_values()[index]
        value = np.asarray(states.value[t, index, -1], np.float64)
        policy = (reward + GAMMA * transition @ value).argmax(1)
        regret = np.max(best - exact_value(transition, reward, policy))
        np.testing.assert_allclose(evaluation["value_error"][t, index], np.abs(value - best).max(), atol=1e-5)
        np.testing.assert_allclose(evaluation["policy_regret"][t, index], regret, atol=1e-5)


def test_a_greedy_policy_can_lose_by_far_and_no_more_than_its_bound():
    """From V₀ = 0 the greedy policy takes what it gets at once; Singh & Yee (1994): regret ≤ 2γ/(1 − γ) · error."""
    problem = small_mdps.chain(3, discount=GAMMA)
    learner = value_iteration.make(value_iteration.Config(), problem)
    found = jax.jit(learner.evaluate)(jax.random.key(0), learner.init(jax.random.key(0)))
    # the last state is worth 1/(1 − γ) = 10; taking 0.2 for ever is worth 2, and action 1 earns 1 in the last state
    np.testing.assert_allclose(found["value_error"], 10, rtol=1e-5)
    np.testing.assert_allclose(found["policy_regret"], 0.9 * 10 - 2, rtol=1e-5)
    assert found["policy_regret"] <= 2 * GAMMA / (1 - GAMMA) * found["value_error"]


# The contract of learners


def test_evaluation_needs_no_key_and_never_changes_the_state():
    learner = value_iteration.make(value_iteration.Config(), jax.tree.map(lambda x: x[0], problems()))
    state, _ = jax.jit(learner.update)(learner.init(jax.random.key(0)))
    before = jax.tree.map(np.array, state)
    evaluate = jax.jit(learner.evaluate)
    first, second = evaluate(jax.random.key(0), state), evaluate(jax.random.PRNGKey(7), state)
    assert first == second
    jax.tree.map(np.testing.assert_array_equal, state, before)


def test_the_state_keeps_its_shapes_and_types():
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
        problem = MDP(jnp.full((4, 2, 4), 0.25, dtype), jnp.ones((4, 2), dtype), 0.5)
        learner = value_iteration.make(value_iteration.Config(), problem)
        start = jax.eval_shape(learner.init, jax.random.key(0))
        after, _ = jax.eval_shape(learner.update, start)
        assert after == start


def test_train_makes_the_updates():
    problem = jax.tree.map(lambda x: x[0], problems())
    state, metrics = train(value_iteration.make(value_iteration.Config(), problem), jax.random.key(0), None, 3)
    states, _, _ = improved()
    np.testing.assert_allclose(state.value, states.value[-1, 0, 3], rtol=1e-6)
    np.testing.assert_array_equal(metrics["iterations"], [1, 2, 3])


def test_a_tolerance_alone_or_in_a_batch_gives_the_same_and_compiles_once():
    states, _, _ = improved()
    problem = jax.tree.map(lambda x: x[0], problems())
    before = improve._cache_size()
    for t, tolerance in enumerate(TOLERANCES):
        alone, _, _ = improve(value_iteration.Config(tolerance=tolerance), problem, NUM_UPDATES)
        assert alone.iterations[-1] == states.iterations[t, 0, -1]
        np.testing.assert_allclose(alone.value, states.value[t, 0], rtol=1e-6, atol=1e-6)
    assert improve._cache_size() == before + 1
    assert np.all(np.diff(states.iterations[:, :, -1], axis=0) > 0)  # a smaller tolerance takes more backups


@pytest.mark.parametrize("num_updates", [0, -3])
def test_the_number_of_updates_must_be_positive(num_updates):
    problem = MDP(jnp.ones((1, 1, 1)), jnp.ones((1, 1)), 0.5)
    with pytest.raises(ValueError, match=f"num_updates is {num_updates}; it must be at least 1"):
        value_iteration.make(value_iteration.Config(num_updates=num_updates), problem)
