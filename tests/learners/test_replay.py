"""The replay memory against a deque of rows and a loop over steps, before and after it is full."""

import collections
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mathai.learners import replay
from mathai.learners.replay import Transition

NUM_ROWS, NUM_ENVS, NUM_WRITTEN, GAMMA = 5, 3, 17, 0.9
NUM_DRAWS = 180  # a multiple of every number of steps that can be drawn: 3, 6, 9, 12 and 15


@functools.cache
def stream():
    """Rows [NUM_WRITTEN, NUM_ENVS, ...] whose actions number the steps, and whose observations tell them apart."""
    rng = np.random.default_rng(0)
    shape = NUM_WRITTEN, NUM_ENVS
    number = np.arange(NUM_WRITTEN * NUM_ENVS, dtype=np.int32).reshape(shape)
    return Transition(
        observations=rng.normal(size=(*shape, 2, 4)).astype(np.float32),
        action=number,
        reward=rng.normal(size=shape).astype(np.float32),
        terminated=rng.random(shape) < 0.2,
        truncated=rng.random(shape) < 0.2,  # at times both
    )


def row(index):
    return jax.tree.map(lambda x: x[index], stream())


@functools.cache
def memories():
    """The memory after each row, [NUM_WRITTEN, ...]."""

    @jax.jit
    def write_all(rows):
        def write(memory, new):
            memory = replay.write(memory, new)
            return memory, memory

        return jax.lax.scan(write, replay.empty(row(0), NUM_ROWS), rows)[1]

    return jax.tree.map(np.asarray, write_all(stream()))


@functools.cache
def samples(num_steps):
    """Draws by the numbers 0, 1, … from each memory that has enough rows, [memories, NUM_DRAWS, ...]."""
    bits = jnp.arange(NUM_DRAWS, dtype=jnp.uint32)

    @jax.jit
    @jax.vmap
    def draw(memory):
        return replay.draw(memory, bits, discount=GAMMA, num_steps=num_steps)

    return jax.tree.map(np.asarray, draw(jax.tree.map(lambda x: x[num_steps - 1 :], memories())))


def held(index):
    """The rows that a deque holds after so many were written."""
    return list(collections.deque((row(i) for i in range(index + 1)), maxlen=NUM_ROWS))


def expected_samples(rows, num_steps):
    """By the number of the first step: (observation_tm1, reward, discount, observation_t, cut), step by step."""
    found = {}
    for start, env in itertools.product(range(len(rows) - num_steps + 1), range(NUM_ENVS)):
        total, factor = 0.0, 1.0
        for k in range(num_steps):
            step = jax.tree.map(lambda x, i=start + k, env=env: x[env], rows[start + k])
            total += factor * float(step.reward)
            factor *= GAMMA * (not step.terminated)
            if step.terminated or step.truncated:
                break
        first = rows[start]
        expected = first.observations[env, 0], total, factor, step.observations[1], step.truncated
        found[int(first.action[env])] = expected
    return found


# The ring


def test_the_memory_holds_the_rows_that_a_deque_holds():
    found = memories()
    np.testing.assert_array_equal(found.num_written, np.arange(1, NUM_WRITTEN + 1))
    for index in range(NUM_WRITTEN):
        expected = held(index)
        ring = jax.tree.map(lambda x, index=index: x[index], found.rows)
        oldest = 0 if index < NUM_ROWS else (index + 1) % NUM_ROWS
        for age, old in enumerate(expected):
            place = (oldest + age) % NUM_ROWS
            jax.tree.map(lambda x, y, place=place: np.testing.assert_array_equal(x[place], y), ring, old)


def test_a_row_takes_the_place_of_the_oldest_alone():
    rewards = memories().rows.reward
    changed = np.any(rewards[1:] != rewards[:-1], axis=2)
    np.testing.assert_array_equal(changed, np.arange(1, NUM_WRITTEN)[:, None] % NUM_ROWS == np.arange(NUM_ROWS))


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
def test_observations_keep_their_type_and_their_values(dtype):
    observations = np.random.default_rng(1).integers(0, 2, (NUM_ENVS, 2, 2, 3)).astype(dtype)
    new = Transition(observations, *jax.tree.map(jnp.asarray, row(0))[1:])
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), new)
    memory = replay.write(replay.empty(shapes, 4), new)  # shapes and types alone describe what is to come
    assert memory.rows.observations.dtype == dtype
    assert memory.rows.observations.shape == (4, NUM_ENVS, 2, 2, 3)
    np.testing.assert_array_equal(memory.rows.observations[0], observations)
    drawn = jax.eval_shape(lambda u: replay.draw(memory, u, discount=GAMMA, num_steps=3), jnp.zeros(7, jnp.uint32))
    assert drawn.observation_tm1 == drawn.observation_t == jax.ShapeDtypeStruct((7, 2, 3), dtype)
    assert {x.shape for x in (drawn.action, drawn.reward, drawn.discount, drawn.cut)} == {(7,)}
    assert (drawn.action.dtype, drawn.reward.dtype, drawn.discount.dtype) == (jnp.int32, jnp.float32, jnp.float32)
    assert drawn.cut.dtype == bool


