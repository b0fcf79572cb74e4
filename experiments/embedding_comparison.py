"""How good an embedding is, and several of one data set side by side: what they keep, how long they take."""

import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import embedding_pictures, progress
from experiments.data import DataSet
from experiments.workdir import read_json, write_json
from mathai.reduction import pca, tsne, umap
from mathai.reduction.neighbors import k_nearest, neighbor_recall, trustworthiness

MEASURES = "measures.json"
MOST_MEASURED = 10_000  # points of which ranks among all others are counted; a sample where there are more
NUM_VOTES = 10  # neighbours that vote on a class


class Method(NamedTuple):
    """A way to embed in the plane, with its defaults.

    Attributes:
      title: as it is written.
      embed: X → what places are read from.
      places: of what `embed` gave, [n, 2].
      transform: (X, what `embed` gave, X_new) → places of new examples.
    """

    title: str
    embed: Callable[[jax.Array], Any]
    places: Callable[[jax.Array, Any], jax.Array]
    transform: Callable[[jax.Array, Any, jax.Array], jax.Array]


METHODS = {
    "pca": Method(
        "PCA",
        lambda X: pca.fit(X, num_components=2),
        lambda X, model: pca.transform(model, X),
        lambda X, model, new: pca.transform(model, new),
    ),
    "tsne": Method(
        "t-SNE",
        lambda X: tsne.embed(jax.random.key(0), X),
        lambda X, embedding: embedding.Y,
        lambda X, embedding, new: tsne.transform(jax.random.key(0), X, embedding, new),
    ),
    "umap": Method(
        "UMAP",
        lambda X: umap.embed(jax.random.key(0), X),
        lambda X, embedding: embedding.Y,
        lambda X, embedding, new: umap.transform(jax.random.key(0), X, embedding, new),
    ),
}


def compare(
    workdir: pathlib.Path, names: Sequence[str], X: jax.Array, X_new: jax.Array, data_set: DataSet
) -> list[pathlib.Path]:
    """Embed one data set in several ways, say how good each is and how long it took, and draw them side by side.

    Each runs twice: the first time is with compilation, the second without. One that the data are too few for is left
    out, and said to be.
    """
    if not names:
        return []
    train, test = data_set.train, data_set.test
    titles, found = [], []
    for name in names:
        method = METHODS[name]
        seconds = []
        try:
            jax.clear_caches()  # parts of it may have run before
            for _ in range(2):
                begin = time.perf_counter()
                embedding = jax.block_until_ready(method.embed(X))
                seconds.append(time.perf_counter() - begin)
        except ValueError as error:
            progress.say(method.title, f"left out: {error}")
            continue
        Y = np.asarray(method.places(X, embedding))
        placed = np.asarray(method.transform(X, embedding, X_new))
        spent = f"{seconds[1]:.2f} s ({seconds[0]:.1f} s with compilation)"
        measures = measure(X, Y, train.labels, placed, test.labels)
        keep_measures(workdir, name, measures | {"seconds": seconds[1], "seconds_with_compilation": seconds[0]})
        progress.say(method.title, f"{spent}, {describe(measures)}")
        titles.append(f"{method.title}, {seconds[1]:.2g} s")
        found.append(Y)
    if not found:
        return []
    return [embedding_pictures.side_by_side(workdir / "comparison.png", titles, found, train.labels)]


def measure(
    X: jax.Array, Y: np.ndarray, labels: np.ndarray, placed: np.ndarray, placed_labels: np.ndarray
) -> dict[str, float]:
    """How well an embedding keeps neighbours and classes; what the points are too few for is left out."""
    some = np.random.default_rng(0).permutation(len(Y))[:MOST_MEASURED]
    x, y = jnp.asarray(X)[some], jnp.asarray(Y)[some]
    found: dict[str, float] = {"points": len(Y), "points_measured": len(some)}
    if len(some) > 30:
        found["trustworthiness"] = float(trustworthiness(x, y, 15))
    if len(some) > NUM_VOTES:
        found["neighbor_recall"] = float(neighbor_recall(x, y, NUM_VOTES))
        own = _vote(k_nearest(Y, NUM_VOTES)[0], labels)
        found["accuracy"] = float(np.mean(own == labels))
        new = _vote(k_nearest(Y, NUM_VOTES, queries=placed)[0], labels)
        found["test_accuracy"] = float(np.mean(new == placed_labels))
    return found


def describe(measures: dict[str, float]) -> str:
    """Say measures in one line.

    >>> describe({"points": 60_000, "points_measured": 10_000, "trustworthiness": 0.98})
    'trustworthiness 0.9800 (of 10000 points)'
    """
    of = f" (of {measures['points_measured']} points)" if measures["points_measured"] < measures["points"] else ""
    forms = {
        "trustworthiness": f"trustworthiness {{:.4f}}{of}",
        "neighbor_recall": f"neighbour recall {{:.3f}}{of}",
        "accuracy": f"{NUM_VOTES}-NN accuracy {{:.4f}}",
        "test_accuracy": "of test examples placed in it {:.4f}",
    }
    return ", ".join(form.format(measures[name]) for name, form in forms.items() if name in measures)


def keep_measures(workdir: pathlib.Path, name: str, measures: dict[str, float]) -> None:
    """Add the measures of one embedding to `measures.json`, or replace them."""
    path = workdir / MEASURES
    write_json(path, {**(read_json(path) if path.exists() else {}), name: measures})


def _vote(neighbors: jax.Array, labels: np.ndarray) -> np.ndarray:
    """The commonest label of each list; of equally common ones the smallest."""
    votes = labels[np.asarray(neighbors)]
    return np.stack([(votes == label).sum(1) for label in range(labels.max() + 1)], 1).argmax(1)
