"""t-SNE: affinities of neighbours, their divergence from an embedding's, and embeddings that make it small."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key, Shaped, UInt32

from mathai.reduction import _descent, _distances, _perplexity, _start
from mathai.reduction._affinity_graph import AffinityGraph
from mathai.reduction._arrays import contract, promote
from mathai.reduction._neighborhoods import check_perplexity, graph_of, neighbors_of
from mathai.reduction._stationary import stationary_embedding
from mathai.reduction._tsne_transform import transform

__all__ = [
    "AffinityGraph",
    "Embedding",
    "affinity_graph",
    "conditional_affinities",
    "embed",
    "gradient",
    "joint_affinities",
    "kl_divergence",
    "neighbor_affinities",
    "stationary_embedding",
    "student_t_affinities",
    "transform",
]


class Embedding(NamedTuple):
    """An embedding and how good it is.

    Attributes:
      Y: one row for each point, centred.
      kl_divergence: KL(P ‖ Q) in nats, of the neighbours' affinities without exaggeration.
      iterations: that were made.
    """

    Y: Float[Array, "n components"]
    kl_divergence: Float[Array, ""]
    iterations: Int[Array, ""]


def conditional_affinities(
    squared_distances: Shaped[ArrayLike, "n n"], perplexity: ArrayLike = 30.0
) -> Float[Array, "n n"]:
    """How much each point is a neighbour of another: Gaussians whose widths give each row one perplexity.

        p_{j|i} = exp(−βᵢ d²ᵢⱼ) / Σ_{l ≠ i} exp(−βᵢ d²ᵢₗ),   p_{i|i} = 0,   −Σⱼ p_{j|i} log p_{j|i} = log perplexity

    Where no width gives the perplexity the nearest end is taken: with more nearest points at one distance than that,
    they share the row evenly. Differentiable in both arguments (βᵢ by the implicit function theorem).

    Args:
      squared_distances: d²; the diagonal is ignored.
      perplexity: the effective number of neighbours, at least 1 and less than n − 1.

    Returns:
      Rows that sum to 1, diagonal 0; perplexities right to 1e-4.

    Raises:
      ValueError: a perplexity that is known and out of range.
      AssertionError: squared_distances is not a square matrix.

    Source:
      van der Maaten & Hinton (2008), Visualizing Data using t-SNE, eq. 1 and section 2.

    >>> conditional_affinities(jnp.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]), 1.5)[0].tolist()
    [0.0, 0.5, 0.5]
    """
    chex.assert_rank(squared_distances, 2)
    n, m = jnp.shape(squared_distances)
    if n != m:
        raise AssertionError(f"conditional_affinities: the shape is {(n, m)}; squared_distances must be square.")
    check_perplexity("conditional_affinities", perplexity, n - 1)
    (squares,), dtype = promote(squared_distances)
    is_other = ~jnp.eye(n, dtype=bool)
    return _perplexity.affinities(squares, is_other, jnp.asarray(perplexity, squares.dtype)).astype(dtype)


def neighbor_affinities(
    squared_distances: Shaped[ArrayLike, "n k"], perplexity: ArrayLike = 30.0
) -> Float[Array, "n k"]:
    """`conditional_affinities` of lists of neighbours, without the points themselves.

        p_{j|i} = exp(−βᵢ d²ᵢⱼ) / Σₗ exp(−βᵢ d²ᵢₗ),   −Σⱼ p_{j|i} log p_{j|i} = log perplexity

    Args:
      squared_distances: d² to k neighbours; ∞ is none.
      perplexity: at least 1 and less than k.

    Returns:
      Rows that sum to 1; one without any neighbour is 0.

    Raises:
      ValueError: a perplexity that is known and out of range.
      AssertionError: squared_distances is not a matrix.

    Source:
      van der Maaten (2014), Accelerating t-SNE using Tree-Based Algorithms, eq. 6.

    >>> neighbor_affinities(jnp.array([[1.0, 1.0, jnp.inf]]), 1.5).tolist()
    [[0.5, 0.5, 0.0]]
    """
    chex.assert_rank(squared_distances, 2)
    check_perplexity("neighbor_affinities", perplexity, jnp.shape(squared_distances)[1])
    (squares,), dtype = promote(squared_distances)
    return _perplexity.affinities(squares, squares != jnp.inf, jnp.asarray(perplexity, squares.dtype)).astype(dtype)


def joint_affinities(conditional: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Symmetric affinities, one distribution over all pairs.

        p_ij = (p_{j|i} + p_{i|j}) / 2n

    Args:
      conditional: rows that sum to 1, diagonal 0.

    Returns:
      A symmetric matrix that sums to 1.

    Raises:
      AssertionError: conditional is not square.

    Source:
      van der Maaten & Hinton (2008), section 3.1.

    >>> joint_affinities(jnp.array([[0.0, 1.0], [1.0, 0.0]])).tolist()
    [[0.0, 0.5], [0.5, 0.0]]
    """
    n = len(conditional)
    chex.assert_shape(conditional, (n, n))
    return (conditional + conditional.T) / (2 * n)


