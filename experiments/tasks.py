"""From a config to what the run loop runs."""

import dataclasses
from typing import Any, NamedTuple

import ml_collections

from experiments.configuration import check_types, did_you_mean, learner_config, learner_module
from experiments.errors import UserError
from mathai.learners.base import Learner


class Task(NamedTuple):
    """A learner, and how often to update it.

    Attributes:
      learner: the three functions.
      num_updates: updates in all.
    """

    learner: Learner
    num_updates: int


def make_task(config: ml_collections.ConfigDict) -> Task:
    """Build the task of a config; every mistake in it is a `UserError`."""
    module = learner_module(config.algorithm)
    hyperparameters = learner_config(config)
    problem = _environment(config.environment, config.environment_params.to_dict())
    try:
        learner = module.make(hyperparameters, *problem)
    except ValueError as error:
        raise UserError(str(error)) from error
    num_updates = config.run.num_updates
    if num_updates is None:
        num_updates = getattr(hyperparameters, "num_updates", None)
    if num_updates is None or num_updates < 1:
        raise UserError(
            f"the run would make {num_updates} updates; raise config.run.num_updates or the learner's budget."
        )
    return Task(learner, num_updates)


def _environment(name: str, params: dict[str, Any]) -> tuple[Any, Any]:
    import gymnax  # here, because importing it starts JAX's backend, and flags must be able to choose which
    from gymnax.registration import registered_envs

    if name not in registered_envs:
        raise UserError(
            f"environment {name!r} is unknown{did_you_mean(name, registered_envs)}; "
            f"gymnax has {', '.join(registered_envs)}."
        )
    env, default_params = gymnax.make(name)
    fields = {field.name for field in dataclasses.fields(default_params)}
    for field in params:
        if field not in fields:
            raise UserError(f"config.environment_params has no field {field!r}{did_you_mean(field, fields)}.")
    check_types("environment_params", params, dataclasses.asdict(default_params))
    return env, dataclasses.replace(default_params, **params)
