"""REINFORCE on problems whose values and best actions are known, and what belongs to an episode and what does not."""

import dataclasses
import functools
import math

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

from mathai.learners import reinforce
from mathai.learners.base import train
from mathai.models.actor_critic import ActorCritic
from tests.learners.table import (
    BEST_ACTIONS,
    CHAIN,
    ENDS,
    EVALUATION_METRICS,
    NONE,
    OBSERVATIONS,
    TABLE,
    VALUES,
    StrangeSpaces,
    Table,
    TableEnvironment,
    assert_equal,
    assert_sound,
)

UPDATE_METRICS = {
    *("episode_return", "episode_length", "episodes", "env_steps"),
    *("policy_loss", "value_loss", "entropy", "gradient_norm"),
}
SMALL = reinforce.Config(
    num_envs=32,
    max_episode_steps=8,
    num_updates=250,
    learning_rate=0.03,
    anneal_learning_rate=False,
    discount=0.5,
    hidden_sizes=(8,),
    num_evaluation_episodes=32,
    max_evaluation_steps=20,
)


# Problems


@jax.jit
def learn(problem, config):
    """The metrics of all updates, an evaluation, and what the network says of the three states."""
    learner = reinforce.make(config, TABLE, problem)
    state, metrics = train(learner, jax.random.key(0), None, config.num_updates)
    return metrics, learner.evaluate(jax.random.key(1), state), network(state.params)


def network(params):
    """Probabilities of the actions and values, in all three states."""
    logits, value = ActorCritic(num_actions=2, hidden_sizes=SMALL.hidden_sizes).apply(params, OBSERVATIONS)
    return jax.nn.softmax(logits), value


@pytest.mark.parametrize(("problem", "changes", "values"), VALUES)
def test_the_value_of_a_small_problem_is_found(problem, changes, values):
    *_, (_, value) = learn(problem, dataclasses.replace(SMALL, **changes))
    for state, expected in values.items():
        np.testing.assert_allclose(value[state], expected, atol=0.05)


def test_taking_the_limit_of_steps_for_an_end_misses_the_value():
    # Reward 1 for ever, of which m = 1 … 8 remain: 2 − 2^(1 − m) on average, instead of 2.
    *_, (_, value) = learn(Table(terminates=NONE), dataclasses.replace(SMALL, bootstrap_on_truncation=False))
    np.testing.assert_allclose(value[0], np.mean(2 - 2.0 ** (1 - np.arange(1, 9))), atol=0.03)


@pytest.mark.parametrize(("problem", "best", "steps"), BEST_ACTIONS)
@pytest.mark.parametrize("baseline", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_best_action_of_a_small_problem_is_found(problem, best, steps, baseline):
    metrics, evaluation, (probabilities, _) = learn(problem, dataclasses.replace(SMALL, baseline=baseline))
    for state, action in best.items():
        assert probabilities[state, action] > 0.9
    assert evaluation == {"episode_return": 1.0, "episode_return_std": 0.0, "episode_length": steps}
    assert metrics["episode_return"][0] < 0.75 < 0.9 < metrics["episode_return"][-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"normalize_advantages": False},
        {"entropy_coefficient": 0.01},
        {"anneal_learning_rate": True, "activation": "relu"},
        {"baseline": False, "normalize_advantages": False},
    ],
)
@pytest.mark.parametrize(("problem", "best", "steps"), BEST_ACTIONS)
def test_every_variant_finds_the_best_action(problem, best, steps, changes):
    _, evaluation, _ = learn(problem, dataclasses.replace(SMALL, **changes))
    assert evaluation == {"episode_return": 1.0, "episode_return_std": 0.0, "episode_length": steps}


# Episodes


def test_an_update_is_of_whole_episodes_that_start_anew():
    for problem, length in [(Table(**CHAIN), 2), (Table(terminates=NONE), 8)]:
        metrics, evaluation, _ = learn(problem, SMALL)
        count = np.arange(1, SMALL.num_updates + 1)
        np.testing.assert_array_equal(metrics["episode_length"], length)
        np.testing.assert_array_equal(metrics["episodes"], 32 * count)
        np.testing.assert_array_equal(metrics["env_steps"], 32 * length * count)
        np.testing.assert_array_equal(metrics["episode_return"], 1 if length == 2 else 8)
        assert evaluation["episode_length"] == (2 if length == 2 else 20)  # which has a limit of its own


@jax.jit
def first_update(problem, config):
    """The state before and after one update, what the network says before, and the metrics."""
    learner = reinforce.make(config, TABLE, problem)
    state = learner.init(jax.random.key(0))
    after, metrics = learner.update(state)
    return state, after, network(state.params), metrics


