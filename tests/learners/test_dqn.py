"""Deep Q-learning on problems whose action values are known, and when it learns, copies, explores and remembers."""

import dataclasses
import functools
import math

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

from mathai.learners import dqn
from mathai.learners.base import train
from mathai.learners.mdp_environment import make_mdp_environment
from mathai.models.q_network import QNetwork
from tests.learners.table import (
    BEST_ACTIONS,
    CHAIN,
    EVALUATION_METRICS,
    NONE,
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
    *("episode_return", "episode_length", "episodes", "env_steps", "gradient_steps"),
    *("loss", "q_value", "gradient_norm", "epsilon"),
}
SMALL = dqn.Config(
    num_envs=8,
    num_steps=8,
    train_every=2,
    batch_size=32,
    buffer_size=256,
    learning_starts=64,
    total_env_steps=64 * 60,
    learning_rate=0.02,
    discount=0.5,
    target_update_interval=5,
    hidden_sizes=(8,),
    num_evaluation_episodes=32,
    max_evaluation_steps=20,
)
COMBINED = {"double": False, "dueling": True, "n_step": 3, "target_update_interval": 1, "target_step_size": 0.2}
VARIANTS = {
    "one network chooses and values": {"double": False},
    "two heads": {"dueling": True},
    "three rewards": {"n_step": 3},
    "target follows slowly": {"target_update_interval": 1, "target_step_size": 0.2},
    "Huber": {"huber_delta": 0.5},
    "gradients in bursts": {"train_every": 8, "num_gradient_steps": 4},
    "layer normalization": {"normalization": "layer"},
}


# Problems


@jax.jit
def learn(problem, config):
    """The metrics of all updates, an evaluation, and the action values of the three states."""
    learner = dqn.make(config, TABLE, problem)
    state, metrics = train(learner, jax.random.key(0), None, 60)
    return metrics, learner.evaluate(jax.random.key(1), state), network(config, state.params)


def network(config, params, num_actions=2, observations=OBSERVATIONS):
    """Q [states, actions]."""
    model = QNetwork(num_actions, config.hidden_sizes, normalization=config.normalization, dueling=config.dueling)
    return model.apply(params, observations)


def assert_values_are_found(problem, changes, values):
    *_, q = learn(problem, dataclasses.replace(SMALL, **changes))
    for state, expected in values.items():
        np.testing.assert_allclose(q[state], expected, atol=0.05)  # of both actions, which make no difference


@pytest.mark.parametrize(("problem", "changes", "values"), VALUES)
def test_the_values_of_a_small_problem_are_found(problem, changes, values):
    assert_values_are_found(problem, changes, values)


@pytest.mark.parametrize(("problem", "changes", "values"), UNBIASED_VALUES)
def test_three_rewards_two_heads_and_a_slow_target_find_the_same_values(problem, changes, values):
    assert_values_are_found(problem, COMBINED | changes, values)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("problem", "changes", "values"), UNBIASED_VALUES)
def test_every_variant_finds_the_same_values(problem, changes, values, variant):
    assert_values_are_found(problem, VARIANTS[variant] | changes, values)


