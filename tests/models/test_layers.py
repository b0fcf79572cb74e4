"""The layers against flax.linen and numbers by hand, and what of them is random, running or trained."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mathai.models import layers

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).normal(2.0, 3.0, size=(6, 3)), jnp.float32)


def init(module, x=X, **options):
    return jax.jit(lambda key: module.init(key, x, **options))(KEY)


def apply(module, variables, x=X, **options):
    """`module.apply`, compiled as a whole: operation by operation it takes much longer."""
    return jax.jit(functools.partial(module.apply, **options))(variables, x)


# Linear


def test_linear_is_w_x_plus_b():
    params = {"params": {"weight": jnp.array([[1.0, 2.0], [0.0, -1.0], [3.0, 0.0]]), "bias": jnp.array([0.5, 0, -1])}}
    y = layers.Linear(3).apply(params, jnp.array([[10.0, 20.0], [1.0, 0.0]]))
    np.testing.assert_array_equal(y, [[50.5, -20.0, 29.0], [1.5, 0.0, 2.0]])


@pytest.mark.parametrize(("initializer", "variance"), [("he", 2 / 400), ("lecun", 1 / 400), ("xavier", 2 / 500)])
def test_the_weights_of_linear_begin_with_their_variance_and_the_bias_at_0(initializer, variance):
    params = init(layers.Linear(100, initializer), jnp.zeros((1, 400)))["params"]
    assert {name: leaf.shape for name, leaf in params.items()} == {"weight": (100, 400), "bias": (100,)}
    # the standard error of the variance of 40 000 normal numbers is √(2/40 000) = 0.7 %
    np.testing.assert_allclose(np.var(params["weight"]), variance, rtol=0.03)
    np.testing.assert_array_equal(params["bias"], 0)


def test_linear_refuses_an_unknown_initializer():
    with pytest.raises(ValueError, match="unknown initializer 'hee'"):
        init(layers.Linear(2, "hee"))


# Batch normalization


def with_values(variables, scale=(1.5, -2.0, 0.5), offset=(0.1, 0.2, 0.3)):
    """Scale and offset that are not 1 and 0."""
    return variables | {"params": {"scale": jnp.array(scale), "offset": jnp.array(offset)}}


def test_batch_norm_begins_at_mean_0_variance_1_and_initializing_counts_nothing():
    variables = init(layers.BatchNorm(), train=True)
    running = variables["batch_stats"]["running"]
    np.testing.assert_array_equal(running.mean, np.zeros(3))
    np.testing.assert_array_equal(running.variance, np.ones(3))
    np.testing.assert_array_equal(running.count, np.zeros(3))
    np.testing.assert_array_equal(variables["params"]["scale"], np.ones(3))
    np.testing.assert_array_equal(variables["params"]["offset"], np.zeros(3))


def test_running_statistics_by_hand():
    module = layers.BatchNorm(decay=0.75)
    variables = init(module, jnp.zeros((1, 1)))
    for batch in ([[1.0], [3.0]], [[6.0], [10.0]]):  # means 2 and 8, biased variances 1 and 4
        _, changed = module.apply(variables, jnp.array(batch), train=True, mutable=["batch_stats"])
        variables |= changed
    running = variables["batch_stats"]["running"]
    np.testing.assert_allclose(running.mean, [0.75 * (0.75 * 0 + 0.25 * 2) + 0.25 * 8])
    np.testing.assert_allclose(running.variance, [0.75 * (0.75 * 1 + 0.25 * 1) + 0.25 * 4])
    np.testing.assert_array_equal(running.count, [4])


@pytest.mark.parametrize("shape", [(6, 3), (2, 4, 5, 3)])
def test_batch_norm_is_that_of_flax(shape):
    x = jnp.asarray(np.random.default_rng(1).normal(2.0, 3.0, size=(2, *shape)), jnp.float32)
    ours, theirs = layers.BatchNorm(), nn.BatchNorm(momentum=0.99, epsilon=1e-5, use_fast_variance=False)
    variables = with_values(init(ours, x[0]))
    params = variables["params"]
    flax = {
        "params": {"scale": params["scale"], "bias": params["offset"]},
        "batch_stats": {"mean": jnp.zeros(3), "var": jnp.ones(3)},
    }
    for batch in x:
        y, changed = apply(ours, variables, batch, train=True, mutable=["batch_stats"])
        expected, flax_changed = apply(theirs, flax, batch, use_running_average=False, mutable=["batch_stats"])
        variables, flax = variables | changed, flax | flax_changed
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    running = variables["batch_stats"]["running"]
    np.testing.assert_allclose(running.mean, flax["batch_stats"]["mean"], rtol=1e-5)
    np.testing.assert_allclose(running.variance, flax["batch_stats"]["var"], rtol=1e-5)
    expected = theirs.apply(flax, x[0], use_running_average=True)
    np.testing.assert_allclose(ours.apply(variables, x[0]), expected, rtol=1e-5, atol=1e-5)


def test_batch_norm_normalizes_a_batch_while_training_and_each_example_alone_otherwise():
    module = layers.BatchNorm()
    variables = init(module)
    y, _ = apply(module, variables, X, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y.mean(0), np.zeros(3), atol=1e-6)
    np.testing.assert_allclose(y.std(0), np.ones(3), rtol=1e-4)
    inference = apply(module, variables, X)
    np.testing.assert_allclose(inference, X / np.sqrt(1 + 1e-5), rtol=1e-6)
    np.testing.assert_array_equal(apply(module, variables, X[:2]), inference[:2])


# Layer normalization


@pytest.mark.parametrize("shape", [(3,), (6, 3), (2, 4, 3)])
def test_layer_norm_is_that_of_flax(shape):
    x = jnp.asarray(np.random.default_rng(2).normal(2.0, 3.0, size=shape), jnp.float32)
    variables = with_values(init(layers.LayerNorm(), x))
    params = variables["params"]
    flax = {"params": {"scale": params["scale"], "bias": params["offset"]}}
    expected = apply(nn.LayerNorm(epsilon=1e-5, use_fast_variance=False), flax, x)
    np.testing.assert_allclose(apply(layers.LayerNorm(), variables, x), expected, rtol=1e-5, atol=1e-6)


def test_layer_norm_begins_with_scale_1_and_offset_0():
    params = init(layers.LayerNorm())["params"]
    np.testing.assert_array_equal(params["scale"], np.ones(3))
    np.testing.assert_array_equal(params["offset"], np.zeros(3))


# Dropout


def drop(rate, x, seed=0, *, train=True):
    return apply(layers.Dropout(rate), {}, x, train=train, rngs={"dropout": jax.random.key(seed)})


def test_dropout_zeroes_its_share_and_scales_the_rest():
    y = drop(0.25, jnp.full((200, 50), 3.0))
    assert set(np.unique(y).tolist()) == {0.0, 4.0}  # 3 / (1 − ¼)
    # five standard errors of 10 000 coins: 5 √(¼ · ¾ / 10 000)
    assert abs(np.mean(np.asarray(y) == 0) - 0.25) < 0.022


def test_another_key_drops_others_and_the_same_key_the_same():
    x = jnp.ones(100)
    np.testing.assert_array_equal(drop(0.5, x, 1), drop(0.5, x, 1))
    assert np.any(drop(0.5, x, 1) != drop(0.5, x, 2))


def test_dropouts_of_one_model_draw_apart():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layers.Dropout(0.5)(x, train=True), layers.Dropout(0.5)(x, train=True)

    first, second = Two().apply({}, jnp.ones(100), rngs={"dropout": KEY})
    assert np.any(first != second)


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_at_inference_nothing_is_dropped_and_no_key_is_needed(rate):
    np.testing.assert_array_equal(layers.Dropout(rate).apply({}, X), X)
    np.testing.assert_array_equal(drop(rate, X, train=False), X)


@pytest.mark.parametrize(("rate", "factor"), [(0, 1), (0.0, 1), (1, 0), (1.0, 0)])
def test_rates_0_and_1_need_no_key(rate, factor):
    np.testing.assert_array_equal(layers.Dropout(rate).apply({}, X, train=True), factor * X)


def test_a_key_that_is_missing_is_missed():
    with pytest.raises(Exception, match="dropout"):
        layers.Dropout(0.5).apply({}, X, train=True)


def test_a_traced_rate_drops_what_a_known_one_does():
    rates = jnp.array([0.0, 0.5, 1.0])
    together = jax.jit(jax.vmap(lambda rate: drop(rate, X)))(rates)
    for y, rate in zip(together, (0.0, 0.5, 1.0), strict=True):
        np.testing.assert_allclose(y, drop(rate, X), rtol=1e-6)


@pytest.mark.parametrize("rate", [-0.1, 1.5])
def test_a_rate_that_is_no_probability_is_refused(rate):
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\]"):
        drop(rate, X)


# The choice of a normalization


@pytest.mark.parametrize(
    ("name", "names"),
    [("none", set()), ("batch", {"BatchNorm_0", "BatchNorm_1"}), ("layer", {"LayerNorm_0", "LayerNorm_1"})],
)
def test_a_normalization_becomes_a_submodule_of_its_caller(name, names):
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layers.normalize(name, layers.normalize(name, x, train=False), train=False)

    variables = init(Twice())
    assert set(variables.get("params", {})) == names
    assert set(variables.get("batch_stats", {})) == (names if name == "batch" else set())


def test_an_unknown_normalization_is_named():
    with pytest.raises(ValueError, match="normalization 'group' is unknown; use 'none', 'batch' or 'layer'"):
        layers.normalize("group", X, train=False)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_convolution_and_its_gradient_are_flax(size):
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 4, 2))  # two batch axes
    model, peer = layers.Conv(3, size), nn.Conv(3, (size, size))
    variables = model.init(jax.random.key(1), x)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, peer.init(jax.random.key(1), x))
    variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)  # a bias that is not 0

    def results(model):
        return jax.value_and_grad(lambda v, x: jnp.sum(jnp.sin(model.apply(v, x))), argnums=(0, 1))(variables, x)

    np.testing.assert_allclose(model.apply(variables, x), peer.apply(variables, x), rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), results(model), results(peer))


def test_a_convolution_without_bias_has_a_kernel_alone():
    variables = layers.Conv(3, use_bias=False).init(jax.random.key(1), jnp.zeros((1, 4, 4, 2)))
    assert jax.tree.map(jnp.shape, variables) == {"params": {"kernel": (3, 3, 2, 3)}}


@pytest.mark.parametrize("size", [2, 3])
def test_both_forms_of_the_convolution_agree(size):
    # On a CPU the product of patches is used, elsewhere XLA's convolution.
    x, kernel = (
        jax.random.normal(jax.random.key(0), (2, 5, 4, 2)),
        jax.random.normal(jax.random.key(1), (size, size, 2, 3)),
    )
    np.testing.assert_allclose(
        layers._convolve_by_product(x, kernel), layers._convolve(x, kernel), rtol=1e-5, atol=1e-5
    )
