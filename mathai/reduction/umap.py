"""UMAP: neighbourhoods as fuzzy sets, their union as a graph, and embeddings in which its edges are short."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key, Shaped, UInt32

from mathai.reduction import _curve, _distances, _edge_ranks, _fuzzy_graph, _layout, _spectral, _start
from mathai.reduction._arrays import promote
from mathai.reduction._fuzzy_graph import FuzzyGraph
from mathai.reduction._neighborhoods import lists_with_self
from mathai.reduction._umap_transform import transform

__all__ = [
    "Embedding",
    "FuzzyGraph",
    "cross_entropy",
    "embed",
    "find_ab",
    "fuzzy_simplicial_set",
    "intersect_labels",
    "smooth_knn",
    "spectral_layout",
    "transform",
]


class Embedding(NamedTuple):
    """An embedding, and the curve that it was made for.

    Attributes:
      Y: one row for each point.
      a: of the curve 1 / (1 + a d²ᵇ).
      b: its exponent.
      epochs: passes over the edges that were made.
    """

    Y: Float[Array, "n components"]
    a: Float[Array, ""]
    b: Float[Array, ""]
    epochs: Int[Array, ""]


def find_ab(spread: ArrayLike = 1.0, min_dist: ArrayLike = 0.1) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The curve of an embedding's neighbourhoods: flat up to min_dist, then falling over a length of spread.

        minimize over a, b   Σ (1 / (1 + a d²ᵇ) − ψ(d))²,   ψ(d) = 1 if d ≤ min_dist, else exp(−(d − min_dist)/spread)

    on 300 distances of [0, 3 spread], by a damped Gauss–Newton method. Maps over both arguments.

    Args:
      spread: above 0, in units of the embedding.
      min_dist: 0 … spread.

    Returns:
      (a, b).

    Raises:
      ValueError: a number that is known and out of its range.
      AssertionError: an argument is no scalar.

    Source:
      McInnes, Healy & Melville (2018), UMAP, definition 11 and section 4.3.

    >>> a, b = find_ab(1.0, 0.1)
    >>> round(float(a), 2), round(float(b), 2)
    (1.58, 0.9)
    """
    return _curve.check_and_fit("find_ab", spread, min_dist)


def smooth_knn(distances: Shaped[ArrayLike, "n k"]) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
    """How far a point's neighbourhood begins and how wide it is.

        ρᵢ = min {d_ij : d_ij > 0},   Σ_{j ≥ 1} exp(−max(0, d_ij − ρᵢ)/σᵢ) = log₂ k

    σ is at least a thousandth of the mean distance: of the row, or of all where ρ is 0. Where no σ gives log₂ k it is
    at that end. Differentiable where σ solves its equation (by the implicit function theorem), else constant.

    Args:
      distances: ascending; column 0 is the point itself, at distance 0, and k counts it; ∞ is none.

    Returns:
      (ρ, σ), one of each row.

    Raises:
      ValueError: distances that are known and NaN or negative.
      AssertionError: distances are not a matrix.

    Source:
      McInnes, Healy & Melville (2018), UMAP, algorithm 3.

    >>> rho, sigma = smooth_knn(jnp.array([[0.0, 1.0, 2.0, 2.0]]))
    >>> rho.item(), round(sigma.item(), 4)  # 1 + 2 exp(−1/σ) = 2
    (1.0, 1.4427)
    """
    distances, dtype = _distances_of("smooth_knn", distances)
    rho, sigma = _fuzzy_graph.smooth(distances)
    return rho.astype(dtype), sigma.astype(dtype)


