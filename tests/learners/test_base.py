"""The learner contract, Adam against its own formula in float64, the short training loop, and permutations."""

import dataclasses
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from mathai.learners.base import Learner, adam, check_between, hyperparameters, is_known, permutations, train

# Learner


def descent(learning_rate=0.5):
    """Gradient descent on ½(x − batch)² from a random x: small enough to follow by hand."""

    def init(key):
        return jax.random.normal(key)

    def update(x, batch):
        return x - learning_rate * (x - batch), {"loss": 0.5 * (x - batch) ** 2}

    def evaluate(key, x):
        del key
        return {"x": x}

    return Learner(init, update, evaluate)


@hyperparameters
class Number:
    value: float = 0.0


def test_an_array_that_is_known_is_known_while_a_program_is_traced_too():
    config = Number(value=jnp.float32(1.5))

    def checked(x):
        check_between(config, 0, 2, "value")
        return x if is_known(config.value, 1.5) else -x

    assert jax.jit(checked)(1.0) == 1
    with pytest.raises(ValueError, match=r"value is 1\.5; it must lie between 0 and 1"):
        jax.jit(lambda: check_between(config, 0, 1, "value"))()


def counter():
    """A state that counts its updates; its batch must be None."""

    def update(n, batch):
        assert batch is None
        return n + 1, {"n": n}

    return Learner(lambda key: jnp.int32(0), update, lambda key, n: {})


def noise():
    """A state that carries its own key and draws from it at each update."""

    def update(state, batch):
        key, total = state
        key, draw = jax.random.split(key)
        x = jax.random.normal(draw)
        return (key, total + x), {"x": x}

    return Learner(lambda key: (key, jnp.float32(0)), update, lambda key, state: {"x": jax.random.normal(key)})


def test_a_learner_is_init_update_and_evaluate_in_this_order():
    init, update, evaluate = descent()
    x, metrics = update(jnp.float32(3.0), jnp.float32(1.0))
    assert (x, metrics["loss"]) == (2.0, 2.0)  # 3 − ½·2, ½·2²
    assert evaluate(jax.random.key(0), x) == {"x": 2.0}
    assert init(jax.random.key(0)).shape == ()
    assert Learner._fields == ("init", "update", "evaluate")


# hyperparameters


@hyperparameters
class Config:
    num_steps: int = 3
    learning_rate: float = 0.5
    anneal: bool = False
    name: str = "sgd"
    sizes: tuple[int, ...] = (2, 2)
    decay: "float" = 0.25  # as every annotation is under `from __future__ import annotations`


def test_hyperparameters_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().learning_rate = 1.0  # type: ignore[misc]


def test_floats_are_leaves_and_the_rest_is_static():
    leaves, structure = jax.tree.flatten(Config())
    assert leaves == [0.5, 0.25]
    assert structure == jax.tree.structure(Config(learning_rate=9.0, decay=9.0))
    for other in (Config(num_steps=4), Config(anneal=True), Config(name="adam"), Config(sizes=(2,))):
        assert structure != jax.tree.structure(other)
    assert jax.tree.unflatten(structure, leaves) == Config()


def test_sixteen_learning_rates_compile_once_and_equal_separate_runs():
    traces = []

    def run(config):
        traces.append(config)
        return train(descent(config.learning_rate), jax.random.key(1), lambda step: 1.0, config.num_steps)

    rates = jnp.linspace(0.0, 0.9, 16)
    state, metrics = jax.jit(jax.vmap(run))(Config(learning_rate=rates, decay=jnp.zeros(16)))
    assert len(traces) == 1
    # x₃ − 1 = (1 − η)³ (x₀ − 1), the closed form of descent on a parabola
    start = float(jax.random.normal(jax.random.key(1)))
    np.testing.assert_allclose(state, 1.0 + (1.0 - np.array(rates)) ** 3 * (start - 1.0), rtol=1e-5)
    for i in (0, 7, 15):
        alone = run(Config(learning_rate=float(rates[i])))
        np.testing.assert_allclose(alone[1]["loss"], metrics["loss"][i], rtol=1e-5)


