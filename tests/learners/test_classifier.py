"""The classifier against steps written out in Flax and Optax, numbers by hand, and what it promises of its state."""

import dataclasses
import functools
import math
import pathlib
import runpy

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import data
from experiments.configuration import learner_config
from mathai.learners import classifier
from mathai.learners.base import train
from mathai.learners.batches import Examples, minibatch

ROOT = pathlib.Path(__file__).parents[2]
UPDATE_METRICS = {"loss", "accuracy", "gradient_norm", "examples"}
EVALUATION_METRICS = {"accuracy", "loss", "cross_entropy", "expected_calibration_error"}
RNG = np.random.default_rng(0)
TRAIN = Examples(jnp.asarray(RNG.normal(size=(12, 4)), jnp.float32), jnp.arange(12) % 3)
TEST = Examples(jnp.asarray(RNG.normal(size=(10, 4)), jnp.float32), jnp.arange(10) % 3)
IMAGES = Examples(jnp.asarray(RNG.integers(256, size=(12, 5, 4)), jnp.uint8), jnp.arange(12) % 3)
BATCH = Examples(TRAIN.inputs[:4], TRAIN.labels[:4])
SMALL = classifier.Config(hidden_sizes=(5,), batch_size=4, num_epochs=2, learning_rate=0.01, schedule="constant")
KEY = jax.random.key(0)


def change(**changes):
    return dataclasses.replace(SMALL, **changes)


@functools.cache
def make(examples="vectors", **changes):
    """A learner whose functions are compiled."""
    learner = classifier.make(change(**changes), *((TRAIN, TEST) if examples == "vectors" else (IMAGES, IMAGES)))
    return learner._replace(**{name: jax.jit(getattr(learner, name)) for name in learner._fields})


def assert_equal(a, b):
    """Bit for bit, keys included."""

    def plain(x):
        return np.asarray(jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x)

    jax.tree.map(lambda x, y: np.testing.assert_array_equal(plain(x), plain(y)), a, b)


def assert_close(a, b, **tolerances):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **{"rtol": 1e-5, "atol": 1e-6} | tolerances), a, b)


# One step, written out


class Peer(nn.Module):
    """The same network of Flax's own layers."""

    normalization: str

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(5)(x)
        if self.normalization == "batch":
            x = nn.BatchNorm(use_running_average=False, momentum=0.99)(x)
        if self.normalization == "layer":
            x = nn.LayerNorm(epsilon=1e-5)(x)
        return nn.Dense(3)(nn.relu(x))