def fuzzy_simplicial_set(indices: Int[ArrayLike, "n k"], distances: Shaped[ArrayLike, "n k"]) -> FuzzyGraph:
    """The union of all points' fuzzy neighbourhoods: a symmetric graph.

        p_ij = exp(−max(0, d_ij − ρᵢ)/σᵢ),   w_ij = p_ij + p_ji − p_ij p_ji

    Args:
      indices: of each point's neighbours, nearest first; column 0 is the point itself. Negative ones are none.
      distances: to them; ∞ is none.

    Returns:
      2nk entries. Each edge is listed in both directions; the entries that remain have i = j and weight 0.

    Raises:
      ValueError: indices that are known and name no points, distances that are known and NaN or negative.
      AssertionError: shapes that do not fit.

    Source:
      McInnes, Healy & Melville (2018), UMAP, algorithms 1 and 2.

    >>> graph = fuzzy_simplicial_set(jnp.array([[0, 1], [1, 0]]), jnp.array([[0.0, 1.0], [0.0, 1.0]]))
    >>> [(i, j) for i, j, w in zip(*(x.tolist() for x in graph)) if w > 0]
    [(0, 1), (1, 0)]
    """
    distances, dtype = _distances_of("fuzzy_simplicial_set", distances)
    indices = jnp.asarray(indices)
    chex.assert_equal_shape([indices, distances])
    if not isinstance(indices, jax.core.Tracer) and np.any(np.asarray(indices) >= len(indices)):
        raise ValueError(f"fuzzy_simplicial_set: indices name points beyond {len(indices) - 1}, the last one.")
    graph = _fuzzy_graph.of_lists(indices, distances)
    return graph._replace(weights=graph.weights.astype(dtype))


def intersect_labels(graph: FuzzyGraph, labels: Int[ArrayLike, "n"], *, target_weight: ArrayLike = 0.5) -> FuzzyGraph:
    """A graph that knows classes: edges between two classes lose weight, and every point stays sure of a neighbour.

        v_ij = w_ij · (1 within a class, e^{−2.5/(1 − target_weight)} between classes, e⁻¹ where one has none)
        p_ij = v_ij / maxⱼ v_ij,   w'_ij = p_ij + p_ji − p_ij p_ji

    Args:
      graph: symmetric.
      labels: the class of each point; −1 is none.
      target_weight: 0 … 1, how much classes count: near 1 no edge between classes is left.

    Returns:
      A graph with the same entries.

    Raises:
      ValueError: a target_weight that is known and out of range, or fewer labels than points with edges.
      AssertionError: labels are not a vector.

    Source:
      McInnes, Healy & Melville (2018), UMAP, on supervised dimension reduction; umap-learn for the numbers.

    >>> graph = FuzzyGraph(jnp.array([0, 1]), jnp.array([1, 0]), jnp.array([0.5, 0.5]))
    >>> intersect_labels(graph, jnp.array([3, 3])).weights.tolist()
    [1.0, 1.0]
    """
    chex.assert_rank(labels, 1)
    if not isinstance(target_weight, jax.core.Tracer) and not 0 <= np.asarray(target_weight) <= 1:
        raise ValueError(f"intersect_labels: target_weight is {target_weight}; it must be in 0 … 1.")
    if not isinstance(graph.rows, jax.core.Tracer) and np.any(np.asarray(graph.rows) >= jnp.shape(labels)[0]):
        raise ValueError(f"intersect_labels: there are {jnp.shape(labels)[0]} labels for a graph of more points.")
    (weights,), dtype = promote(graph.weights)
    found = _fuzzy_graph.intersect(
        graph._replace(weights=weights), jnp.asarray(labels), jnp.asarray(target_weight, weights.dtype)
    )
    return found._replace(weights=found.weights.astype(dtype))


def spectral_layout(
    key: Key[Array, ""] | UInt32[Array, "..."], graph: FuzzyGraph, num_points: int, num_components: int = 2
) -> Float[Array, "num_points num_components"]:
    """Eigenvectors of the normalized Laplacian with the smallest eigenvalues above the trivial one.

        L = 1 − D^{−½} W D^{−½},   L vᵢ = λᵢ vᵢ,   0 = λ₀ ≤ λ₁ ≤ …;   Y = (v₁, …, v_c)

    Where the graph falls apart, components lie side by side in discs as large as they have points, the largest 16
    filled by their own eigenvectors, the others as points.

    Args:
      key: of the vectors that the iteration starts from.
      graph: symmetric.
      num_points: n.
      num_components: c; columns beyond the n − 1 eigenvectors are 0.

    Returns:
      For a connected graph unit vectors whose largest entry is positive, right to about 1e-4 of their residual.

    Raises:
      ValueError: num_points or num_components below 1.

    Source:
      Belkin & Niyogi (2003), Laplacian Eigenmaps; Zhou & Saad (2007), A Chebyshev–Davidson algorithm for large
      symmetric eigenproblems, for the filter.

    >>> graph = FuzzyGraph(jnp.array([0, 1, 1, 2]), jnp.array([1, 0, 2, 1]), jnp.ones(4))  # a path of three
    >>> [round(abs(y), 2) for y in spectral_layout(jax.random.key(0), graph, 3, 1)[:, 0].tolist()]
    [0.71, 0.0, 0.71]
    """
    _layout.check_counts("spectral_layout", 1, num_points=num_points, num_components=num_components)
    (weights,), dtype = promote(graph.weights)
    graph = graph._replace(weights=weights)
    ranks, parts = _edge_ranks.by_rank(graph, num_points), _spectral.components(graph, num_points)
    return _spectral.layout(key, ranks, parts, num_components).astype(dtype)


