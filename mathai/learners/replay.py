"""A replay memory on the device: a ring of the last steps of environments in step, and uniform draws from it.

Writing a step and drawing a batch both cost what they move, however large the memory is. Each step keeps the
observation that it truly led to, before any reset, so that a target needs no other step than its own.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from mathai.learners.base import over_data


class Transition(NamedTuple):
    """One step of each environment; every field is [num_envs, ...], of a memory [num_rows, num_envs, ...].

    Attributes:
      observations: the observation acted on and the one that followed, [..., 2, features].
      action: the action taken.
      reward: what it earned.
      terminated: the episode ended by its own rules,
      truncated: or was cut.
    """

    observations: Array
    action: Int[Array, "..."]
    reward: Float[Array, "..."]
    terminated: Bool[Array, "..."]
    truncated: Bool[Array, "..."]


class Memory(NamedTuple):
    """The last steps.

    Attributes:
      rows: a ring of transitions; each field is [num_rows, num_envs, ...].
      num_written: how many rows were ever written.
    """

    rows: Transition
    num_written: Int[Array, ""]


class Samples(NamedTuple):
    """Up to n steps from one observation, [batch, ...].

    Attributes:
      observation_tm1: where they began.
      action: the first action.
      reward: Σ γᵏ rₖ over the steps, up to the end of the episode.
      discount: what the value of the last observation is worth: γᵏ after k ≤ n steps, and 0 if the episode terminated.
      observation_t: the last observation.
      cut: the episode was truncated there.
    """

    observation_tm1: Array
    action: Int[Array, "batch"]
    reward: Float[Array, "batch"]
    discount: Float[Array, "batch"]
    observation_t: Array
    cut: Bool[Array, "batch"]


def empty(example: Transition, num_rows: int) -> Memory:
    """A memory of `num_rows` rows for transitions like the example, which may be shapes and dtypes alone."""
    return Memory(jax.tree.map(lambda x: jnp.zeros((num_rows, *x.shape), x.dtype), example), jnp.int32(0))


def write(memory: Memory, row: Transition) -> Memory:
    """The memory with one more row, in place of the oldest where it is full."""
    place = memory.num_written % _num_rows(memory)
    rows = jax.tree.map(
        lambda x, new: jax.lax.dynamic_update_index_in_dim(x, new.astype(x.dtype), place, 0), memory.rows, row
    )
    return Memory(rows, memory.num_written + 1)


def draw(
    memory: Memory, bits: UInt32[Array, "batch"], *, discount: float | Float[Array, ""], num_steps: int = 1
) -> Samples:
    """Uniform draws, with replacement, of all steps that `num_steps` − 1 more follow.

    Args:
      memory: at least `num_steps` rows must have been written.
      bits: random bits, one word for each sample; the remainder by the number of steps, at most 2³², chooses one.
      discount: γ.
      num_steps: n, rewards before the bootstrap.

    Returns:
      As many samples as words.
    """
    num_rows, num_envs = memory.rows.reward.shape
    size = jnp.minimum(memory.num_written, num_rows)
    oldest = memory.num_written - size
    index = (bits % ((size - num_steps + 1) * num_envs).astype(jnp.uint32)).astype(jnp.int32)
    row, env = oldest + index // num_envs, index % num_envs

    def step(k):
        place = (row + k) % num_rows * num_envs + env
        return jax.tree.map(lambda x: x.reshape(num_rows * num_envs, *x.shape[2:])[place], memory.rows)

    first = step(0)
    reward, factor = first.reward, discount * (1.0 - first.terminated)
    runs = ~(first.terminated | first.truncated)
    observation_t, cut = first.observations[:, 1], first.truncated
    for k in range(1, num_steps):
        last = step(k)
        reward = reward + jnp.where(runs, factor * last.reward, 0.0)
        is_running = runs.reshape(runs.shape + (1,) * (observation_t.ndim - 1))
        observation_t = jnp.where(is_running, last.observations[:, 1], observation_t)
        factor = jnp.where(runs, factor * discount * (1.0 - last.terminated), factor)
        cut = jnp.where(runs, last.truncated, cut)
        runs &= ~(last.terminated | last.truncated)
    return over_data(Samples(first.observations[:, 0], first.action, reward, factor, observation_t, cut))


def _num_rows(memory: Memory) -> int:
    return memory.rows.reward.shape[0]
