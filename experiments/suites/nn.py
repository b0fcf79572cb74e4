"""Formulas of `mathai.nn` with their gradients beside jax.nn, optax and flax, and the training step of an MLP.

The score counts right digits: −log₁₀ of the largest error, relative to the largest entry of the result, against the
peer in float64. Normalizations have a second peer, flax with the two-pass variance that ours has; by default it takes
E[x²] − E[x]², which is faster and loses 1 + μ²/σ² ulp.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.suites.base import Case, Contestant
from mathai.learners import classifier
from mathai.learners.batches import Examples
from mathai.nn import activations, losses, regularization

CLASSES = (10, 1024)
LEAST_DIGITS = 5.0
TRAINING_STEPS = 50


def cases(*, with_peers: bool, num_elements: int) -> Iterator[Case]:
    """Every formula forward, and forward with its gradient, on so many elements; then training."""
    for case in _formulas(num_elements):
        yield case if with_peers else case._replace(contestants=case.contestants[:1])
    yield _training(with_peers)


def _formulas(num_elements: int) -> Iterator[Case]:
    keys = iter(jax.random.split(jax.random.key(0), 16))
    x, cotangent = (jax.random.normal(next(keys), (num_elements,)) for _ in range(2))
    x, labels = 3 * x, (cotangent > 0).astype(x.dtype)
    for name in ("sigmoid", "tanh", "relu", "leaky_relu", "softplus", "log_sigmoid"):
        peer = getattr(jax.nn, name)
        yield from _pair(name, getattr(activations, name), {"jax.nn": peer}, (x,), cotangent)
    for name, ours, peer, arguments in (
        ("binary_cross_entropy", losses.binary_cross_entropy, optax.sigmoid_binary_cross_entropy, (x, labels)),
        ("sigmoid_focal", losses.sigmoid_focal, optax.sigmoid_focal_loss, (x, labels)),
        ("huber", losses.huber, optax.huber_loss, (x, cotangent)),
        ("squared_error", losses.squared_error, optax.squared_error, (x, cotangent)),
    ):
        yield from _pair(name, ours, {"optax": peer}, arguments, jnp.ones_like(x))
    for num_classes in CLASSES:
        rows = num_elements // num_classes
        yield from _of_rows(x[: rows * num_classes].reshape(rows, -1), cotangent[: rows * num_classes], next(keys))


def _of_rows(z: jax.Array, cotangent: jax.Array, key: jax.Array) -> Iterator[Case]:
    num_rows, num_classes = z.shape
    cotangent, of_row = cotangent.reshape(z.shape), jnp.ones(num_rows)
    classes = jax.random.randint(key, (num_rows,), 0, num_classes)
    smooth = 0.9 * jax.nn.one_hot(classes, num_classes) + 0.1 / num_classes
    scale, offset = jnp.ones(num_classes), jnp.zeros(num_classes)
    integer_labels = losses.categorical_cross_entropy_with_integer_labels
    for name, ours, peers, arguments, weight in (
        ("softmax", activations.softmax, {"jax.nn": jax.nn.softmax}, (z,), cotangent),
        ("log_softmax", activations.log_softmax, {"jax.nn": jax.nn.log_softmax}, (z,), cotangent),
        (
            "cross_entropy",
            losses.categorical_cross_entropy,
            {"optax": optax.softmax_cross_entropy},
            (z, smooth),
            of_row,
        ),
        (
            "cross_entropy, integers",
            integer_labels,
            {"optax": optax.softmax_cross_entropy_with_integer_labels},
            (z, classes),
            of_row,
        ),
        (
            "layer_norm",
            regularization.layer_norm,
            {"flax": _flax_layer_norm(True), "flax, two-pass": _flax_layer_norm(False)},
            (z, scale, offset),
            cotangent,
        ),
        (
            "batch_norm",
            lambda x, scale, offset: regularization.batch_norm(x, scale, offset, axes=0)[0],
            {"flax": _flax_batch_norm(True), "flax, two-pass": _flax_batch_norm(False)},
            (z, scale, offset),
            cotangent,
        ),
    ):
        yield from _pair(f"{name} ({num_classes})", ours, peers, arguments, weight)


def _flax_layer_norm(fast: bool) -> Callable[..., jax.Array]:
    module = nn.LayerNorm(epsilon=1e-5, use_fast_variance=fast)
    return lambda x, scale, offset: module.apply({"params": {"scale": scale, "bias": offset}}, x)


def _flax_batch_norm(fast: bool) -> Callable[..., jax.Array]:
    module = nn.BatchNorm(use_running_average=False, epsilon=1e-5, use_fast_variance=fast)

    def apply(x, scale, offset):
        statistics = {"mean": jnp.zeros_like(scale), "var": jnp.ones_like(scale)}
        variables = {"params": {"scale": scale, "bias": offset}, "batch_stats": statistics}
        return module.apply(variables, x, mutable=["batch_stats"])[0]

    return apply


def _pair(
    name: str,
    ours: Callable[..., jax.Array],
    peers: dict[str, Callable[..., jax.Array]],
    arguments: tuple[Any, ...],
    cotangent: jax.Array,
) -> list[Case]:
    """The formula, and its value with the gradient in the first argument."""

    def with_gradient(f):
        def value_and_gradient(first, *rest):
            *others, cotangent = rest
            value, pull_back = jax.vjp(lambda first: f(first, *others), first)
            return value, pull_back(cotangent)[0]

        return value_and_gradient

    def case(suffix, transform, arguments):
        reference = transform(list(peers.values())[-1])  # the last peer is the more accurate one
        exact = functools.cache(lambda: _in_float64(reference, arguments))

        def score(result):
            return _right_digits(exact(), result)

        contestants = [Contestant("mathai", transform(ours), score)]
        contestants += [Contestant(peer, transform(f), score) for peer, f in peers.items()]
        return Case(name + suffix, contestants, arguments[0].size, "elements", LEAST_DIGITS, arguments)

    return [case("", lambda f: f, arguments), case(", gradient", with_gradient, (*arguments, cotangent))]


def _in_float64(program: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    with jax.enable_x64(True):
        wide = [a.astype(jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a for a in arguments]
        return jax.tree.map(np.asarray, jax.jit(program)(*wide))


def _right_digits(exact: Any, result: Any) -> float:
    def digits(a, b):
        return -np.log10(np.max(np.abs(a - np.asarray(b, np.float64))) / np.max(np.abs(a)) + 1e-16)

    return float(min(jax.tree.leaves(jax.tree.map(digits, exact, result))))


def _training(with_peers: bool) -> Case:
    """Steps of an MLP of 784, 512, 512 and 10 units on batches of 128, beside flax's layers and optax's loss."""
    batch = Examples(jax.random.normal(jax.random.key(1), (128, 784)), jnp.arange(128) % 10)
    learner = classifier.make(
        classifier.Config(hidden_sizes=(512, 512), schedule="constant"), batch, batch, num_classes=10
    )

    def ours(key):
        return jax.lax.scan(lambda s, _: learner.update(s, batch), learner.init(key), length=TRAINING_STEPS)[1]["loss"]

    contestants = [Contestant("mathai", ours, _has_learned)]
    if with_peers:
        contestants.append(Contestant("flax, optax", functools.partial(_train_flax, batch), _has_learned))
    return Case("mlp training", contestants, TRAINING_STEPS, "steps", 1.0)


def _train_flax(batch: Examples, key: jax.Array) -> jax.Array:
    model = nn.Sequential([nn.Dense(512), nn.relu, nn.Dense(512), nn.relu, nn.Dense(10)])
    optimizer = optax.adam(1e-3)
    params = model.init(key, batch.inputs)

    def loss_of(params):
        logits = model.apply(params, batch.inputs)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()
        return loss, jnp.mean(jnp.argmax(logits, -1) == batch.labels)

    def update(carry, _):
        params, state = carry
        (loss, accuracy), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
        steps, state = optimizer.update(gradient, state, params)
        metrics = {"loss": loss, "accuracy": accuracy, "gradient_norm": optax.tree.norm(gradient)}
        return (optax.apply_updates(params, steps), state), metrics

    return jax.lax.scan(update, (params, optimizer.init(params)), length=TRAINING_STEPS)[1]["loss"]


def _has_learned(loss: jax.Array) -> float:
    return float(loss[-1] < 0.1 * loss[0])
