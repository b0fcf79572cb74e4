"""Tasks on labelled data: batches drawn on the device, and pictures of what a classifier gets wrong."""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import PyTree

from experiments import data, pictures
from experiments.configuration import check_types
from experiments.errors import UserError
from experiments.feed import Streamed
from experiments.tasks import Rows, Task, maker
from mathai.learners import classifier, svm_head
from mathai.learners.batches import Examples, minibatch_indices, steps_per_epoch
from mathai.nn.activations import softmax


def make_task(
    config: ml_collections.ConfigDict, module: Any, hyperparameters: classifier.Config | svm_head.Config
) -> Task:
    """Build the task of a config with the section `data`."""
    fields = config.data.to_dict()
    check_types("data", fields, data.DEFAULTS)
    data_set = data.load(fields)
    test = Examples(*map(jnp.asarray, data_set.test))
    train = Examples(*data_set.train)  # in host memory: the run decides on which devices it lies
    num_classes = len(data_set.class_names)
    make = maker(module, train, test, num_classes=num_classes)
    needs_train = module is svm_head  # a head that is fitted anew to be scored
    try:
        learner = make(hyperparameters)
        updates = hyperparameters.num_epochs * steps_per_epoch(len(train.labels), hyperparameters.batch_size)
    except ValueError as error:
        raise UserError(str(error)) from error
    return Task(
        learner,
        num_updates=updates,
        **batches(data_set.source, train, hyperparameters.batch_size),
        evaluation_data=(Examples(*map(jnp.asarray, train)), test) if needs_train else test,
        problem=data.title(fields),
        curves=("loss", "accuracy"),
        work=hyperparameters.batch_size,
        unit="examples",
        pictures=functools.partial(
            _draw_mistakes,
            data_set,
            functools.partial(module.predict, hyperparameters, num_classes),
            (train,) if needs_train else (),
        ),
        hyperparameters=hyperparameters,
        make=make,
    )


def batches(source: Any, train: PyTree, batch_size: int, batch_of: Any = Examples) -> dict[str, Any]:
    """Fields of a task whose batches are drawn on the device, or made of what a source on disk gives."""
    if source is not None:
        return {"stream": Streamed(source, batch_size, batch_of)}
    return {"data": train, "draw": Rows(functools.partial(minibatch_indices, batch_size=batch_size))}


def _draw_mistakes(
    data_set: data.DataSet, predict: Any, examples: tuple[Examples, ...], workdir: pathlib.Path, state: PyTree
) -> list[pathlib.Path]:
    """Draw the confusion matrix, and the examples whose label had the least probability."""
    inputs, labels = data_set.test
    probabilities = np.asarray(softmax(jax.jit(predict)(state, *examples, jnp.asarray(inputs))))
    drawn = [pictures.confusion_matrix(workdir, probabilities, labels, data_set.class_names)]
    if inputs.ndim == 3 or (inputs.ndim == 4 and inputs.shape[-1] in (1, 3, 4)):
        drawn.append(pictures.worst_mistakes(workdir, inputs, probabilities, labels, data_set.class_names))
    return drawn
