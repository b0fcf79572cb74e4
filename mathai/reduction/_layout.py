"""Descent on the loss of UMAP: every edge pulls in its rank, random others push, and no pull overshoots."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from mathai.reduction import _edge_ranks
from mathai.reduction._arrays import gather
from mathai.reduction._edge_ranks import EdgeRanks

LONGEST_PUSH = 4.0  # along each coordinate
SOFTENING = 1e-3  # of a squared distance, in pushes
NUM_SHIFTS = 1024  # random pairings drawn for one epoch; beyond so many visits they serve again
FEW = 10_000  # points up to which more epochs are made
EPOCHS_OF_FEW, EPOCHS_OF_MANY = 500, 200
SMALLEST = 1e-30  # squared distance whose logarithm is taken


class Curve(NamedTuple):
    """The embedding's neighbourhood: q = 1 / (1 + a d²ᵇ)."""

    a: Float[Array, ""]
    b: Float[Array, ""]


def curve_in(curve: Curve, dtype: np.dtype) -> Curve:
    """The curve in the dtype of an embedding."""
    return Curve(curve.a.astype(dtype), curve.b.astype(dtype))


class Schedule(NamedTuple):
    """How an embedding is found.

    Attributes:
      learning_rate: α at the start; it falls linearly to 0.
      repulsion: factor of all pushes.
      num_epochs: after which α is 0.
    """

    learning_rate: Float[Array, ""]
    repulsion: Float[Array, ""]
    num_epochs: Int[Array, ""]


def default_epochs(num_points: int) -> int:
    """How many passes over the edges are made unless the caller says so."""
    return EPOCHS_OF_FEW if num_points <= FEW else EPOCHS_OF_MANY


def check_counts(name: str, least: int, **counts: int) -> None:
    """Raise a `ValueError` for a number that is below the least it may be."""
    for which, count in counts.items():
        if count < least:
            raise ValueError(f"{name}: {which} is {count}; it must be at least {least}.")


def check_rates(name: str, **rates: ArrayLike) -> None:
    """Raise a `ValueError` for a rate that is known and negative or not finite."""
    for which, value in rates.items():
        if not isinstance(value, jax.core.Tracer) and not np.all((np.asarray(value) >= 0) & np.isfinite(value)):
            raise ValueError(f"{name}: {which} is {value}; it must be at least 0 and finite.")


def schedule_of(learning_rate: ArrayLike, repulsion: ArrayLike, num_epochs: int) -> Schedule:
    """The schedule as arrays."""
    return Schedule(
        jnp.asarray(learning_rate, float), jnp.asarray(repulsion, float), jnp.asarray(num_epochs, jnp.int32)
    )


def rate(schedule: Schedule, epoch: Int[Array, ""]) -> Float[Array, ""]:
    """α (1 − t/T)."""
    whole = jnp.maximum(schedule.num_epochs, 1).astype(schedule.learning_rate.dtype)
    return schedule.learning_rate * jnp.maximum(1 - epoch.astype(whole.dtype) / whole, 0)


def pull(square: Float[Array, "*n"], curve: Curve) -> Float[Array, "*n"]:
    """(1/d) ∂(−log q)/∂d = 2ab d^{2(b − 1)} / (1 + a d²ᵇ), the pull for each unit of distance; 0 at d = 0."""
    positive = jnp.maximum(square, SMALLEST)
    power = curve.a * jnp.exp(curve.b * jnp.log(positive))
    return jnp.where(square > 0, 2 * curve.b * power / (positive * (1 + power)), 0)


def push(square: Float[Array, "*n"], curve: Curve) -> Float[Array, "*n"]:
    """−(1/d) ∂(−log (1 − q))/∂d = 2b / ((0.001 + d²) (1 + a d²ᵇ)), where the small number keeps it finite."""
    power = curve.a * jnp.exp(curve.b * jnp.log(jnp.maximum(square, SMALLEST)))
    return 2 * curve.b / ((SOFTENING + square) * (1 + power))


