"""Ends of episodes on environments whose every step is known, and what is counted about episodes."""

import functools
from typing import Any

import gymnax
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from gymnax.environments import environment, spaces
from gymnax.wrappers import FlattenObservationWrapper, LogWrapper, StickyActionWrapper

from mathai.learners.environments import EpisodeStatistics, evaluate_policy, make_environments, observation_features

NEVER = 10**6
NUM_ENVS, NUM_STEPS = 3, 7


@struct.dataclass
class CounterState(environment.EnvState):
    episode: jax.Array  # a number drawn at the start, which tells one episode from another
    position: jax.Array


@struct.dataclass
class CounterParams(environment.EnvParams):
    max_steps_in_episode: int = NEVER
    terminate_at: int = NEVER
    random_start: bool = False


class Counter(environment.Environment):
    """Counts its steps and ends at `terminate_at`; the reward of a step is 100 · position reached + action."""

    @property
    def default_params(self):
        return CounterParams()

    def reset_env(self, key, params):
        start = jnp.where(params.random_start, jax.random.bernoulli(key).astype(jnp.int32), 0)
        state = CounterState(time=jnp.int32(0), episode=jax.random.uniform(key), position=start)
        return self.get_obs(state), state

    def step_env(self, key, state, action, params):
        state = state.replace(time=state.time + 1, position=state.position + 1)
        reward = 100 * state.position + action  # an integer, as in many environments
        return self.get_obs(state), state, reward, state.position >= params.terminate_at, {}

    def get_obs(self, state, params=None, key=None):
        return jnp.stack([state.episode, state.position.astype(jnp.float32)])

    def action_space(self, params=None):
        return spaces.Discrete(10)

    def observation_space(self, params):
        return spaces.Box(0.0, jnp.inf, (2,))


class Doubling:
    """A wrapper that overrides `step` and leaves all else to the environment inside."""

    def __init__(self, env):
        self._env = env

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def step(self, key, state, action, params):
        observation, state, reward, *rest = self._env.step(key, state, action, params)
        return observation, state, 2 * reward, *rest


class DoublingCounter(Counter):
    """The same by inheritance."""

    def step(self, key, state, action, params=None):
        observation, state, reward, *rest = super().step(key, state, action, params)
        return observation, state, 2 * reward, *rest


COUNTER, DOUBLING, DOUBLING_COUNTER = Counter(), Doubling(Counter()), DoublingCounter()


@functools.partial(jax.jit, static_argnames="env")
def roll_out(env, params, actions, seed=0):
    """Everything that `actions` [num_steps, num_envs] lead to, as arrays [num_steps, num_envs, ...]."""
    num_steps, num_envs = actions.shape[:2]
    environments = make_environments(env, params, num_envs)
    reset_key, noise_key = jax.random.split(jax.random.key(seed))
    observation, state = environments.reset(reset_key)

    def step(state, x):
        observation, state, outcome = environments.step(state, *x)
        return state, (observation, state, outcome)

    _, history = jax.lax.scan(step, state, (actions, environments.draw_noise(noise_key, num_steps)))
    return observation, *history


ACTIONS = jnp.asarray(np.random.default_rng(0).integers(0, 10, size=(NUM_STEPS, NUM_ENVS)))
F, T = False, True

# (terminate_at, max_steps) → the position that each step reaches, where it shows next, and the two flags
STREAMS = {
    "terminates": ((3, NEVER), [1, 2, 3, 1, 2, 3, 1], [1, 2, 0, 1, 2, 0, 1], [F, F, T, F, F, T, F], [F] * 7),
    "is cut": ((NEVER, 3), [1, 2, 3, 1, 2, 3, 1], [1, 2, 0, 1, 2, 0, 1], [F] * 7, [F, F, T, F, F, T, F]),
    "both at once": (
        (3, 3),
        [1, 2, 3, 1, 2, 3, 1],
        [1, 2, 0, 1, 2, 0, 1],
        [F, F, T, F, F, T, F],
        [F, F, T, F, F, T, F],
    ),
    "at its first step": ((1, NEVER), [1] * 7, [0] * 7, [T] * 7, [F] * 7),
    "is cut at its first step": ((NEVER, 1), [1] * 7, [0] * 7, [F] * 7, [T] * 7),
    "never ends": ((NEVER, NEVER), [1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7], [F] * 7, [F] * 7),
}


