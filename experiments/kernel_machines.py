"""Tasks of support vector machines: a search over widths and prices, then rounds of the solver, and pictures."""

import dataclasses
import functools
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from experiments import data, kernel_pictures, pictures, progress
from experiments.configuration import check_types
from experiments.errors import UserError
from experiments.tasks import Task, maker
from mathai.kernel.svm import cross_validate
from mathai.learners import svm
from mathai.learners.batches import Examples, as_vectors

DEFAULTS = {
    "gammas": (),  # widths γ of the RBF kernel to choose from; none: config.learner.gamma and C stay as they are
    "prices": (),  # prices C to choose from
    "folds": 5,  # of the cross-validation on the training examples, stratified
    "seed": 0,  # of the folds
}


class Search(NamedTuple):
    """What a search over widths and prices found.

    Attributes:
      gammas: widths, ascending.
      prices: prices, ascending.
      accuracies: on the examples left out, [gammas, prices, folds]; NaN where a fit did not converge.
    """

    gammas: np.ndarray
    prices: np.ndarray
    accuracies: np.ndarray

    @property
    def best(self) -> tuple[float, float]:
        """The width and the price of the highest mean accuracy; of equal ones the widest and the cheapest."""
        means = np.nan_to_num(self.accuracies.mean(-1), nan=-np.inf)
        width, price = np.unravel_index(means.argmax(), means.shape)
        return float(self.gammas[width]), float(self.prices[price])


def make_task(config: ml_collections.ConfigDict, module: Any, hyperparameters: svm.Config) -> Task:
    """Build the task of a config with the sections `data` and `search`: the search first, then rounds with its best."""
    fields, search_fields = config.data.to_dict(), config.search.to_dict()
    check_types("data", fields, data.DEFAULTS)
    check_types("search", search_fields, {**DEFAULTS, "gammas": (1.0,), "prices": (1.0,)})
    data_set = data.load(fields)
    train, test = (Examples(jnp.asarray(part.inputs), jnp.asarray(part.labels)) for part in data_set[:2])
    missing = set(range(len(data_set.class_names))) - set(np.asarray(train.labels).tolist())
    if missing:
        names = ", ".join(data_set.class_names[label] for label in sorted(missing))
        raise UserError(f"there is no training example of class {names}; raise config.data.num_train.")

    sizes = len(train.labels), len(data_set.class_names)
    make = maker(module, *sizes)
    try:
        found = search(hyperparameters, train, search_fields)
        if found is not None:
            gamma, price = found.best
            hyperparameters = dataclasses.replace(hyperparameters, gamma=gamma, C=price)
        learner = make(hyperparameters)
    except ValueError as error:
        raise UserError(str(error)) from error
    return Task(
        learner,
        num_updates=hyperparameters.num_updates,
        data=train,
        evaluation_data=(train, test),
        problem=data.title(fields),
        curves=("gap", "objective", "support_vectors", "accuracy"),
        work=1,
        unit="rounds",
        pictures=functools.partial(_draw, hyperparameters, data_set, found),
        hyperparameters=hyperparameters,
        make=make,
        over_devices=lambda mesh, axis: module.make(hyperparameters, *sizes, mesh=mesh, axis=axis),
    )


def search(hyperparameters: svm.Config, train: Examples, fields: dict[str, Any]) -> Search | None:
    """Cross-validate RBF machines over all widths and prices of a section `search`; None where it names none."""
    gammas, prices = (np.sort(np.asarray(fields[name], float)) for name in ("gammas", "prices"))
    if not gammas.size and not prices.size:
        return None
    if not (gammas.size and prices.size):
        raise UserError("config.search needs both gammas and prices, or neither.")
    if (hyperparameters.kernel, hyperparameters.strategy) != ("rbf", "one_vs_one"):
        raise UserError("config.search is of the kernel 'rbf' and the strategy 'one_vs_one'; leave its gammas empty.")
    began = time.perf_counter()
    accuracies = np.asarray(
        cross_validate(
            as_vectors(train.inputs),
            np.asarray(train.labels),
            gammas=gammas,
            Cs=prices,
            folds=fields["folds"],
            key=jax.random.key(fields["seed"]),
            tolerance=hyperparameters.tolerance,
        )
    )
    found = Search(gammas, prices, accuracies)
    means, (gamma, price) = accuracies.mean(-1), found.best
    if not np.isfinite(means).any():
        raise UserError("no fit of config.search converged; raise config.learner.tolerance, or search lower prices.")
    seconds = time.perf_counter() - began
    progress.say(
        "search",
        f"{accuracies.size} fits in {seconds:.1f} s, compilation included: gamma {gamma:.3g}, C {price:.3g}, "
        f"accuracy {np.nanmax(means):.4f} on the examples left out",
    )
    return found


def _draw(
    hyperparameters: svm.Config, data_set: data.DataSet, found: Search | None, workdir: pathlib.Path, state: svm.State
) -> list[pathlib.Path]:
    """Draw what a search found, boundaries of three kernels in the plane, and which classes are mistaken."""
    train, test = (Examples(jnp.asarray(part.inputs), jnp.asarray(part.labels)) for part in data_set[:2])
    num_classes = len(data_set.class_names)
    predicted = jax.jit(functools.partial(svm.predict, hyperparameters, num_classes))(state, train, test.inputs)
    votes = np.eye(num_classes)[np.asarray(predicted)]
    drawn = [pictures.confusion_matrix(workdir, votes, data_set.test.labels, data_set.class_names)]
    if found is not None:
        drawn.append(kernel_pictures.accuracy_map(workdir, found.gammas, found.prices, found.accuracies))
    if data_set.train.inputs.shape[1:] == (2,) and num_classes == 2:
        drawn.append(kernel_pictures.boundaries(workdir, hyperparameters, data_set))
    return drawn