def student_t_affinities(Y: Float[Array, "n components"]) -> Float[Array, "n n"]:
    """Affinities of an embedding: Student's t with one degree of freedom, over all pairs.

        q_ij = (1 + ‖yᵢ − yⱼ‖²)⁻¹ / Σ_{k ≠ l} (1 + ‖y_k − y_l‖²)⁻¹,   q_ii = 0

    Args:
      Y: the embedding.

    Returns:
      A symmetric matrix that sums to 1.

    Raises:
      AssertionError: Y is not a matrix.

    Source:
      van der Maaten & Hinton (2008), eq. 4.

    >>> student_t_affinities(jnp.array([[0.0], [1.0]])).tolist()
    [[0.0, 0.5], [0.5, 0.0]]
    """
    chex.assert_rank(Y, 2)
    (Z,), dtype = promote(Y)
    kernel = _student_t(Z)
    return (kernel / jnp.sum(kernel)).astype(dtype)


def kl_divergence(P: Float[Array, "n n"], Y: Float[Array, "n components"]) -> Float[Array, ""]:
    """What an embedding loses: the divergence of its affinities from the data's.

        KL(P ‖ Q) = Σ_{i ≠ j} p_ij log (p_ij / q_ij),   0 log 0 = 0

    Its derivative in Y is `gradient`; that in P is log (p_ij / q_ij) + 1, and 0 where p_ij is.

    Args:
      P: joint affinities; the diagonal is ignored.
      Y: the embedding.

    Returns:
      A scalar in nats, at least 0 where P sums to 1.

    Raises:
      AssertionError: P is not n × n.

    Source:
      van der Maaten & Hinton (2008), eq. 2.

    >>> P = jnp.array([[0.0, 0.5], [0.5, 0.0]])
    >>> kl_divergence(P, jnp.array([[0.0], [3.0]])).item()
    0.0
    """
    chex.assert_shape(P, (len(Y), len(Y)))
    (P, Y), dtype = promote(P, Y)
    off_diagonal = ~jnp.eye(len(Y), dtype=bool)
    kernel = _student_t(Y)
    counts = off_diagonal & (P > 0)
    p, q = jnp.where(counts, P, 1), jnp.where(counts, kernel, 1)
    total = jnp.sum(jnp.where(counts, P, 0))
    divergence = jnp.sum(jnp.where(counts, p * (jnp.log(p) - jnp.log(q)), 0)) + total * jnp.log(jnp.sum(kernel))
    return divergence.astype(dtype)