def returns_by_hand(problem, value, baseline):
    """States and returns of the one way through a problem of `ENDS`, and whether the episode's end cut it."""
    states, rewards, s = [], [], 0
    while True:
        terminates, is_cut = problem.terminates[s][0], problem.is_cut[s][0]
        states.append(s)
        rewards.append(problem.reward[s][0])
        s = problem.successor[s][0]
        if terminates or is_cut or len(states) == SMALL.max_episode_steps:
            break
    following = 0.0 if terminates or not baseline else value[s]
    returns = []
    for reward in reversed(rewards):
        following = reward + 0.5 * following
        returns.insert(0, following)
    return states, np.array(returns)


@pytest.mark.parametrize("baseline", [True, False])
@pytest.mark.parametrize("problem", ENDS.values(), ids=ENDS)
def test_returns_end_with_their_episode_and_a_cut_has_the_value_of_where_it_stood(problem, baseline):
    config = dataclasses.replace(SMALL, baseline=baseline, normalize_advantages=False)
    _, _, (_, value), metrics = first_update(problem, config)
    value = np.array(value, np.float64)
    states, returns = returns_by_hand(problem, value, baseline)
    np.testing.assert_allclose(metrics["value_loss"], 0.5 * np.mean((returns - value[states]) ** 2), rtol=1e-4)
    # The policy head's gain of 0.01 leaves at most 0.01 √8 between a logit and 0, hence log π is near −log 2.
    advantage = returns - value[states] if baseline else returns
    slack = 0.06 * np.mean(np.abs(advantage))
    np.testing.assert_allclose(metrics["policy_loss"], np.mean(advantage) * math.log(2), atol=slack)
    np.testing.assert_allclose(metrics["entropy"], math.log(2), atol=8e-4)
    assert metrics["episode_length"] == len(states)


def test_without_a_baseline_the_value_learns_nothing():
    problem = ENDS["terminates"]
    for baseline in (True, False):
        config = dataclasses.replace(SMALL, baseline=baseline, normalize_advantages=False)
        before, after, *_ = first_update(problem, config)

        def parts(state):
            """Everything of the policy, and everything of the value."""
            params = state.params["params"]
            of_policy = jax.tree.map(lambda x: x[0], params["torsos"]), params["policy_head"]
            return of_policy, (jax.tree.map(lambda x: x[1], params["torsos"]), params["value_head"])

        (policy, value), (new_policy, new_value) = parts(before), parts(after)
        assert not np.array_equal(policy[1]["kernel"], new_policy[1]["kernel"])
        if baseline:
            assert not np.array_equal(value[1]["kernel"], new_value[1]["kernel"])
        else:
            assert_equal(value, new_value)


class Poisoned(TableEnvironment):
    """Does not start anew: all rewards after an episode's end are NaN."""

    def step(self, key, state, action, params=None):
        observation, after, reward, terminated, _ = self.step_env(key, state, action, params)
        truncated, is_over = self.is_truncated(after, params), state.time < 0
        after = after.replace(time=jnp.where(terminated | truncated | is_over, -1000, after.time))
        info = {"final_observation": observation}
        return observation, after, jnp.where(is_over, jnp.nan, reward), terminated, truncated, info


@jax.jit
def poisoned_update(problem):
    learner = reinforce.make(SMALL, Poisoned(), problem)
    state = learner.init(jax.random.key(0))
    after, metrics = learner.update(state)
    return network(state.params)[1], after, metrics


# In state 0, action 0 earns 1 and ends the episode, and action 1 leads to state 1, where 4 ends it.
LONG_OR_SHORT = {"reward": ((1, 0), (4, 4), (0, 0)), "successor": ((2, 1), (1, 1), (2, 2))}


@pytest.mark.parametrize(
    ("problem", "after_short"),
    [
        (Table(terminates=((1, 0), (1, 1), (0, 0)), **LONG_OR_SHORT), 0.0),
        (Table(terminates=((0, 0), (1, 1), (0, 0)), is_cut=((1, 0), (0, 0), (0, 0)), **LONG_OR_SHORT), 0.5),
    ],
    ids=["terminates", "is cut"],
)
def test_steps_after_the_end_of_an_episode_do_not_matter(problem, after_short):
    value, after, metrics = poisoned_update(problem)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((after.params, after.optimizer)))
    assert_sound(metrics, UPDATE_METRICS)
    long = (metrics["episode_length"] - 1).item()  # the share of long episodes, which have two steps
    assert 0 < long < 1
    np.testing.assert_allclose(metrics["episode_return"], 1 - long + 4 * long, rtol=1e-5)
    assert metrics["env_steps"] == 32 * (1 + long)
    v = np.array(value, np.float64)
    squares = (1 - long) * (1 + after_short * v[2] - v[0]) ** 2 + long * (2 - v[0]) ** 2 + long * (4 - v[1]) ** 2
    np.testing.assert_allclose(metrics["value_loss"], 0.5 * squares / (1 + long), rtol=1e-4)
    # Advantages of mean 0 and variance 1 over steps that took part: their mean times −log π ≈ log 2 is nearly 0.
    assert abs(metrics["policy_loss"]) < 0.06


