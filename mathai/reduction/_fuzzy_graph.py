"""Fuzzy neighbourhoods: how surely a point belongs to another's, and their union as one symmetric graph."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mathai.reduction._affinity_graph import reverse_edges
from mathai.reduction._arrays import gather

MOST_STEPS = 64  # of the bisection for σ
TOLERANCE = 1e-5  # of Σ exp(−(d − ρ)⁺/σ)
FEW_EPOCHS, MANY_EPOCHS = 10, 200
LEAST_WIDTH = 1e-3  # of σ, in mean distances


class FuzzyGraph(NamedTuple):
    """A symmetric graph whose weights say how surely two points are neighbours; both directions are listed.

    Attributes:
      rows: i of each entry.
      columns: j.
      weights: w_ij in [0, 1]; 0 fills up, there with i = j.
    """

    rows: Int[Array, "entries"]
    columns: Int[Array, "entries"]
    weights: Float[Array, "entries"]


@jax.jit
def smooth(distances: Float[Array, "n k"]) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
    """ρ and σ of lists whose column 0 is the point itself."""
    is_neighbor = jnp.isfinite(distances)
    return widths(distances, is_neighbor, target=math.log2(distances.shape[1]), is_connected=True)


@jax.jit
def of_lists(indices: Int[Array, "n k"], distances: Float[Array, "n k"]) -> FuzzyGraph:
    """The graph of lists whose column 0 is the point itself."""
    if indices.size >= 2**30:
        raise ValueError(f"{indices.shape} neighbours are 2³¹ entries or more; list fewer for each point.")
    own = jnp.arange(len(indices), dtype=jnp.int32)[:, None]
    is_other = jnp.isfinite(distances) & (indices >= 0) & (indices != own)
    is_first = jnp.arange(indices.shape[1])[None] == 0
    rho, sigma = smooth(jnp.where(is_other | is_first, distances, jnp.inf))
    indices = jnp.where(is_other, indices, own).astype(jnp.int32)
    return union(indices, memberships(distances, is_other, rho, sigma))


def without_rare(graph: FuzzyGraph, num_epochs: int) -> FuzzyGraph:
    """A graph without edges so weak that, pulling with weight 1 now and then, they would not once in so many epochs.

    Where the epochs are few that would leave nothing, and edges go that are that weak for many.
    """
    enough = num_epochs if num_epochs > FEW_EPOCHS else MANY_EPOCHS
    least = jnp.max(graph.weights, initial=0) / enough
    return graph._replace(weights=jnp.where(graph.weights < least, 0, graph.weights))


def widths(
    distances: Float[Array, "n k"], is_neighbor: Bool[Array, "n k"], *, target: float, is_connected: bool
) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
    """ρ, the smallest distance above 0 (0 unless the nearest neighbour is to be connected), and σ of each row.

    σ is found by the bisection that umap-learn makes, so that both agree where many would do: Σ counts the columns
    after the first.
    """
    finite = jnp.where(is_neighbor, distances, 0)
    nearest = jnp.min(jnp.where(finite > 0, finite, jnp.inf), axis=1)
    rho = jnp.where(is_connected & jnp.isfinite(nearest), nearest, 0).astype(distances.dtype)
    excess = jnp.where(is_neighbor, jnp.maximum(finite - rho[:, None], 0), jnp.inf)[:, 1:]
    sigma = _solve(jax.lax.stop_gradient(excess), target)
    sigma = _with_derivative(sigma, excess, target)
    own = jnp.sum(finite, axis=1) / jnp.maximum(jnp.sum(is_neighbor, axis=1), 1)
    overall = jnp.sum(finite) / jnp.maximum(jnp.sum(is_neighbor), 1)
    return rho, jnp.maximum(sigma, LEAST_WIDTH * jnp.where(rho > 0, own, overall))


def _solve(excess, target):
    """Bisect σ until Σ exp(−excess/σ) is the target; the upper end is doubled as long as there is none."""
    n, dtype = len(excess), excess.dtype

    def is_open(state):
        step, _, _, _, is_done = state
        return (step < MOST_STEPS) & ~jnp.all(is_done)

    def halve(state):
        step, middle, low, high, is_done = state
        gap = jnp.sum(jnp.exp(-excess / middle[:, None]), axis=1) - target
        is_done = is_done | (jnp.abs(gap) < TOLERANCE)
        high = jnp.where(~is_done & (gap > 0), middle, high)
        low = jnp.where(~is_done & (gap <= 0), middle, low)
        guess = jnp.where(jnp.isinf(high), 2 * middle, (low + jnp.where(jnp.isinf(high), 0, high)) / 2)
        return step + 1, jnp.where(is_done, middle, guess), low, high, is_done

    start = (jnp.int32(0), jnp.ones(n, dtype), jnp.zeros(n, dtype), jnp.full(n, jnp.inf, dtype), jnp.zeros(n, bool))
    middle = jax.lax.while_loop(is_open, halve, start)[1]
    return jnp.where(jnp.isfinite(middle), middle, 1)


def _with_derivative(sigma, excess, target):
    """σ with the derivative that Σ exp(−excess/σ) = target gives it; the value stays, 0 where no σ solves it."""
    is_finite = jnp.isfinite(excess)
    ratio = jnp.where(is_finite, excess, 0) / jax.lax.stop_gradient(sigma)[:, None]
    terms = jnp.where(is_finite, jnp.exp(-ratio), 0)
    slope = jax.lax.stop_gradient(jnp.sum(terms * ratio, axis=1) / sigma)
    gap = jnp.sum(terms, axis=1)
    is_solved = jax.lax.stop_gradient((jnp.abs(gap - target) < 10 * TOLERANCE) & (slope > 0))
    step = jnp.where(is_solved, gap / jnp.where(is_solved, slope, 1), 0)
    return sigma - (step - jax.lax.stop_gradient(step))


def memberships(
    distances: Float[Array, "n k"],
    is_neighbor: Bool[Array, "n k"],
    rho: Float[Array, "n"],
    sigma: Float[Array, "n"],
) -> Float[Array, "n k"]:
    """exp(−(d − ρ)⁺/σ); 1 at distances up to ρ, whatever σ is."""
    excess = jnp.maximum(jnp.where(is_neighbor, distances, 0) - rho[:, None], 0)
    ratio = excess / jnp.where(sigma > 0, sigma, 1)[:, None]
    return jnp.where(is_neighbor, jnp.where(excess > 0, jnp.exp(-ratio), 1), 0)


def union(indices: Int[Array, "n k"], strengths: Float[Array, "n k"]) -> FuzzyGraph:
    """w_ij = p_ij + p_ji − p_ij p_ji; an edge that only one end names is listed a second time, turned around."""
    n, k = indices.shape
    own = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32)[:, None], (n, k))
    reverse = reverse_edges(indices)
    back = jnp.where(reverse < 0, 0, gather(strengths.reshape(-1), jnp.maximum(reverse, 0)))
    weights = strengths + back - strengths * back
    is_one_way = (reverse < 0) & (weights > 0)
    ends = jnp.where(weights > 0, indices, own)
    return FuzzyGraph(
        jnp.concatenate([own.reshape(-1), jnp.where(is_one_way, ends, own).reshape(-1)]),
        jnp.concatenate([ends.reshape(-1), own.reshape(-1)]),
        jnp.concatenate([weights.reshape(-1), jnp.where(is_one_way, weights, 0).reshape(-1)]),
    )


def intersect(graph: FuzzyGraph, labels: Int[Array, "n"], target_weight: Float[Array, ""]) -> FuzzyGraph:
    """Weaken edges between classes by exp(−far), those of a point without a class by exp(−1), and make whole again.

    far = 2.5 / (1 − target_weight). Then every point is sure of one neighbour: p_ij = w_ij / maxⱼ w_ij, and the union
    of both directions follows from the symmetry of w.
    """
    here, there = gather(labels, graph.rows), gather(labels, graph.columns)
    far = jnp.exp(-2.5 / jnp.maximum(1 - target_weight, 1e-12))
    factor = jnp.where((here < 0) | (there < 0), math.exp(-1), jnp.where(here == there, 1, far))
    weights = graph.weights * factor.astype(graph.weights.dtype)
    largest = jnp.zeros(len(labels), weights.dtype).at[graph.rows].max(weights)
    largest = jnp.where(largest > 0, largest, 1)
    one, other = weights / gather(largest, graph.rows), weights / gather(largest, graph.columns)
    return graph._replace(weights=one + other - one * other)