def as_flax(params):
    """Our parameters under Flax's names."""
    fields = {"weight": "kernel", "bias": "bias", "scale": "scale", "offset": "bias"}
    return {
        name.replace("Linear", "Dense"): {fields[f]: leaf.T if f == "weight" else leaf for f, leaf in leaves.items()}
        for name, leaves in params.items()
    }


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"normalization": "layer", "label_smoothing": 0.25, "weight_decay": 0.5, "max_gradient_norm": 0.1},
        {"normalization": "batch", "l2_penalty": 0.5, "weight_decay": 0.25, "label_smoothing": 0.5},
    ],
    ids=["plain", "layer norm, clipping", "batch norm, penalty"],
)
def test_updates_are_those_of_optax_and_flax(changes):
    learner, config = make(**changes), change(**changes)
    model = Peer(config.normalization)
    optimizer = optax.adamw(
        0.01, weight_decay=config.weight_decay, mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim == 2, params)
    )
    if config.max_gradient_norm < math.inf:
        optimizer = optax.chain(optax.clip_by_global_norm(config.max_gradient_norm), optimizer)

    def objective(params, statistics, batch):
        variables = {"params": params, "batch_stats": statistics}
        logits, changed = model.apply(variables, batch.inputs, mutable=["batch_stats"])
        targets = optax.smooth_labels(jax.nn.one_hot(batch.labels, 3), config.label_smoothing)
        kernels = [params[name]["kernel"] for name in ("Dense_0", "Dense_1")]
        penalty = config.l2_penalty / 2 * sum(jnp.sum(kernel**2) for kernel in kernels)
        accuracy = jnp.mean(jnp.argmax(logits, -1) == batch.labels)
        loss = jnp.mean(optax.softmax_cross_entropy(logits, targets)) + penalty
        return loss, (changed.get("batch_stats", {}), accuracy)

    @jax.jit
    def step(params, statistics, optimizer_state, batch):
        (loss, (statistics, accuracy)), gradient = jax.value_and_grad(objective, has_aux=True)(
            params, statistics, batch
        )
        steps, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        metrics = {"loss": loss, "accuracy": accuracy, "gradient_norm": optax.tree.norm(gradient)}
        return optax.apply_updates(params, steps), statistics, optimizer_state, metrics

    state = learner.init(KEY)
    params = as_flax(state.params)
    statistics = {"BatchNorm_0": {"mean": jnp.zeros(5), "var": jnp.ones(5)}} if state.statistics else {}
    optimizer_state = optimizer.init(params)
    # A bias before batch normalization has no gradient but rounding, which Adam turns into steps: there one step only.
    num_steps = 1 if statistics else 3
    for number in range(num_steps):
        batch = jax.tree.map(lambda x: x[4 * number : 4 * number + 4], TRAIN)  # noqa: B023
        state, metrics = learner.update(state, batch)
        params, statistics, optimizer_state, expected = step(params, statistics, optimizer_state, batch)
        assert metrics.pop("examples") == 4 * (number + 1)
        assert_close(metrics, expected)
    found = as_flax(state.params)
    if statistics:
        del found["Dense_0"]["bias"], params["Dense_0"]["bias"]
    assert_close(found, params, rtol=1e-4, atol=1e-5)
    if statistics:
        running = state.statistics["BatchNorm_0"]["running"]
        assert_close((running.mean, running.variance), tuple(statistics["BatchNorm_0"][k] for k in ("mean", "var")))


# Decay and penalty


def after_one_step(**changes):
    """Parameters before and after a step on inputs 0: no gradient of the loss reaches the first weights."""
    learner = make(**changes)
    state = learner.init(KEY)
    after, metrics = learner.update(state, Examples(jnp.zeros((4, 4)), BATCH.labels))
    return state.params, after.params, metrics


def test_weight_decay_shrinks_weights_by_the_rate_and_a_penalty_moves_them_by_adams_step():
    before, after, _ = after_one_step(weight_decay=0.5)
    w = before["Linear_0"]["weight"]
    np.testing.assert_allclose(after["Linear_0"]["weight"], w * (1 - 0.01 * 0.5), rtol=1e-6)  # (1 − ηλ) W
    _, after, _ = after_one_step(l2_penalty=0.5)
    # the first step of Adam is η g / |g|, of whatever size the weight is
    np.testing.assert_allclose(after["Linear_0"]["weight"], w - 0.01 * np.sign(w), rtol=1e-4, atol=1e-6)
    _, after, _ = after_one_step()
    np.testing.assert_array_equal(after["Linear_0"]["weight"], w)


def test_the_loss_holds_the_penalty_and_not_the_decay():
    before, _, plain = after_one_step(normalization="batch")
    weights = [before[name]["weight"] for name in ("Linear_0", "Linear_1")]
    penalty = 0.5 / 2 * sum(np.sum(np.square(w)) for w in weights)  # of scales that are 1 nothing
    penalized = after_one_step(normalization="batch", l2_penalty=0.5)[2]
    np.testing.assert_allclose(penalized["loss"] - plain["loss"], penalty, rtol=1e-5)
    assert after_one_step(normalization="batch", weight_decay=0.5)[2]["loss"] == plain["loss"]


@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_biases_scales_and_offsets_do_not_decay(normalization):
    results = []
    for weight_decay in (0.0, 0.5):
        learner = make(normalization=normalization, weight_decay=weight_decay)
        results.append(learner.update(learner.init(KEY), BATCH)[0].params)
    for name, plain in results[0].items():
        for field, leaf in plain.items():
            assert np.any(leaf != 0)  # all of them have moved, or begin elsewhere
            assert np.array_equal(results[1][name][field], leaf) == (field != "weight")


# Losses