@pytest.mark.parametrize(("env", "factor"), [(COUNTER, 1), (DOUBLING, 2), (DOUBLING_COUNTER, 2)])
@pytest.mark.parametrize("name", STREAMS)
def test_each_step_gives_what_it_led_to_and_goes_on_from_a_fresh_start(name, env, factor):
    (terminate_at, max_steps), reached, shown, terminated, truncated = STREAMS[name]
    params = CounterParams(terminate_at=terminate_at, max_steps_in_episode=max_steps)
    first, observation, state, outcome = roll_out(env, params, ACTIONS)

    def columns(stream):
        return np.repeat(np.array(stream)[:, None], NUM_ENVS, axis=1)

    np.testing.assert_array_equal(outcome.reward, factor * (100 * columns(reached) + ACTIONS))
    np.testing.assert_array_equal(outcome.terminated, columns(terminated))
    np.testing.assert_array_equal(outcome.truncated, columns(truncated))
    np.testing.assert_array_equal(outcome.final_observation[..., 1], columns(reached))
    np.testing.assert_array_equal(observation[..., 1], columns(shown))
    np.testing.assert_array_equal(state.position, columns(shown))
    np.testing.assert_array_equal(state.time, columns(shown))  # both count from the start of the episode
    assert (outcome.reward.dtype, outcome.terminated.dtype, outcome.truncated.dtype) == (jnp.float32, bool, bool)

    # The number of an episode stays until it ends, is still there in the final observation, and never comes again.
    before = np.concatenate([first[None], observation[:-1]])[..., 0]
    after, done = np.array(observation)[..., 0], columns(terminated) | columns(truncated)
    np.testing.assert_array_equal(outcome.final_observation[..., 0], before)
    np.testing.assert_array_equal(after == before, ~done)
    assert len(np.unique([*np.array(first)[:, 0], *after[done]])) == NUM_ENVS + np.sum(done)


def test_a_rollout_depends_on_its_keys_alone():
    params = CounterParams(terminate_at=2)
    for env in (COUNTER, DOUBLING):
        one, same, other = (roll_out(env, params, ACTIONS, seed) for seed in (1, 1, 2))
        jax.tree.map(np.testing.assert_array_equal, one, same)
        assert not np.array_equal(one[1], other[1])


