"""Tasks of dimensionality reduction: the data as they are, the embedding as a file, and pictures of it."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import PyTree

from experiments import data, embedding_comparison, embedding_pictures, progress
from experiments.classification import batches
from experiments.configuration import check_types
from experiments.errors import UserError
from experiments.tasks import Task, maker
from mathai.learners import parametric_tsne, parametric_umap, pca, tsne, umap
from mathai.learners.base import Learner
from mathai.learners.batches import Examples, as_vectors, steps_per_epoch
from mathai.reduction import tsne as formulas
from mathai.reduction import umap as fuzzy_formulas
from mathai.reduction.neighbors import k_nearest

DEFAULTS = {
    "perplexities": (),  # of t-SNE: also embed with each of these, in one program, and draw them side by side
    "beside": (),  # of t-SNE and UMAP: also embed with "pca", "tsne", "umap" as they are, measure and draw them
}


def make_task(config: ml_collections.ConfigDict, module: Any, hyperparameters: Any) -> Task:
    """Build the task of a config with the section `data`: a stream for `pca` and encoders, one graph for the others."""
    fields = config.data.to_dict()
    check_types("data", fields, data.DEFAULTS)
    data_set = data.load(fields)
    try:
        build = {pca: _stream, parametric_tsne: _encoder, parametric_umap: _encoder_of_edges, umap: _edges}.get(
            module, _graph
        )
        return build(config, module, hyperparameters, data_set)
    except ValueError as error:
        raise UserError(str(error)) from error


def _stream(
    config: ml_collections.ConfigDict, module: Any, hyperparameters: pca.Config, data_set: data.DataSet
) -> Task:
    test = Examples(*map(jnp.asarray, data_set.test))
    train = Examples(*data_set.train)
    make = functools.partial(module.make, hyperparameters, int(np.prod(train.inputs.shape[1:])))
    return Task(
        make(),
        num_updates=steps_per_epoch(len(train.labels), hyperparameters.batch_size),
        **batches(data_set.source, train, hyperparameters.batch_size),
        evaluation_data=test,
        problem=data.title(config.data),
        curves=("explained_variance_ratio", "reconstruction_error"),
        work=hyperparameters.batch_size,
        unit="examples",
        pictures=functools.partial(_draw_components, hyperparameters, data_set),
        over_devices=lambda mesh, axis: make(mesh=mesh, axis=axis),
    )


def _draw_components(
    hyperparameters: pca.Config, data_set: data.DataSet, workdir: pathlib.Path, state: pca.State
) -> list[pathlib.Path]:
    """Draw how much each component explains, and the first two of the test examples."""
    num_features = state.moments.mean.shape[0]
    whole = pca.as_model(pca.Config(num_components=num_features), state)
    projected = pca.pca.transform(whole, as_vectors(jnp.asarray(data_set.test.inputs)))
    ids = np.arange(len(projected)) + len(data_set.train.labels)
    kept = np.asarray(projected[:, : hyperparameters.num_components])
    _save(workdir / "embedding.npz", ids=ids, labels=data_set.test.labels, embedding=kept)
    drawn = [embedding_pictures.scree(workdir, np.asarray(whole.explained_variance_ratio))]
    if num_features > 1:
        names = ("first component", "second component")
        drawn.append(embedding_pictures.classes(workdir, np.asarray(projected[:, :2]), data_set.test, data_set, names))
    return drawn


def _encoder(
    config: ml_collections.ConfigDict, module: Any, hyperparameters: parametric_tsne.Config, data_set: data.DataSet
) -> Task:
    train, test = Examples(*data_set.train), Examples(*map(jnp.asarray, data_set.test))
    updates = hyperparameters.num_epochs * steps_per_epoch(len(train.labels), hyperparameters.batch_size)
    few = Examples(*(array[: hyperparameters.batch_size] for array in test))
    make = maker(module, train.inputs)
    return Task(
        make(hyperparameters),
        num_updates=updates,
        **batches(data_set.source, train, hyperparameters.batch_size),
        evaluation_data=few,
        problem=data.title(config.data),
        curves=("loss", "kl_divergence"),
        work=hyperparameters.batch_size,
        unit="examples",
        pictures=functools.partial(_draw_encoded, module, hyperparameters, data_set),
        hyperparameters=hyperparameters,
        make=make,
    )


def _encoder_of_edges(
    config: ml_collections.ConfigDict, module: Any, hyperparameters: parametric_umap.Config, data_set: data.DataSet
) -> Task:
    edges = module.prepare(hyperparameters, data_set.train.inputs)
    draw = functools.partial(module.draw, batch_size=hyperparameters.batch_size)
    make = maker(module, data_set.train.inputs)
    return Task(
        make(hyperparameters),
        num_updates=hyperparameters.num_updates,
        data=edges,
        draw=draw,
        evaluation_data=draw(jax.random.key(0), edges, 0),
        problem=data.title(config.data),
        curves=("loss",),
        work=hyperparameters.batch_size,
        unit="edges",
        pictures=functools.partial(_draw_encoded, module, hyperparameters, data_set),
        hyperparameters=hyperparameters,
        make=make,
    )


def _draw_encoded(
    module: Any, hyperparameters: Any, data_set: data.DataSet, workdir: pathlib.Path, state: PyTree
) -> list[pathlib.Path]:
    """Save, measure and draw what an encoder makes of both parts of the data."""
    encode = jax.jit(module.embedding(hyperparameters, state))
    Y, placed = (np.asarray(encode(part.inputs)) for part in data_set[:2])
    return _keep(workdir, as_vectors(jnp.asarray(data_set.train.inputs)), Y, placed, data_set)


def _graph(
    config: ml_collections.ConfigDict, module: Any, hyperparameters: tsne.Config, data_set: data.DataSet
) -> Task:
    search = _search(config)
    if search["perplexities"]:
        _longest(len(data_set.train.labels), search["perplexities"])
    project = module.projection(hyperparameters, data_set.train.inputs)
    X = project(data_set.train.inputs)
    projected = dataclasses.replace(hyperparameters, num_input_components=0)
    learner, batch = module.make(projected, X), module.prepare(projected, X)
    return Task(
        learner,
        num_updates=hyperparameters.num_early_iterations + hyperparameters.num_iterations,
        data=batch,
        evaluation_data=batch,
        problem=data.title(config.data),
        curves=("kl_divergence", "gradient_norm", "span"),
        work=1,
        unit="iterations",
        pictures=functools.partial(_draw_embedding, module, hyperparameters, data_set, search, X, project),
        hyperparameters=projected,
        make=functools.partial(_make_again, maker(module, X), learner.init),
        over_devices=lambda mesh, axis: module.make(projected, X, mesh=mesh, axis=axis),
    )


def _edges(
    config: ml_collections.ConfigDict, module: Any, hyperparameters: umap.Config, data_set: data.DataSet
) -> Task:
    search = _search(config)
    if search["perplexities"]:
        raise UserError("config.search.perplexities are t-SNE's; UMAP has config.learner.num_neighbors.")
    project = module.projection(hyperparameters, data_set.train.inputs)
    X = project(data_set.train.inputs)
    projected = dataclasses.replace(hyperparameters, num_input_components=0)
    batch = module.prepare(projected, X, jnp.asarray(data_set.train.labels))
    learner = module.make(projected, X, batch=batch)
    return Task(
        learner,
        num_updates=module.num_epochs(hyperparameters, len(X)),
        data=batch,
        evaluation_data=batch,
        problem=data.title(config.data),
        curves=("loss", "span"),
        work=1,
        unit="epochs",
        pictures=functools.partial(_draw_embedding, module, hyperparameters, data_set, search, X, project),
        hyperparameters=projected,
        make=functools.partial(_make_again, maker(module, X, batch=batch), learner.init),
    )


def _make_again(
    make: Callable[[Any], Learner], init: Callable[[jax.Array], PyTree], hyperparameters: tsne.Config | umap.Config
) -> Learner:
    """The learner with other floats: none of them moves the start, which is found once and taken as it was found."""
    return make(dataclasses.replace(hyperparameters, init="random"))._replace(init=init)


def _search(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The section `search`, each field of its type and each method known."""
    search = config.search.to_dict()
    check_types("search", search, {"perplexities": (1.0,), "beside": ("",)})
    for method in search["beside"]:
        if method not in embedding_comparison.METHODS:
            raise UserError(
                f"config.search.beside names {method!r}; use some of {', '.join(embedding_comparison.METHODS)}."
            )
    return search


