"""The Transformer: what a token may see, that decoding step by step is the same, and the shapes of its parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mathai.models import Transformer
from mathai.models.transformer import MultiHeadAttention

KEY = jax.random.key(0)
TOKENS = jax.random.randint(jax.random.key(1), (2, 9), 0, 11)


def made(**changes):
    model = Transformer(**({"num_tokens": 11, "num_layers": 2, "num_heads": 2, "num_features": 8} | changes))
    return model, model.init(KEY, TOKENS)


def test_parameters_are_those_of_the_definition():
    model, variables = made(num_key_heads=1, hidden_size=12)
    shapes = jax.tree.map(jnp.shape, variables["params"])
    assert set(shapes) == {"embedding", "blocks_0", "blocks_1", "norm"}
    assert shapes["embedding"] == (11, 8)  # tied: there is no other output
    heads = shapes["blocks_0"]["MultiHeadAttention_0"]
    assert heads == {"query": (8, 2, 4), "key": (8, 1, 4), "value": (8, 1, 4), "output": (2, 4, 8)}
    assert shapes["blocks_0"]["Linear_0"]["weight"] == (12, 8)
    assert model.apply(variables, TOKENS).shape == (2, 9, 11)
    weights = variables["params"]["embedding"]
    np.testing.assert_allclose(np.var(weights), 1 / 8, rtol=0.4)


def test_without_blocks_it_is_the_embedding_against_itself():
    model, variables = made(num_layers=0)
    e = np.asarray(variables["params"]["embedding"], np.float64)
    t, i = np.arange(9)[:, None], np.arange(0, 8, 2)
    angle = t * 10000.0 ** (-i / 8)
    x = np.sqrt(8) * e[np.asarray(TOKENS)] + np.stack([np.sin(angle), np.cos(angle)], -1).reshape(9, 8)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(model.apply(variables, TOKENS), x @ e.T, rtol=1e-4, atol=1e-5)


def test_a_decoder_does_not_see_later_tokens_and_an_encoder_does():
    changed = TOKENS.at[:, 5].set((TOKENS[:, 5] + 1) % 11)
    for is_causal in (True, False):
        model, variables = made(is_causal=is_causal)
        before, after = model.apply(variables, TOKENS), model.apply(variables, changed)
        np.testing.assert_array_equal(np.all(before == after, -1).all(0)[:5], is_causal)
        assert not np.all(before[:, 5:] == after[:, 5:], -1).any()


def test_masked_tokens_are_not_seen_by_others():
    model, variables = made(is_causal=False)
    mask = jnp.arange(9)[None] < jnp.array([[6], [9]])
    found = model.apply(variables, TOKENS, mask=mask)
    alone = model.apply(variables, TOKENS[:1, :6])
    np.testing.assert_allclose(found[0, :6], alone[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1], model.apply(variables, TOKENS)[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_key_heads", [None, 1])
def test_decoding_step_by_step_gives_the_same_logits(num_key_heads):
    model, variables = made(num_key_heads=num_key_heads)
    caches = model.init_cache(9, batch_shape=(2,))

    def step(caches, token):
        logits, caches = model.apply(variables, token, caches, method="step")
        return caches, logits

    _, found = jax.lax.scan(step, caches, TOKENS.T)
    np.testing.assert_allclose(jnp.moveaxis(found, 0, 1), model.apply(variables, TOKENS), rtol=1e-4, atol=1e-5)


def test_dropout_acts_while_training_alone():
    model, variables = made(dropout_rate=0.5)
    plain = model.apply(variables, TOKENS)
    np.testing.assert_array_equal(plain, made()[0].apply(variables, TOKENS))
    first, second = (model.apply(variables, TOKENS, train=True, rngs={"dropout": jax.random.key(i)}) for i in (0, 1))
    assert not np.allclose(first, plain)
    assert not np.allclose(first, second)


def test_cross_attention_looks_at_the_context():
    x, context = jnp.ones((2, 3, 8)), jax.random.normal(KEY, (2, 5, 6))
    module = MultiHeadAttention(num_heads=2)
    variables = module.init(KEY, x, context)
    assert variables["params"]["key"].shape == (6, 2, 4)
    y, cache = module.apply(variables, x, context)
    assert y.shape == (2, 3, 8)
    assert cache is None
    # equal queries see the same
    np.testing.assert_allclose(y[:, 0], y[:, 2], rtol=1e-5)


@pytest.mark.parametrize("token", [-1, 11])
def test_a_token_that_does_not_exist_is_nan(token):
    model, variables = made()
    logits = model.apply(variables, TOKENS.at[0, 8].set(token))
    assert np.isnan(logits[0, 8]).all()
    assert np.isfinite(logits[0, :8]).all()
    hidden = model.apply(variables, TOKENS.at[0, 2].set(token), mask=jnp.tile(jnp.arange(9) != 2, (2, 1)))
    assert np.isnan(hidden[0, 2]).all()
    assert np.isfinite(hidden[0, 3:]).all()


def test_tokens_of_one_byte_do_not_wrap():
    model, variables = made(num_tokens=256)
    np.testing.assert_array_equal(model.apply(variables, TOKENS.astype("uint8")), model.apply(variables, TOKENS))


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="num_heads is 3; it must divide the 8 features"):
        made(num_heads=3)
    model, variables = made(is_causal=False)
    with pytest.raises(ValueError, match="an encoder sees all tokens at once"):
        model.apply(variables, TOKENS[:, 0], model.init_cache(9, batch_shape=(2,)), method="step")
