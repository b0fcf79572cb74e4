"""PPO on problems whose values are known, and what it promises about its state, its metrics and its keys."""

import dataclasses
import functools
import math

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gymnax.environments import spaces
from gymnax.environments.classic_control.cartpole import CartPole
from gymnax.wrappers import LogWrapper

from mathai.learners import ppo
from mathai.learners.base import train
from mathai.models.actor_critic import ActorCritic
from tests.learners.table import (
    BEST_ACTIONS,
    BY_STATE,
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
    *("episode_return", "episode_length", "episodes", "env_steps", "policy_loss", "value_loss", "entropy"),
    *("approximate_kl", "clip_fraction", "gradient_norm", "explained_variance"),
}


SMALL = ppo.Config(
    num_envs=8,
    num_steps=8,
    num_minibatches=2,
    learning_rate=0.02,
    anneal_learning_rate=False,
    discount=0.5,
    hidden_sizes=(8,),
    num_evaluation_episodes=32,
    max_evaluation_steps=20,
)


@jax.jit
def learn(problem, config):
    """The metrics of all updates, an evaluation, and what the network says of the three states."""
    learner = ppo.make(config, TABLE, problem)
    state, metrics = train(learner, jax.random.key(0), None, 60)
    return metrics, learner.evaluate(jax.random.key(1), state), network(state.params)


def network(params, num_actions=2, features=None):
    """Probabilities of the actions and values, in all three states."""
    model = ActorCritic(num_actions=num_actions, hidden_sizes=SMALL.hidden_sizes)
    logits, value = model.apply(params, OBSERVATIONS if features is None else features)
    return jax.nn.softmax(logits), value


@pytest.mark.parametrize(("problem", "changes", "values"), VALUES)
def test_the_value_of_a_small_problem_is_found(problem, changes, values):
    *_, (_, value) = learn(problem, dataclasses.replace(SMALL, **changes))
    for state, expected in values.items():
        np.testing.assert_allclose(value[state], expected, atol=0.05)


@pytest.mark.parametrize(("problem", "best", "steps"), BEST_ACTIONS)
def test_the_best_action_of_a_small_problem_is_found(problem, best, steps):
    metrics, evaluation, (probabilities, _) = learn(problem, SMALL)
    for state, action in best.items():
        assert probabilities[state, action] > 0.9
    # the mode is deterministic and right in every episode; sampled actions are right in most
    assert evaluation == {"episode_return": 1.0, "episode_return_std": 0.0, "episode_length": steps}
    assert metrics["episode_return"][0] < 0.75 < 0.9 < metrics["episode_return"][-1]


class NeverFalling(CartPole):
    """CartPole whose pole may turn: reward 1 at every step, and only a time limit cuts an episode."""

    def is_terminated(self, state, params):
        return jnp.array(False)

    def get_obs(self, state, params=None, key=None):
        return jnp.tanh(super().get_obs(state))


@functools.partial(jax.jit, static_argnums=0)
def value_of_never_falling(bootstrap_on_truncation):
    env = NeverFalling()
    config = ppo.Config(
        num_envs=4,
        num_steps=64,
        num_minibatches=1,
        total_env_steps=4 * 64 * 400,
        learning_rate=0.03,
        discount=0.95,
        clip_epsilon=1.0,  # a value can move by 1 in an update
        hidden_sizes=(8,),
        bootstrap_on_truncation=bootstrap_on_truncation,
    )
    learner = ppo.make(config, env, env.default_params.replace(max_steps_in_episode=20))
    state, metrics = train(learner, jax.random.key(0), None, config.num_updates)
    observations = jax.random.uniform(jax.random.key(1), (256, 4), minval=-0.05, maxval=0.05)  # where episodes start
    return network(state.params, features=observations)[1], metrics


@pytest.mark.slow
def test_a_pole_that_never_falls_is_worth_one_over_one_minus_gamma():
    value, metrics = value_of_never_falling(True)
    np.testing.assert_allclose(value, 1 / (1 - 0.95), rtol=0.02)
    np.testing.assert_array_equal(metrics["episode_length"][1:], 20)  # it is cut, and it does not show in the value


