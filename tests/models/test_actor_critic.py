"""The policy and value networks against a forward pass in NumPy, and what their weights are at the start."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mathai.models.actor_critic import ActorCritic

OBSERVATION = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 3)), jnp.float32)
SIZES = (8, 4)


@functools.cache
def make(**options):
    model = ActorCritic(**{"num_actions": 3, "hidden_sizes": SIZES} | options)
    return model, jax.jit(model.init)(jax.random.key(0), OBSERVATION)


def shaken(params):
    """Parameters with no special values: biases that are not 0, a policy head that is not small."""
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    return structure.unflatten([jnp.asarray(rng.normal(size=x.shape), jnp.float32) for x in leaves])


def parts(params):
    """Kernels and biases by the part of the network that they belong to; of parameters or of their gradients."""
    params = params["params"]
    torsos = [
        [(params["torsos"][f"kernel_{i}"][stack], params["torsos"][f"bias_{i}"][stack]) for i in range(len(SIZES))]
        for stack in range(params["torsos"]["kernel_0"].shape[0])
    ]
    heads = {name: [(params[name]["kernel"], params[name]["bias"])] for name in ("policy_head", "value_head")}
    return {"policy_torso": torsos[0], "value_torso": torsos[-1], **heads}


def forward(layers, x, activation):
    """a ← f(a W + b) in each layer but the last, which is linear."""
    x = np.asarray(x, np.float64)
    for i, (kernel, bias) in enumerate(layers):
        x = (x if i == 0 else activation(x)) @ np.asarray(kernel, np.float64) + np.asarray(bias, np.float64)
    return x


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("name", "activation"), [("tanh", np.tanh), ("relu", lambda x: np.maximum(x, 0))])
def test_the_forward_pass_is_numpys(name, activation, shared):
    model, params = make(activation=name, shared_torso=shared)
    params = shaken(params)
    part = parts(params)
    logits, value = model.apply(params, OBSERVATION)
    expected = forward(part["policy_torso"] + part["policy_head"], OBSERVATION, activation)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    torso = part["policy_torso"] if shared else part["value_torso"]
    expected = forward(torso + part["value_head"], OBSERVATION, activation)[..., 0]
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [(), (4,), (2, 4)])
@pytest.mark.parametrize("continuous", [False, True])
def test_any_batch_axes_give_a_head_and_a_scalar_value_each(batch, continuous):
    model, params = make(continuous=continuous)
    head, value = model.apply(params, jnp.zeros((*batch, 3)))
    assert value.shape == batch
    if continuous:
        mean, log_std = head
        assert (mean.shape, log_std.shape) == ((*batch, 3), (*batch, 3))
        np.testing.assert_array_equal(log_std, 0.0)  # the standard deviation begins at 1
    else:
        assert head.shape == (*batch, 3)


def test_the_width_of_a_gaussian_does_not_depend_on_the_observation():
    model, params = make(continuous=True)
    jacobian = jax.jacobian(lambda x: model.apply(params, x)[0])(OBSERVATION[0, 0])
    np.testing.assert_array_equal(jacobian[1], 0.0)
    assert np.any(jacobian[0] != 0.0)
    assert params["params"]["log_std"].shape == (3,)


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_policy_and_value_alone_agree_with_both(continuous, shared):
    model, params = make(continuous=continuous, shared_torso=shared)
    params = shaken(params)
    head, value = model.apply(params, OBSERVATION)
    alone = model.apply(params, OBSERVATION, method="policy"), model.apply(params, OBSERVATION, method="value")
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, (head, value), alone)


# Initial parameters


@pytest.mark.parametrize("shared", [False, True])
def test_the_first_kernels_are_orthogonal_with_their_gains_and_biases_are_zero(shared):
    _, params = make(shared_torso=shared)
    gains = {"policy_torso": 2**0.5, "value_torso": 2**0.5, "policy_head": 0.01, "value_head": 1.0}
    for part, layers in parts(params).items():
        for kernel, bias in layers:
            kernel = np.asarray(kernel, np.float64)
            rows, columns = kernel.shape
            gram = kernel.T @ kernel if rows >= columns else kernel @ kernel.T  # only the smaller one can be gain² I
            expected = gains[part] ** 2 * np.eye(min(rows, columns))
            np.testing.assert_allclose(gram, expected, atol=2e-6 * gains[part] ** 2)
            np.testing.assert_array_equal(bias, 0.0)


def test_the_policy_begins_nearly_uniform():
    model, params = make(hidden_sizes=(64, 64))
    logits = model.apply(params, 100.0 * OBSERVATION, method="policy")
    # |tanh| ≤ 1 in 64 units, and columns of norm 0.01: no logit beyond 0.01 · √64
    assert 0 < np.max(np.abs(logits)) <= 0.08
    probabilities = jax.nn.softmax(logits)
    assert np.max(np.abs(np.log(3 * probabilities))) <= 0.16  # e^±0.08 above, and in the normalizer


def test_different_keys_give_different_networks():
    model, params = make()
    first, other = parts(params), parts(jax.jit(model.init)(jax.random.key(1), OBSERVATION))
    for part in first:
        assert not np.any(first[part][0][0] == other[part][0][0])
    # nor do the two torsos of one network begin alike
    assert not np.any(first["policy_torso"][0][0] == first["value_torso"][0][0])


# Torsos


def parts_that_learn(shared, method):
    """The parts with a gradient that is not 0 of the policy's outputs, or of the values."""
    model, params = make(shared_torso=shared)
    params = shaken(params)
    gradients = jax.jit(jax.grad(lambda p: jnp.sum(model.apply(p, OBSERVATION, method=method))))(params)
    return {part for part, layers in parts(gradients).items() if any(np.any(x) for layer in layers for x in layer)}


def test_separate_torsos_do_not_couple_policy_and_value():
    assert parts_that_learn(shared=False, method="policy") == {"policy_torso", "policy_head"}
    assert parts_that_learn(shared=False, method="value") == {"value_torso", "value_head"}


def test_a_shared_torso_learns_from_both():
    both = {"policy_torso", "value_torso"}  # one and the same
    assert parts_that_learn(shared=True, method="policy") == both | {"policy_head"}
    assert parts_that_learn(shared=True, method="value") == both | {"value_head"}
    sizes = [sum(x.size for x in jax.tree.leaves(make(shared_torso=shared)[1])) for shared in (False, True)]
    assert sizes[0] - sizes[1] == (3 + 1) * 8 + (8 + 1) * 4  # one torso less: weights and biases 3 → 8 → 4


def test_without_hidden_layers_policy_and_value_are_linear():
    model, params = make(hidden_sizes=())
    logits, value = model.apply(params, OBSERVATION)
    for output, head in ((logits, "policy_head"), (value[..., None], "value_head")):
        expected = np.asarray(OBSERVATION) @ np.asarray(params["params"][head]["kernel"])  # biases begin at 0
        np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-6)


def test_an_unknown_activation_is_named():
    with pytest.raises(ValueError, match="'gelu' is unknown; use one of tanh, relu"):
        make(activation="gelu")


def test_a_linear_actor_critic_acts_alone_too():
    model = ActorCritic(num_actions=3, hidden_sizes=())
    x = jnp.ones((2, 4))
    params = model.init(jax.random.key(0), x)
    actor, actor_params = model.policy_alone(params)
    alone = actor.apply(actor_params, x, method="policy")
    np.testing.assert_array_equal(alone, model.apply(params, x, method="policy"))
