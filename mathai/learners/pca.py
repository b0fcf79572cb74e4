"""Principal components of a stream: one update takes in one batch.

For data that do not fit in memory, or that arrive over time. A matrix is one call of `mathai.reduction.pca.fit`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from mathai.learners.base import DATA_AXIS, Learner, PRNGKey, check_positive, hyperparameters
from mathai.learners.batches import as_vectors, inputs_of
from mathai.reduction import pca

_fit_from_moments = jax.jit(pca.fit_from_moments, static_argnames="num_components")  # that accepts too few rows


@hyperparameters
class Config:
    """Hyperparameters, all static.

    Attributes:
      num_components: k, from 1 to the number of features.
      batch_size: examples in an update; choose a divisor of their number, as `batches.minibatch` leaves the rest out.
    """

    num_components: int = 10
    batch_size: int = 1000


class State(NamedTuple):
    """Everything that changes.

    Attributes:
      key: of no use yet; nothing here is random.
      moments: of all examples so far.
    """

    key: PRNGKey
    moments: pca.Moments


def make(config: Config, num_features: int, *, mesh: Mesh | None = None, axis: str = DATA_AXIS) -> Learner[State]:
    """Principal component analysis as a learner: one update merges the moments of one batch, exactly.

        n ← n + m,   μ ← μ + (m / n)(x̄ − μ),   S ← S + S_batch + (n − m)(m / n)(x̄ − μ)(x̄ − μ)ᵀ

    After one pass the components are those of all data together, whatever the order and the size of the batches. One
    pass is all: an example that is given twice counts twice.

    Args:
      config: hyperparameters.
      num_features: d, of an example as a vector.
      mesh: devices that share the work, with axes of type Auto; None is one device.
      axis: of the mesh, over which the rows of a batch are spread.

    Returns:
      A learner whose batch is an array [m, ...] or `Examples`, whose labels it ignores; inputs are flattened to vectors
      and bytes divided by 255. Update metrics: `examples` so far, and their `total_variance`. Evaluation metrics:
      `explained_variance`, the sum over the components, and `explained_variance_ratio`, its share of the total; with a
      third argument, examples of any kind above, also `reconstruction_error`, their mean ‖x − x̂‖². Before there are 2
      examples, all variances are 0.

    Raises:
      ValueError: a number is out of its range.

    Source:
      Chan, Golub & LeVeque (1983), Algorithms for Computing the Sample Variance, eq. 2.1.
    """
    check_positive(config, "num_components", "batch_size")
    if config.num_components > num_features:
        raise ValueError(
            f"pca: num_components is {config.num_components}; "
            f"it must be at most {num_features}, the number of features."
        )

    def init(key):
        return State(key, pca.init_moments(num_features))

    def update(state: State, batch: Any):
        moments = pca.update_moments(state.moments, inputs_of(batch), mesh=mesh, axis=axis)
        degrees = jnp.maximum(moments.count - 1, 1).astype(moments.mean.dtype)
        metrics = {"examples": moments.count, "total_variance": jnp.trace(moments.scatter) / degrees}
        return State(state.key, moments), metrics

    def evaluate(key, state: State, data: Any = None):
        del key  # deterministic
        model = as_model(config, state)
        metrics = {
            "explained_variance": jnp.sum(model.explained_variance),
            "explained_variance_ratio": jnp.sum(model.explained_variance_ratio),
        }
        if data is not None:
            X = inputs_of(data).astype(model.mean.dtype)
            error = X - pca.inverse_transform(model, pca.transform(model, X))
            metrics["reconstruction_error"] = jnp.mean(jnp.sum(error * error, axis=1))
        return metrics

    return Learner(init, update, evaluate)


def as_model(config: Config, state: State) -> pca.PCA:
    """The components of the examples so far, as `mathai.reduction.pca.fit` gives them; of fewer than 2, no variance."""
    return _fit_from_moments(state.moments, num_components=config.num_components)


def projection(num_components: int, inputs: Any) -> Callable[[Any], Float[Array, "m features"]]:
    """What takes examples, new ones too, into the first components of these; 0 components: no more than vectors."""
    X = as_vectors(jnp.asarray(inputs))
    if not 0 < num_components < min(X.shape):
        return lambda examples: as_vectors(jnp.asarray(examples))
    model = pca.fit(X, num_components=num_components)
    return lambda examples: pca.transform(model, as_vectors(jnp.asarray(examples)))
