"""Parallel Q-learning on problems whose action values are known, its λ-returns by hand, and when it explores."""

import dataclasses
import functools

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

from mathai.learners import pqn
from mathai.learners.base import train
from mathai.learners.mdp_environment import make_mdp_environment
from mathai.models.q_network import QNetwork
from tests.learners.table import (
    BEST_ACTIONS,
    BY_STATE,
    CHAIN,
    ENDS,
    EVALUATION_METRICS,
    OBSERVATIONS,
    PLANNED,
    TABLE,
    UNBIASED_VALUES,
    VALUES,
    StrangeSpaces,
    Table,
    assert_equal,
    assert_exact,
    assert_sound,
)

UPDATE_METRICS = {
    *("episode_return", "episode_length", "episodes", "env_steps", "loss", "q_value", "gradient_norm", "epsilon"),
}
SMALL = pqn.Config(
    num_envs=8,
    num_steps=8,
    num_minibatches=2,
    total_env_steps=64 * 60,
    learning_rate=0.02,
    anneal_learning_rate=False,
    discount=0.5,
    hidden_sizes=(8,),
    num_evaluation_episodes=32,
    max_evaluation_steps=20,
)


# Problems


@jax.jit
def learn(problem, config):
    """The metrics of all updates, an evaluation, and the action values of the three states."""
    learner = pqn.make(config, TABLE, problem)
    state, metrics = train(learner, jax.random.key(0), None, 60)
    return metrics, learner.evaluate(jax.random.key(1), state), network(config, state.params)


def network(config, params, num_actions=2, observations=OBSERVATIONS):
    """Q [states, actions]."""
    return QNetwork(num_actions, config.hidden_sizes, normalization=config.normalization).apply(params, observations)


def assert_values_are_found(problem, changes, values, scale=1.0):
    *_, q = learn(problem, dataclasses.replace(SMALL, **changes))
    for state, expected in values.items():
        np.testing.assert_allclose(q[state] / scale, expected, atol=0.05)  # of both actions, which make no difference


@pytest.mark.parametrize("q_lambda", [0.0, 0.65, 1.0])
@pytest.mark.parametrize(("problem", "changes", "values"), VALUES)
def test_the_values_of_a_small_problem_are_found(problem, changes, values, q_lambda):
    assert_values_are_found(problem, {"q_lambda": q_lambda, **changes}, values)


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    [
        {"normalization": "none"},
        {"num_minibatches": 1, "learning_rate": 0.05},
        {"num_epochs": 1, "num_minibatches": 8},
        {"anneal_learning_rate": True},
    ],
)
@pytest.mark.parametrize(("problem", "changes", "values"), UNBIASED_VALUES)
def test_every_variant_finds_the_same_values(problem, changes, values, variant):
    assert_values_are_found(problem, variant | changes, values)


def test_rewards_are_scaled_for_learning_alone():
    config = dataclasses.replace(SMALL, reward_scale=0.25)
    metrics, evaluation, q = learn(Table(reward=BY_STATE, start=(1, 0, 0)), config)
    np.testing.assert_allclose(q[0], 0.25, atol=0.02)
    np.testing.assert_array_equal(metrics["episode_return"], 1.0)
    assert evaluation["episode_return"] == 1.0


@pytest.mark.parametrize(("problem", "best", "steps"), BEST_ACTIONS)
def test_the_best_action_of_a_small_problem_is_found(problem, best, steps):
    metrics, evaluation, q = learn(problem, SMALL)
    for state, action in best.items():
        np.testing.assert_allclose(q[state, action], 0.5 ** (steps - 1), atol=0.05)
        np.testing.assert_allclose(q[state, 1 - action], 0.0, atol=0.05)
    assert evaluation == {"episode_return": 1.0, "episode_return_std": 0.0, "episode_length": steps}
    assert metrics["episode_return"][0] < 0.75 < 0.85 < metrics["episode_return"][-1]  # one in 40 explores and fails


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANNED)
def test_random_actions_are_enough_to_learn_the_exact_action_values(name):
    problem = PLANNED[name]()
    # With λ > 0 the returns have the random actions' value, so that only one step is right here.
    config = dataclasses.replace(
        SMALL,
        num_steps=32,
        total_env_steps=256 * 400,
        learning_rate=0.01,
        anneal_learning_rate=True,
        discount=problem.discount,
        q_lambda=0.0,
        epsilon_start=1.0,
        epsilon_end=1.0,
        hidden_sizes=(32,),
    )

    @jax.jit
    def learned():
        learner = pqn.make(config, *make_mdp_environment(problem, max_steps_in_episode=20))
        state, _ = train(learner, jax.random.key(0), None, config.num_updates)
        return network(config, state.params, problem.num_actions, jnp.eye(problem.num_states))

    assert_exact(learned(), problem)