def cross_entropy(
    weights: Float[Array, "n n"], Y: Float[Array, "n components"], a: ArrayLike, b: ArrayLike
) -> Float[Array, ""]:
    """How far an embedding's fuzzy neighbourhoods are from a graph's, over all pairs.

        C = Σ_{i<j} w log (w/q) + (1 − w) log ((1 − w)/(1 − q)),   q = 1 / (1 + a d²ᵇ),   0 log 0 = 0

    Differentiable in Y, with derivative 0 for points that coincide. ∞ where points coincide whose weight is below 1.

    Args:
      weights: w in [0, 1], symmetric; the diagonal is ignored.
      Y: the embedding.
      a: of the curve.
      b: its exponent.

    Returns:
      A scalar in nats, at least 0.

    Raises:
      AssertionError: weights are not n × n.

    Source:
      McInnes, Healy & Melville (2018), UMAP, definition 10.

    >>> cross_entropy(jnp.array([[0.0, 0.5], [0.5, 0.0]]), jnp.array([[0.0], [1.0]]), 1.0, 1.0).item()
    0.0
    """
    chex.assert_shape(weights, (len(Y), len(Y)))
    (w, Z, a, b), dtype = promote(weights, Y, a, b)
    square = _distances.squared_distances(Z, Z)
    is_pair = ~jnp.eye(len(Z), dtype=bool)
    w = jnp.where(is_pair, w, 0)
    is_apart = square > 0
    log_power = jnp.where(is_apart, jnp.log(a) + b * jnp.log(jnp.where(is_apart, square, 1)), -jnp.inf)
    safe = jnp.where(is_apart, log_power, 0)
    attraction = jnp.where(is_apart, jax.nn.softplus(safe), 0)  # −log q
    repulsion = jnp.where(is_apart, jax.nn.softplus(-safe), jnp.where(is_pair, jnp.inf, 0))  # −log (1 − q)
    entropy = jax.scipy.special.xlogy(w, w) + jax.scipy.special.xlogy(1 - w, 1 - w)
    pairs = entropy + w * attraction + jnp.where(w < 1, (1 - w) * jnp.where(w < 1, repulsion, 0), 0)
    return (jnp.sum(jnp.where(is_pair, pairs, 0)) / 2).astype(dtype)