@pytest.mark.slow
def test_taking_cuts_for_ends_misses_the_value_by_far():
    value, _ = value_of_never_falling(False)
    assert np.all(value < 0.8 / (1 - 0.95))


# Metrics


CARTPOLE, CARTPOLE_PARAMS = gymnax.make("CartPole-v1")
TINY = ppo.Config(
    num_envs=4,
    num_steps=8,
    num_epochs=2,
    num_minibatches=2,
    total_env_steps=4 * 8 * 10,
    hidden_sizes=(8,),
    num_evaluation_episodes=4,
    max_evaluation_steps=30,
    greedy_evaluation=False,
)


@functools.cache
def make(name="CartPole-v1", **changes):
    learner = ppo.make(dataclasses.replace(TINY, **changes), *gymnax.make(name))
    return learner._replace(**{f: jax.jit(getattr(learner, f)) for f in learner._fields})


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("CartPole-v1", {}),
        ("Pendulum-v1", {}),  # continuous actions
        (
            "FrozenLake-misc",
            {"shared_torso": True, "activation": "relu", "greedy_evaluation": True},
        ),  # a number is seen
        pytest.param("Breakout-MinAtar", {"torso": "conv"}, marks=pytest.mark.slow),  # an image
        pytest.param(
            "Pendulum-v1", {"normalize_observations": True, "normalize_rewards": True}, marks=pytest.mark.slow
        ),
    ],
)
def test_metrics_are_finite_scalars_with_the_documented_names(name, changes):
    learner = make(name, **changes)
    state = learner.init(jax.random.key(0))
    for step in (1, 2):
        state, metrics = learner.update(state)
        assert_sound(metrics, UPDATE_METRICS)
        assert metrics["env_steps"] == state.env_steps == 4 * 8 * step
        assert 0 <= metrics["clip_fraction"] <= 1
        assert metrics["approximate_kl"] >= 0
        assert metrics["gradient_norm"] > 0
        assert metrics["explained_variance"] <= 1
    assert_sound(learner.evaluate(jax.random.key(1), state), EVALUATION_METRICS)


@jax.jit
def first_update(problem):
    """What the network says at the start, and the metrics and parameters after one epoch with one minibatch."""
    learner = ppo.make(dataclasses.replace(SMALL, num_epochs=1, num_minibatches=1), TABLE, problem)
    state = learner.init(jax.random.key(0))
    after, metrics = learner.update(state)
    return network(state.params), metrics, after.params


@pytest.mark.parametrize("problem", ENDS.values(), ids=ENDS)
def test_the_value_is_drawn_to_generalized_advantages_that_end_with_their_episode(problem):
    # All environments walk from state 0 to state 1 and, unless it goes back to 0, to state 2 where the episode ends:
    # the value loss is ½ A² on average, with A_t = δ_t + γλ A_{t+1} within an episode, as a loop backwards.
    (_, value), metrics, _ = first_update(problem)
    v, advantage, total = np.array(value, np.float64), 0.0, 0.0
    for t in reversed(range(SMALL.num_steps)):
        s = t % 2  # actions make no difference
        terminates, is_cut = problem.terminates[s][0], problem.is_cut[s][0]
        delta = problem.reward[s][0] + 0.5 * (1 - terminates) * v[problem.successor[s][0]] - v[s]
        advantage = delta + 0.5 * 0.95 * advantage * (1 - max(terminates, is_cut))
        total += 0.5 * advantage**2
    np.testing.assert_allclose(metrics["value_loss"], total / SMALL.num_steps, rtol=1e-4)


def test_the_first_gradient_is_taken_where_the_rollout_was():
    # One minibatch and one epoch: the ratio is 1 throughout, and normalized advantages have mean 0.
    (_, value), metrics, _ = first_update(Table(start=(1, 1, 0), reward=BY_STATE))
    for name in ("approximate_kl", "clip_fraction", "policy_loss"):
        np.testing.assert_allclose(metrics[name], 0.0, atol=1e-6)
    # The policy head's gain of 0.01 leaves at most 0.01 √8 between a logit and 0, hence its square in entropy.
    np.testing.assert_allclose(metrics["entropy"], math.log(2), atol=8e-4)
    # Each of the 64 steps is an episode: from state 0 with reward 1, a share p of them, or from state 1 with reward −1.
    assert (metrics["episodes"], metrics["episode_length"]) == (64, 1.0)
    p = (1 + metrics["episode_return"]) / 2
    error_0, error_1 = (np.array([1.0, -1.0]) - np.array(value[:2])).tolist()
    np.testing.assert_allclose(metrics["value_loss"], 0.5 * (p * error_0**2 + (1 - p) * error_1**2), rtol=1e-4)
    # Two numbers d apart, a share p of them the first, have variance p (1 − p) d²; the targets are 2 apart.
    np.testing.assert_allclose(metrics["explained_variance"], 1 - ((error_0 - error_1) / 2) ** 2, rtol=1e-4)


