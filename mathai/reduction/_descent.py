"""Gradient descent on the divergence of t-SNE: momentum, a gain for each coordinate, a limit for each step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from mathai.reduction import _affinity_graph, _repulsion
from mathai.reduction._affinity_graph import AffinityGraph
from mathai.reduction._repulsion import Grids

FASTER, SLOWER, LEAST_GAIN = 0.2, 0.8, 0.01  # of a gain: where a coordinate goes on, where it turns, and its floor
LONGEST_STEP = 5.0  # of a point, in units of the embedding
LEAST_RATE = 50.0  # of the rate that follows from the number of points
EXACT_BELOW = {"cpu": 3000, "gpu": 15_000, "tpu": 15_000}  # points, where all pairs cost less than a grid
METHODS = ("auto", "exact", "fft")


class Schedule(NamedTuple):
    """How an embedding is found.

    Attributes:
      early_exaggeration: factor of the attraction in the first iterations.
      exaggeration: in the others.
      num_early_iterations: how many the first are.
      learning_rate: η; ≤ 0 takes max(n / exaggeration, 200) / 4.
      momentum: μ.
    """

    early_exaggeration: Float[Array, ""]
    exaggeration: Float[Array, ""]
    num_early_iterations: Int[Array, ""]
    learning_rate: Float[Array, ""]
    momentum: Float[Array, ""]


class Iterate(NamedTuple):
    """Where the descent stands.

    Attributes:
      Y: the embedding.
      velocity: the last step.
      gains: of each coordinate.
      iteration: steps made.
    """

    Y: Float[Array, "n c"]
    velocity: Float[Array, "n c"]
    gains: Float[Array, "n c"]
    iteration: Int[Array, ""]


def grids_for(name: str, method: str, num_points: int, num_components: int) -> Grids | None:
    """The grids that a method uses; None sums over all pairs."""
    if method not in METHODS:
        raise ValueError(f"{name}: method {method!r} is unknown; use one of {', '.join(METHODS)}.")
    if method == "fft" and num_components != 2:
        raise ValueError(f"{name}: method 'fft' has two components, not {num_components}; use 'exact'.")
    few = EXACT_BELOW.get(jax.default_backend(), EXACT_BELOW["gpu"])
    is_exact = method == "exact" or (method == "auto" and (num_points < few or num_components != 2))
    return None if is_exact else _repulsion.grids(num_points, np.dtype(jnp.result_type(float)))


def schedule_of(early_exaggeration, exaggeration, num_early_iterations, learning_rate, momentum) -> Schedule:
    """The schedule as arrays; a learning rate of None follows from the number of points."""
    rate = 0.0 if learning_rate is None else learning_rate
    numbers = (early_exaggeration, exaggeration, rate, momentum)
    early, late, rate, momentum = (jnp.asarray(number, float) for number in numbers)
    return Schedule(early, late, jnp.asarray(num_early_iterations, jnp.int32), rate, momentum)


def start(Y: Float[Array, "n c"]) -> Iterate:
    """At rest."""
    return Iterate(Y, jnp.zeros_like(Y), jnp.ones_like(Y), jnp.int32(0))


def repulsion(
    Y: Float[Array, "n c"], grids: Grids | None, *, mesh: Mesh | None = None, axis: str = "data"
) -> tuple[Float[Array, "n c"], Float[Array, ""]]:
    """(Σⱼ q_ij² (yᵢ − yⱼ), Z), on grids where there are any; on the devices of a mesh if there is one."""
    if grids is None:
        return _repulsion.exact(Y, mesh=mesh, axis=axis)
    return _repulsion.by_grid(Y, grids, mesh=mesh, axis=axis)


def step(
    now: Iterate,
    graph: AffinityGraph,
    grids: Grids | None,
    schedule: Schedule,
    *,
    mesh: Mesh | None = None,
    axis: str = "data",
) -> tuple[Iterate, dict[str, Array]]:
    """One iteration, and measurements of it; with a mesh the embedding is on all its devices, which share the work.

    g = 4 (e Σⱼ p_ij q_ij (yᵢ − yⱼ) − Σⱼ q_ij² (yᵢ − yⱼ) / Z),   v ← μ v − η gain g,   y ← y + v
    """
    is_early = now.iteration < schedule.num_early_iterations
    exaggeration = jnp.where(is_early, schedule.early_exaggeration, schedule.exaggeration).astype(now.Y.dtype)
    attraction = _affinity_graph.attraction(now.Y, graph)
    force, Z = repulsion(now.Y, grids, mesh=mesh, axis=axis)
    gradient = 4 * (exaggeration * attraction - force / Z)
    own = jnp.maximum(len(now.Y) / exaggeration / 4, LEAST_RATE)
    rate = jnp.where(schedule.learning_rate > 0, schedule.learning_rate, own).astype(now.Y.dtype)
    # A phase begins at rest: what one exaggeration set in motion is not carried into the other.
    is_fresh = now.iteration == schedule.num_early_iterations
    velocity = jnp.where(is_fresh, 0, now.velocity)
    gains = jnp.where(is_fresh, 1, now.gains)
    gains = new_gains(gains, velocity, gradient)
    velocity = schedule.momentum.astype(now.Y.dtype) * velocity - rate * gains * gradient
    length = jnp.sqrt(jnp.sum(velocity**2, axis=1, keepdims=True))
    velocity = velocity * jnp.minimum(1, LONGEST_STEP / jnp.maximum(length, LONGEST_STEP))
    Y = now.Y + velocity
    Y = Y - jnp.mean(Y, axis=0, keepdims=True)
    metrics = {
        "exaggeration": exaggeration,
        "gradient_norm": jnp.sqrt(jnp.sum(gradient**2)),
        "span": jnp.max(jnp.max(Y, axis=0) - jnp.min(Y, axis=0)),
    }
    return Iterate(Y, velocity, gains, now.iteration + 1), metrics


def new_gains(gains: Array, velocity: Array, gradient: Array) -> Array:
    """Larger where a coordinate goes on downhill, smaller where it turns back."""
    goes_on = jnp.sign(velocity) != jnp.sign(gradient)
    return jnp.maximum(jnp.where(goes_on, gains + FASTER, gains * SLOWER), LEAST_GAIN)


def divergence(
    Y: Float[Array, "n c"],
    graph: AffinityGraph,
    grids: Grids | None,
    *,
    mesh: Mesh | None = None,
    axis: str = "data",
) -> Float[Array, ""]:
    """KL(P ‖ Q) = Σ p_ij log (p_ij (1 + d_ij²)) + log Z."""
    return _affinity_graph.attractive_energy(Y, graph) + jnp.log(repulsion(Y, grids, mesh=mesh, axis=axis)[1])