def embed(
    key: Key[Array, ""] | UInt32[Array, "..."],
    X: Shaped[ArrayLike, "n features"],
    *,
    num_neighbors: int = 15,
    min_dist: ArrayLike = 0.1,
    spread: ArrayLike = 1.0,
    num_components: int = 2,
    metric: str = "euclidean",
    neighbor_search: str = "auto",
    neighbors: tuple[Int[ArrayLike, "n k"], Float[ArrayLike, "n k"]] | None = None,
    labels: Int[ArrayLike, "n"] | None = None,
    target_weight: ArrayLike = 0.5,
    init: str | Float[ArrayLike, "n components"] = "spectral",
    num_epochs: int | None = None,
    learning_rate: ArrayLike = 1.0,
    repulsion_strength: ArrayLike = 1.0,
    num_negatives: int = 5,
) -> Embedding:
    """An embedding in which the edges of the fuzzy neighbour graph are short and other pairs are apart.

        minimize Σ_ij w_ij (−log q_ij) + m Σ_ij w_ij E_k[−log (1 − q_ik)],   q = 1 / (1 + a d²ᵇ),   k uniform

    In every epoch each edge pulls once in proportion to its weight, instead of now and then with its full weight, and
    m random points push; α falls linearly to 0. Points move themselves only, all at once for one rank of their
    edges: nothing is scattered, so that one key gives one embedding, bit for bit on one device, whenever it is
    called in the same way (another program, as under `jit`, rounds otherwise, and epochs make that large). A pull
    never overshoots (α f/(1 + α f) of the way). Edges weaker than 1/epochs of the strongest are left out.
    `vmap` over keys, min_dist and spread shares one graph if `neighbors` are given. There is no derivative through the
    descent that would serve.

    Args:
      key: of the jitter of the start and of the points that push.
      X: at least 4 points. Under `jit` numbers that are not finite count as 0.
      num_neighbors: of the fuzzy neighbourhoods, the point itself counted; at most n are taken.
      min_dist: how close points may lie, 0 … spread.
      spread: over which the curve falls.
      num_components: columns of the embedding.
      metric: of `neighbors.k_nearest`.
      neighbor_search: "exact", "approximate" (`neighbors.approximate_nearest`), or "auto": exact below 100 000 points.
      neighbors: (indices, distances) of `k_nearest`, without the points themselves (a first column that is known to
        be these is left out; lists that are traced must do without them); replaces num_neighbors, metric and
        neighbor_search.
      labels: classes for a supervised embedding, −1 for none: see `intersect_labels`.
      target_weight: how much these count.
      init: "spectral" (principal components where no part of the graph holds nine tenths of the points), "pca",
        "random", or the start itself.
      num_epochs: passes over the edges; None makes 500 up to 10 000 points, else 200.
      learning_rate: α at the start.
      repulsion_strength: factor of the pushes.
      num_negatives: m.

    Returns:
      The embedding, in X's dtype but at least float32.

    Raises:
      ValueError: fewer than 4 points, points or neighbours that are known to hold NaN, an unknown choice, a number out
        of its range.
      AssertionError: shapes that do not fit.

    Source:
      McInnes, Healy & Melville (2018), UMAP: Uniform Manifold Approximation and Projection for Dimension Reduction;
      Damrich & Hamprecht (2021), On UMAP's True Loss Function, for what negative samples minimize.

    >>> X = jax.random.normal(jax.random.key(0), (50, 4))
    >>> embed(jax.random.key(1), X, num_neighbors=10, num_epochs=50).Y.shape
    (50, 2)
    """
    n = jnp.shape(X)[0]
    num_epochs = _layout.default_epochs(n) if num_epochs is None else num_epochs
    _layout.check_counts("embed", 1, num_components=num_components)
    _layout.check_counts("embed", 0, num_epochs=num_epochs, num_negatives=num_negatives)
    _layout.check_rates("embed", learning_rate=learning_rate, repulsion_strength=repulsion_strength)
    curve = _layout.Curve(*_curve.check_and_fit("embed", spread, min_dist))
    indices, distances = lists_with_self("embed", X, num_neighbors, metric, neighbor_search, neighbors)
    graph = _fuzzy_graph.of_lists(indices, distances)
    if labels is not None:
        chex.assert_shape(labels, (n,))
        graph = intersect_labels(graph, labels, target_weight=target_weight)
    graph = _fuzzy_graph.without_rare(graph, num_epochs)
    ranks = _edge_ranks.by_rank(graph, n)
    Y = _start.of_graph(X, graph, ranks, num_components=num_components, init=init)(key)
    schedule = _layout.schedule_of(learning_rate, repulsion_strength, num_epochs)
    Y = _layout.descend(key, Y, ranks, curve, schedule, num_epochs, num_negatives)
    return Embedding(Y, *curve, jnp.int32(num_epochs))


def _distances_of(name: str, distances: ArrayLike) -> tuple[Array, np.dtype]:
    """Distances to compute with, and the dtype in which results go back; what is known and wrong is an error."""
    chex.assert_rank(distances, 2)
    if not isinstance(distances, jax.core.Tracer):
        known = np.asarray(distances)
        if np.any(np.isnan(known)) or np.any(known < 0):
            raise ValueError(f"{name}: distances hold numbers that are NaN or negative.")
    (promoted,), dtype = promote(distances)
    return promoted, dtype