def test_a_value_that_is_learned_explains_the_targets():
    metrics, *_ = learn(Table(start=(1, 1, 0), reward=BY_STATE), SMALL)
    assert metrics["explained_variance"][0] < 0.5
    assert metrics["explained_variance"][-1] > 0.99
    assert metrics["value_loss"][-1] < 0.01 < metrics["value_loss"][0]


def test_episode_returns_are_those_that_gymnax_logs():
    # A CartPole stands for 8 steps at least, so that in 8 steps at most one episode ends in each environment, and one
    # has ended exactly where the running one is shorter than the rollout.
    env, params = LogWrapper(CARTPOLE), CARTPOLE_PARAMS
    learner = ppo.make(TINY, env, params)
    update = jax.jit(learner.update)
    state = learner.init(jax.random.key(0))
    episodes, last, silent = 0, 0.0, 0
    for _ in range(12):
        state, metrics = update(state)
        log = state.env_state
        ended = np.array(log.episode_lengths) < TINY.num_steps
        episodes += np.sum(ended)
        silent += not np.any(ended)
        last = np.mean(log.returned_episode_returns[ended]) if np.any(ended) else last
        assert metrics["episodes"] == episodes
        np.testing.assert_allclose(metrics["episode_return"], last, rtol=1e-6)
        np.testing.assert_allclose(metrics["episode_length"], last, rtol=1e-6)  # reward 1 a step
    assert episodes > 0 < silent


# Stopping an update

WHOLE = dataclasses.replace(SMALL, num_epochs=4, num_minibatches=1)  # so that all gradient updates see the same samples
CHOICE = Table(start=(1, 1, 0), reward=((1, 0), (0, 1), (0, 0)))


@jax.jit
def two_updates(config):
    """The states after each of two updates, where the action matters."""
    learner = ppo.make(config, TABLE, CHOICE)
    first, _ = learner.update(learner.init(jax.random.key(0)))
    return first, learner.update(first)[0]


def gradient_updates(state):
    return optax.tree.get(state.optimizer, "ScaleByAdamState").count.item()


def assert_near(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), a, b)


def test_a_tiny_limit_of_divergence_leaves_each_update_its_first_gradient_update_alone():
    # The divergence is measured before a gradient update, and is 0 before the first of each update.
    first, second = two_updates(dataclasses.replace(WHOLE, max_kl=1e-9))
    assert_near(first.params, first_update(CHOICE)[-1])
    assert (gradient_updates(first), gradient_updates(second)) == (1, 2)
    biases = [state.params["params"]["value_head"]["bias"] for state in (first, second)]
    assert not np.array_equal(*biases)


def test_a_limit_that_is_never_reached_changes_nothing():
    def unlimited():
        return two_updates.__wrapped__(WHOLE)  # not traced, so that infinity is known and nothing is compared

    for state, expected in zip(two_updates(dataclasses.replace(WHOLE, max_kl=1e9)), jax.jit(unlimited)(), strict=True):
        assert_near(state.params, expected.params)
        assert_equal(state.observation, expected.observation)
        assert gradient_updates(state) == gradient_updates(expected)


def test_a_greater_limit_leaves_more_gradient_updates():
    limits = [1e-9, 1e-3, 3e-3, 1e-2, 1e-1, 1e9]
    counts = [gradient_updates(two_updates(dataclasses.replace(WHOLE, max_kl=limit))[-1]) for limit in limits]
    assert counts[0] == 2
    assert counts[-1] == 8
    assert counts == sorted(counts)
    assert len(set(counts)) > 2