@pytest.mark.parametrize(("problem", "best", "steps"), BEST_ACTIONS)
@pytest.mark.parametrize("changes", [{}, COMBINED], ids=["plain", "combined"])
def test_the_best_action_of_a_small_problem_is_found(problem, best, steps, changes):
    metrics, evaluation, q = learn(problem, dataclasses.replace(SMALL, **changes))
    for state, action in best.items():
        np.testing.assert_allclose(q[state, action], 0.5 ** (steps - 1), atol=0.05)
        np.testing.assert_allclose(q[state, 1 - action], 0.0, atol=0.05)
    assert evaluation == {"episode_return": 1.0, "episode_return_std": 0.0, "episode_length": steps}
    assert metrics["episode_return"][0] < 0.75 < 0.9 < metrics["episode_return"][-1]  # one in 40 explores and fails


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes"),
    [("chain", {}), ("grid", {}), ("garnet", {}), *(("garnet", changes) for changes in VARIANTS.values())],
)
def test_random_actions_are_enough_to_learn_the_exact_action_values(name, changes):
    problem = PLANNED[name]()
    # Several rewards before the bootstrap have the random actions' value, so that only one is right here.
    config = dataclasses.replace(
        SMALL,
        **changes | {"n_step": 1, "huber_delta": math.inf, "anneal_learning_rate": True},
        batch_size=128,
        buffer_size=4096,
        total_env_steps=64 * 400,
        learning_rate=0.01,
        discount=problem.discount,
        epsilon_start=1.0,
        epsilon_end=1.0,
        hidden_sizes=(32,),
    )

    @jax.jit
    def learned():
        learner = dqn.make(config, *make_mdp_environment(problem, max_steps_in_episode=20))
        state, _ = train(learner, jax.random.key(0), None, config.num_updates)
        return network(config, state.params, problem.num_actions, jnp.eye(problem.num_states))

    assert_exact(learned(), problem)


# One gradient update


@jax.jit
def loss_in_a_loop(config):
    """The loss where state 0 earns 1 and leads to itself, what the network says of it, and the value replayed.

    The target network says the opposite.
    """
    learner = dqn.make(config, TABLE, Table(terminates=NONE))
    state = learner.init(jax.random.key(0))
    heads = {
        name: jax.tree.map(jnp.negative, part) if name in ("advantage", "value") else part
        for name, part in state.params["params"].items()
    }
    _, metrics = learner.update(state._replace(target={"params": heads}))
    return metrics["loss"], network(config, state.params)[0], metrics["q_value"]


@pytest.mark.parametrize("delta", [math.inf, 0.1])
@pytest.mark.parametrize(
    ("double", "n_step", "dueling"),
    [
        (True, 3, True),
        pytest.param(True, 1, False, marks=pytest.mark.slow),
        pytest.param(False, 1, False, marks=pytest.mark.slow),
        pytest.param(False, 3, True, marks=pytest.mark.slow),
    ],
)
def test_the_loss_is_that_of_the_bootstrapped_rewards(double, n_step, dueling, delta):
    config = dataclasses.replace(
        SMALL, double=double, n_step=n_step, dueling=dueling, huber_delta=delta, learning_rate=0.0, learning_starts=0
    )
    config = dataclasses.replace(config, epsilon_start=0.0, epsilon_end=0.0, target_update_interval=10**6)
    loss, q, q_value = loss_in_a_loop(config)
    best, worst = np.max(q).item(), np.min(q).item()
    assert best - worst > 0.1
    # Greedy actions only. The target network, asked for the network's best action, says −best; its own best is −worst.
    bootstrap = -best if double else -worst
    error = sum(0.5**k for k in range(n_step)) + 0.5**n_step * bootstrap - best
    expected = 0.5 * error**2 if abs(error) <= delta else delta * abs(error) - 0.5 * delta**2
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    np.testing.assert_allclose(q_value, best, rtol=1e-5)


# One step at a time: when it learns, copies, explores and forgets

STEP = dqn.Config(
    num_envs=2,
    num_steps=1,
    batch_size=4,
    buffer_size=15,
    learning_starts=9,
    total_env_steps=40,
    learning_rate=0.05,
    epsilon_start=0.8,
    epsilon_end=0.2,
    exploration_fraction=0.5,
    target_update_interval=3,
    hidden_sizes=(4,),
)


@jax.jit
def history(config):
    """The state before each of 20 steps and after the last, and the metrics of each; two starts, as in `CHAIN`."""
    learner = dqn.make(config, TABLE, Table(start=(1, 1, 0), **CHAIN))
    state = learner.init(jax.random.key(0))

    def step(state, _):
        after, metrics = learner.update(state)
        return after, (after, metrics)

    _, (states, metrics) = jax.lax.scan(step, state, length=20)
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), state, states), metrics


def at(states, step):
    return jax.tree.map(lambda x: x[step], states)


