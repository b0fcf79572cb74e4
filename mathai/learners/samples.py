"""Scores of samples beside the same scores of data: what a generative learner evaluates unless it is told otherwise."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from mathai.generative import scores
from mathai.learners.base import Metrics, PRNGKey
from mathai.learners.batches import as_vectors

NUM_PROJECTIONS = 256
MOST_IN_KERNEL = 2000  # points of which all pairs are looked at


def compare(
    key: PRNGKey, samples: Float[Array, "n features"], test: Shaped[Array, "n ..."], *, bandwidth: float = 1.0
) -> Metrics:
    """Distances of samples from data.

    Args:
      key: of the random lines.
      samples: as many as test has examples.
      test: data.
      bandwidth: of the kernel, in the units of the data.

    Returns:
      `sliced_wasserstein`, and `maximum_mean_discrepancy` of the first 2000.
    """
    test = as_vectors(test)
    some, others = samples[:MOST_IN_KERNEL], test[:MOST_IN_KERNEL]
    return {
        "sliced_wasserstein": scores.sliced_wasserstein(key, samples, test, num_projections=NUM_PROJECTIONS),
        "maximum_mean_discrepancy": scores.maximum_mean_discrepancy(some, others, bandwidth=bandwidth),
    }


def compare_with_floor(
    key: PRNGKey,
    samples: Float[Array, "n features"],
    test: tuple[Shaped[Array, "n ..."], Shaped[Array, "references n ..."]],
    *,
    bandwidth: float = 1.0,
) -> Metrics:
    """`compare` with several sets of data, and the same for one more set of data: the floor.

    Distances between finite samples of one law vary a lot; a mean over sets varies less.

    Args:
      key: of the random lines.
      samples: n of them.
      test: n data, and several sets of n others.
      bandwidth: as in `compare`.

    Returns:
      The metrics of `compare`, means over the several sets, and each with `_floor`: of data in the samples' place.
    """

    def mean_over_sets(x):
        one = functools.partial(compare, key, as_vectors(x), bandwidth=bandwidth)
        return jax.tree.map(jnp.mean, jax.lax.map(one, test[1]))

    of_samples, of_data = mean_over_sets(samples), mean_over_sets(test[0])
    return of_samples | {f"{name}_floor": value for name, value in of_data.items()}


def modes(samples: Float[Array, "n features"], centers: Float[Array, "modes features"], radius: float) -> Metrics:
    """How many modes have at least a fifth of their share of the samples within a radius, and how many samples are.

    Args:
      samples: n of them.
      centers: of the modes.
      radius: in the units of the samples.

    Returns:
      `modes`, and `share_near_modes`.
    """
    squares = jnp.sum((samples[:, None] - centers[None]) ** 2, -1)
    is_near = jax.nn.one_hot(jnp.argmin(squares, 1), len(centers)) * (jnp.min(squares, 1) < radius**2)[:, None]
    counts = jnp.sum(is_near, 0)
    return {
        "modes": jnp.sum(counts >= len(samples) / (5 * len(centers))).astype(jnp.float32),
        "share_near_modes": jnp.sum(counts) / len(samples),
    }