def gradient(P: Float[Array, "n n"], Y: Float[Array, "n components"]) -> Float[Array, "n components"]:
    """The derivative of `kl_divergence` in the embedding, written out.

        ∂KL/∂yᵢ = 4 Σⱼ (p_ij − q_ij) (yᵢ − yⱼ) (1 + ‖yᵢ − yⱼ‖²)⁻¹

    Args:
      P: joint affinities, symmetric, summing to 1; the diagonal is ignored.
      Y: the embedding.

    Returns:
      One row for each point.

    Raises:
      AssertionError: P is not n × n.

    Source:
      van der Maaten & Hinton (2008), eq. 5.

    >>> P = jnp.array([[0.0, 0.5], [0.5, 0.0]])
    >>> gradient(P, jnp.array([[0.0], [3.0]])).tolist()
    [[0.0], [0.0]]
    """
    chex.assert_shape(P, (len(Y), len(Y)))
    (P, Y), dtype = promote(P, Y)
    kernel = _student_t(Y)
    force = jnp.where(jnp.eye(len(Y), dtype=bool), 0, P - kernel / jnp.sum(kernel)) * kernel
    return (4 * contract("ij,ijc->ic", force, Y[:, None] - Y[None])).astype(dtype)


def affinity_graph(
    X: Shaped[ArrayLike, "n features"],
    *,
    perplexity: ArrayLike = 30.0,
    num_neighbors: int | None = None,
    metric: str = "euclidean",
    neighbors: tuple[Int[ArrayLike, "n k"], Float[ArrayLike, "n k"]] | None = None,
    mesh: Mesh | None = None,
    axis: str = "data",
) -> AffinityGraph:
    """Joint affinities of nearest neighbours, in lists made for gradients: what the learner takes as its batch.

        p_ij = (p_{j|i} + p_{i|j}) / 2n,   p_{j|i} = 0 unless j is among the k nearest of i

    Args:
      X: points.
      perplexity: the effective number of neighbours.
      num_neighbors: k; None takes three times the perplexity, at most n − 1.
      metric: of `neighbors.k_nearest`.
      neighbors: what `k_nearest` gave, computed once for several perplexities; replaces num_neighbors and metric.
      mesh: devices that share the search for neighbours, as in `k_nearest`; None is one device.
      axis: of the mesh, over which points are spread.

    Returns:
      The graph: lists of 2k neighbours, and apart from them what overflows.

    Raises:
      ValueError: fewer than 4 points, points that are known to hold NaN, a perplexity that is known and is below 1 or
        not below k, or a traced perplexity without num_neighbors or neighbors.
      AssertionError: X is not a matrix, or neighbors are not n lists.

    Source:
      van der Maaten (2014), Accelerating t-SNE using Tree-Based Algorithms, eq. 6 and 7.

    >>> graph = affinity_graph(jnp.arange(10.0).reshape(5, 2), perplexity=1.5)
    >>> round(float(graph.weights.sum()), 5)
    1.0
    """
    found = neighbors_of("affinity_graph", X, perplexity, num_neighbors, metric, neighbors, mesh, axis)
    return graph_of(*found, perplexity)