# Targets


@jax.jit
def first_update(problem, q_lambda):
    """What the network says at the start, and the metrics of one epoch with one minibatch and greedy actions."""
    config = dataclasses.replace(SMALL, num_epochs=1, num_minibatches=1, q_lambda=q_lambda)
    config = dataclasses.replace(config, epsilon_start=0.0, epsilon_end=0.0)
    learner = pqn.make(config, TABLE, problem)
    state = learner.init(jax.random.key(0))
    return network(config, state.params), learner.update(state)[1]


@pytest.mark.parametrize("q_lambda", [0.0, 0.65, 1.0])
@pytest.mark.parametrize("problem", ENDS.values(), ids=ENDS)
def test_the_values_are_drawn_to_lambda_returns_that_end_with_their_episode(problem, q_lambda):
    # All environments walk from state 0 to state 1 and, unless it goes back to 0, to state 2 where the episode ends:
    # the loss is ½ (G − max Q)² on average, as actions are greedy, with G in a loop backwards.
    q, metrics = first_update(problem, q_lambda)
    v, total, following = np.max(np.array(q, np.float64), axis=1), 0.0, None
    for t in reversed(range(SMALL.num_steps)):
        s = t % 2  # actions make no difference
        terminates, is_cut = problem.terminates[s][0], problem.is_cut[s][0]
        bootstrap = v[problem.successor[s][0]]
        if not (is_cut or following is None):  # the rollout stops in the middle of the episode
            bootstrap = (1 - q_lambda) * bootstrap + q_lambda * following
        following = problem.reward[s][0] + 0.5 * (1 - terminates) * bootstrap
        total += 0.5 * (following - v[s]) ** 2
    np.testing.assert_allclose(metrics["loss"], total / SMALL.num_steps, rtol=1e-4)
    np.testing.assert_allclose(metrics["q_value"], (v[0] + v[1]) / 2, rtol=1e-4)


# Exploration


def test_epsilon_falls_to_its_end_where_exploration_ends():
    # From 0.8 to 0.2 in a tenth of 60 updates; a metric is of the steps to come.
    config = dataclasses.replace(SMALL, epsilon_start=0.8, epsilon_end=0.2, exploration_fraction=0.1)
    metrics, *_ = learn(Table(), config)
    np.testing.assert_allclose(metrics["epsilon"], [0.7, 0.6, 0.5, 0.4, 0.3] + 55 * [0.2], rtol=1e-5)


def test_steps_and_episodes_are_counted_from_the_start():
    metrics, *_ = learn(Table(**CHAIN), SMALL)
    np.testing.assert_array_equal(metrics["env_steps"], 64 * np.arange(1, 61))
    np.testing.assert_array_equal(metrics["episodes"], 32 * np.arange(1, 61))  # of two steps each
    np.testing.assert_array_equal(metrics["episode_length"], 2.0)
    np.testing.assert_array_equal(metrics["episode_return"], 1.0)


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_epsilon_is_the_probability_of_a_random_action(epsilon):
    # Reward 1 for action 1 alone: greedy actions are all alike in the first rollout, 64 random ones are half of each.
    config = dataclasses.replace(SMALL, epsilon_start=epsilon, epsilon_end=epsilon)
    metrics, *_ = learn(Table(reward=((0, 1), (0, 0), (0, 0))), config)
    first = metrics["episode_return"][0]
    assert first in (0.0, 1.0) if epsilon == 0 else abs(first - 0.5) < 0.3  # five standard deviations


# State, keys and metrics

TINY = pqn.Config(
    num_envs=4,
    num_steps=8,
    num_epochs=2,
    num_minibatches=2,
    total_env_steps=4 * 8 * 10,
    hidden_sizes=(8,),
    num_evaluation_episodes=4,
    max_evaluation_steps=30,
)


