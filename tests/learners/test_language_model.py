"""The language model: what it minimizes and learns, that parts of a batch add up, and that it samples its model."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mathai.learners import language_model
from mathai.learners.base import Learner, train

KEY = jax.random.key(0)
CONFIG = language_model.Config(
    num_layers=1,
    num_heads=2,
    num_features=8,
    hidden_size=16,
    context_length=6,
    batch_size=4,
    num_updates=20,
    warmup_updates=2,
)
TEXT = jax.random.randint(jax.random.key(1), (40,), 0, 5)
BATCH = language_model.windows(KEY, TEXT, batch_size=4, length=7)


def make(**changes):
    return Learner(*map(jax.jit, language_model.make(dataclasses.replace(CONFIG, **changes), 5, TEXT)))


def test_a_model_without_knowledge_needs_the_bits_of_the_alphabet():
    # with the embedding 0 all logits are 0, and each of five tokens has probability 1/5
    learner = make()
    state = learner.init(KEY)
    state = state._replace(params=state.params | {"embedding": jnp.zeros((5, 8))})
    np.testing.assert_allclose(learner.evaluate(KEY, state)["bits_per_token"], math.log2(5), rtol=1e-6)
    _, metrics = learner.update(state, BATCH)
    np.testing.assert_allclose(metrics["loss"], math.log(5), rtol=1e-6)
    np.testing.assert_allclose(metrics["bits_per_token"], math.log2(5), rtol=1e-6)
    assert metrics["tokens"] == 24


def test_the_evaluation_is_the_mean_over_windows_that_follow_one_another():
    learner = make()
    state = learner.init(KEY)
    model = language_model.make_model(CONFIG, 5)
    bits = []
    for start in range(0, 36, 6):  # 39 predictions are six windows and a rest
        window = TEXT[start : start + 7]
        log_p = jax.nn.log_softmax(model.apply({"params": state.params}, window[:-1]))
        bits += [-float(row[token]) / math.log(2) for row, token in zip(log_p, window[1:], strict=True)]
    np.testing.assert_allclose(learner.evaluate(KEY, state)["bits_per_token"], np.mean(bits), rtol=1e-5)


def test_parts_of_a_batch_add_up_to_the_whole():
    whole, parts = make(), make(num_microbatches=2)
    (a, of_whole), (b, of_parts) = (learner.update(learner.init(KEY), BATCH) for learner in (whole, parts))
    for name in ("loss", "gradient_norm"):
        np.testing.assert_allclose(of_whole[name], of_parts[name], rtol=1e-5)
    for x, y in zip(jax.tree.leaves(a.optimizer), jax.tree.leaves(b.optimizer), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-7)


def test_the_average_of_parameters_is_what_is_evaluated():
    learner = make(ema_decay=0.75, weight_decay=0.0)
    state = learner.init(KEY)
    after, _ = learner.update(state, BATCH)
    for old, new, average in zip(*map(jax.tree.leaves, (state.params, after.params, after.average)), strict=True):
        np.testing.assert_allclose(average, 0.75 * old + 0.25 * new, rtol=1e-5, atol=1e-7)
    swapped = after._replace(params=state.params)
    assert learner.evaluate(KEY, swapped)["bits_per_token"] == learner.evaluate(KEY, after)["bits_per_token"]


def test_weights_decay_and_biases_do_not():
    with_decay, without = (make(weight_decay=decay, learning_rate=0.1) for decay in (0.5, 0.0))
    state = without.init(KEY)
    (a, _), (b, _) = with_decay.update(with_decay.init(KEY), BATCH), without.update(state, BATCH)
    rate = 0.1 / 2  # the first of two updates of warm-up
    for before, x, y in zip(*map(jax.tree.leaves, (state.params, a.params, b.params)), strict=True):
        np.testing.assert_allclose(y - x, rate * 0.5 * before if before.ndim > 1 else 0 * x, atol=1e-6)


@pytest.mark.slow
def test_a_text_that_repeats_is_learned():
    text = jnp.tile(jnp.array([0, 3, 1, 4, 2]), 12)
    learner = make(num_updates=150, learning_rate=0.02, weight_decay=0.0)
    draw = functools.partial(language_model.windows, tokens=text, batch_size=4, length=7)
    state, metrics = train(learner, KEY, lambda step: draw(jax.random.fold_in(KEY, step)), 150)
    assert metrics["loss"][0] > 1.5
    # the first token of a window tells the phase
    assert learner.evaluate(KEY, state, text)["bits_per_token"] < 0.1
    config = dataclasses.replace(CONFIG, num_updates=150)
    found = language_model.sample(KEY, config, 5, state, text[:2], 4, temperature=0.1)
    np.testing.assert_array_equal(found, [1, 4, 2, 0])


def test_samples_have_the_probabilities_of_the_model():
    learner = make()
    state = learner.init(KEY)
    prompt = jnp.array([1, 2, 3])
    draw = jax.vmap(lambda key: language_model.sample(key, CONFIG, 5, state, prompt, 1, temperature=2.0)[0])
    counts = np.bincount(jax.jit(draw)(jax.random.split(KEY, 4000)), minlength=5)
    logits = language_model.make_model(CONFIG, 5).apply({"params": state.params}, prompt)[-1]
    np.testing.assert_allclose(counts / 4000, jax.nn.softmax(logits / 2), atol=0.03)


def test_windows_are_pieces_of_the_text_from_everywhere():
    text = jnp.arange(20)
    found = np.asarray(language_model.windows(KEY, text, batch_size=500, length=4))
    np.testing.assert_array_equal(found - found[:, :1], np.tile(np.arange(4), (500, 1)))
    assert set(found[:, 0]) == set(range(17))


def test_a_text_without_a_piece_is_refused():
    with pytest.raises(ValueError, match="a text of 3 tokens has no piece of 4"):
        language_model.windows(KEY, TEXT[:3], batch_size=1, length=4)


@pytest.mark.slow
def test_sorting_is_learned():
    # Eight letters of sixteen, a mark, and the letters in order: the next one is the least that was not yet given as
    # often as it was asked for, so that every prediction needs to look at all of the question.
    num_letters, alphabet, num_updates = 8, 16, 1500
    length = 2 * num_letters
    config = language_model.Config(
        num_layers=2,
        num_heads=4,
        num_features=64,
        hidden_size=256,
        context_length=length,
        batch_size=64,
        num_updates=num_updates,
        learning_rate=3e-3,
    )

    def draw(key, batch_size=64):
        question = jax.random.randint(key, (batch_size, num_letters), 0, alphabet)
        mark = jnp.full((batch_size, 1), alphabet)
        return jnp.concatenate([question, mark, jnp.sort(question, axis=1)], axis=1)

    learner = language_model.make(config, alphabet + 1, jnp.zeros(length + 1, jnp.int32))
    state, _ = train(learner, KEY, lambda step: draw(jax.random.fold_in(KEY, step)), num_updates)
    test = draw(jax.random.key(1), 1000)
    model = language_model.make_model(config, alphabet + 1)
    found = jnp.argmax(model.apply({"params": state.params}, test[:, :-1]), axis=-1)[:, num_letters:]
    assert jnp.mean(found == test[:, num_letters + 1 :]) >= 0.99
    # alone, each letter from those that it gave before
    continued = jax.vmap(
        lambda key, row: language_model.sample(
            key, config, alphabet + 1, state, row[: num_letters + 1], num_letters, temperature=1e-3
        )
    )(jax.random.split(KEY, 200), test[:200])
    assert jnp.mean(continued == test[:200, num_letters + 1 :]) >= 0.99


def test_the_state_keeps_its_types():
    learner = make(ema_decay=0.9, dropout_rate=0.1)
    state = learner.init(KEY)
    after, _ = learner.update(state, BATCH)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_microbatches": 3}, "batch_size is 4 and num_microbatches 3"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"context_length": 40}, "the held-out text has 40 tokens; context_length = 40 needs one more"),
        ({"schedule": "step"}, "schedule 'step' is unknown"),
    ],
)
def test_mistakes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)
