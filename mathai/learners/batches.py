"""Minibatches of a data set that lies on the device, as a function of the step: nothing to carry, nothing to store."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree, Shaped, UInt32

from mathai.learners.base import PRNGKey

NUM_ROUNDS = 4


class Examples(NamedTuple):
    """A data set, or a batch of one.

    Attributes:
      inputs: [n, ...].
      labels: [n], classes 0 … C − 1.
    """

    inputs: Shaped[Array, "n ..."]
    labels: Int[Array, "n"]


def minibatch(key: PRNGKey, data: PyTree, step: Int[Array, ""] | int, *, batch_size: int) -> PyTree:
    """The batch of a step: every epoch goes through the data once, in an order of its own.

    An epoch is n // batch_size steps; the n mod batch_size examples that its order puts last sit it out. The batch
    depends on key and step alone, so that a run resumes at any step and needs no permutation in its state.

    Args:
      key: of all epochs' orders.
      data: a pytree of arrays with one first axis, of n examples.
      step: 0, 1, …; may be traced.
      batch_size: at most n.

    Returns:
      The same pytree, with batch_size examples.

    Raises:
      ValueError: batch_size is not in 1 … n, or the arrays differ in their first axis.

    >>> batch = minibatch(jax.random.key(0), {"x": jnp.arange(6)}, 0, batch_size=3)
    >>> rest = minibatch(jax.random.key(0), {"x": jnp.arange(6)}, 1, batch_size=3)
    >>> sorted([*batch["x"].tolist(), *rest["x"].tolist()])
    [0, 1, 2, 3, 4, 5]
    """
    indices = minibatch_indices(key, num_rows(data), step, batch_size=batch_size)
    return take(data, indices)


def minibatch_indices(
    key: PRNGKey, num_examples: int, step: Int[Array, ""] | int, *, batch_size: int
) -> Int[Array, "batch_size"]:
    """Which examples `minibatch` takes at a step, of so many.

    Raises:
      ValueError: batch_size is not in 1 … num_examples.

    >>> sorted(minibatch_indices(jax.random.key(0), 3, 0, batch_size=3).tolist())
    [0, 1, 2]
    """
    steps = steps_per_epoch(num_examples, batch_size)
    step = jnp.asarray(step)
    order_key = jax.random.fold_in(key, step // steps)
    positions = step % steps * batch_size + jnp.arange(batch_size)
    return permuted(order_key, positions, num_examples)


def take(data: PyTree, indices: Int[Array, "*shape"]) -> PyTree:
    """Rows of every array of a data set.

    >>> take({"x": jnp.arange(6)}, jnp.array([4, 2]))["x"].tolist()
    [4, 2]
    """
    return jax.tree.map(lambda array: jnp.take(array, indices, axis=0, mode="clip"), data)


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Whole batches in a data set.

    Raises:
      ValueError: batch_size is not in 1 … num_examples.

    >>> steps_per_epoch(1437, 32)
    44
    """
    if not 1 <= batch_size <= num_examples:
        raise ValueError(f"batch_size is {batch_size}; it must be from 1 to {num_examples}, the number of examples.")
    return num_examples // batch_size


def permuted(key: PRNGKey, positions: Int[Array, "*shape"], length: int) -> Int[Array, "*shape"]:
    """Places of a pseudorandom permutation of 0 … length − 1, without the permutation.

    A Feistel network on pairs (l, r) of a grid a × b that just holds `length` numbers,

        l ← (l + F(r)) mod a,   r ← (r + F(l)) mod b,   four times with eight keys,

    is a bijection of the grid whatever F is. What it sends beyond `length` is sent on until it comes back, so that
    the whole is a bijection of 0 … length − 1. It costs O(positions), where sorting costs O(length log length).

    Below a dozen positions some permutations are clearly more frequent than others; every position is uniform.

    Args:
      key: of the permutation.
      positions: integers in [0, length).
      length: at least 1, at most 2³⁰.

    Source:
      Black & Rogaway (2002), Ciphers with Arbitrary Finite Domains, section 3 (cycle-walking) and
      section 5 (Feistel networks on a × b).

    >>> sorted(permuted(jax.random.key(0), jnp.arange(5), 5).tolist())
    [0, 1, 2, 3, 4]
    """
    columns = max(round(length**0.5), 1)
    rows = -(-length // columns)
    round_keys = jax.random.bits(key, (2 * NUM_ROUNDS,))

    def shuffle(index):
        left, right = index // columns, index % columns
        for number in range(NUM_ROUNDS):
            left = (left + _mix(right ^ round_keys[2 * number]) % rows) % rows
            right = (right + _mix(left ^ round_keys[2 * number + 1]) % columns) % columns
        return left * columns + right

    def shuffle_outside(index):
        return jnp.where(index >= length, shuffle(index), index)

    index = shuffle(jnp.asarray(positions).astype(jnp.uint32))
    index = jax.lax.while_loop(lambda index: jnp.any(index >= length), shuffle_outside, index)
    return index.astype(jnp.int32)


def _mix(x: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """Spread every input bit over all output bits (the finalizer of MurmurHash3, public domain)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def num_rows(data: PyTree) -> int:
    """How many rows each array of a data set has.

    Raises:
      ValueError: the arrays differ in their first axis.

    >>> num_rows({"x": jnp.zeros((6, 2))})
    6
    """
    lengths = {array.shape[0] for array in jax.tree.leaves(data)}
    if len(lengths) != 1:
        raise ValueError(f"the arrays of a data set must agree in their first axis; got lengths {sorted(lengths)}.")
    return lengths.pop()


def as_floats(inputs: Array) -> Array:
    """Inputs as models take them: floating, bytes divided by 255.

    >>> as_floats(jnp.array([0, 255], jnp.uint8))
    Array([0., 1.], dtype=float32)
    """
    if inputs.dtype == jnp.uint8:
        return inputs.astype(jnp.float32) / 255
    return inputs if jnp.issubdtype(inputs.dtype, jnp.floating) else inputs.astype(jnp.float32)


def as_vectors(inputs: Array) -> Array:
    """Floating inputs [n, ...] as vectors [n, features].

    >>> as_vectors(jnp.zeros((2, 8, 8))).shape
    (2, 64)
    """
    return as_floats(inputs).reshape(len(inputs), -1)


def inputs_of(data: Examples | Shaped[Array, "n ..."]) -> Array:
    """The inputs of examples, or an array of inputs alone, as vectors.

    >>> inputs_of(Examples(jnp.zeros((2, 8, 8)), jnp.zeros(2, jnp.int32))).shape
    (2, 64)
    """
    return as_vectors(jnp.asarray(data.inputs if isinstance(data, Examples) else data))