def test_steps_are_gymnaxs_own_where_nothing_is_random():
    env, params = gymnax.make("CartPole-v1")
    params = params.replace(max_steps_in_episode=15)  # some poles fall before (8 steps at least), some are cut
    num_envs, num_steps = 8, 30
    environments = make_environments(env, params, num_envs)
    own_step = jax.jit(jax.vmap(env.step, in_axes=(0, 0, 0, None)))
    step = jax.jit(environments.step)
    observation, state = environments.reset(jax.random.key(0))
    noise = environments.draw_noise(jax.random.key(1), num_steps)
    tendency = jnp.arange(num_envs) / (num_envs - 1)  # from always left to always right
    ends = np.zeros(2, int)
    for t in range(num_steps):
        action = jax.random.bernoulli(jax.random.key(t), tendency).astype(jnp.int32)
        expected = own_step(jax.random.split(jax.random.key(t), num_envs), state, action, params)
        observation, state, outcome = step(state, action, jax.tree.map(lambda x, t=t: x[t], noise))
        own_observation, own_state, reward, terminated, truncated, info = expected
        np.testing.assert_array_equal(outcome.reward, reward)
        np.testing.assert_array_equal(outcome.terminated, terminated)
        np.testing.assert_array_equal(outcome.truncated, truncated)
        np.testing.assert_allclose(outcome.final_observation, info["final_observation"], rtol=1e-5, atol=1e-6)
        done = np.array(terminated | truncated)
        np.testing.assert_allclose(observation[~done], own_observation[~done], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(state.time, own_state.time)
        assert np.all(np.abs(observation[done]) <= 0.05)  # where every CartPole begins
        ends += [np.sum(terminated), np.sum(truncated)]
    assert np.all(ends > 0)


# Wrappers


def test_a_sticky_wrapper_stays_sticky():
    params = CounterParams(terminate_at=3)
    *_, outcome = roll_out(StickyActionWrapper(COUNTER, 1.0), params, ACTIONS)
    np.testing.assert_array_equal(outcome.reward % 100, 0.0)  # always the last action, which began as 0
    *_, outcome = roll_out(StickyActionWrapper(COUNTER, 0.0), params, ACTIONS)
    np.testing.assert_array_equal(outcome.reward % 100, ACTIONS)


def test_a_wrapper_may_change_observations_and_state():
    env, params = gymnax.make("Catch-bsuite")
    actions = jnp.ones((NUM_STEPS, 2), jnp.int32)
    _, plain, _, outcome = roll_out(env, params, actions)
    first, flat, _, flat_outcome = roll_out(FlattenObservationWrapper(env), params, actions)
    size = np.prod(plain.shape[2:])
    assert first.shape == (2, size)
    assert flat.shape == flat_outcome.final_observation.shape == (NUM_STEPS, 2, size)
    assert outcome.final_observation.shape == plain.shape
    *_, state, outcome = roll_out(LogWrapper(COUNTER), CounterParams(terminate_at=3), ACTIONS)
    np.testing.assert_array_equal(state.returned_episode_returns[2], np.sum(outcome.reward[:3], axis=0))


# Episodes


def statistics_by_hand(rollouts):
    """Walk step by step: the last rollout in which any episode ended decides the means."""
    num_envs = rollouts[0][0].shape[1]
    total, length, mean_return, mean_length, episodes = np.zeros(num_envs), np.zeros(num_envs), 0.0, 0.0, 0
    for rewards, dones in rollouts:
        returns, lengths = [], []
        for reward, done in zip(rewards, dones, strict=True):
            total, length = total + reward, length + 1
            returns += total[done].tolist()
            lengths += length[done].tolist()
            total, length = np.where(done, 0, total), np.where(done, 0, length)
        if returns:
            mean_return, mean_length = np.mean(returns), np.mean(lengths)
        episodes += len(returns)
    return EpisodeStatistics(total, length, mean_return, mean_length, episodes)


after_rollout = jax.jit(EpisodeStatistics.after)


@hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
@hypothesis.given(st.integers(0, 2**32 - 1), st.lists(st.sampled_from([0.0, 0.05, 0.5, 1.0]), min_size=1, max_size=4))
def test_episode_statistics_are_those_of_a_plain_loop(seed, chances):
    rng = np.random.default_rng(seed)
    # whole rewards, so that float32 sums are exact in any order
    rollouts = [
        (
            rng.integers(-9, 10, size=(NUM_STEPS, NUM_ENVS)).astype(np.float32),
            rng.random((NUM_STEPS, NUM_ENVS)) < chance,
        )
        for chance in chances
    ]
    statistics = EpisodeStatistics.zeros(NUM_ENVS)
    for rewards, dones in rollouts:
        statistics = after_rollout(statistics, jnp.asarray(rewards), jnp.asarray(dones))
    for actual, expected in zip(statistics, statistics_by_hand(rollouts), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_episode_statistics_by_hand():
    reward = jnp.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])
    done = jnp.array([[False, False], [True, False], [True, False]])
    statistics = EpisodeStatistics.zeros(2).after(reward, done)
    # the first environment ended with 1 + 2 and with 4, the second runs on with 70
    np.testing.assert_array_equal(statistics.running_return, [0.0, 70.0])
    np.testing.assert_array_equal(statistics.running_length, [0.0, 3.0])
    assert (statistics.mean_return, statistics.mean_length, statistics.episodes) == (3.5, 1.5, 2)
    silent = statistics.after(reward, jnp.zeros_like(done))
    assert (silent.mean_return, silent.mean_length, silent.episodes) == (3.5, 1.5, 2)
    assert statistics.episodes.dtype == jnp.int32


# Evaluation


def two(key, observation):
    return jnp.full(observation.shape[:1], 2)