@pytest.mark.slow
def test_what_is_left_out_of_an_update_stays_out():
    # The first epochs are alike. Where the first was left with fewer than its 8 gradient updates, three more add none,
    # although some of their small minibatches are below the limit.
    configs = [dataclasses.replace(SMALL, num_epochs=num, num_minibatches=8) for num in (1, 4)]
    counts = []
    for limit in np.geomspace(1e-4, 1e-2, 20).tolist():
        (one, _), (four, _) = (two_updates(dataclasses.replace(config, max_kl=limit)) for config in configs)
        if gradient_updates(one) < 8:
            assert gradient_updates(four) == gradient_updates(one)
            assert_near(four.params, one.params)
            counts.append(gradient_updates(one))
    assert len(set(counts)) > 2


# Normalization


class FarEnvironment(TableEnvironment):
    """Shows 1000 plus its state: without normalization, all states look alike to tanh."""

    def reset_env(self, key, params):
        _, state = super().reset_env(key, params)
        return self.get_obs(state), state

    def step_env(self, key, state, action, params):
        _, state, *rest = super().step_env(key, state, action, params)
        return self.get_obs(state), state, *rest

    def get_obs(self, state, params=None, key=None):
        return 1000.0 + state.state[None].astype(jnp.float32)

    def observation_space(self, params):
        return spaces.Box(-jnp.inf, jnp.inf, (1,))


@jax.jit
def learn_from_afar(problem):
    """The metrics of all updates, an evaluation and the last state."""
    config = dataclasses.replace(SMALL, normalize_observations=True, normalize_rewards=True)
    learner = ppo.make(config, FarEnvironment(), problem)
    state, metrics = train(learner, jax.random.key(0), None, 60)
    return metrics, learner.evaluate(jax.random.key(1), state), state


@pytest.mark.parametrize("scale", [1, 1000])
def test_with_normalization_neither_far_observations_nor_large_rewards_hide_a_value(scale):
    rewards = ((scale, scale), (-scale, -scale), (0, 0))
    metrics, _, state = learn_from_afar(Table(start=(1, 1, 0), reward=rewards))
    # Every step is an episode: from state 0, a share p of them, or from state 1. The mean return is (2p − 1) · scale.
    p = 0.5 + 0.5 * np.mean(np.array(metrics["episode_return"], np.float64)) / scale
    deviation = np.sqrt(p * (1 - p))
    moments, returns = state.observation_moments, state.reward_scale.moments
    np.testing.assert_array_equal([moments.num_examples, returns.num_examples], 60 * 64)
    np.testing.assert_allclose(moments.mean, [1000 + 1 - p], rtol=1e-6)
    np.testing.assert_allclose(np.sqrt(moments.variance), [deviation], rtol=1e-3)
    np.testing.assert_allclose(returns.mean, scale * (2 * p - 1), atol=1e-4 * scale)
    np.testing.assert_allclose(np.sqrt(returns.variance), 2 * scale * deviation, rtol=1e-3)
    _, value = network(state.params, features=jnp.array([[p - 1], [p]]) / deviation)
    np.testing.assert_allclose(value, np.array([1, -1]) / (2 * deviation), atol=0.05)


def test_with_normalization_the_best_actions_are_found_all_the_same():
    problem = Table(start=(1, 1, 0), reward=((1000, 0), (0, 1000), (0, 0)))
    metrics, evaluation, _ = learn_from_afar(problem)
    assert evaluation == {"episode_return": 1000.0, "episode_return_std": 0.0, "episode_length": 1.0}
    assert metrics["episode_return"][0] < 750 < 900 < metrics["episode_return"][-1]


