"""Principal components, neighbours, t-SNE and UMAP beside scikit-learn, openTSNE and umap-learn, in float32.

The data are scikit-learn's digits, Gaussians, and MNIST on 50 principal components where its folder is given.
t-SNE is scored by the divergence of one and the same P, made by scikit-learn's search for widths; its negative is the
score, and what does not beat two principal components by a tenth is wrong. UMAP is scored by scikit-learn's
trustworthiness of at most 5000 points, in percent. Each contestant's time is from the data to the embedding,
neighbours included. Operations of t-SNE and UMAP are those of the neighbours' products and of the pulls along edges,
in UMAP of its pushes too; how pushes of t-SNE are summed is each method's own affair.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn import datasets, decomposition, manifold
from sklearn import neighbors as sklearn_neighbors

from experiments import data, progress
from experiments.configuration import num_cores
from experiments.errors import UserError
from experiments.suites.base import Case, Contestant
from experiments.suites.options import Options
from mathai.reduction import neighbors, pca, tsne, umap

NUM_JOBS = num_cores()
NUM_DIGITS = 1797
PERPLEXITY, NUM_NEIGHBORS = 30.0, 90
MOST_SCORED, LEAST_TRUST = 5000, 93.0  # points of which trustworthiness is measured, and the least percent of it
TSNE_ITERATIONS = 750
PAIR_OPERATIONS = 12  # of the force between two points of the plane
BLOCK = 500  # rows of an exact sum over all pairs
FEATURES = {1797: 64, 60_000: 784}  # of matrices of so many rows; others have 100


def pca_cases(options: Options) -> Iterator[Case]:
    """All components of matrices of so many rows; the score is the digits of the worst variance, of the largest."""
    for n in options.rows:
        d = FEATURES.get(n, 100)
        X = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32) * np.geomspace(1, 0.1, d, dtype=np.float32)
        X = datasets.load_digits().data.astype(np.float32) if n == NUM_DIGITS else X
        scatter = sum(part.T @ part for part in np.array_split((X - X.mean(0)).astype(np.float64), 50))
        exact = np.linalg.eigvalsh(scatter / (n - 1))[::-1]

        def digits(variances, exact=exact):
            return float(-np.log10(np.max(np.abs(np.asarray(variances) - exact)) / exact[0] + 1e-16))

        on_device = jnp.asarray(X)
        ours = Contestant("mathai", lambda X=on_device: pca.fit(X).explained_variance, digits, compiles=False)
        peer = Contestant(
            "scikit-learn", lambda X=X: decomposition.PCA().fit(X).explained_variance_, digits, compiles=False
        )
        yield Case(
            f"PCA, {n} x {d}",
            [ours, peer] if options.with_peers else [ours],
            n,
            "examples",
            3.0,
            (),
            flops=2 * n * d**2,  # of XᵀX
            bytes=X.nbytes,
            family=f"PCA, {d} features",
            variable="rows",
            size=n,
        )


def neighbors_cases(options: Options) -> Iterator[Case]:
    """The 90 nearest of each point; the score is the part of distances that agree with float64."""
    for n in options.points:
        X = _points(n, options.mnist)
        on_device = jnp.asarray(X)
        some = np.arange(0, n, max(1, n // 200))
        squares = ((X[some, None].astype(np.float64) - X[None]) ** 2).sum(-1) if n <= 2000 else _squares(X[some], X)
        squares[np.arange(len(some)), some] = np.inf
        exact = np.sqrt(np.sort(squares, axis=1)[:, :NUM_NEIGHBORS])

        def agreement(distances, exact=exact, some=some):
            return float(np.mean(np.abs(np.asarray(distances)[some] / exact - 1) < 1e-5))

        def peer(X=X):
            search = sklearn_neighbors.NearestNeighbors(n_neighbors=NUM_NEIGHBORS, algorithm="brute", n_jobs=NUM_JOBS)
            return search.fit(X).kneighbors()[0]

        contestants = [
            Contestant(
                "mathai", lambda X=on_device: neighbors.k_nearest(X, NUM_NEIGHBORS)[1], agreement, compiles=False
            ),
            Contestant("scikit-learn", peer, agreement, compiles=False),
        ]
        name = f"{NUM_NEIGHBORS} neighbours, {_describe(X, options)}"
        yield Case(
            name,
            contestants if options.with_peers else contestants[:1],
            n,
            "examples",
            0.999,
            (),
            flops=2 * n**2 * X.shape[1],  # of XXᵀ
            bytes=X.nbytes + n * NUM_NEIGHBORS * 8,
            family=f"{NUM_NEIGHBORS} neighbours",
            variable="points",
            size=n,
        )


def tsne_cases(options: Options) -> Iterator[Case]:
    """Embeddings in the plane with perplexity 30, from the data to the end."""
    for n in options.points:
        X = _points(n, options.mnist)
        on_device = jnp.asarray(X)
        P = _joint(X)

        def score(Y, P=P):
            return -divergence(P, np.asarray(Y, np.float64))

        contestants = [
            Contestant("mathai", lambda X=on_device: tsne.embed(jax.random.key(0), X).Y, score, compiles=False)
        ]
        if options.with_peers:
            contestants += _peers(X, score)
        pulls = TSNE_ITERATIONS * 2 * NUM_NEIGHBORS * n
        yield Case(
            f"t-SNE, {_describe(X, options)}",
            contestants,
            n,
            "examples",
            -0.9 * _of_components(P, X),
            (),
            flops=2 * n**2 * X.shape[1] + PAIR_OPERATIONS * pulls,
            family="t-SNE",
            variable="points",
            size=n,
        )


def umap_cases(options: Options) -> Iterator[Case]:
    """Embeddings in the plane with 15 neighbours, from the data to the end; umap-learn with a seed up to 10 000."""
    for n in options.points:
        X = _points(n, options.mnist)
        on_device = jnp.asarray(X)
        some = np.random.default_rng(0).permutation(n)[:MOST_SCORED]

        def score(Y, X=X, some=some):
            return 100 * float(manifold.trustworthiness(X[some], np.asarray(Y)[some], n_neighbors=15))

        contestants = [
            Contestant("mathai", lambda X=on_device: umap.embed(jax.random.key(0), X).Y, score, compiles=False)
        ]
        if options.with_peers:
            contestants += _umap_learn(X, score)
        epochs = 500 if n <= 10_000 else 200
        yield Case(
            f"UMAP, {_describe(X, options)}",
            contestants,
            n,
            "examples",
            LEAST_TRUST,
            (),
            flops=2 * n**2 * X.shape[1] + PAIR_OPERATIONS * epochs * 15 * (1 + 5) * n,
            family="UMAP",
            variable="points",
            size=n,
        )


def _of_components(P: Any, X: np.ndarray) -> float:
    """The divergence of two principal components, at the best of a few scales."""
    Y = decomposition.PCA(2, random_state=0).fit_transform(X).astype(np.float64)
    return min(divergence(P, scale * Y / Y.std()) for scale in (1, 5, 20))


def _umap_learn(X: np.ndarray, score: Any) -> list[Contestant]:
    """In parallel as it comes, and on one thread with the seed that makes it repeat itself."""
    try:
        from umap import UMAP
    except ImportError:
        progress.say("peer", "umap-learn is not installed")
        return []
    ways = {"umap-learn": {"n_jobs": NUM_JOBS}}
    if len(X) <= 10_000:
        ways["umap-learn, seed"] = {"n_jobs": 1, "random_state": 0}
    return [
        Contestant(name, lambda way=way: UMAP(**way).fit_transform(X), score, compiles=False)
        for name, way in ways.items()
    ]


def divergence(P: Any, Y: np.ndarray) -> float:
    """KL(P ‖ Q) in float64, over all pairs."""
    rows = P.tocoo()
    pairs = ((Y[rows.row] - Y[rows.col]) ** 2).sum(1)
    total = sum(float(np.sum(1 / (1 + _squares(part, Y)))) for part in np.array_split(Y, -(-len(Y) // BLOCK)))
    return float(np.sum(rows.data * (np.log(rows.data) + np.log1p(pairs))) + np.log(total - len(Y)))


def _peers(X: np.ndarray, score: Any) -> list[Contestant]:
    """Those that are installed, each as its authors would run it."""
    found = []
    if len(X) <= 10_000:

        def barnes_hut():
            return manifold.TSNE(perplexity=PERPLEXITY, init="pca", random_state=0, n_jobs=NUM_JOBS).fit_transform(X)

        found.append(Contestant("scikit-learn", barnes_hut, score, compiles=False))
    try:
        import openTSNE
    except ImportError:
        progress.say("peer", "openTSNE is not installed")
        return found
    method = "fft" if len(X) >= 10_000 else "bh"

    def interpolated():
        model = openTSNE.TSNE(perplexity=PERPLEXITY, n_jobs=NUM_JOBS, random_state=0, negative_gradient_method=method)
        return np.asarray(model.fit(X))

    return [*found, Contestant("openTSNE", interpolated, score, compiles=False)]


def _describe(X: np.ndarray, options: Options) -> str:
    """Which points they are, and how many."""
    data = "digits" if len(X) <= NUM_DIGITS else "Gaussians" if options.mnist is None else "MNIST"
    return f"{data}, {len(X)} x {X.shape[1]}"


def check_mnist(options: Options) -> None:
    """Raise a `UserError` where MNIST is asked for and not there, or has fewer images than points are asked for."""
    if options.mnist is None:
        return
    try:
        found = len(data.load({**data.DEFAULTS, "name": "mnist", "directory": options.mnist}).train.labels)
    except UserError as error:
        raise UserError(f"--mnist={options.mnist}: {error}") from error
    if max(options.points) > found:
        raise UserError(f"--points={max(options.points)} are more than the {found} images that MNIST has.")


def _points(n: int, mnist: str | None) -> np.ndarray:
    """The digits, or as many MNIST images on 50 principal components, or Gaussians in their place."""
    if n <= NUM_DIGITS:
        return datasets.load_digits().data.astype(np.float32)[:n]
    if mnist is None:
        means = 4 * np.random.default_rng(0).normal(size=(10, 50))
        labels = np.arange(n) % 10
        return (means[labels] + np.random.default_rng(1).normal(size=(n, 50))).astype(np.float32)
    images = data.load({**data.DEFAULTS, "name": "mnist", "directory": mnist}).train.inputs[:n]
    X = jnp.asarray(images.reshape(len(images), -1), jnp.float32) / 255
    return np.asarray(pca.transform(pca.fit(X, num_components=50), X))


def _joint(X: np.ndarray) -> Any:
    """P of the 90 nearest, made by scikit-learn."""
    from scipy import sparse
    from sklearn.manifold._utils import _binary_search_perplexity

    k = min(NUM_NEIGHBORS, len(X) - 1)
    search = sklearn_neighbors.NearestNeighbors(n_neighbors=k, algorithm="brute", n_jobs=NUM_JOBS).fit(X)
    distances, indices = search.kneighbors()
    conditional = _binary_search_perplexity((distances**2).astype(np.float32), PERPLEXITY, 0)
    rows = np.repeat(np.arange(len(X)), k)
    P = sparse.csr_matrix((np.asarray(conditional).ravel(), (rows, indices.ravel())), (len(X), len(X)))
    P = (P + P.T) / (2 * len(X))
    P.eliminate_zeros()
    return P


def _squares(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    A, B = A.astype(np.float64), B.astype(np.float64)
    return np.maximum((A**2).sum(1)[:, None] - 2 * A @ B.T + (B**2).sum(1)[None], 0)