@pytest.mark.parametrize(
    ("learning_starts", "n_step", "first"), [(9, 1, 5), pytest.param(0, 3, 3, marks=pytest.mark.slow)]
)
def test_no_gradient_is_taken_before_its_time(learning_starts, n_step, first):
    # Two environments have made 10 steps, the first number not below 9, in the 5th step of both. Three rewards in a row
    # are there in the 3rd.
    states, metrics = history(dataclasses.replace(STEP, learning_starts=learning_starts, n_step=n_step))
    np.testing.assert_array_equal(states.gradient_steps, [0] * first + list(range(1, 22 - first)))
    np.testing.assert_array_equal(metrics["gradient_steps"], states.gradient_steps[1:])
    for step in range(first):
        assert_equal(at(states.params, step), at(states.params, 0))
        assert_equal(at(states.optimizer, step), at(states.optimizer, 0))
    for name in ("loss", "q_value", "gradient_norm"):
        np.testing.assert_array_equal(metrics[name][: first - 1], 0.0)
        assert np.all(metrics[name][first:] != 0.0), name
    for step in range(first, 20):
        assert not np.array_equal(*(at(states.params, k)["params"]["advantage"]["bias"] for k in (step, step + 1)))


def test_the_target_network_is_a_copy_of_every_third_network():
    states, _ = history(STEP)
    for step, count in enumerate(states.gradient_steps.tolist()):
        copied = 4 + 3 * (count // 3) if count >= 3 else 0  # after step 4 + k there were k gradient updates
        assert_equal(at(states.target, step), at(states.params, copied))


def test_a_slow_target_network_moves_a_share_of_the_way_every_third_time():
    states, _ = history(dataclasses.replace(STEP, target_step_size=0.25))
    expected = jax.tree.map(np.asarray, at(states.params, 0))
    for step, count in enumerate(states.gradient_steps.tolist()):
        if count > 0 and count % 3 == 0:
            params = at(states.params, step)
            expected = jax.tree.map(lambda x, y: 0.75 * x + 0.25 * np.asarray(y), expected, params)
        target = at(states.target, step)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), target, expected)
        if count % 3:
            assert_equal(target, at(states.target, step - 1))


def test_epsilon_falls_to_its_end_where_exploration_ends():
    # From 0.8 to 0.2 in the first half of 40 environment steps, two in each update; a metric is of the steps to come.
    _, metrics = history(STEP)
    expected = [0.8 - 0.6 * min(2 * k / 20, 1) for k in range(1, 21)]
    np.testing.assert_allclose(metrics["epsilon"], expected, rtol=1e-5)
    assert metrics["epsilon"][9] == metrics["epsilon"][-1]


def test_epsilon_is_the_probability_of_a_random_action():
    still = dataclasses.replace(STEP, learning_rate=0.0)
    for epsilon in (0.0, 1.0):
        states, _ = history(dataclasses.replace(still, epsilon_start=epsilon, epsilon_end=epsilon))
        best = np.argmax(jax.jit(network, static_argnums=0)(STEP, at(states.params, 0)), axis=1)
        memory = jax.tree.map(np.asarray, at(states.memory.rows, -1))
        agrees = memory.action == best[memory.observations[..., 0]]
        # 14 random actions: all alike once in 8000
        assert np.all(agrees) if epsilon == 0 else 0 < np.mean(agrees) < 1


def test_the_memory_holds_the_last_steps_and_no_more_than_its_size():
    states, _ = history(STEP)
    memory = at(states.memory, -1)
    assert memory.rows.reward.shape == (7, 2)  # 14 transitions: 15 are odd, and two are made at a time
    for row in range(7):
        step = max(k for k in range(20) if k % 7 == row)
        before = np.array(states.observation[step])
        written = at(memory.rows, row)
        np.testing.assert_array_equal(written.observations[:, 0], before)
        np.testing.assert_array_equal(written.observations[:, 1], 1)  # state 1, and never where it started anew
        np.testing.assert_array_equal(written.reward, before == 1)
        np.testing.assert_array_equal(written.terminated, before == 1)
        assert not np.any(written.truncated)