def logits_of(params, x):
    """The network of SMALL in NumPy."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    hidden = np.maximum(np.asarray(x) @ params["Linear_0"]["weight"].T + params["Linear_0"]["bias"], 0)
    return hidden @ params["Linear_1"]["weight"].T + params["Linear_1"]["bias"]


def log_softmax(z):
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


@pytest.mark.parametrize(
    ("labels", "num_classes", "smoothing", "expected"),
    [
        ([0, 1], 2, 0.0, [[1, 0], [0, 1]]),
        ([1], 4, 0.2, [[0.05, 0.85, 0.05, 0.05]]),
        ([2], 3, 1.0, [[1 / 3, 1 / 3, 1 / 3]]),
        ([-1, 3, 2], 3, 0.0, [[np.nan] * 3, [np.nan] * 3, [0, 0, 1]]),
    ],
)
def test_smoothed_labels(labels, num_classes, smoothing, expected):
    found = jax.jit(classifier.smoothed_labels, static_argnums=1)(jnp.array(labels), num_classes, smoothing)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(("gamma", "smoothing"), [(0.0, 0.3), (2.0, 0.0), (3.5, 0.3)])
def test_the_focal_loss_weighs_each_class_by_what_it_lacks(gamma, smoothing):
    learner = make(loss="focal", focal_gamma=gamma, label_smoothing=smoothing)
    state = learner.init(KEY)
    log_p = log_softmax(logits_of(state.params, BATCH.inputs))
    y = (1 - smoothing) * np.eye(3)[np.asarray(BATCH.labels)] + smoothing / 3
    expected = np.mean(np.sum(-y * (1 - np.exp(log_p)) ** gamma * log_p, -1))  # −Σ y (1 − p)^γ log p
    np.testing.assert_allclose(learner.update(state, BATCH)[1]["loss"], expected, rtol=1e-5)


def test_a_label_outside_the_classes_shows_as_nan():
    for changes in ({}, {"label_smoothing": 0.1}, {"loss": "focal"}):
        learner = make(**changes)
        batch = BATCH._replace(labels=jnp.array([0, 1, 2, 3]))
        assert np.isnan(learner.update(learner.init(KEY), batch)[1]["loss"])


# The schedule


def step_size(learner, state):
    """The largest move of a parameter in a step, and the state after it."""
    after, _ = learner.update(state, BATCH)
    moves = jax.tree.map(lambda a, b: np.max(np.abs(a - b)), after.params, state.params)
    return max(jax.tree.leaves(moves)), after


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_rate_is_0_after_the_last_epoch(schedule):
    learner = make(schedule=schedule, weight_decay=0.1)
    state = learner.init(KEY)
    for _ in range(2 * 3):  # two epochs of three batches
        size, state = step_size(learner, state)
        assert size > 0
    size, _ = step_size(learner, state)
    assert size == 0


def test_a_constant_rate_goes_on():
    learner = make()
    state = learner.init(KEY)
    for _ in range(7):
        size, state = step_size(learner, state)
        assert size > 0.001


def test_the_rate_grows_over_the_epochs_of_warmup():
    learner = make(warmup_epochs=1)
    state = learner.init(KEY)
    sizes = []
    for _ in range(4):
        size, state = step_size(learner, state._replace(optimizer=reset_moments(learner, state.optimizer)))
        sizes.append(size)
    # of three updates in an epoch; the first step of Adam's moments has the size of the rate
    np.testing.assert_allclose(sizes, np.array([1 / 3, 2 / 3, 1, 1]) * 0.01, rtol=1e-3)


def reset_moments(learner, optimizer_state):
    """Adam's moments anew, the schedule's count as it is."""
    fresh = learner.init(KEY).optimizer
    return tuple(
        new if isinstance(new, optax.ScaleByAdamState) else old for new, old in zip(fresh, optimizer_state, strict=True)
    )


# Evaluation


# A linear model: x = e₁ has probabilities (¾, ¼), x = e₂ has (1/10, 9/10).
WEIGHT = jnp.log(jnp.array([[0.75, 0.1], [0.25, 0.9]]))
KNOWN = classifier.State(KEY, {"Linear_0": {"weight": WEIGHT, "bias": jnp.zeros(2)}}, {}, (), jnp.int32(0))


def test_evaluation_of_a_model_whose_probabilities_are_known():
    config = change(hidden_sizes=(), label_smoothing=0.5)
    examples = Examples(jnp.eye(2)[jnp.array([0, 0, 1, 1])], jnp.array([0, 1, 1, 1]))
    learner = classifier.make(config, examples, examples)
    metrics = jax.jit(learner.evaluate)(KEY, KNOWN)
    assert set(metrics) == EVALUATION_METRICS
    cross_entropy = -np.log([0.75, 0.25, 0.9, 0.9])
    smoothed = 0.75 * cross_entropy - 0.25 * np.log([0.25, 0.75, 0.1, 0.1])  # y = (¾, ¼) for s = ½
    expected = {
        "accuracy": 0.75,
        "cross_entropy": cross_entropy.mean(),
        "loss": smoothed.mean(),
        "expected_calibration_error": abs(0.5 - 0.75) / 2 + abs(1.0 - 0.9) / 2,
    }
    assert_close(metrics, expected)


def test_the_number_of_bins_of_the_calibration_error_can_be_chosen():
    examples = Examples(jnp.eye(2)[jnp.array([0, 1])], jnp.array([0, 0]))  # confidences ¾ and 0.9; right, wrong
    for num_bins, error in ((1, abs(0.5 - 0.825)), (15, (0.25 + 0.9) / 2)):
        learner = classifier.make(
            change(hidden_sizes=(), batch_size=2, num_calibration_bins=num_bins), examples, examples, num_classes=2
        )
        found = jax.jit(learner.evaluate)(KEY, KNOWN)["expected_calibration_error"]
        np.testing.assert_allclose(found, error, rtol=1e-5)


def test_evaluation_takes_the_test_examples_or_those_that_it_is_given():
    learner = make()
    state = learner.init(KEY)
    scores = learner.evaluate(KEY, state)
    log_p = log_softmax(logits_of(state.params, TEST.inputs))
    np.testing.assert_allclose(scores["cross_entropy"], -np.mean(log_p[np.arange(10), TEST.labels]), rtol=1e-5)
    given = learner.evaluate(KEY, state, TRAIN)
    log_p = log_softmax(logits_of(state.params, TRAIN.inputs))
    np.testing.assert_allclose(given["cross_entropy"], -np.mean(log_p[np.arange(12), TRAIN.labels]), rtol=1e-5)


@pytest.mark.parametrize("num_examples", [3, 4, 10])
def test_evaluation_in_blocks_is_evaluation_of_the_whole(monkeypatch, num_examples):
    state = make(normalization="batch").init(KEY)
    inputs = TEST.inputs[:num_examples]
    config = change(normalization="batch")
    whole = jax.jit(lambda: classifier.predict(config, 3, state, inputs))()
    monkeypatch.setattr(classifier, "EVALUATION_BLOCK", 4)
    blocks = jax.jit(lambda: classifier.predict(config, 3, state, inputs))()
    assert blocks.shape == (num_examples, 3)
    np.testing.assert_allclose(blocks, whole, rtol=1e-5, atol=1e-6)


def test_evaluation_uses_the_running_statistics_and_no_dropout():
    learner = make(normalization="batch", dropout_rate=0.5)
    state, _ = learner.update(learner.init(KEY), BATCH)
    running = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), state.statistics["BatchNorm_0"]["running"])
    # 0.99 · the start + 0.01 · the batch
    z = np.asarray(BATCH.inputs) @ np.asarray(learner.init(KEY).params["Linear_0"]["weight"]).T
    np.testing.assert_allclose(running.mean, 0.01 * z.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(running.variance, 0.99 + 0.01 * z.var(0), rtol=1e-5)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), state.params)
    linear, norm = params["Linear_0"], params["BatchNorm_0"]
    z = np.asarray(TEST.inputs) @ linear["weight"].T + linear["bias"]
    z = norm["scale"] * (z - running.mean) / np.sqrt(running.variance + 1e-5) + norm["offset"]
    log_p = log_softmax(np.maximum(z, 0) @ params["Linear_1"]["weight"].T + params["Linear_1"]["bias"])
    scores = learner.evaluate(KEY, state)
    np.testing.assert_allclose(scores["cross_entropy"], -np.mean(log_p[np.arange(10), TEST.labels]), rtol=1e-5)
    # nor does an example's score depend on the others, or on the key
    for other in (learner.evaluate(jax.random.key(9), state), learner.evaluate(KEY, state)):
        assert_equal(other, scores)


# State, keys and metrics


@pytest.mark.parametrize(
    ("examples", "changes"),
    [("vectors", {"dropout_rate": 0.5}), ("images", {"max_shift": 1}), ("vectors", {"normalization": "batch"})],
    ids=["dropout", "shifts", "statistics"],
)
def test_the_same_key_gives_the_same_bits_and_another_one_others(examples, changes):
    learner = make(examples, **changes)
    batch = BATCH if examples == "vectors" else jax.tree.map(lambda x: x[:4], IMAGES)
    results = []
    for seed in (0, 0, 1):
        state = learner.init(jax.random.key(seed))
        state, _ = learner.update(state, batch)
        results.append(learner.update(state, batch))
    assert_equal(results[0], results[1])
    assert results[0][1]["loss"] != results[2][1]["loss"]
    assert set(results[0][1]) == UPDATE_METRICS


@pytest.mark.parametrize(("examples", "changes"), [("vectors", {"dropout_rate": 0.5}), ("images", {"max_shift": 1})])
def test_randomness_is_drawn_anew_at_each_update_and_from_the_state_alone(examples, changes):
    learner = make(examples, **changes, learning_rate=0.0)  # nothing but the key changes
    batch = BATCH if examples == "vectors" else jax.tree.map(lambda x: x[:4], IMAGES)
    state, found = learner.init(KEY), []
    for _ in range(4):
        state, metrics = learner.update(state, batch)
        found.append(float(metrics["loss"]))
    assert len(set(found)) == 4


def test_the_state_is_one_tree_of_arrays_that_keeps_its_types():
    learner = make(normalization="batch", max_gradient_norm=1.0, schedule="cosine")
    state = learner.init(jax.random.PRNGKey(0))
    after, _ = learner.update(state, BATCH)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(after))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    restored = jax.tree.map(lambda x: jnp.asarray(np.array(x)), after)
    assert_equal(learner.update(restored, BATCH), learner.update(after, BATCH))
    assert (state.num_examples, after.num_examples) == (0, 4)
    typed = learner.init(jax.random.key(0))
    assert_equal(typed.params, state.params)


def test_metrics_are_scalars():
    learner = make()
    state, metrics = learner.update(learner.init(KEY), BATCH)
    assert {name: jnp.shape(value) for name, value in metrics.items()} == dict.fromkeys(UPDATE_METRICS, ())
    evaluation = learner.evaluate(KEY, state)
    assert {name: jnp.shape(value) for name, value in evaluation.items()} == dict.fromkeys(EVALUATION_METRICS, ())
    assert jnp.issubdtype(metrics["examples"].dtype, jnp.integer)


# Batches of learners


def test_float_hyperparameters_batch_in_one_compilation():
    changes = [
        {"learning_rate": 0.1},
        {"dropout_rate": 0.5},
        {"weight_decay": 0.5},
        {"l2_penalty": 0.5},
        {"max_gradient_norm": 0.01},
        {"focal_gamma": 0.0},
        {"label_smoothing": 0.5},
        {},
    ]
    configs = [change(loss="focal", normalization="layer", **each) for each in changes]

    def run(config):
        learner = classifier.make(config, TRAIN, TEST)
        state, metrics = train(learner, KEY, lambda step: minibatch(KEY, TRAIN, step, batch_size=4), 4)
        return state.params, metrics, learner.evaluate(KEY, state)

    run_one = jax.jit(run)
    together = jax.jit(jax.vmap(run))(jax.tree.map(lambda *x: jnp.stack(x), *configs))
    for i, config in enumerate(configs):
        assert_close(jax.tree.map(lambda x: x[i], together), run_one(config), rtol=1e-4, atol=1e-5)  # noqa: B023
    assert run_one._cache_size() == 1
    losses = np.asarray(together[1]["loss"])
    for i in range(7):  # every one of them acts
        assert np.any(losses[i] != losses[7]), changes[i]


def test_what_is_off_is_off_whether_known_or_traced():
    # rate 0, no decay, no penalty and no clipping: left out where they are known, computed where they are traced
    learner = make()
    known = learner.update(learner.init(KEY), BATCH)
    traced_config = jax.jit(
        lambda config: (lambda learner: learner.update(learner.init(KEY), BATCH))(
            classifier.make(config, TRAIN, TEST, num_classes=3)
        )
    )
    state, metrics = traced_config(SMALL)
    assert_close(metrics, known[1])
    assert_close(state.params, known[0].params)


def test_keys_batch():
    learner = make(dropout_rate=0.5)
    keys = jax.random.split(KEY, 3)
    states, metrics = jax.jit(jax.vmap(lambda key: learner.update(learner.init(key), BATCH)))(keys)
    evaluations = jax.jit(jax.vmap(learner.evaluate))(keys, states)
    for i, key in enumerate(keys):
        state, alone = learner.update(learner.init(key), BATCH)
        assert_close(jax.tree.map(lambda x: x[i], metrics), alone)  # noqa: B023
        assert_close(jax.tree.map(lambda x: x[i], evaluations), learner.evaluate(key, state))  # noqa: B023


# Learning


@pytest.mark.parametrize("model", ["mlp", "convnet"])
def test_what_can_be_separated_is_separated(model):
    rng = np.random.default_rng(0)
    labels = np.arange(64) % 2
    images = rng.uniform(0, 0.6, size=(64, 4, 4))
    images[labels == 1, :2] += 0.4  # light from above; the sums of the halves are far apart
    examples = Examples(jnp.asarray(images, jnp.float32), jnp.asarray(labels))
    config = change(model=model, hidden_sizes=(8,), channels=(4,), batch_size=16, num_epochs=40, learning_rate=0.02)
    learner = classifier.make(config, examples, examples)
    batches = functools.partial(minibatch, KEY, examples, batch_size=16)
    state, metrics = train(learner, KEY, batches, 40 * 4)
    assert metrics["loss"][0] > 0.4
    assert jax.jit(learner.evaluate)(KEY, state)["accuracy"] == 1.0


@pytest.mark.slow
def test_the_config_of_digits_reaches_its_score():
    config = runpy.run_path(str(ROOT / "configs" / "mlp_digits.py"))["get_config"]()
    hyperparameters = learner_config(config)
    train_set, test_set = (Examples(*map(jnp.asarray, part)) for part in data.load(config.data.to_dict())[:2])
    learner = classifier.make(hyperparameters, train_set, test_set)
    size = hyperparameters.batch_size
    num_updates = hyperparameters.num_epochs * (len(train_set.labels) // size)

    @jax.jit
    @jax.vmap
    def run(key):
        state, _ = train(learner, key, lambda step: minibatch(key, train_set, step, batch_size=size), num_updates)
        return learner.evaluate(key, state)["accuracy"]

    accuracies = run(jax.random.split(KEY, 5))
    assert accuracies.shape == (5,)
    assert np.mean(accuracies) >= 0.985


# Inputs


@pytest.mark.parametrize("model", ["mlp", "convnet"])
def test_bytes_are_divided_by_255_and_other_integers_are_not(model):
    images = jnp.array([[[0, 51], [255, 102]]], jnp.uint8)
    shape = (1, 4) if model == "mlp" else (1, 2, 2, 1)
    expected = np.array([0.0, 0.2, 1.0, 0.4]).reshape(shape)
    found = classifier.prepare(change(model=model), images)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(classifier.prepare(change(model=model), images.astype(int)), 255 * expected)
    np.testing.assert_array_equal(classifier.prepare(change(model=model), images / 4), 255 / 4 * expected)


def test_a_convnet_takes_images_with_and_without_channels_and_nothing_else():
    config = change(model="convnet")
    assert classifier.prepare(config, jnp.zeros((2, 5, 4))).shape == (2, 5, 4, 1)
    assert classifier.prepare(config, jnp.zeros((2, 5, 4, 3))).shape == (2, 5, 4, 3)
    for shape in ((2, 5), (2, 5, 4, 3, 1)):
        with pytest.raises(ValueError, match=r"a convnet takes images \[n, height, width \(, channels\)\]"):
            classifier.prepare(config, jnp.zeros(shape))


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_shifted_images_are_all_the_shifts_of_a_padded_one(channels):
    image = np.arange(1, 7, dtype=np.uint8).reshape(2, 3, *[1] * len(channels)) * np.ones(channels, np.uint8)
    padded = np.zeros((4, 5, *channels), np.uint8)
    padded[1:3, 1:4] = image
    allowed = [padded[i : i + 2, j : j + 3].tobytes() for i in range(3) for j in range(3)]
    shifted = jax.jit(classifier.shifted, static_argnums=2)
    found = np.asarray(shifted(KEY, np.broadcast_to(image, (900, *image.shape)), 1))
    assert (found.shape, found.dtype) == ((900, 2, 3, *channels), np.uint8)
    counts = [sum(each.tobytes() == one for each in found) for one in allowed]
    assert sum(counts) == 900  # there are no others
    # each of the nine about as often: five standard deviations of 900 draws, √(900 · 1/9 · 8/9) = 9.4
    assert np.max(np.abs(np.array(counts) - 100)) < 48


def test_a_shift_of_0_moves_nothing():
    np.testing.assert_array_equal(jax.jit(classifier.shifted, static_argnums=2)(KEY, IMAGES.inputs, 0), IMAGES.inputs)


def test_evaluation_does_not_shift():
    plain, shifting = make("images"), make("images", max_shift=2)
    assert_equal(plain.evaluate(KEY, plain.init(KEY)), shifting.evaluate(KEY, shifting.init(KEY)))


# Mistakes


def test_classes_are_counted_where_they_are_not_given():
    for labels, expected in (([0, 4], 5), ([6, 1], 7)):
        test = Examples(jnp.zeros((2, 4)), jnp.array(labels))
        state = jax.eval_shape(classifier.make(SMALL, TRAIN, test).init, KEY)
        assert state.params["Linear_1"]["bias"].shape == (expected,)
    state = jax.eval_shape(classifier.make(SMALL, TRAIN, TEST, num_classes=9).init, KEY)
    assert state.params["Linear_1"]["bias"].shape == (9,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "mpl"}, "model 'mpl' is unknown; use 'mlp' or 'convnet'"),
        ({"activation": "gelu"}, "activation 'gelu' is unknown; use one of relu, leaky_relu, tanh, sigmoid"),
        ({"normalization": "group"}, "normalization 'group' is unknown; use 'none', 'batch' or 'layer'"),
        ({"loss": "hinge"}, "loss 'hinge' is unknown; use 'cross_entropy' or 'focal'"),
        ({"schedule": "step"}, "schedule 'step' is unknown"),
        ({"batch_size": 0}, "batch_size is 0; it must be from 1 to 12"),
        ({"batch_size": 13}, "batch_size is 13; it must be from 1 to 12"),
        ({"max_shift": 1}, "max_shift is 1; it must be 0 for vectors"),
        ({"max_shift": -1}, "max_shift is -1; it must be 0 for vectors"),
        ({"dropout_rate": 1.5}, "dropout_rate is 1.5; it must be from 0 to 1"),
        ({"hidden_sizes": (0,)}, "positive widths"),
        ({"model": "convnet"}, "a convnet takes images"),
        ({"num_calibration_bins": 0}, "num_bins must be at least 1, got 0"),
    ],
)
def test_mistakes_are_refused(changes, message):
    def go(key):
        learner = classifier.make(change(**changes), TRAIN, TEST)
        state, metrics = learner.update(learner.init(key), BATCH)
        return metrics, learner.evaluate(key, state)

    with pytest.raises(ValueError, match=message):
        jax.eval_shape(go, KEY)


def test_images_too_small_for_the_blocks_are_refused():
    with pytest.raises(ValueError, match="3 blocks are too many"):
        make("images", model="convnet", channels=(2, 2, 2)).init(KEY)


@pytest.mark.parametrize(("name", "value"), [("label_smoothing", 2.0), ("learning_rate", -1.0), ("dropout_rate", 1.5)])
def test_a_number_out_of_its_range_is_named(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be"):
        make(**{name: value})