def _draw_embedding(
    module: Any,
    hyperparameters: Any,
    data_set: data.DataSet,
    search: dict[str, Any],
    X: jax.Array,
    project: Callable[[np.ndarray], jax.Array],
    workdir: pathlib.Path,
    state: PyTree,
) -> list[pathlib.Path]:
    """Save and measure the embedding, add the test examples to it, and draw all of it."""
    Y, X_new = np.asarray(module.embedding(state)), project(data_set.test.inputs)
    transform = formulas.transform
    known = {"metric": hyperparameters.metric}
    if module is umap:
        transform = fuzzy_formulas.transform
        for name in ("min_dist", "spread", "repulsion_strength", "num_negatives"):
            known[name] = getattr(hyperparameters, name)
    placed = transform(jax.random.key(0), X, Y, X_new, **known)
    drawn = _keep(workdir, X, Y, np.asarray(placed), data_set)
    if drawn and search["perplexities"]:
        drawn.append(_sweep(workdir, hyperparameters, X, search["perplexities"], data_set))
    return drawn + embedding_comparison.compare(workdir, search["beside"], X, X_new, data_set)


def _keep(
    workdir: pathlib.Path, X: jax.Array, Y: np.ndarray, placed: np.ndarray, data_set: data.DataSet
) -> list[pathlib.Path]:
    """Save an embedding and the places of test examples, say how good they are, and draw what is in the plane."""
    train, test = data_set.train, data_set.test
    ids = np.arange(len(train.labels) + len(test.labels))
    _save(
        workdir / "embedding.npz",
        ids=ids[: len(train.labels)],
        labels=train.labels,
        embedding=Y,
        test_ids=ids[len(train.labels) :],
        test_labels=test.labels,
        test_embedding=placed,
    )
    measures = embedding_comparison.measure(X, Y, train.labels, placed, test.labels)
    embedding_comparison.keep_measures(workdir, "embedding", measures)
    progress.say("embedding", embedding_comparison.describe(measures))
    return [embedding_pictures.classes(workdir, Y, train, data_set)] if Y.shape[1] == 2 else []