@functools.cache
def make(name="CartPole-v1", **changes):
    learner = pqn.make(dataclasses.replace(TINY, **changes), *gymnax.make(name))
    return learner._replace(**{f: jax.jit(getattr(learner, f)) for f in learner._fields})


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("CartPole-v1", {}),
        pytest.param("FrozenLake-misc", {"normalization": "none", "activation": "tanh"}, marks=pytest.mark.slow),
        pytest.param("Breakout-MinAtar", {"torso": "conv"}, marks=pytest.mark.slow),
    ],
)
def test_metrics_are_finite_scalars_with_the_documented_names(name, changes):
    learner = make(name, **changes)
    state = learner.init(jax.random.key(0))
    for step in (1, 2):
        state, metrics = learner.update(state)
        assert_sound(metrics, UPDATE_METRICS)
        assert metrics["env_steps"] == state.env_steps == 32 * step
        assert metrics["gradient_norm"] > 0
    assert_sound(learner.evaluate(jax.random.key(1), state), EVALUATION_METRICS)


def test_the_same_key_gives_the_same_bits():
    learner, results = make(), []
    for seed in (0, 0, 1):
        state, _ = learner.update(learner.init(jax.random.key(seed)))
        results.append(learner.update(state))
    assert_equal(results[0], results[1])
    assert not np.array_equal(results[0][0].observation, results[2][0].observation)


def test_the_state_is_one_tree_of_arrays_that_stays_alike_and_draws_anew():
    learner = make()
    state, _ = learner.update(learner.init(jax.random.key(0)))
    after, _ = learner.update(state)
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(state))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert not np.array_equal(*(jax.random.key_data(s.key) for s in (state, after)))


def test_evaluation_depends_on_its_key_and_leaves_the_state_alone():
    learner = make()
    state = learner.init(jax.random.key(0))
    before = jax.tree.map(lambda x: x.copy(), state)
    scores = [learner.evaluate(jax.random.key(seed), state) for seed in (0, 0, 1)]
    assert_equal(state, before)
    assert_equal(scores[0], scores[1])
    assert scores[0] != scores[2]
    assert_equal(scores[0], learner.evaluate(jax.random.key(0), state._replace(key=jax.random.key(99))))


@pytest.mark.slow
def test_keys_and_hyperparameters_can_be_batched():
    keys = jax.random.split(jax.random.key(0), 3)
    rates = jnp.array([0.01, 0.02, 0.04])

    def run(key, rate):
        config = dataclasses.replace(SMALL, learning_rate=rate)
        state, metrics = train(pqn.make(config, TABLE, Table(**CHAIN)), key, None, 4)
        return state.params, metrics

    together, alone = jax.jit(jax.vmap(run))(keys, rates), jax.jit(run)
    for i in range(3):
        one = alone(keys[i], rates[i])
        jax.tree.map(lambda x, y, i=i: np.testing.assert_allclose(x[i], y, rtol=1e-3, atol=1e-4), together, one)


@pytest.mark.parametrize(
    ("change", "num_updates"),
    [
        ({}, 244),  # 500 000 / (32 · 64) = 244.1
        ({"total_env_steps": 2048}, 1),
        ({"total_env_steps": 2047}, 0),
    ],
)
def test_the_number_of_updates_is_that_of_whole_rollouts(change, num_updates):
    assert pqn.Config(**change).num_updates == num_updates


# Mistakes


@pytest.mark.parametrize("name", ["num_envs", "num_steps", "num_epochs", "num_minibatches", "num_evaluation_episodes"])
@pytest.mark.parametrize("value", [0, -1])
def test_counts_must_be_positive(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        make(**{name: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_minibatches": 3}, r"num_minibatches = 3 does not divide .* 4 \* 8 = 32"),
        ({"epsilon_start": 1.5}, "epsilon_start is 1.5; it must lie between 0 and 1"),
        ({"epsilon_end": -0.1}, "epsilon_end is -0.1; it must lie between 0 and 1"),
        ({"exploration_fraction": 2.0}, "exploration_fraction is 2.0; it must lie between 0 and 1"),
        ({"torso": "cnn"}, "torso 'cnn' is unknown; use one of mlp, conv"),
        ({"torso": "conv"}, "'conv' takes images"),
    ],
)
def test_numbers_and_names_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_continuous_actions_and_unsupported_spaces_are_refused():
    with pytest.raises(ValueError, match="action values need Discrete actions"):
        make("Pendulum-v1")
    pair, two = spaces.Tuple([spaces.Discrete(2)]), spaces.Discrete(2)
    with pytest.raises(ValueError, match="action space"):
        pqn.make(SMALL, StrangeSpaces(pair, two), Table())
    with pytest.raises(ValueError, match="observation space"):
        pqn.make(SMALL, StrangeSpaces(two, pair), Table())