@pytest.mark.slow
def test_the_moments_of_observations_are_those_of_all_that_were_acted_on():
    # In updates of one step, what is acted on is what the state shows before.
    learner = make(num_steps=1, normalize_observations=True)
    state, seen = learner.init(jax.random.key(0)), []
    for _ in range(30):
        seen.append(np.array(state.observation, np.float64))
        state, _ = learner.update(state)
    np.testing.assert_array_equal(state.observation_moments.num_examples, 30 * 4)
    np.testing.assert_allclose(state.observation_moments.mean, np.mean(seen, axis=(0, 1)), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(state.observation_moments.variance, np.var(seen, axis=(0, 1)), rtol=1e-3)


# State and keys


def test_the_same_key_gives_the_same_bits():
    learner, results = make(), []
    for seed in (0, 0, 1):
        state, _ = learner.update(learner.init(jax.random.key(seed)))
        results.append(learner.update(state))
    assert_equal(results[0], results[1])
    assert not np.array_equal(results[0][0].observation, results[2][0].observation)


def test_raw_and_typed_keys_give_the_same_numbers():
    learner = make()
    typed, raw = (learner.update(learner.init(make_key(7))) for make_key in (jax.random.key, jax.random.PRNGKey))
    assert_equal(typed[1], raw[1])
    assert_equal(typed[0].params, raw[0].params)
    evaluations = [learner.evaluate(make_key(3), raw[0]) for make_key in (jax.random.key, jax.random.PRNGKey)]
    assert_equal(*evaluations)


def test_the_state_is_one_tree_of_arrays_that_can_be_saved_and_restored():
    learner = make()
    state, _ = learner.update(learner.init(jax.random.PRNGKey(0)))
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(state))
    restored = jax.tree.map(lambda x: jnp.asarray(np.array(x)), state)
    assert_equal(learner.update(state), learner.update(restored))
    after, _ = learner.update(state)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)


def test_each_update_draws_anew():
    learner = make()
    state = learner.init(jax.random.PRNGKey(0))
    keys = [state.key]
    for _ in range(3):
        state, _ = learner.update(state)
        keys.append(state.key)
    assert len({tuple(key.tolist()) for key in keys}) == 4


def test_evaluation_depends_on_its_key_and_leaves_the_state_alone():
    learner = make()
    state = learner.init(jax.random.key(0))
    before = jax.tree.map(lambda x: x.copy(), state)
    scores = [learner.evaluate(jax.random.key(seed), state) for seed in (0, 0, 1)]
    assert_equal(state, before)
    assert_equal(scores[0], scores[1])
    assert scores[0] != scores[2]
    assert_equal(scores[0], learner.evaluate(jax.random.key(0), state._replace(key=jax.random.key(99))))


@functools.partial(jax.jit, static_argnums=1)
def evaluate_untrained(problem, config=SMALL):
    learner = ppo.make(config, TABLE, problem)
    return learner.evaluate(jax.random.key(1), learner.init(jax.random.key(0)))


def test_evaluation_takes_the_mode_or_a_sample():
    # an untrained policy is a coin: its mode earns always the same, its samples half of the time 1
    problem = Table(reward=((0, 1), (0, 0), (0, 0)))
    for greedy in (True, False):
        config = dataclasses.replace(SMALL, greedy_evaluation=greedy, num_evaluation_episodes=256)
        evaluation = evaluate_untrained(problem, config)
        np.testing.assert_allclose(evaluation["episode_return_std"], 0.0 if greedy else 0.5, atol=0.02)
        if not greedy:
            assert abs(evaluation["episode_return"] - 0.5) < 0.16  # five standard deviations of 256 coins


def test_evaluation_stops_an_episode_that_does_not_end():
    evaluation = evaluate_untrained(Table(terminates=NONE))
    assert evaluation == {"episode_return": 20.0, "episode_return_std": 0.0, "episode_length": 20.0}


# Batches of learners