def _sweep(
    workdir: pathlib.Path, hyperparameters: tsne.Config, X: jax.Array, perplexities: Any, data_set: data.DataSet
) -> pathlib.Path:
    """Embed with several perplexities on one neighbour graph, in one compilation."""
    neighbors = k_nearest(X, _longest(len(X), perplexities), metric=hyperparameters.metric)

    def embed(perplexity, X, neighbors):
        return formulas.embed(
            jax.random.key(0),
            X,
            perplexity=perplexity,
            neighbors=neighbors,
            method=hyperparameters.method,
            init=hyperparameters.init,
            early_exaggeration=hyperparameters.early_exaggeration,
            exaggeration=hyperparameters.exaggeration,
            learning_rate=hyperparameters.learning_rate or None,
            momentum=hyperparameters.momentum,
            num_early_iterations=hyperparameters.num_early_iterations,
            num_iterations=hyperparameters.num_iterations,
        )

    of_all = jax.jit(jax.vmap(embed, in_axes=(0, None, None)))
    found = of_all(jnp.asarray(perplexities, float), X, neighbors)
    return embedding_pictures.sweep(
        workdir, np.asarray(found.Y), np.asarray(found.kl_divergence), perplexities, data_set.train.labels
    )


def _longest(num_points: int, perplexities: Any) -> int:
    """How many neighbours the largest of several perplexities needs."""
    most = min(num_points - 1, max(1, round(3 * max(perplexities))))
    if not all(1 <= perplexity < most for perplexity in perplexities):
        raise UserError(f"config.search.perplexities must lie between 1 and {most}, the number of neighbours.")
    return most


def _save(path: pathlib.Path, **arrays: np.ndarray) -> None:
    """Write named arrays into a file that is there whole or not at all."""
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    temporary.replace(path)