# Adam


def adam_by_definition(theta, gradients, *, rate, beta1, beta2, epsilon, decay, clip, factor, decayed=None):
    """The docstring's three lines in float64 over a dict of arrays; `factor(t)` is η_t / η before update t = 0, 1, …"""
    theta = {name: np.asarray(x, np.float64) for name, x in theta.items()}
    m = {name: np.zeros_like(x) for name, x in theta.items()}
    v = {name: np.zeros_like(x) for name, x in theta.items()}
    for t, g in enumerate(gradients):
        norm = math.sqrt(sum(np.sum(np.asarray(x, np.float64) ** 2) for x in g.values()))
        for name in theta:
            clipped = np.asarray(g[name], np.float64) * (1.0 if clip is None else min(1.0, clip / norm))
            m[name] = beta1 * m[name] + (1 - beta1) * clipped
            v[name] = beta2 * v[name] + (1 - beta2) * clipped**2
            m_hat, v_hat = m[name] / (1 - beta1 ** (t + 1)), v[name] / (1 - beta2 ** (t + 1))
            shrink = decay * theta[name] if decayed is None or decayed[name] else 0.0
            theta[name] = theta[name] - rate * factor(t) * (m_hat / (np.sqrt(v_hat) + epsilon) + shrink)
    return theta


def descend(optimizer, theta, gradients):
    def step(carry, g):
        theta, state = carry
        updates, state = optimizer.update(g, state, theta)
        return (optax.apply_updates(theta, updates), state), None

    gradients = jax.tree.map(lambda *g: jnp.stack(g), *gradients)
    return jax.jit(lambda carry: jax.lax.scan(step, carry, gradients)[0][0])((theta, optimizer.init(theta)))


def problem(num_steps=6):
    """Parameters of several shapes; gradients whose norms lie on both sides of 1, so that clipping acts on some."""
    rng = np.random.default_rng(0)
    shapes = {"w": (2, 3), "b": (3,), "s": ()}

    def draw(scale):
        return {name: jnp.asarray(scale * rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}

    return draw(1.0), [draw(scale) for scale in np.geomspace(0.05, 5.0, num_steps)]


def assert_close(actual, expected, rtol=2e-5, atol=2e-6):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=rtol, atol=atol), actual, expected)


NUMBERS = {"rate": 0.1, "beta1": 0.8, "beta2": 0.9, "epsilon": 0.03, "decay": 0.2, "clip": 1.0}


def adam_with(numbers, **options):
    return adam(
        numbers["rate"],
        weight_decay=numbers["decay"],
        max_gradient_norm=numbers["clip"],
        beta1=numbers["beta1"],
        beta2=numbers["beta2"],
        epsilon=numbers["epsilon"],
        **options,
    )


@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("change", [{}, {"clip": None}, {"decay": 0.0}, {"clip": 0.3, "epsilon": 1e-8}])
def test_adam_is_its_formula(change, flatten):
    theta, gradients = problem()
    numbers = NUMBERS | change
    expected = adam_by_definition(theta, gradients, factor=lambda t: 1.0, **numbers)
    assert_close(descend(adam_with(numbers, flatten=flatten), theta, gradients), expected)


def test_the_first_step_of_adam_has_the_size_of_the_learning_rate():
    # bias correction makes m̂ = g and √v̂ = |g| at t = 1, so that θ moves by −η g / (|g| + ε)
    theta = descend(adam(0.1, epsilon=1.0), jnp.zeros(3), [jnp.array([1.0, -3.0, 0.0])])
    np.testing.assert_allclose(theta, [-0.05, 0.075, 0.0], rtol=1e-5)


def test_the_default_numbers_are_those_of_the_paper():
    theta, gradients = problem()
    paper = {"rate": 0.1, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "decay": 0.0, "clip": None}
    assert_close(
        descend(adam(0.1), theta, gradients), adam_by_definition(theta, gradients, factor=lambda t: 1, **paper)
    )