# Draws


@pytest.mark.parametrize("num_steps", [1, 2, 3, NUM_ROWS])
def test_every_sample_is_what_a_loop_over_its_steps_gives(num_steps):
    found = samples(num_steps)
    for memory, index in enumerate(range(num_steps - 1, NUM_WRITTEN)):
        expected = expected_samples(held(index), num_steps)
        of_samples = [expected[number] for number in found.action[memory].tolist()]
        observation_tm1, reward, discount, observation_t, cut = map(np.array, zip(*of_samples, strict=True))
        np.testing.assert_array_equal(found.observation_tm1[memory], observation_tm1)
        np.testing.assert_array_equal(found.observation_t[memory], observation_t)
        np.testing.assert_allclose(found.reward[memory], reward, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.discount[memory], discount, rtol=1e-6)
        np.testing.assert_array_equal(found.cut[memory], cut)


@pytest.mark.parametrize("num_steps", [1, 2, 3, NUM_ROWS])
def test_draws_are_uniform_over_all_steps_that_enough_others_follow(num_steps):
    # Even numbers draw each of them equally often; as many as the memory lacks to a whole are at its newest end.
    found = samples(num_steps)
    for memory, index in enumerate(range(num_steps - 1, NUM_WRITTEN)):
        rows = held(index)
        possible = np.concatenate([old.action for old in rows[: len(rows) - num_steps + 1]]).tolist()
        expected = dict.fromkeys(possible, NUM_DRAWS // len(possible))
        assert collections.Counter(found.action[memory].tolist()) == expected


def test_no_sample_crosses_from_the_newest_row_to_the_oldest():
    """Without ends, the last observation of a sample of three steps is that of the second row after its first."""
    steps = np.arange(NUM_WRITTEN, dtype=np.float32)[:, None, None, None] + np.zeros((1, NUM_ENVS, 2, 1), np.float32)
    never = np.zeros((NUM_ENVS,), bool)
    memory = replay.empty(Transition(steps[0], never.astype(np.int32), never.astype(np.float32), never, never), 5)
    write, draw = jax.jit(replay.write), jax.jit(functools.partial(replay.draw, discount=1.0, num_steps=3))
    for index in range(12):
        ones = np.ones(NUM_ENVS, np.float32)
        memory = write(memory, Transition(steps[index], ones.astype(np.int32), ones, never, never))
        if index >= 2:
            found = draw(memory, jax.random.bits(jax.random.key(index), (100,)))
            np.testing.assert_array_equal(found.observation_t, found.observation_tm1 + 2)
            np.testing.assert_array_equal(found.reward, 3.0)
            np.testing.assert_array_equal(found.discount, 1.0)
            assert np.max(found.observation_t) == index  # the newest is drawn
            assert np.min(found.observation_tm1) == max(index - 4, 0)  # and so is the oldest


def test_random_numbers_draw_with_equal_frequencies():
    # 20 000 draws of 15 steps: five standard errors are 0.0088.
    memory = jax.tree.map(lambda x: x[-1], memories())
    bits = jax.random.bits(jax.random.key(0), (20_000,))
    found = jax.jit(functools.partial(replay.draw, discount=GAMMA))(memory, bits)
    newest = np.arange(NUM_WRITTEN * NUM_ENVS)[-NUM_ROWS * NUM_ENVS :]
    frequency = np.mean(np.asarray(found.action)[:, None] == newest, axis=0)
    assert np.all(np.abs(frequency - 1 / 15) <= 5 * np.sqrt(1 / 15 * 14 / 15 / 20_000))


@pytest.mark.parametrize(("num_rows", "num_envs"), [(5, 3), (4097, 1), (1023, 7), (333, 1001)])
def test_words_choose_by_their_remainder(num_rows, num_envs):
    """Also those that are no signed integers."""
    number = np.arange(num_rows * num_envs, dtype=np.int32).reshape(num_rows, num_envs)
    flags = np.zeros((num_rows, num_envs), bool)
    rows = Transition(np.zeros((num_rows, num_envs, 2)), number, number.astype(np.float32), flags, flags)
    words = np.array([0, number.size - 1, number.size, 2**31, 2**32 - 1], np.uint32)
    found = replay.draw(replay.Memory(rows, jnp.int32(num_rows)), words, discount=GAMMA)
    np.testing.assert_array_equal(found.action, words % number.size)


def test_discounts_can_be_batched():
    memory = jax.tree.map(lambda x: x[-1], memories())
    bits = jnp.arange(NUM_DRAWS, dtype=jnp.uint32)

    draw = functools.partial(replay.draw, num_steps=2)
    found = jax.jit(jax.vmap(lambda memory, discount: draw(memory, bits, discount=discount), in_axes=(None, 0)))(
        memory, jnp.array([0.0, GAMMA])
    )
    first_reward = np.asarray(stream().reward).reshape(-1)[np.asarray(found.action[0])]
    np.testing.assert_array_equal(found.reward[0], first_reward)
    np.testing.assert_array_equal(found.discount[0], 0.0)
    np.testing.assert_allclose(found.reward[1], samples(2).reward[-1], rtol=1e-5, atol=1e-6)
