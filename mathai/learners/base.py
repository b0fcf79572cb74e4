"""The contract that every learner keeps, its optimizers, and the shortest way to run one."""

import dataclasses
import functools
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PyTree, UInt32

State = TypeVar("State")
Config = TypeVar("Config")
Batch = Any
Metrics = dict[str, Array]
PRNGKey = Key[Array, ""] | UInt32[Array, "..."]
Scalar = float | Float[Array, ""]
DATA_AXIS = "data"  # of a mesh: devices that share the rows of a batch
Schedule = Callable[[Int[Array, ""]], Float[Array, ""]]


class Learner(NamedTuple, Generic[State]):
    """Three pure functions: what every algorithm that improves something step by step is.

    Attributes:
      init: key → State. Everything that changes lives in the state, the PRNG key included.
      update: (State, Batch) → (State, Metrics). One step; `Batch` is None where the state makes its own data.
      evaluate: (key, State) → Metrics. A score with keys of its own; it never changes the state.

    All three trace under `jit` and batch under `vmap`. `Metrics` is a flat dict of scalars: floats are
    measurements of this step, integers count since the start.
    """

    init: Callable[[PRNGKey], State]
    update: Callable[..., tuple[State, Metrics]]
    evaluate: Callable[[PRNGKey, State], Metrics]


def hyperparameters(cls: type[Config]) -> type[Config]:
    """Make a class of hyperparameters a frozen dataclass whose floats are pytree leaves and whose rest is static.

    Because floats are leaves, a learning rate can be a traced value: `vmap` over sixteen of them compiles once.
    Shapes and choices (integers, booleans, strings, tuples) are part of the tree's structure.

    >>> @hyperparameters
    ... class Config:
    ...     learning_rate: float = 1e-3
    ...     hidden_sizes: tuple[int, ...] = (64, 64)
    >>> jax.tree.leaves(Config())
    [0.001]
    """
    frozen = dataclasses.dataclass(frozen=True)(cls)
    is_leaf = {field.name: field.type in (float, "float") for field in dataclasses.fields(frozen)}  # type: ignore[arg-type]
    return jax.tree_util.register_dataclass(
        frozen,
        data_fields=[name for name, leaf in is_leaf.items() if leaf],
        meta_fields=[name for name, leaf in is_leaf.items() if not leaf],
    )


def adam(
    learning_rate: Scalar,
    *,
    weight_decay: Scalar = 0.0,
    max_gradient_norm: Scalar | None = None,
    schedule: str | Schedule = "constant",
    num_steps: int | None = None,
    warmup_steps: int = 0,
    beta1: Scalar = 0.9,
    beta2: Scalar = 0.999,
    epsilon: Scalar = 1e-8,
    mask: PyTree | Callable[[PyTree], PyTree] | None = None,
    flatten: bool = False,
) -> optax.GradientTransformation:
    """Adam with global-norm clipping, decoupled weight decay and a schedule, in this order.

        g ← g · min(1, c / ‖g‖₂)
        m ← β₁m + (1 − β₁)g,   v ← β₂v + (1 − β₂)g²
        θ ← θ − η_t · (m̂ / (√v̂ + ε) + λθ),      m̂ = m / (1 − β₁ᵗ),  v̂ = v / (1 − β₂ᵗ)

    Every number may be a traced scalar. Schedules count gradient updates.

    Args:
      learning_rate: η, the rate that the schedule scales.
      weight_decay: λ, decoupled from the gradient (AdamW); 0 is plain Adam.
      max_gradient_norm: c, the largest global norm of the gradient; None and ∞ do not clip.
      schedule: "constant", "linear" or "cosine" (from η down to 0 at `num_steps`), or a function from the number
        of gradient updates made so far to a factor of η.
      num_steps: gradient updates in all; required by "linear" and "cosine".
      warmup_steps: gradient updates over which the rate first grows linearly from η / warmup_steps to η.
      beta1: β₁, decay of the mean of gradients.
      beta2: β₂, decay of the mean of squared gradients.
      epsilon: ε, added to the root.
      mask: the leaves to decay, as in `optax.add_decayed_weights`; None decays all.
      flatten: join all leaves into one vector first. The same numbers in far fewer operations where parameters are
        many and small; not with `mask`, nor with leaves of several dtypes.

    Raises:
      ValueError: an unknown schedule, a schedule without `num_steps`, `flatten` with `mask`, or
        `warmup_steps` with a function.

    Source:
      Kingma & Ba (2015), Adam, algorithm 1; Loshchilov & Hutter (2019), Decoupled Weight Decay Regularization,
      algorithm 2; Pascanu et al. (2013), On the difficulty of training recurrent neural networks, algorithm 1.

    >>> optimizer = adam(0.1, schedule="linear", num_steps=10)
    >>> state = optimizer.init(jnp.zeros(1))
    >>> update, state = optimizer.update(jnp.ones(1), state)
    >>> bool(jnp.allclose(update, -0.1))
    True
    """
    if flatten and mask is not None:
        raise ValueError("adam: flatten=True joins all parameters into one vector, on which mask cannot act.")
    factor = _schedule(schedule, num_steps, warmup_steps)
    clips = max_gradient_norm is not None and not is_known(max_gradient_norm, math.inf)
    steps = [optax.clip_by_global_norm(max_gradient_norm)] if clips else []
    steps.append(optax.scale_by_adam(b1=beta1, b2=beta2, eps=epsilon))
    if not (isinstance(weight_decay, numbers.Number) and weight_decay == 0):
        steps.append(optax.add_decayed_weights(weight_decay, mask))
    steps.append(optax.scale_by_learning_rate(lambda count: learning_rate * factor(count)))
    optimizer = optax.chain(*steps)
    return optax.flatten(optimizer) if flatten else optimizer