def test_clipping_is_by_the_norm_of_all_leaves_together():
    # ‖(3, 4)‖ = 5 → c = 1 scales both leaves by 1/5. With β₁ = β₂ = 0, √v̂ = |g|, so θ moves by −η g / (|g| + ε).
    optimizer = adam(1.0, max_gradient_norm=1.0, beta1=0.0, beta2=0.0, epsilon=1.0)
    theta = descend(optimizer, {"a": jnp.zeros(()), "b": jnp.zeros(())}, [{"a": jnp.array(3.0), "b": jnp.array(4.0)}])
    np.testing.assert_allclose(theta["a"], -0.6 / 1.6, rtol=1e-6)
    np.testing.assert_allclose(theta["b"], -0.8 / 1.8, rtol=1e-6)


def test_weight_decay_does_not_pass_through_the_moments():
    # with zero gradients only the decay acts: θ ← θ (1 − ηλ), whatever β and ε are
    theta = descend(adam(0.5, weight_decay=0.4), jnp.array([2.0]), [jnp.zeros(1)] * 3)
    np.testing.assert_allclose(theta, [2.0 * 0.8**3], rtol=1e-6)


def rates(count, **options):
    """η_t of the first `count` updates: with β = ε = 0 and gradient 1, each update is −η_t."""
    optimizer = adam(1.0, beta1=0.0, beta2=0.0, epsilon=0.0, **options)

    def step(state, g):
        update, state = optimizer.update(g, state)
        return state, -update

    return jax.jit(lambda state: jax.lax.scan(step, state, jnp.ones(count))[1])(optimizer.init(jnp.zeros(())))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, 1, 1, 1, 1, 1]),
        ({"schedule": "linear", "num_steps": 4}, [1, 0.75, 0.5, 0.25, 0, 0]),  # 1 − t/4, then 0, never negative
        # ½(1 + cos πt/4)
        ({"schedule": "cosine", "num_steps": 4}, [1, 0.5 + 0.125**0.5, 0.5, 0.5 - 0.125**0.5, 0, 0]),
        ({"warmup_steps": 4}, [0.25, 0.5, 0.75, 1, 1, 1]),  # from η / 4 to η
        # two updates of warm-up; the other four fall from η to 0 at update 6
        ({"schedule": "linear", "num_steps": 6, "warmup_steps": 2}, [0.5, 1, 1, 0.75, 0.5, 0.25, 0, 0]),
        ({"schedule": "cosine", "num_steps": 4, "warmup_steps": 2}, [0.5, 1, 1, 0.5, 0, 0]),
        ({"schedule": lambda count: 1.0 / (1.0 + count)}, [1, 1 / 2, 1 / 3, 1 / 4]),
    ],
)
def test_schedules_scale_the_rate_by_the_number_of_updates_made(options, expected):
    np.testing.assert_allclose(rates(len(expected), **options), expected, atol=1e-6)


@pytest.mark.parametrize("flatten", [False, True])
def test_the_schedule_scales_the_decay_too(flatten):
    theta, gradients = problem()
    expected = adam_by_definition(theta, gradients, factor=lambda t: 1 - t / 8, **NUMBERS)
    optimizer = adam_with(NUMBERS, schedule="linear", num_steps=8, flatten=flatten)
    assert_close(descend(optimizer, theta, gradients), expected)


@pytest.mark.parametrize("as_function", [False, True])
def test_the_mask_says_which_leaves_decay(as_function):
    theta, gradients = problem()
    mask = {"w": True, "b": False, "s": False}
    expected = adam_by_definition(theta, gradients, factor=lambda t: 1, decayed=mask, **NUMBERS)
    optimizer = adam_with(
        NUMBERS, mask=(lambda params: {name: name == "w" for name in params}) if as_function else mask
    )
    assert_close(descend(optimizer, theta, gradients), expected)


