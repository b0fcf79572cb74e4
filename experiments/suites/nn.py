"""Activations and normalizations beside jax.nn, flax and PyTorch, and the training step of an MLP.

Normalizations have a second peer, flax with the two-pass variance that ours has; by default it takes E[x²] − E[x]²,
which is faster and loses 1 + μ²/σ² units of the last place.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from experiments.benchmarking import work
from experiments.peers import pytorch
from experiments.suites.base import Case, Contestant
from experiments.suites.formulas import Formula, cases_of
from experiments.suites.options import Options
from mathai.learners import classifier
from mathai.learners.base import train
from mathai.learners.batches import Examples
from mathai.nn import activations, regularization

CLASSES = (10, 1024)
TRAINING_STEPS = 50
ELEMENTWISE = {  # operations per element, and PyTorch's name
    "sigmoid": (3, "sigmoid"),
    "tanh": (5, "tanh"),
    "relu": (1, "relu"),
    "leaky_relu": (2, "leaky_relu"),
    "softplus": (3, "softplus"),
    "log_sigmoid": (4, "logsigmoid"),
}


def cases(options: Options) -> Iterator[Case]:
    """Every formula forward, and forward with its gradient, on so many elements; then training."""
    yield from cases_of(_formulas, options)
    if options.dtype == "float32":
        yield _training(options.with_peers)


def _formulas(num_elements: int, dtype: str) -> Iterator[Formula]:
    keys = iter(jax.random.split(jax.random.key(0), 16))
    x, cotangent = (jax.random.normal(next(keys), (num_elements,), dtype) for _ in range(2))
    x = 3 * x
    for name, (operations, theirs) in ELEMENTWISE.items():
        peers = {"jax.nn": getattr(jax.nn, name)}
        yield Formula(name, getattr(activations, name), peers, (x,), cotangent, operations, _torch(theirs))
    for num_classes in CLASSES:
        shape = num_elements // num_classes, num_classes
        size = shape[0] * shape[1]
        yield from _of_rows(x[:size].reshape(shape), cotangent[:size].reshape(shape))


def _of_rows(z: jax.Array, cotangent: jax.Array) -> Iterator[Formula]:
    num_classes = z.shape[1]
    scale, offset = jnp.ones(num_classes, z.dtype), jnp.zeros(num_classes, z.dtype)
    for name, ours, peers, arguments, operations, theirs in (
        ("softmax", activations.softmax, {"jax.nn": jax.nn.softmax}, (z,), 5, _torch("softmax", dim=-1)),
        (
            "log_softmax",
            activations.log_softmax,
            {"jax.nn": jax.nn.log_softmax},
            (z,),
            5,
            _torch("log_softmax", dim=-1),
        ),
        (
            "layer_norm",
            regularization.layer_norm,
            {"flax": _flax_layer_norm(True), "flax, two-pass": _flax_layer_norm(False)},
            (z, scale, offset),
            8,
            _torch_layer_norm,
        ),
        (
            "batch_norm",
            lambda x, scale, offset: regularization.batch_norm(x, scale, offset, axes=0)[0],
            {"flax": _flax_batch_norm(True), "flax, two-pass": _flax_batch_norm(False)},
            (z, scale, offset),
            8,
            _torch_batch_norm,
        ),
    ):
        yield Formula(f"{name} ({num_classes})", ours, peers, arguments, cotangent, operations, theirs)


def _torch(name: str, **keywords: Any) -> Callable[..., Any]:
    def call(*tensors):
        import torch

        return getattr(torch.nn.functional, name)(*tensors, **keywords)

    return call


def _torch_layer_norm(x: Any, scale: Any, offset: Any) -> Any:
    import torch

    return torch.nn.functional.layer_norm(x, x.shape[-1:], scale, offset, eps=1e-5)


def _torch_batch_norm(x: Any, scale: Any, offset: Any) -> Any:
    import torch

    return torch.nn.functional.batch_norm(x, None, None, scale, offset, training=True, eps=1e-5)


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


def _training(with_peers: bool) -> Case:
    """Steps of an MLP of 784, 512, 512 and 10 units on batches of 128, beside flax's layers and optax's loss."""
    batch = Examples(jax.random.normal(jax.random.key(1), (128, 784)), jnp.arange(128) % 10)
    learner = classifier.make(
        classifier.Config(hidden_sizes=(512, 512), schedule="constant"), batch, batch, num_classes=10
    )

    def ours(key):
        return train(learner, key, lambda step: batch, TRAINING_STEPS)[1]["loss"]

    contestants = [Contestant("mathai", ours, _has_learned)]
    if with_peers:
        contestants.append(Contestant("flax, optax", functools.partial(_train_flax, batch), _has_learned))
        if pytorch.is_here():
            program = functools.partial(_train_torch, functools.cache(lambda: [*map(pytorch.as_tensor, batch)]))
            contestants.append(Contestant(pytorch.NAME, program, _has_learned, compiles=False))
    flops = work.products(ours, jax.random.key(0))
    return Case("mlp training", contestants, TRAINING_STEPS, "steps", 1.0, flops=flops)


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


def _train_torch(tensors: Callable[[], list[Any]], key: jax.Array) -> Any:
    """The same network under Adam, fused where PyTorch offers it."""
    import torch

    inputs, labels = tensors()
    torch.manual_seed(int(key[-1]))
    layers = [torch.nn.Linear(a, b) for a, b in ((784, 512), (512, 512), (512, 10))]
    model = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2]).to(inputs.device)
    optimizer, history = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True), []
    for _ in range(TRAINING_STEPS):
        loss = torch.nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.detach())
    return torch.stack(history).cpu()


def _has_learned(loss: Any) -> float:
    return float(loss[-1] < 0.1 * loss[0])
