"""Features under a support vector machine against libsvm on the same features, central differences and edges."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.svm import SVC

from mathai.learners import svm_head
from mathai.learners.base import train
from mathai.learners.batches import Examples, minibatch

CONFIG = svm_head.Config(hidden_sizes=(8,), num_features=4, batch_size=24, num_epochs=1, tolerance=1e-5, C=2.0)
NUM_CLASSES, NUM_INPUTS = 3, 5
UPDATE_METRICS = {"loss", "accuracy", "gradient_norm", "converged", "examples"}
EVALUATION_METRICS = {"accuracy", "cross_entropy", "svm_accuracy", "converged"}


def examples(seed, num=24):
    """Three overlapping clouds."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num, dtype=np.int32) % NUM_CLASSES
    inputs = rng.normal(size=(num, NUM_INPUTS)) + 1.5 * np.eye(NUM_CLASSES, NUM_INPUTS)[labels]
    return Examples(inputs.astype(np.float32), labels)


def make(config=CONFIG, **changes):
    config = dataclasses.replace(config, **changes)
    return svm_head.make(config, examples(0), examples(1), num_classes=NUM_CLASSES)


def features_of(params, inputs):
    """The network by hand, in float64."""
    body = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["body"])
    hidden = np.maximum(0, inputs @ body["Linear_0"]["weight"].T + body["Linear_0"]["bias"])
    return hidden @ body["Linear_1"]["weight"].T + body["Linear_1"]["bias"]


def libsvm_decisions(support, labels, queries):
    machines = [SVC(kernel="linear", C=CONFIG.C, tol=1e-9).fit(support, labels == c) for c in range(NUM_CLASSES)]
    return np.stack([machine.decision_function(queries) for machine in machines], 1)


def cross_entropy(logits, labels):
    return np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels])


@functools.cache
def updated(head):
    learner = make(head=head)
    state = learner.init(jax.random.key(0))
    return state, *jax.jit(learner.update)(state, examples(0))


def test_the_loss_is_that_of_libsvm_on_the_half_that_it_did_not_see():
    state, after, metrics = updated("svm")
    batch = examples(0)
    features = features_of(state.params, batch.inputs)
    decision = libsvm_decisions(features[:12], batch.labels[:12], features[12:])
    np.testing.assert_allclose(metrics["loss"], cross_entropy(decision, batch.labels[12:]), rtol=1e-3)
    assert metrics["accuracy"] == pytest.approx(np.mean(decision.argmax(1) == batch.labels[12:]))
    assert (metrics["converged"], metrics["examples"], after.num_examples) == (1, 24, 24)


def test_a_softmax_is_a_linear_layer_and_the_cross_entropy():
    state, _, metrics = updated("softmax")
    batch = examples(0)
    linear = jax.tree.map(np.asarray, state.params["linear"])
    logits = features_of(state.params, batch.inputs) @ linear["weight"].T + linear["bias"]
    np.testing.assert_allclose(metrics["loss"], cross_entropy(logits, batch.labels), rtol=1e-5)
    assert metrics["accuracy"] == pytest.approx(np.mean(logits.argmax(1) == batch.labels))
    assert metrics["converged"] == 1


@pytest.mark.parametrize("head", svm_head.HEADS)
def test_evaluation_fits_machines_to_the_training_examples(head):
    num_support = 18
    learner = make(head=head, num_support=num_support)
    state = learner.init(jax.random.key(3))
    fit_to, test = examples(0), examples(1, 60)
    found = jax.jit(learner.evaluate)(jax.random.key(0), state, (fit_to, test))
    features = features_of(state.params, fit_to.inputs[:num_support])
    decision = libsvm_decisions(features, fit_to.labels[:num_support], features_of(state.params, test.inputs))
    assert found["svm_accuracy"] == pytest.approx(np.mean(decision.argmax(1) == test.labels))
    if head == "svm":
        assert found["accuracy"] == found["svm_accuracy"]
        np.testing.assert_allclose(found["cross_entropy"], cross_entropy(decision, test.labels), rtol=1e-3)
    config = dataclasses.replace(CONFIG, head=head, num_support=num_support)
    logits = svm_head.predict(config, NUM_CLASSES, state, fit_to, test.inputs)
    assert found["accuracy"] == pytest.approx(np.mean(np.argmax(logits, 1) == test.labels))


