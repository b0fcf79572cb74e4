"""Minibatches: every epoch is a permutation, every epoch another one, and none is more likely than the rest."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mathai.learners.batches import Examples, minibatch, permuted, steps_per_epoch

KEY = jax.random.key(0)
draw = jax.jit(minibatch, static_argnames="batch_size")


@functools.cache
def orders(length, num):
    """Permutations of 0 … length − 1, one in each row."""
    whole = jax.jit(jax.vmap(lambda key: permuted(key, jnp.arange(length), length)))
    return np.asarray(whole(jax.random.split(KEY, num)))


# Permutations


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 12, 97, 1000, 1437, 2**12 + 1])
def test_an_order_is_a_permutation(length):
    for order in orders(length, 20):
        np.testing.assert_array_equal(np.sort(order), np.arange(length))


def test_places_of_the_largest_length_are_distinct_and_in_range():
    positions = np.unique(np.random.default_rng(0).integers(2**30, size=2000))
    found = np.asarray(jax.jit(lambda x: permuted(KEY, x, 2**30))(positions))
    assert len(np.unique(found)) == len(positions)
    assert 0 <= found.min() < found.max() < 2**30
    # uniform over the range: Kolmogorov and Smirnov have no objection
    assert stats.kstest(found / 2**30, "uniform").pvalue > 1e-3


def test_a_place_does_not_depend_on_the_other_positions():
    place = jax.jit(permuted, static_argnums=2)
    positions = np.array([[5, 96, 5], [0, 1, 50]])
    np.testing.assert_array_equal(place(KEY, positions, 97), place(KEY, np.arange(97), 97)[positions])


@pytest.mark.parametrize("length", [2, 3, 4])
def test_all_orders_of_a_few_are_equally_likely(length):
    found, counts = np.unique(orders(length, 12_000), axis=0, return_counts=True)
    assert [tuple(order) for order in found] == list(itertools.permutations(range(length)))
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("length", [5, 7, 12, 13])
def test_every_example_is_about_equally_likely_at_every_place(length):
    found = orders(length, 20_000)
    counts = np.stack([np.bincount(column, minlength=length) for column in found.T])
    # five standard errors of a count with mean 20 000/n at n = 13 are 13 %
    np.testing.assert_allclose(counts, 20_000 / length, rtol=0.13)


@pytest.mark.parametrize("length", [5, 7, 12, 13])
def test_which_example_follows_which_is_about_equally_likely(length):
    found = orders(length, 20_000)
    pairs = np.bincount(found[:, 0] * length + found[:, 1], minlength=length**2).reshape(length, length)
    assert not np.diag(pairs).any()
    expected = 20_000 / (length * (length - 1))
    np.testing.assert_allclose(pairs[~np.eye(length, dtype=bool)], expected, rtol=0.1 + 4.5 / expected**0.5)


def test_orders_do_not_repeat():
    assert len(np.unique(orders(97, 200), axis=0)) == 200


def test_an_order_has_no_more_order_than_chance():
    # the rank correlation of 1000 places with their positions has standard deviation 1/√999
    correlations = [stats.spearmanr(np.arange(1000), order).statistic for order in orders(1000, 20)]
    assert np.max(np.abs(correlations)) < 4.5 / math.sqrt(999)


# Minibatches


def epochs(num_examples, batch_size, num_epochs):
    """The indices that the steps of the first epochs draw: [epochs, steps, batch]."""
    steps = num_examples // batch_size
    each = jax.vmap(lambda step: draw(KEY, jnp.arange(num_examples), step, batch_size=batch_size))
    return np.asarray(each(jnp.arange(num_epochs * steps))).reshape(num_epochs, steps, batch_size)


@pytest.mark.parametrize(("num_examples", "batch_size"), [(1, 1), (2, 1), (2, 2), (12, 3), (13, 13), (30, 1)])
def test_an_epoch_goes_through_the_data_once(num_examples, batch_size):
    for epoch in epochs(num_examples, batch_size, 3):
        np.testing.assert_array_equal(np.sort(epoch.ravel()), np.arange(num_examples))


def test_what_is_left_over_sits_out_and_is_not_always_the_same():
    all_left = []
    for epoch in epochs(11, 3, 40):
        seen = np.unique(epoch)
        assert len(seen) == 9
        all_left.append(np.setdiff1d(np.arange(11), seen))
    assert set(np.concatenate(all_left).tolist()) == set(range(11))


def test_every_epoch_has_an_order_of_its_own():
    whole = epochs(20, 4, 10).reshape(10, 20)
    assert len(np.unique(whole, axis=0)) == 10


def test_another_key_gives_another_order():
    first, second = (draw(jax.random.key(seed), jnp.arange(50), 0, batch_size=50) for seed in (0, 1))
    assert np.any(first != second)


def test_a_batch_depends_on_key_and_step_alone():
    known = jax.jit(minibatch, static_argnames=("step", "batch_size"))
    for step in (0, 2, 3, 17):  # also out of turn, and whether the step is traced or not
        alone = draw(KEY, jnp.arange(20), step, batch_size=6)
        np.testing.assert_array_equal(known(KEY, jnp.arange(20), step=step, batch_size=6), alone)
    raw = draw(jax.random.PRNGKey(0), jnp.arange(20), 17, batch_size=6)
    np.testing.assert_array_equal(raw, alone)


def test_arrays_of_a_pytree_stay_together_in_shape_and_type():
    data = {
        "examples": Examples(
            jnp.arange(10, dtype=jnp.uint8)[:, None, None] * jnp.ones((1, 2, 3), jnp.uint8), jnp.arange(10)
        ),
        "weight": 0.5 * jnp.arange(10, dtype=jnp.float16),
    }
    batch = draw(KEY, data, 1, batch_size=4)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), batch) == {
        "examples": Examples(((4, 2, 3), jnp.uint8), ((4,), jnp.int32)),
        "weight": ((4,), jnp.float16),
    }
    labels = np.asarray(batch["examples"].labels)
    np.testing.assert_array_equal(batch["examples"].inputs, np.broadcast_to(labels[:, None, None], (4, 2, 3)))
    np.testing.assert_array_equal(batch["weight"], labels / 2)


# Mistakes


@pytest.mark.parametrize(
    ("num_examples", "batch_size", "steps"), [(10, 1, 10), (10, 3, 3), (10, 10, 1), (1437, 32, 44)]
)
def test_an_epoch_has_as_many_steps_as_whole_batches(num_examples, batch_size, steps):
    assert steps_per_epoch(num_examples, batch_size) == steps


@pytest.mark.parametrize("batch_size", [-1, 0, 11])
def test_a_batch_must_fit_the_data(batch_size):
    message = f"batch_size is {batch_size}; it must be from 1 to 10, the number of examples"
    with pytest.raises(ValueError, match=message):
        steps_per_epoch(10, batch_size)
    with pytest.raises(ValueError, match=message):
        minibatch(KEY, jnp.arange(10), 0, batch_size=batch_size)


def test_arrays_must_have_one_length():
    with pytest.raises(ValueError, match=r"must agree in their first axis; got lengths \[9, 10\]"):
        minibatch(KEY, Examples(jnp.zeros((10, 2)), jnp.zeros(9, int)), 0, batch_size=2)