def embed(
    key: Key[Array, ""] | UInt32[Array, "..."],
    X: Shaped[ArrayLike, "n features"],
    *,
    perplexity: ArrayLike = 30.0,
    num_components: int = 2,
    method: str = "auto",
    num_neighbors: int | None = None,
    metric: str = "euclidean",
    neighbors: tuple[Int[ArrayLike, "n k"], Float[ArrayLike, "n k"]] | None = None,
    init: str | Float[ArrayLike, "n components"] = "pca",
    early_exaggeration: ArrayLike = 12.0,
    exaggeration: ArrayLike = 1.0,
    num_early_iterations: int = 250,
    num_iterations: int = 500,
    learning_rate: ArrayLike | None = None,
    momentum: ArrayLike = 0.8,
    mesh: Mesh | None = None,
    axis: str = "data",
) -> Embedding:
    """An embedding whose neighbours are those of the data: t-distributed stochastic neighbour embedding.

        minimize KL(P ‖ Q(Y)) over Y,   g = 4 (e Σⱼ p_ij q̃_ij (yᵢ − yⱼ) − Σⱼ q̃²_ij (yᵢ − yⱼ) / Z),   q̃ = (1 + d²)⁻¹
        v ← μ v − η (gain ∘ g),   Y ← Y + v

    The schedule is openTSNE's: an early phase with exaggerated attraction e = 12, then e = 1; gains grow by 0.2 where a
    coordinate goes on and shrink to 0.8 where it turns back, a step is at most 5 long, and the mean stays 0.
    Repulsion is summed over all pairs, or by FFT through a potential on a grid (forces within 1 %, Z within 1e-4,
    whatever the embedding's extent up to 60 log₁₀ n; beyond, nodes move apart).
    Far beyond, forces lose a sixth and more; "exact" has no such end. There is no derivative through the descent:
    see `stationary_embedding`. One key gives one embedding, bit for bit on one device. `vmap` over keys and
    perplexities shares one neighbour graph if `neighbors` are given.

    Args:
      key: of the noise in the start; 1 % of it with "pca".
      X: at least 4 points. Under `jit` numbers that are not finite count as 0.
      perplexity: the effective number of neighbours, below the number of those listed.
      num_components: columns of the embedding.
      method: "exact", "fft" (two components only), or "auto": exact below 3000 points on a CPU, 15 000 on others.
      num_neighbors: k of the affinities; None takes three times the perplexity, at most n − 1.
      metric: of `neighbors.k_nearest`.
      neighbors: (indices, distances) of `k_nearest`; replaces num_neighbors and metric.
      init: "pca", "random", or the start itself.
      early_exaggeration: e in the first phase.
      exaggeration: e in the second.
      num_early_iterations: of the first phase; 0 skips it.
      num_iterations: of the second.
      learning_rate: η of both phases; None takes max(n / e, 200) / 4.
      momentum: μ.
      mesh: devices that share neighbours and repulsion, with axes of type Auto; None is one device. Each holds Y.
      axis: of the mesh, over which points are spread; over its other axes all is replicated.

    Returns:
      The embedding, in X's dtype but at least float32; on all devices of the mesh.

    Raises:
      ValueError: as `affinity_graph`; an unknown method or init, "fft" with other than two components, a negative
        number of iterations.
      AssertionError: shapes that do not fit.

    Source:
      van der Maaten & Hinton (2008), Visualizing Data using t-SNE; Linderman et al. (2019), Fast interpolation-based
      t-SNE for improved visualization of single-cell RNA-seq data; Poličar, Stražar & Zupan (2024), openTSNE, for
      the schedule; Belkina et al. (2019), for the learning rate.

    >>> X = jax.random.normal(jax.random.key(0), (50, 4))
    >>> embed(jax.random.key(1), X, perplexity=10.0, num_iterations=50).Y.shape
    (50, 2)
    """
    if num_early_iterations < 0 or num_iterations < 0:
        raise ValueError(
            f"embed: num_early_iterations is {num_early_iterations} and num_iterations {num_iterations}; neither may "
            "be negative."
        )
    if (
        learning_rate is not None
        and not isinstance(learning_rate, jax.core.Tracer)
        and not np.all(np.asarray(learning_rate) > 0)
    ):
        raise ValueError(f"embed: learning_rate is {learning_rate}; it must be above 0, or None.")
    if num_components < 1:
        raise ValueError(f"embed: num_components is {num_components}; it must be at least 1.")
    grids = _descent.grids_for("embed", method, jnp.shape(X)[0], num_components)
    found = neighbors_of("embed", X, perplexity, num_neighbors, metric, neighbors, mesh, axis)
    graph = graph_of(*found, perplexity)
    Y = _start.of_data(X, num_components=num_components, init=init)(key)
    schedule = _descent.schedule_of(early_exaggeration, exaggeration, num_early_iterations, learning_rate, momentum)
    num_iterations += num_early_iterations
    return Embedding(*_descend(Y, graph, grids, schedule, num_iterations, mesh, axis))


@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def _descend(Y, graph, grids, schedule, num_iterations, mesh, axis):
    def step(now, _):
        return _descent.step(now, graph, grids, schedule, mesh=mesh, axis=axis)[0], None

    end, _ = jax.lax.scan(step, _descent.start(Y), length=num_iterations)
    return end.Y, _descent.divergence(end.Y, graph, grids, mesh=mesh, axis=axis), end.iteration


def _student_t(Y):
    """(1 + d²)⁻¹ of all pairs, 0 on the diagonal."""
    kernel = 1 / (1 + _distances.squared_distances(Y, Y))
    return jnp.where(jnp.eye(len(Y), dtype=bool), 0, kernel)