# State, keys and metrics

TINY = reinforce.Config(
    num_envs=4,
    max_episode_steps=30,
    num_updates=10,
    hidden_sizes=(8,),
    num_evaluation_episodes=4,
    max_evaluation_steps=30,
    greedy_evaluation=False,
)


@functools.cache
def make(name="CartPole-v1", **changes):
    learner = reinforce.make(dataclasses.replace(TINY, **changes), *gymnax.make(name))
    return learner._replace(**{f: jax.jit(getattr(learner, f)) for f in learner._fields})


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("CartPole-v1", {}),
        pytest.param("Pendulum-v1", {"greedy_evaluation": True}, marks=pytest.mark.slow),
        pytest.param("FrozenLake-misc", {"baseline": False, "activation": "relu"}, marks=pytest.mark.slow),
        pytest.param("Breakout-MinAtar", {"torso": "conv"}, marks=pytest.mark.slow),
    ],
)
def test_metrics_are_finite_scalars_with_the_documented_names(name, changes):
    learner = make(name, **changes)
    state, env_steps = learner.init(jax.random.key(0)), 0
    for step in (1, 2):
        state, metrics = learner.update(state)
        env_steps += round(4 * metrics["episode_length"].item())
        assert_sound(metrics, UPDATE_METRICS)
        assert metrics["env_steps"] == state.env_steps == env_steps
        assert metrics["episodes"] == state.episodes == 4 * step
        assert name == "FrozenLake-misc" or metrics["gradient_norm"] > 0  # where no reward is found nothing is learned
        if name == "CartPole-v1":
            assert metrics["episode_return"] == metrics["episode_length"] <= 30  # reward 1 a step
    assert_sound(learner.evaluate(jax.random.key(1), state), EVALUATION_METRICS)


def test_the_same_key_gives_the_same_bits():
    learner, results = make(), []
    for seed in (0, 0, 1):
        state, _ = learner.update(learner.init(jax.random.key(seed)))
        results.append(learner.update(state))
    assert_equal(results[0], results[1])
    kernels = [state.params["params"]["policy_head"]["kernel"] for state, _ in results]
    assert not np.any(kernels[0] == kernels[2])


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
        state, metrics = train(reinforce.make(config, TABLE, Table(**CHAIN)), key, None, 4)
        return state.params, metrics

    together, alone = jax.jit(jax.vmap(run))(keys, rates), jax.jit(run)
    for i in range(3):
        one = alone(keys[i], rates[i])
        jax.tree.map(lambda x, y, i=i: np.testing.assert_allclose(x[i], y, rtol=1e-3, atol=1e-4), together, one)


@pytest.mark.slow
def test_the_learning_rate_falls_linearly_to_zero_over_all_updates():
    # Adam moves a parameter whose gradient is constant by the rate; a huge entropy bonus alone moves the
    # log-standard-deviation: η (3 + 2 + 1) / 3, and no further.
    learner = make("Pendulum-v1", num_updates=3, learning_rate=1e-3, entropy_coefficient=1e6)
    state = learner.init(jax.random.key(0))
    for expected in (1, 5 / 3, 2, 2):
        state, _ = learner.update(state)
        np.testing.assert_allclose(state.params["params"]["log_std"], [expected * 1e-3], rtol=1e-3)


# Mistakes


@pytest.mark.parametrize(
    "name", ["num_envs", "max_episode_steps", "num_updates", "num_evaluation_episodes", "max_evaluation_steps"]
)
@pytest.mark.parametrize("value", [0, -1])
def test_counts_must_be_positive(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        make(**{name: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"torso": "cnn"}, "torso 'cnn' is unknown; use one of mlp, conv"), ({"torso": "conv"}, "'conv' takes images")],
)
def test_names_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_unsupported_spaces_are_refused():
    pair, two = spaces.Tuple([spaces.Discrete(2)]), spaces.Discrete(2)
    with pytest.raises(ValueError, match="action space"):
        reinforce.make(SMALL, StrangeSpaces(pair, two), Table())
    with pytest.raises(ValueError, match="observation space"):
        reinforce.make(SMALL, StrangeSpaces(two, pair), Table())