def test_keys_can_be_batched():
    learner = make()
    keys = jax.random.split(jax.random.key(0), 3)
    states, metrics = jax.jit(jax.vmap(lambda key: learner.update(learner.init(key))))(keys)
    evaluations = jax.jit(jax.vmap(learner.evaluate))(keys, states)
    for i, key in enumerate(keys):
        state, alone = learner.update(learner.init(key))
        for name, value in alone.items():
            np.testing.assert_allclose(metrics[name][i], value, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(states.observation[i], state.observation, rtol=1e-3, atol=1e-5)
        assert evaluations["episode_length"][i] == learner.evaluate(key, state)["episode_length"]


@pytest.mark.slow
def test_hyperparameters_can_be_batched_inside_a_config():
    configs = [
        dataclasses.replace(TINY, learning_rate=rate, entropy_coefficient=coefficient)
        for rate, coefficient in [(1e-3, 0.0), (1e-2, 0.0), (1e-3, 1.0)]
    ]

    def run(config):
        state, metrics = train(ppo.make(config, CARTPOLE, CARTPOLE_PARAMS), jax.random.key(0), None, 3)
        return state.params, metrics

    run_one = jax.jit(run)  # floats are leaves: one compilation for all
    params, metrics = jax.jit(jax.vmap(run))(jax.tree.map(lambda *x: jnp.stack(x), *configs))
    for i, config in enumerate(configs):
        expected_params, expected = run_one(config)
        jax.tree.map(
            lambda x, y, i=i: np.testing.assert_allclose(x[i], y, rtol=1e-3, atol=1e-4), params, expected_params
        )
        np.testing.assert_allclose(metrics["value_loss"][i], expected["value_loss"], rtol=1e-3, atol=1e-5)
    assert run_one._cache_size() == 1
    kernels = np.array(params["params"]["policy_head"]["kernel"])
    assert not np.any(kernels[0] == kernels[1])  # the learning rate acts
    assert not np.any(kernels[0] == kernels[2])  # and so does the entropy bonus


# The plan of a run


def test_the_learning_rate_falls_linearly_to_zero_over_all_gradient_updates():
    # Two rollouts, of four gradient updates each; the rest of the budget is not enough for a third. Adam moves a
    # parameter whose gradient is constant by exactly the rate. So does the log-standard-deviation move, driven by a
    # huge entropy bonus alone (its gradient is −c_e): η (8 + 7 + 6 + 5) / 8, then η (4 + 3 + 2 + 1) / 8, then no more.
    learner = make(
        "Pendulum-v1",
        total_env_steps=3 * 32 - 1,
        learning_rate=1e-3,
        entropy_coefficient=1e6,
        max_gradient_norm=1e9,
    )
    state = learner.init(jax.random.key(0))
    for expected in (26 / 8, 36 / 8):
        state, _ = learner.update(state)
        np.testing.assert_allclose(state.params["params"]["log_std"], [expected * 1e-3], rtol=1e-3)
    assert_equal(learner.update(state)[0].params, state.params)


@pytest.mark.parametrize(
    ("change", "num_updates"),
    [
        ({}, 976),  # 500 000 / (4 · 128) = 976.6
        ({"total_env_steps": 512}, 1),
        ({"total_env_steps": 511}, 0),
        ({"num_envs": 2048, "num_steps": 10, "total_env_steps": 50_000_000}, 2441),  # 2441.4
    ],
)
def test_the_number_of_updates_is_that_of_whole_rollouts(change, num_updates):
    assert ppo.Config(**change).num_updates == num_updates


# Mistakes


def test_minibatches_must_divide_the_rollout():
    with pytest.raises(ValueError, match=r"num_minibatches = 3 does not divide .* 4 \* 8 = 32"):
        make(num_minibatches=3)


@pytest.mark.parametrize("name", ["num_envs", "num_steps", "num_epochs", "num_minibatches", "num_evaluation_episodes"])
@pytest.mark.parametrize("value", [0, -1])
def test_counts_must_be_positive(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        make(**{name: value})


@pytest.mark.parametrize(
    ("torso", "message"),
    [
        ("conv", r"'conv' takes images \[height, width, channels\]"),
        ("cnn", "torso 'cnn' is unknown; use one of mlp, conv"),
    ],
)
def test_a_torso_that_does_not_fit_is_refused(torso, message):
    with pytest.raises(ValueError, match=message):
        make(torso=torso)


def test_an_unknown_activation_is_named():
    with pytest.raises(ValueError, match="'gelu'"):
        ppo.make(dataclasses.replace(TINY, activation="gelu"), CARTPOLE, CARTPOLE_PARAMS).init(jax.random.key(0))


def test_unsupported_spaces_are_refused():
    pair, two = spaces.Tuple([spaces.Discrete(2)]), spaces.Discrete(2)
    with pytest.raises(ValueError, match="action space"):
        ppo.make(SMALL, StrangeSpaces(pair, two), Table())
    with pytest.raises(ValueError, match="observation space"):
        ppo.make(SMALL, StrangeSpaces(two, pair), Table())