# State, keys and metrics

TINY = dqn.Config(
    num_envs=4,
    num_steps=8,
    train_every=2,
    batch_size=8,
    buffer_size=64,
    learning_starts=16,
    total_env_steps=4 * 8 * 10,
    hidden_sizes=(8,),
    num_evaluation_episodes=4,
    max_evaluation_steps=30,
)


@functools.cache
def make(name="CartPole-v1", **changes):
    learner = dqn.make(dataclasses.replace(TINY, **changes), *gymnax.make(name))
    return learner._replace(**{f: jax.jit(getattr(learner, f)) for f in learner._fields})


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("CartPole-v1", {}),
        pytest.param("FrozenLake-misc", {"dueling": True, "activation": "tanh"}, marks=pytest.mark.slow),
        pytest.param("Breakout-MinAtar", {"torso": "conv", "n_step": 2}, marks=pytest.mark.slow),
    ],
)
def test_metrics_are_finite_scalars_with_the_documented_names(name, changes):
    learner = make(name, **changes)
    state = learner.init(jax.random.key(0))
    for step in (1, 2):
        state, metrics = learner.update(state)
        assert_sound(metrics, UPDATE_METRICS)
        assert metrics["env_steps"] == state.env_steps == 32 * step
        assert metrics["gradient_steps"] == 4 * step - 1  # one after two steps of four environments, at 16 and later
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
        state, metrics = train(dqn.make(config, TABLE, Table(**CHAIN)), key, None, 4)
        return state.params, metrics

    together, alone = jax.jit(jax.vmap(run))(keys, rates), jax.jit(run)
    for i in range(3):
        one = alone(keys[i], rates[i])
        jax.tree.map(lambda x, y, i=i: np.testing.assert_allclose(x[i], y, rtol=1e-3, atol=1e-4), together, one)


@pytest.mark.parametrize(
    ("change", "num_updates"),
    [
        ({}, 500),
        ({"total_env_steps": 999}, 0),
        ({"total_env_steps": 1000}, 1),
        ({"num_envs": 128, "num_steps": 10}, 390),  # 390.6
    ],
)
def test_the_number_of_updates_is_that_of_whole_rollouts(change, num_updates):
    assert dqn.Config(**change).num_updates == num_updates


# Mistakes


@pytest.mark.parametrize(
    "name",
    [
        *("num_envs", "num_steps", "train_every", "num_gradient_steps", "batch_size", "n_step"),
        *("target_update_interval", "num_evaluation_episodes", "max_evaluation_steps"),
    ],
)
@pytest.mark.parametrize("value", [0, -1])
def test_counts_must_be_positive(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        make(**{name: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_every": 3}, "train_every = 3 does not divide num_steps = 8"),
        ({"buffer_size": 3}, r"buffer_size = 3 is less than num_envs \* n_step = 4 \* 1"),
        ({"buffer_size": 11, "n_step": 3}, r"buffer_size = 11 is less than num_envs \* n_step = 4 \* 3"),
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"activation": "gelu"}, "'gelu' is unknown"), ({"normalization": "batch"}, "'batch' is unknown")],
)
def test_unknown_parts_of_the_network_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        dqn.make(dataclasses.replace(TINY, **changes), *gymnax.make("CartPole-v1")).init(jax.random.key(0))


def test_continuous_actions_and_unsupported_spaces_are_refused():
    with pytest.raises(ValueError, match="action values need Discrete actions"):
        make("Pendulum-v1")
    pair, two = spaces.Tuple([spaces.Discrete(2)]), spaces.Discrete(2)
    with pytest.raises(ValueError, match="action space"):
        dqn.make(SMALL, StrangeSpaces(pair, two), Table())
    with pytest.raises(ValueError, match="observation space"):
        dqn.make(SMALL, StrangeSpaces(two, pair), Table())