def moving_average(average: PyTree, params: PyTree, decay: Scalar) -> PyTree:
    """An exponential average, one step on: φ ← d φ + (1 − d) θ.

    >>> moving_average({"x": 1.0}, {"x": 3.0}, 0.75)
    {'x': 1.5}
    """
    return jax.tree.map(lambda old, new: old + (1 - decay) * (new - old), average, params)


def check_choices(config: Any, choices: Mapping[str, Iterable[str]]) -> None:
    """Raise a `ValueError` for a hyperparameter that is none of the names it may have."""
    for name, known in choices.items():
        if getattr(config, name) not in known:
            raise ValueError(f"{name} {getattr(config, name)!r} is unknown; use one of {', '.join(known)}.")


def check_positive(config: Any, *names: str) -> None:
    """Raise a `ValueError` for an integer hyperparameter below 1, or a tuple of integers with one below 1."""
    for name in names:
        value = getattr(config, name)
        if min(value, default=1) < 1 if isinstance(value, tuple) else value < 1:
            raise ValueError(
                f"{name} is {value}; {'every number' if isinstance(value, tuple) else 'it'} must be at least 1."
            )


def check_between(config: Any, low: float, high: float, *names: str) -> None:
    """Raise a `ValueError` for a hyperparameter that is known while tracing and lies outside [low, high]."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, jax.core.Tracer) and not low <= np.asarray(value) <= high:  # NumPy's is never traced
            raise ValueError(f"{name} is {value}; it must lie between {low} and {high}.")


def check_minibatches(learner: str, config: Any) -> None:
    """Raise a `ValueError` where the minibatches of a rollout would not be of one size."""
    rollout = config.num_envs * config.num_steps
    if rollout % config.num_minibatches:
        raise ValueError(
            f"{learner}: num_minibatches = {config.num_minibatches} does not divide the rollout of "
            f"num_envs * num_steps = {config.num_envs} * {config.num_steps} = {rollout} samples; "
            f"choose a divisor of {rollout}."
        )


def is_known(value: object, constant: float) -> bool:
    """Whether a hyperparameter is known while tracing and has this value.

    >>> is_known(0.0, 0), jax.jit(lambda x: is_known(x, 0))(0.0).item()
    (True, False)
    """
    return not isinstance(value, jax.core.Tracer) and bool(np.asarray(value) == constant)


def weights_only(params: PyTree) -> PyTree:
    """True for weights and kernels, which decay; biases, scales and offsets have one axis.

    >>> weights_only({"weight": jnp.zeros((2, 2)), "bias": jnp.zeros(2)})
    {'bias': False, 'weight': True}
    """
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _schedule(schedule: str | Schedule, num_steps: int | None, warmup_steps: int) -> Schedule:
    """The factor of the learning rate after `count` gradient updates."""
    shapes: dict[str, Schedule] = {
        "constant": lambda fraction: jnp.ones_like(fraction),
        "linear": lambda fraction: 1.0 - fraction,
        "cosine": lambda fraction: 0.5 * (1.0 + jnp.cos(jnp.pi * fraction)),
    }
    if callable(schedule):
        if warmup_steps:
            raise ValueError("adam: a schedule that is a function does its own warm-up; leave warmup_steps out.")
        return schedule
    if schedule not in shapes:
        raise ValueError(f"adam: schedule {schedule!r} is unknown; use a function or one of {', '.join(shapes)}.")
    if num_steps is None and schedule != "constant":
        raise ValueError(f"adam: schedule {schedule!r} needs num_steps, the number of gradient updates in all.")
    decay_steps = max((num_steps or 1) - warmup_steps, 1)

    def factor(count):
        warmup = jnp.minimum((count + 1) / max(warmup_steps, 1), 1.0)
        return warmup * shapes[schedule](jnp.clip((count - warmup_steps) / decay_steps, 0.0, 1.0))

    return factor


def train(
    learner: Learner[State],
    key: PRNGKey,
    batches: Callable[[Int[Array, ""]], Batch] | Iterable[Batch] | None,
    num_steps: int,
) -> tuple[State, Metrics]:
    """Initialize a learner and update it `num_steps` times.

    The shortest loop that there is: no files, no progress. Without batches, or with batches that are a function of
    the step, all steps are one compiled scan, and `train` itself may be under `jit` and `vmap`.

    Args:
      learner: what to train.
      key: the key of `learner.init`.
      batches: None where the learner makes its own data; a traceable function from the step 0, 1, … to its batch
        (`lambda step: data` gives the same at every step); or an iterable of at least `num_steps` batches.
      num_steps: the number of updates, at least 0.

    Returns:
      The last state, and the metrics of every step: each of shape [num_steps].

    Raises:
      TypeError: `batches` is a record or mapping of arrays: it would be iterated field by field.
      ValueError: `num_steps` is negative, or `batches` ends early.

    >>> from mathai.learners.base import Learner
    >>> counter = Learner(lambda key: jnp.int32(0), lambda n, batch=None: (n + 1, {"n": n}), lambda key, n: {})
    >>> state, metrics = train(counter, jax.random.key(0), None, 3)
    >>> int(state), metrics["n"].tolist()
    (3, [0, 1, 2])
    """
    if num_steps < 0:
        raise ValueError(f"train: num_steps is {num_steps}; it must be at least 0.")
    if batches is None:
        batches = lambda step: None  # noqa: E731
    if callable(batches):
        draw = batches
        scan = jax.jit(
            lambda state: jax.lax.scan(
                lambda state, step: learner.update(state, draw(step)), state, jnp.arange(num_steps)
            )
        )
        return scan(learner.init(key))
    return _train_on_iterable(learner, key, batches, num_steps)


def _train_on_iterable(learner, key, batches, num_steps):
    if isinstance(batches, dict) or hasattr(batches, "_fields"):
        raise TypeError(
            f"train: batches is one {type(batches).__name__}; give an iterable of batches, or a function of the step "
            "such as `lambda step: batch` to use the same batch at every step."
        )
    update = jax.jit(learner.update)
    state, history = jax.jit(learner.init)(key), []
    for _, batch in zip(range(num_steps), batches, strict=False):
        state, metrics = update(state, batch)
        history.append(metrics)
    if len(history) < num_steps:
        raise ValueError(f"train: batches ended after {len(history)} of {num_steps} steps.")
    return state, jax.tree.map(lambda *values: jnp.stack(values), *history) if history else {}


@functools.partial(jax.jit, static_argnums=(1, 2))
def permutations(key: PRNGKey, num: int, length: int) -> Int[Array, "num length"]:
    """Uniform permutations of 0 … length − 1, one in each row.

    Up to 4096 items, the random bits and the index share one word, so that one array is sorted instead of two: five
    times faster on a CPU. At least 20 random bits remain; items whose bits tie (fewer than one in 256) keep their
    order, which no use in shuffling minibatches can notice.

    >>> sorted(permutations(jax.random.key(0), 2, 5)[0].tolist())
    [0, 1, 2, 3, 4]
    """
    index_bits = max(length - 1, 0).bit_length()
    if index_bits > 12:
        return jax.vmap(lambda key: jax.random.permutation(key, length))(jax.random.split(key, num))
    low = jnp.uint32(2**index_bits - 1)
    words = (jax.random.bits(key, (num, length)) & ~low) | jnp.arange(length, dtype=jnp.uint32)[None]
    return (jax.lax.sort(words, dimension=1, is_stable=False) & low).astype(jnp.int32)


def over_data(tree: PyTree, axis: int = 0) -> PyTree:
    """Spread an axis of all arrays over the devices of the mesh in whose context a program is traced.

    For what a learner makes itself: whoever gives it a batch says where that lies. Without a mesh, without an axis
    `data` in it, or where the devices do not divide the arrays, nothing happens.

    >>> over_data(jnp.arange(2)).tolist()
    [0, 1]
    """
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    size = mesh.shape[DATA_AXIS] if kinds.get(DATA_AXIS) == jax.sharding.AxisType.Auto else 1

    def spread(x):
        if size == 1 or x.shape[axis] % size:
            return x
        spec = jax.sharding.PartitionSpec(*([None] * axis), DATA_AXIS)
        return jax.lax.with_sharding_constraint(x, jax.sharding.NamedSharding(mesh, spec))

    return jax.tree.map(spread, tree)


def shuffled_minibatches(key: PRNGKey, samples: PyTree, num_minibatches: int) -> PyTree:
    """All samples [n, ...] once, in random order, as [num_minibatches, n / num_minibatches, ...]."""
    (order,) = permutations(key, 1, len(jax.tree.leaves(samples)[0]))
    return over_data(jax.tree.map(lambda x: x[order].reshape((num_minibatches, -1) + x.shape[1:]), samples), axis=1)