def epoch(
    key: Array,
    number: Int[Array, ""],
    places: tuple[Float[Array, "padded"], ...],
    ranks: EdgeRanks,
    curve: Curve,
    schedule: Schedule,
    num_negatives: int,
) -> tuple[Float[Array, "padded"], ...]:
    """One pass over all edges.

    Both directions of an edge move both of its ends in the method's own schedule, so here, where an end moves itself
    alone, a pull counts twice; pushes are `num_negatives` for each edge of weight 1. With f = 2 α w · pull the point
    goes the part f / (1 + f) of the way: as f for small steps, and never past its neighbour.

    The others that push are those a random number of places further on, which are distinct for all points, and
    slices of what is stored.
    """
    n, block = len(ranks.order), _edge_ranks.block_size(len(ranks.order))
    dtype = places[0].dtype
    alpha, curve = rate(schedule, number).astype(dtype), curve_in(curve, dtype)
    shifts = jax.random.randint(jax.random.fold_in(key, number), (NUM_SHIFTS, num_negatives), 1, max(n, 2), jnp.int32)
    # Slices that begin before the end and go beyond it find the first points again.
    places = tuple(place.at[n:].set(place[:block]) for place in places)

    def visit(at, places):
        here = [_edge_ranks.at_places(place, at) for place in places]
        there = [gather(place, at.targets) for place in places]
        shift = gather(shifts, at.number % NUM_SHIFTS)
        others = []
        for index in range(num_negatives):
            start = (at.start + shift[index]) % n
            others.append([jax.lax.dynamic_slice_in_dim(place, start, len(at.weights)) for place in places])
        strengths = 2 * alpha * at.weights, alpha * schedule.repulsion.astype(dtype) * at.weights
        return _edge_ranks.put(places, moved(here, there, others, curve, *strengths), at)

    return _edge_ranks.for_each(ranks, visit, places)


@functools.partial(jax.jit, static_argnums=(5, 6))
def descend(
    key: Array,
    Y: Float[Array, "n c"],
    ranks: EdgeRanks,
    curve: Curve,
    schedule: Schedule,
    num_epochs: int,
    num_negatives: int,
) -> Float[Array, "n c"]:
    """An embedding after so many epochs."""

    def one_epoch(places, number):
        return epoch(key, number, places, ranks, curve, schedule, num_negatives), None

    places, _ = jax.lax.scan(one_epoch, _edge_ranks.placed(ranks, Y), jnp.arange(num_epochs, dtype=jnp.int32))
    return _edge_ranks.taken_back(ranks, places)


def moved(
    here: list[Float[Array, "n"]],
    there: list[Float[Array, "n"]],
    others: list[list[Float[Array, "*m"]]],
    curve: Curve,
    pulled: Float[Array, "n"],
    pushed: Float[Array, "n"],
) -> list[Float[Array, "n"]]:
    """Points, a coordinate in each array, after one pull by `there` and pushes by `others`, at these rates."""
    difference = [h - t for h, t in zip(here, there, strict=True)]
    fraction = pulled * pull(_square(difference), curve)
    step = [-fraction / (1 + fraction) * d for d in difference]
    for other in others:
        away = [h - o for h, o in zip(here, other, strict=True)]
        factor = push(_square(away), curve)
        step = [s + pushed * jnp.clip(factor * d, -LONGEST_PUSH, LONGEST_PUSH) for s, d in zip(step, away, strict=True)]
    return [h + s for h, s in zip(here, step, strict=True)]


def loss(
    places: tuple[Float[Array, "padded"], ...], ranks: EdgeRanks, curve: Curve, num_negatives: int
) -> Float[Array, ""]:
    """What the descent makes small, per edge of weight 1: −log q of edges, and −log (1 − q) of random pairs.

        (Σ w (−log q_ij) + m Σ w (−log (1 − q_ik))) / Σ w,   k at random

    The pairs are always the same.
    """
    n, block = len(ranks.order), _edge_ranks.block_size(len(ranks.order))
    shifts = jax.random.randint(jax.random.key(0), (NUM_SHIFTS,), 1, max(n, 2), jnp.int32)
    places = tuple(place.at[n:].set(place[:block]) for place in places)
    curve = curve_in(curve, places[0].dtype)

    def log_odds(here, there):
        return log_power(jnp.stack([h - t for h, t in zip(here, there, strict=True)], axis=-1), curve)

    def visit(at, totals):
        here = [_edge_ranks.at_places(place, at) for place in places]
        start = (at.start + gather(shifts, at.number % NUM_SHIFTS)) % n
        other = [jax.lax.dynamic_slice_in_dim(place, start, len(at.weights)) for place in places]
        attraction = jax.nn.softplus(log_odds(here, [gather(place, at.targets) for place in places]))
        repulsion = jax.nn.softplus(-log_odds(here, other))
        total, weight = (_edge_ranks.at_places(values, at) for values in totals)
        total = total + at.weights * (attraction + num_negatives * repulsion)
        return _edge_ranks.put(totals, [total, weight + at.weights], at)

    total, weight = _edge_ranks.for_each(ranks, visit, (jnp.zeros_like(places[0]),) * 2)
    return jnp.sum(total) / jnp.maximum(jnp.sum(weight), jnp.finfo(weight.dtype).tiny)


def log_power(differences: Float[Array, "*n c"], curve: Curve) -> Float[Array, "*n"]:
    """The logarithm of a d²ᵇ: log (1 − q) − log q, of distances that are never quite 0."""
    return jnp.log(curve.a) + curve.b * jnp.log(jnp.sum(differences**2, axis=-1) + SOFTENING)


def _square(difference):
    return sum(d * d for d in difference)
