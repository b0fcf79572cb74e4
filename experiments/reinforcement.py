"""Tasks on gymnax environments."""

import dataclasses
import functools
import pathlib
from typing import Any

import ml_collections

from experiments.configuration import check_types, did_you_mean
from experiments.errors import UserError
from experiments.tasks import Task, maker

CURVES = {"ppo": ("approximate_kl", "entropy"), "dqn": ("q_value",), "pqn": ("q_value",), "reinforce": ("entropy",)}


def make_task(config: ml_collections.ConfigDict, module: Any, hyperparameters: Any) -> Task:
    """Build the task of a config with the section `environment`."""
    environment = _environment(config.environment, config.environment_params.to_dict())
    make = maker(module, *environment)
    try:
        learner = make(hyperparameters)
    except ValueError as error:
        raise UserError(str(error)) from error
    return Task(
        learner,
        num_updates=getattr(hyperparameters, "num_updates", 0),
        problem=config.environment,
        work=getattr(hyperparameters, "num_envs", 0) * getattr(hyperparameters, "num_steps", 0),
        unit="environment steps",
        curves=("episode_return", *CURVES.get(config.algorithm, ())),
        pictures=functools.partial(
            _draw, config.environment, module.make_actor(hyperparameters, *environment), environment
        ),
        hyperparameters=hyperparameters,
        make=make,
    )


def _draw(name: str, act: Any, environment: tuple[Any, Any], workdir: pathlib.Path, state: Any) -> list[pathlib.Path]:
    from experiments.rollout_pictures import draw_rollout

    return draw_rollout(workdir, name, *environment, functools.partial(act, state))


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
