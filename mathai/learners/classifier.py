"""Classification of vectors and images: a model, a loss, Adam."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from mathai.learners.base import Learner, PRNGKey, adam, hyperparameters, is_known, weights_only
from mathai.learners.batches import Examples, as_floats, steps_per_epoch
from mathai.models.convnet import ConvNet
from mathai.models.mlp import MLP
from mathai.nn import _numerics, activations, losses, scores
from mathai.nn.regularization import weight_decay_penalty

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": activations.relu,
    "leaky_relu": activations.leaky_relu,
    "tanh": activations.tanh,
    "sigmoid": activations.sigmoid,
}
EVALUATION_BLOCK = 500


@hyperparameters
class Config:
    """Hyperparameters; floats may be traced, all else is static.

    Attributes:
      model: "mlp" or "convnet".
      hidden_sizes: widths of the hidden layers; of a convnet, of those after the blocks.
      channels: of a convnet's blocks.
      activation: "relu", "leaky_relu", "tanh" or "sigmoid".
      normalization: "none", "batch" or "layer".
      dropout_rate: of hidden activations.
      batch_size: examples in an update.
      num_epochs: passes over the training data.
      learning_rate: η of Adam.
      schedule: of η: "constant", "linear" or "cosine".
      warmup_epochs: epochs over which η first grows linearly.
      weight_decay: λ, decoupled: θ ← θ − ηλθ, beside Adam's step. Of weights alone, not of biases, scales and offsets.
      l2_penalty: λ of the chapter's penalty λ/2 Σ‖W‖² in the loss. Its gradient λW is rescaled by Adam like any other,
        so that weights with large gradients decay less: not the same as weight_decay.
      max_gradient_norm: largest global norm of a gradient; ∞ does not clip.
      loss: "cross_entropy" or "focal".
      focal_gamma: γ of the focal loss.
      label_smoothing: s: the label's class has probability 1 − s + s/C, every other s/C.
      max_shift: training images are shifted by up to so many pixels, each way and at random; 0 for vectors.
      num_calibration_bins: of the expected calibration error.
    """

    model: str = "mlp"
    hidden_sizes: tuple[int, ...] = (256, 256)
    channels: tuple[int, ...] = (32, 64)
    activation: str = "relu"
    normalization: str = "none"
    dropout_rate: float = 0.0
    batch_size: int = 128
    num_epochs: int = 10
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup_epochs: int = 0
    weight_decay: float = 0.0
    l2_penalty: float = 0.0
    max_gradient_norm: float = math.inf
    loss: str = "cross_entropy"
    focal_gamma: float = 2.0
    label_smoothing: float = 0.0
    max_shift: int = 0
    num_calibration_bins: int = 15


class State(NamedTuple):
    """Everything that changes.

    Attributes:
      key: of all randomness to come: dropout and shifts.
      params: of the model.
      statistics: running statistics of batch normalization, empty without.
      optimizer: Adam's moments and counts.
      num_examples: training examples seen.
    """

    key: PRNGKey
    params: PyTree
    statistics: PyTree
    optimizer: optax.OptState
    num_examples: Int[Array, ""]


def make(config: Config, train: Examples, test: Examples, *, num_classes: int | None = None) -> Learner[State]:
    """A classifier as a learner: one update is one gradient step on a minibatch of `Examples`.

        L(θ) = 1/B Σᵢ H(yᵢ, f_θ(xᵢ)) + λ/2 Σ‖W‖²,   y = (1 − s) onehot(c) + s/C

    `batches.minibatch` draws the batches. Inputs that are unsigned bytes are divided by 255.

    Args:
      config: hyperparameters.
      train: the training data, of which only shapes, dtypes and the largest label are used here.
      test: what `evaluate` scores, unless it is given other examples: `evaluate(key, state, examples)`.
      num_classes: C; None takes the largest label plus one.

    Returns:
      A learner whose batch is `Examples`. Update metrics: `loss` (all that is minimized), `accuracy`, `gradient_norm`,
      and `examples` seen. Evaluation metrics: `accuracy`, `loss` (the first term above, without dropout),
      `cross_entropy` (of the plain labels) and `expected_calibration_error`.

    Raises:
      ValueError: a name in the config is unknown, a number is out of its range, batch_size does not fit, max_shift is
        given for vectors, or a data set is empty and num_classes is None.

    Source:
      Bishop (2006), Pattern Recognition and Machine Learning, chapter 5; label smoothing: Szegedy et al. (2016),
      Rethinking the Inception Architecture for Computer Vision, section 7.
    """
    _check_ranges(config)
    if num_classes is None:
        if not (len(train.labels) and len(test.labels)):
            raise ValueError("there are no examples to train on or to be scored on: num_classes must be given.")
        # In NumPy, so that it is known also where `make` is called in a function that is traced.
        num_classes = int(max(np.asarray(examples.labels).max() for examples in (train, test))) + 1
    model = make_model(config, num_classes)
    updates_per_epoch = steps_per_epoch(len(train.labels), config.batch_size)
    loss_of = _make_loss(config, num_classes)
    _check_shift(config, train.inputs.ndim)
    optimizer = adam(
        config.learning_rate,
        weight_decay=config.weight_decay,
        max_gradient_norm=config.max_gradient_norm,
        schedule=config.schedule,
        num_steps=config.num_epochs * updates_per_epoch,
        warmup_steps=config.warmup_epochs * updates_per_epoch,
        mask=weights_only,
    )

    def init(key):
        key, params_key = jax.random.split(key)
        variables = model.init(params_key, prepare(config, jnp.zeros_like(train.inputs[:1])))
        params, statistics = variables["params"], variables.get("batch_stats", {})
        return State(key, params, statistics, optimizer.init(params), jnp.int32(0))

    def objective(params, statistics, key, inputs, labels):
        shift_key, dropout_key = jax.random.split(key)
        if config.max_shift:
            inputs = shifted(shift_key, inputs, config.max_shift)
        logits, changed = model.apply(
            {"params": params, "batch_stats": statistics},
            prepare(config, inputs),
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key},
        )
        loss = jnp.mean(loss_of(logits, labels))
        if not is_known(config.l2_penalty, 0):
            loss += weight_decay_penalty(_weights(params), config.l2_penalty)
        return loss, (changed.get("batch_stats", {}), scores.accuracy(logits, labels))

    def update(state, batch):
        key, update_key = jax.random.split(state.key)
        (loss, (statistics, accuracy)), gradient = jax.value_and_grad(objective, has_aux=True)(
            state.params, state.statistics, update_key, *batch
        )
        steps, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, steps)
        num_examples = state.num_examples + len(batch.labels)
        metrics = {
            "loss": loss,
            "accuracy": accuracy,
            "gradient_norm": optax.tree.norm(gradient),
            "examples": num_examples,
        }
        return State(key, params, statistics, optimizer_state, num_examples), metrics

    def evaluate(key, state, examples=test):
        del key  # deterministic
        logits = predict(config, num_classes, state, examples.inputs)
        cross_entropy = losses.categorical_cross_entropy_with_integer_labels(logits, examples.labels)
        return {
            "accuracy": scores.accuracy(logits, examples.labels),
            "loss": jnp.mean(loss_of(logits, examples.labels)),
            "cross_entropy": jnp.mean(cross_entropy),
            "expected_calibration_error": scores.expected_calibration_error(
                activations.softmax(logits), examples.labels, num_bins=config.num_calibration_bins
            ),
        }

    return Learner(init, update, evaluate)


def make_model(config: Config, num_classes: int) -> nn.Module:
    """The Flax model of a config.

    Raises:
      ValueError: a name in the config is unknown.
    """
    if config.activation not in ACTIVATIONS:
        raise ValueError(f"activation {config.activation!r} is unknown; use one of {', '.join(ACTIVATIONS)}.")
    shared: dict[str, Any] = {
        "sizes": (*config.hidden_sizes, num_classes),
        "activation": ACTIVATIONS[config.activation],
        "normalization": config.normalization,
        "dropout_rate": config.dropout_rate,
    }
    if config.model == "mlp":
        return MLP(**shared)
    if config.model == "convnet":
        return ConvNet(config.channels, **shared)
    raise ValueError(f"model {config.model!r} is unknown; use 'mlp' or 'convnet'.")


def predict(config: Config, num_classes: int, state: State, inputs: Float[Array, "n ..."]) -> Float[Array, "n classes"]:
    """Logits, in blocks, so that memory does not grow with n."""
    model = make_model(config, num_classes)
    variables = {"params": state.params, "batch_stats": state.statistics}

    def logits_of(example):
        return model.apply(variables, prepare(config, example[None]))[0]

    return jax.lax.map(logits_of, inputs, batch_size=EVALUATION_BLOCK)


def prepare(config: Config, inputs: Array) -> Float[Array, "n ..."]:
    """Inputs as the model takes them: floating, bytes divided by 255; vectors for an MLP, images with channels else."""
    inputs = as_floats(inputs)
    if config.model == "mlp":
        return inputs.reshape(len(inputs), -1)
    if inputs.ndim not in (3, 4):
        raise ValueError(f"a convnet takes images [n, height, width (, channels)], got inputs of shape {inputs.shape}.")
    return inputs if inputs.ndim == 4 else inputs[..., None]


def shifted(key: PRNGKey, images: Array, max_shift: int) -> Array:
    """Every image moved by its own whole number of pixels, at most `max_shift` each way; what comes in is 0.

    Args:
      key: PRNG key.
      images: [n, height, width, ...].
      max_shift: at least 0.

    >>> shifted(jax.random.key(1), jnp.ones((1, 2, 2)), 0).tolist()
    [[[1.0, 1.0], [1.0, 1.0]]]
    """
    offsets = jax.random.randint(key, (len(images), 2), 0, 2 * max_shift + 1)
    border = [(0, 0), (max_shift, max_shift), (max_shift, max_shift)] + [(0, 0)] * (images.ndim - 3)
    padded = jnp.pad(images, border)

    def cut(image, offset):
        start = (offset[0], offset[1], *([0] * (image.ndim - 2)))
        return jax.lax.dynamic_slice(image, start, images.shape[1:])

    return jax.vmap(cut)(padded, offsets)


def smoothed_labels(
    labels: Int[Array, "*batch"], num_classes: int, label_smoothing: float | Float[Array, ""]
) -> Float[Array, "*batch classes"]:
    """(1 − s) onehot(c) + s/C; NaN for a label outside [0, C).

    >>> smoothed_labels(jnp.array([1]), 2, 0.5)
    Array([[0.25, 0.75]], dtype=float32)
    """
    labels = _numerics.as_classes(labels)
    valid = (labels >= 0) & (labels < num_classes)
    smooth = (1 - label_smoothing) * jax.nn.one_hot(labels, num_classes) + label_smoothing / num_classes
    return jnp.where(valid[..., None], smooth, jnp.nan)


def _make_loss(config: Config, num_classes: int) -> Callable[[Array, Array], Array]:
    """(logits, integer labels) → one loss per example."""
    if config.loss == "cross_entropy":
        if is_known(config.label_smoothing, 0):
            return losses.categorical_cross_entropy_with_integer_labels
        loss = losses.categorical_cross_entropy
    elif config.loss == "focal":
        loss = functools.partial(losses.softmax_focal, gamma=config.focal_gamma)
    else:
        raise ValueError(f"loss {config.loss!r} is unknown; use 'cross_entropy' or 'focal'.")
    return lambda logits, labels: loss(logits, smoothed_labels(labels, num_classes, config.label_smoothing))


def _check_ranges(config: Config) -> None:
    for name, high in {
        "learning_rate": math.inf,
        "weight_decay": math.inf,
        "l2_penalty": math.inf,
        "max_gradient_norm": math.inf,
        "focal_gamma": math.inf,
        "label_smoothing": 1,
        "dropout_rate": 1,
    }.items():
        value = getattr(config, name)
        if not isinstance(value, jax.core.Tracer) and not np.all(
            (np.asarray(value) >= 0) & (np.asarray(value) <= high)
        ):
            raise ValueError(f"{name} is {value}; it must be " + ("from 0 to 1." if high == 1 else "at least 0."))


def _check_shift(config: Config, ndim: int) -> None:
    if config.max_shift < 0 or (config.max_shift and ndim < 3):
        raise ValueError(
            f"max_shift is {config.max_shift}; it must be 0 for vectors, and at least 0 for images, whose training "
            f"data are [n, height, width (, channels)] (here they have {ndim} axes)."
        )


def _weights(params: PyTree) -> list[Array]:
    return [leaf for leaf in jax.tree.leaves(params) if leaf.ndim > 1]