def test_the_gradient_goes_through_the_solution():
    """Central differences of the loss in every parameter, in float64, where no α is about to reach a bound."""
    with jax.enable_x64(True):
        learner = make(tolerance=1e-11, hidden_sizes=(3,), num_features=2)
        batch = Examples(jnp.asarray(examples(0).inputs, jnp.float64), jnp.asarray(examples(0).labels))
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), learner.init(jax.random.key(1)).params)
        flat, unflatten = jax.flatten_util.ravel_pytree(params)
        state = learner.init(jax.random.key(1))

        def loss(flat):
            return learner.update(state._replace(params=unflatten(flat)), batch)[1]["loss"]

        slope = jax.jit(jax.grad(loss))(flat)
        step = 1e-6
        evaluate = jax.jit(lambda points: jax.lax.map(loss, points))
        rises = [evaluate(flat[None] + sign * step * jnp.eye(flat.size)) for sign in (1, -1)]
        np.testing.assert_allclose(slope, (rises[0] - rises[1]) / (2 * step), atol=1e-5)
        assert float(jnp.abs(slope).min()) < 1e-3 < 0.05 < float(jnp.abs(slope).max())


@pytest.mark.parametrize("labels", [[0, 1] * 6, [2] * 12], ids=["one_is_absent", "one_is_alone"])
def test_a_class_that_supports_nothing_is_decided_by_its_absence(labels):
    batch = examples(0)._replace(labels=np.array([*labels, *([0, 1, 2] * 4)], np.int32))
    state, _, _ = updated("svm")
    learner = make()
    after, metrics = jax.jit(learner.update)(state, batch)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(after.params))
    if labels[0] == 2:
        # 2 is decided +1 and the others −1 whatever the features are
        expected = np.mean([np.log(np.exp(1) + 2 * np.exp(-1)) - d for d in (-1, -1, 1)])
        np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
        assert metrics["accuracy"] == pytest.approx(1 / 3)


def test_features_are_learned_that_separate_the_classes():
    """The classes of a circle's thirds: no machine with a linear kernel tells the inputs apart."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(400, 2)).astype(np.float32)
    angle = np.arctan2(inputs[:, 1], inputs[:, 0]) * 3 / np.pi + 3
    data = Examples(jnp.asarray(inputs), jnp.asarray((np.floor(angle) % 3).astype(np.int32)))  # each class twice
    fit_to, test = (jax.tree.map(lambda leaf, part=part: leaf[part], data) for part in (slice(200), slice(200, None)))
    config = dataclasses.replace(CONFIG, hidden_sizes=(24,), num_features=2, batch_size=60, learning_rate=0.03)
    config = dataclasses.replace(config, num_epochs=80, num_support=200, tolerance=1e-3)
    learner = svm_head.make(config, fit_to, test, num_classes=3)

    @jax.jit
    def learn(fit_to, test):
        def accuracy(state):
            return learner.evaluate(jax.random.key(0), state, (fit_to, test))["accuracy"]

        draw = lambda step: minibatch(jax.random.key(1), fit_to, step, batch_size=60)  # noqa: E731
        state, _ = train(learner, jax.random.key(0), draw, 240)
        return accuracy(learner.init(jax.random.key(0))), accuracy(state)

    before, after = learn(fit_to, test)
    linear = SVC(kernel="linear").fit(fit_to.inputs, fit_to.labels).score(test.inputs, test.labels)
    assert max(linear, before) < 0.75
    assert after > 0.9


@pytest.mark.parametrize("head", svm_head.HEADS)
def test_metrics_are_finite_scalars_with_the_documented_names(head):
    state, _, metrics = updated(head)
    evaluation = jax.eval_shape(make(head=head).evaluate, jax.random.key(0), state, (examples(0), examples(1)))
    assert set(metrics) == UPDATE_METRICS
    assert set(evaluation) == EVALUATION_METRICS
    assert all(value.shape == () and np.isfinite(value) for value in metrics.values())
    assert all(value.shape == () for value in evaluation.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "tree"}, "head 'tree' is unknown; use one of svm, softmax"),
        ({"num_features": 0}, "num_features is 0"),
        ({"num_support": 0}, "num_support is 0"),
        ({"batch_size": 25}, "batch_size is 25; it must be from 1 to 24"),
        ({"batch_size": 3}, "a half of it must hold two examples or more"),
        ({"C": -1.0}, "C is -1.0"),
        ({"tolerance": -1.0}, "tolerance is -1.0"),
    ],
)
def test_a_number_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="num_classes is 1; there must be at least 2"):
        svm_head.make(CONFIG, examples(0), examples(1), num_classes=1)
