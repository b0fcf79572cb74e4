"""Losses of regression and classification beside optax and PyTorch, one value per example."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.suites.base import Case
from experiments.suites.formulas import Formula, cases_of
from experiments.suites.options import Options
from mathai.nn import losses

CLASSES = (10, 1024)


def cases(options: Options) -> Iterator[Case]:
    """Every loss forward, and forward with its gradient, on so many elements."""
    return cases_of(_formulas, options)


def _formulas(num_elements: int, dtype: str) -> Iterator[Formula]:
    keys = iter(jax.random.split(jax.random.key(0), 8))
    x, y = (jax.random.normal(next(keys), (num_elements,), dtype) for _ in range(2))
    x, labels = 3 * x, (y > 0).astype(dtype)
    for name, ours, peer, arguments, operations, theirs in (
        (
            "binary_cross_entropy",
            losses.binary_cross_entropy,
            optax.sigmoid_binary_cross_entropy,
            (x, labels),
            8,
            _torch("binary_cross_entropy_with_logits"),
        ),
        ("sigmoid_focal", losses.sigmoid_focal, optax.sigmoid_focal_loss, (x, labels), 16, None),
        ("huber", losses.huber, optax.huber_loss, (x, y), 6, _torch("huber_loss")),
        ("squared_error", losses.squared_error, optax.squared_error, (x, y), 2, _torch("mse_loss")),
    ):
        yield Formula(name, ours, {"optax": peer}, arguments, jnp.ones_like(x), operations, theirs)
    for num_classes in CLASSES:
        shape = num_elements // num_classes, num_classes
        yield from _of_rows(x[: shape[0] * shape[1]].reshape(shape), next(keys))


def _of_rows(z: jax.Array, key: jax.Array) -> Iterator[Formula]:
    num_rows, num_classes = z.shape
    classes = jax.random.randint(key, (num_rows,), 0, num_classes)
    smooth = (0.9 * jax.nn.one_hot(classes, num_classes) + 0.1 / num_classes).astype(z.dtype)
    integers = losses.categorical_cross_entropy_with_integer_labels
    for name, ours, peer, labels in (
        ("cross_entropy", losses.categorical_cross_entropy, optax.softmax_cross_entropy, smooth),
        ("cross_entropy, integers", integers, optax.softmax_cross_entropy_with_integer_labels, classes),
    ):
        yield Formula(
            f"{name} ({num_classes})",
            ours,
            {"optax": peer},
            (z, labels),
            jnp.ones(num_rows, z.dtype),
            7 if labels is smooth else 5,
            _torch("cross_entropy"),
        )


def _torch(name: str) -> Callable[..., Any]:
    def call(*tensors):
        import torch

        return getattr(torch.nn.functional, name)(*tensors, reduction="none")

    return call