@functools.partial(jax.jit, static_argnames=("env", "act", "num_episodes", "max_steps"))
def evaluate(env, params, *, act, seed=0, num_episodes=64, max_steps=NEVER):
    key = jax.random.key(seed)
    return evaluate_policy(key, act, env, params, num_episodes=num_episodes, max_steps=max_steps)


@pytest.mark.parametrize(("env", "factor"), [(COUNTER, 1), (DOUBLING, 2)])
@pytest.mark.parametrize("ends", [{"terminate_at": 3}, {"max_steps_in_episode": 3}])
def test_evaluation_plays_one_whole_episode(env, factor, ends):
    metrics = evaluate(env, CounterParams(**ends), act=two)
    expected = factor * (100 + 200 + 300 + 3 * 2)
    assert metrics == {"episode_return": expected, "episode_return_std": 0.0, "episode_length": 3.0}


def test_an_episode_that_never_ends_counts_with_what_it_has():
    metrics = evaluate(COUNTER, CounterParams(), act=two, max_steps=4)
    assert metrics == {
        "episode_return": 100 + 200 + 300 + 400 + 4 * 2,
        "episode_return_std": 0.0,
        "episode_length": 4.0,
    }


def test_an_episode_counts_once_even_while_others_run():
    # Episodes start at position 0 or 1, so that they have returns 100 + 200 + 300 + 3·2 = 606 or 200 + 300 + 2·2 = 504.
    # Of numbers that are 504 or 606 with mean μ, the variance is (μ − 504)(606 − μ).
    params = CounterParams(terminate_at=3, random_start=True)
    metrics = evaluate(COUNTER, params, act=two)
    mean = float(metrics["episode_return"])
    assert 504 < mean < 606
    np.testing.assert_allclose(metrics["episode_return_std"], np.sqrt((mean - 504) * (606 - mean)), rtol=1e-4)
    np.testing.assert_allclose(metrics["episode_length"], 2 + (mean - 504) / 102, rtol=1e-5)


def test_evaluation_depends_on_its_key():
    params = CounterParams(terminate_at=3, random_start=True)
    runs = [evaluate(COUNTER, params, act=two, seed=seed) for seed in (0, 0, 1)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_the_policy_sees_observations_and_fresh_keys():
    def last_position(key, observation):
        return observation[:, 1]

    metrics = evaluate(COUNTER, CounterParams(terminate_at=3), act=last_position)
    assert metrics["episode_return"] == 600 + 0 + 1 + 2

    def gaussian(key, observation):
        return 100 * jax.random.normal(key, observation.shape[:1])

    # The sum of 50 independent N(0, 100²) has standard deviation 100 √50 ≈ 707, but 5000 if the keys were the same;
    # estimated from 200 episodes it is known to 1/√400 = 5 %.
    metrics = evaluate(COUNTER, CounterParams(terminate_at=50), act=gaussian, num_episodes=200)
    assert abs(metrics["episode_return_std"] / (100 * 50**0.5) - 1) < 0.25


# Observations


@pytest.mark.parametrize("batch", [(), (5,), (2, 5)])
@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.int32, bool])
def test_boxes_become_vectors_of_their_values_in_order(batch, shape, dtype):
    x = np.random.default_rng(0).integers(0, 2, size=batch + shape).astype(dtype)
    vector = observation_features(spaces.Box(0, 1, shape))(jnp.asarray(x))
    assert vector.dtype == jnp.float32
    assert vector.shape == (*batch, int(np.prod(shape)))
    np.testing.assert_array_equal(np.ravel(vector), np.ravel(x))


def test_discrete_observations_become_one_hot():
    vector = observation_features(spaces.Discrete(3))(jnp.array([[0, 2], [1, 1]]))
    np.testing.assert_array_equal(vector, np.eye(3, dtype=np.float32)[[[0, 2], [1, 1]]])
    assert vector.dtype == jnp.float32


@pytest.mark.parametrize("space", [spaces.Dict({"a": spaces.Discrete(2)}), spaces.Tuple([spaces.Discrete(2)])])
def test_other_observation_spaces_are_refused(space):
    with pytest.raises(ValueError, match="Box or Discrete"):
        observation_features(space)