def test_flattened_adam_keeps_one_vector_and_gives_the_same_numbers():
    theta, gradients = problem()
    whole, parts = adam_with(NUMBERS, flatten=True), adam_with(NUMBERS)
    assert max(x.ndim for x in jax.tree.leaves(whole.init(theta))) == 1
    assert_close(descend(whole, theta, gradients), descend(parts, theta, gradients), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("flatten", [False, True])
def test_every_number_of_adam_may_be_traced(flatten):
    theta, gradients = problem()
    several = {name: jnp.array([value, 0.5 * value]) for name, value in NUMBERS.items()}

    def run(numbers):
        return descend(adam_with(numbers, schedule="cosine", num_steps=9, flatten=flatten), theta, gradients)

    results = jax.jit(jax.vmap(run))(several)
    for i in range(2):
        numbers = {name: value / 2**i for name, value in NUMBERS.items()}
        expected = adam_by_definition(
            theta, gradients, factor=lambda t: 0.5 + 0.5 * math.cos(math.pi * t / 9), **numbers
        )
        assert_close(jax.tree.map(lambda x, i=i: x[i], results), expected)


def test_mistakes_in_adam_are_named():
    with pytest.raises(ValueError, match=r"'exponential'.*constant, linear, cosine"):
        adam(0.1, schedule="exponential", num_steps=3)
    for schedule in ("linear", "cosine"):
        with pytest.raises(ValueError, match="num_steps"):
            adam(0.1, schedule=schedule)
    with pytest.raises(ValueError, match=r"flatten.*mask"):
        adam(0.1, weight_decay=0.1, flatten=True, mask={"w": True})


# train


def test_training_without_batches_passes_none_and_stacks_the_metrics():
    state, metrics = train(counter(), jax.random.key(0), None, 4)
    assert state == 4
    np.testing.assert_array_equal(metrics["n"], [0, 1, 2, 3])


DATA = np.array([4.0, -1.0, 2.0, 8.0, 3.0], np.float32)


def descent_by_hand(key, data):
    x, losses = float(jax.random.normal(key)), []
    for target in data:
        losses.append(0.5 * (x - target) ** 2)
        x -= 0.5 * (x - target)
    return x, losses


@pytest.mark.parametrize(
    "batches",
    [
        lambda step: jnp.asarray(DATA)[step],
        list(DATA),
        tuple(DATA),
        lambda step: jnp.asarray(DATA)[step % 5],
    ],
    ids=["function", "list", "tuple", "periodic"],
)
def test_batches_come_in_order_from_a_function_of_the_step_or_from_an_iterable(batches):
    key = jax.random.key(3)
    state, metrics = train(descent(), key, batches, 4)
    x, losses = descent_by_hand(key, DATA[:4])
    np.testing.assert_allclose(state, x, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-5)


def test_an_endless_generator_loses_no_batch():
    key, endless = jax.random.key(3), itertools.cycle(DATA)
    _, metrics = train(descent(), key, endless, 3)
    np.testing.assert_allclose(metrics["loss"], descent_by_hand(key, DATA[:3])[1], rtol=1e-5)
    assert next(endless) == DATA[3]


def test_batches_that_end_early_are_an_error():
    with pytest.raises(ValueError, match="ended after 5 of 6"):
        train(descent(), jax.random.key(0), DATA.tolist(), 6)
    with pytest.raises(ValueError, match="ended after 0 of 1"):
        train(descent(), jax.random.key(0), iter(()), 1)


class Record(NamedTuple):
    x: np.ndarray
    y: np.ndarray


@pytest.mark.parametrize("batches", [{"x": DATA, "y": DATA}, Record(DATA, DATA)])
def test_one_record_is_not_an_iterable_of_batches(batches):
    with pytest.raises(TypeError, match="lambda step: batch"):
        train(descent(), jax.random.key(0), batches, 2)


def test_no_steps_give_the_initial_state():
    key = jax.random.key(5)
    state, metrics = train(descent(), key, lambda step: 1.0, 0)
    assert state == jax.random.normal(key)
    assert metrics["loss"].shape == (0,)
    assert train(descent(), key, [], 0)[0] == jax.random.normal(key)


def test_a_negative_number_of_steps_is_an_error():
    for batches in (None, list(DATA)):
        with pytest.raises(ValueError, match="num_steps is -1"):
            train(counter(), jax.random.key(0), batches, -1)


@pytest.mark.parametrize("make_key", [jax.random.key, jax.random.PRNGKey])
def test_training_batches_over_keys_and_is_reproducible(make_key):
    def run(key):
        return train(noise(), key, None, 5)

    keys = jax.random.split(make_key(0), 3)
    (_, totals), metrics = jax.jit(jax.vmap(run))(keys)
    (_, again), _ = jax.jit(jax.vmap(run))(keys)
    np.testing.assert_array_equal(totals, again)
    for i, key in enumerate(keys):
        np.testing.assert_array_equal(run(key)[1]["x"], metrics["x"][i])
        np.testing.assert_allclose(totals[i], np.sum(np.array(metrics["x"][i], np.float64)), rtol=1e-5)
    assert len(set(np.array(metrics["x"]).ravel().tolist())) == 15  # every draw is a new one


# permutations


@pytest.mark.parametrize("length", [1, 2, 5, 512, 4096, 5000])
def test_every_row_is_a_permutation(length):
    rows = permutations(jax.random.key(0), 3, length)
    assert rows.dtype == jnp.int32
    np.testing.assert_array_equal(np.sort(rows, axis=1), np.broadcast_to(np.arange(length), (3, length)))
    if length > 5:
        assert len({tuple(row) for row in np.array(rows).tolist()}) == 3


def index_among_all(rows):
    """The number of each permutation of 0 … 3 in the list of all 24."""
    order = {p: i for i, p in enumerate(itertools.permutations(range(4)))}
    return np.array([order[tuple(row)] for row in rows.tolist()])


def assert_uniform(indices, num_values):
    """Pearson's χ² with num_values − 1 degrees of freedom, below its one-in-a-million quantile."""
    counts = np.bincount(indices, minlength=num_values)
    expected = len(indices) / num_values
    assert np.sum((counts - expected) ** 2 / expected) < stats.chi2.isf(1e-6, num_values - 1)


def test_all_permutations_of_four_are_equally_likely():
    rows = np.array(permutations(jax.random.key(7), 24_000, 4))
    assert_uniform(index_among_all(rows), 24)
    # the step from one row to the next is uniform as well: rows do not know of each other
    inverse = np.argsort(rows[:-1], axis=1)
    assert_uniform(index_among_all(np.take_along_axis(rows[1:], inverse, axis=1)), 24)


@pytest.mark.parametrize("length", [5, 512, 4096, 5000])
def test_long_permutations_have_the_moments_of_uniform_ones(length):
    num = 2_000_000 // length if length > 5 else 4000
    rows = np.array(permutations(jax.random.key(11), num, length))
    # The number of fixed points has mean 1 and variance 1. Σᵢ (i − m)(π(i) − m) has mean 0 and variance
    # (n² (n² − 1)² / 144) / (n − 1) (Spearman's ρ). Five standard deviations: chance below one in a million.
    fixed = np.sum(rows == np.arange(length), axis=1)
    assert abs(np.mean(fixed) - 1.0) < 5 / np.sqrt(num)
    centred = np.arange(length) - (length - 1) / 2
    spearman = (rows - (length - 1) / 2) @ centred / np.sum(centred**2)
    assert abs(np.mean(spearman)) < 5 / np.sqrt(num * (length - 1))


def test_permutations_depend_on_the_key_alone_and_take_both_kinds():
    for length in (5, 5000):
        typed, raw = permutations(jax.random.key(2), 2, length), permutations(jax.random.PRNGKey(2), 2, length)
        np.testing.assert_array_equal(typed, raw)  # the same threefry key
        assert not np.array_equal(typed, permutations(jax.random.key(3), 2, length))


def test_permutations_batch_over_keys():
    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.vmap(lambda key: permutations(key, 2, 6))(keys)
    np.testing.assert_array_equal(together, np.stack([permutations(key, 2, 6) for key in keys]))
