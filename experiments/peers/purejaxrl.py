"""PureJaxRL's `ppo.py` and `dqn.py`, run unchanged from a checkout on today's gymnax.

Its wrappers import brax and navix, which the program does not use, and expect gymnax's old `step` of five values.
Both are supplied here. distrax is used where it is installed; otherwise a categorical distribution that does the same
operations stands in for it.
"""

import importlib
import importlib.util
import pathlib
import sys
import types
from collections.abc import Callable
from typing import Any

import gymnax
import jax
import jax.numpy as jnp

from experiments.errors import UserError
from mathai.learners import dqn, ppo


def ppo_program(
    checkout: pathlib.Path, environment: str, config: ppo.Config
) -> tuple[Callable[[jax.Array], Any], Callable[[Any], float]]:
    """Return the training program of `ppo.py`, key → mean return of each update, and the score of a result.

    Args:
      checkout: the folder of the repository.
      environment: a gymnax environment.
      config: hyperparameters, given to it under its own names.

    Raises:
      UserError: the folder does not hold PureJaxRL.
    """
    train = _load(checkout, "ppo").make_train(
        {
            "LR": config.learning_rate,
            "NUM_ENVS": config.num_envs,
            "NUM_STEPS": config.num_steps,
            "TOTAL_TIMESTEPS": config.total_env_steps,
            "UPDATE_EPOCHS": config.num_epochs,
            "NUM_MINIBATCHES": config.num_minibatches,
            "GAMMA": config.discount,
            "GAE_LAMBDA": config.gae_lambda,
            "CLIP_EPS": config.clip_epsilon,
            "ENT_COEF": config.entropy_coefficient,
            "VF_COEF": config.value_coefficient,
            "MAX_GRAD_NORM": config.max_gradient_norm,
            "ACTIVATION": config.activation,
            "ENV_NAME": environment,
            "ANNEAL_LR": config.anneal_learning_rate,
            "DEBUG": False,
        }
    )
    # The mean over a rollout of the last return of every environment, without the rest of the result.
    returns = lambda key: train(key)["metrics"]["returned_episode_returns"].mean((-2, -1))  # noqa: E731
    return returns, last_quarter


def dqn_program(
    checkout: pathlib.Path, environment: str, config: dqn.Config
) -> tuple[Callable[[jax.Array], Any], Callable[[Any], float]]:
    """Return the training program of `dqn.py`, key → mean return at each step, and the score of a result.

    Args:
      checkout: the folder of the repository.
      environment: a gymnax environment.
      config: hyperparameters, given to it under its own names; one gradient step follows each step of the environments.

    Raises:
      UserError: the folder does not hold PureJaxRL, or flashbax, which it needs, is not installed.
    """
    program = _load(checkout, "dqn")
    train = program.make_train(
        {
            "NUM_ENVS": config.num_envs,
            "BUFFER_SIZE": config.buffer_size,
            "BUFFER_BATCH_SIZE": config.batch_size,
            "TOTAL_TIMESTEPS": config.total_env_steps,
            "EPSILON_START": config.epsilon_start,
            "EPSILON_FINISH": config.epsilon_end,
            "EPSILON_ANNEAL_TIME": config.exploration_fraction * config.total_env_steps,
            "TARGET_UPDATE_INTERVAL": config.target_update_interval * config.num_envs,
            "LR": config.learning_rate,
            "LEARNING_STARTS": config.learning_starts,
            "TRAINING_INTERVAL": config.num_envs,
            "LR_LINEAR_DECAY": config.anneal_learning_rate,
            "GAMMA": config.discount,
            "TAU": config.target_step_size,
            "ENV_NAME": environment,
        }
    )
    return lambda key: train(key)["metrics"]["returns"], last_quarter


def last_quarter(returns: Any) -> float:
    """The mean of the last quarter of a learning curve."""
    return float(returns[..., 3 * returns.shape[-1] // 4 :].mean())


def _load(checkout: pathlib.Path, name: str) -> Any:
    folder = checkout / "purejaxrl"
    if not (folder / f"{name}.py").exists():
        raise UserError(f"--purejaxrl={checkout} holds no purejaxrl/{name}.py; give the folder of a checkout.")
    _supply_missing_modules()
    sys.path.insert(0, str(folder))
    try:
        sys.modules["gymnax.wrappers.purerl"] = importlib.import_module(
            "wrappers"
        )  # of the interface it was written for
        program = importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"PureJaxRL's {name}.py needs a package that is not installed: {error}.") from error
    finally:
        sys.path.remove(str(folder))
    program.gymnax = types.SimpleNamespace(make=_make_old)
    return program


class _OldEnvironment:
    """gymnax's interface before version 1.0: `done` is one flag, and info has no final observation."""

    def __init__(self, env: Any):
        self._env = env

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def action_space(self, params=None):
        return self._env.action_space(params)

    def step(self, key, state, action, params=None):
        observation, state, reward, terminated, truncated, info = self._env.step(key, state, action, params)
        return observation, state, reward, terminated | truncated, {"discount": info["discount"]}


def _make_old(name: str) -> tuple[Any, Any]:
    env, params = gymnax.make(name)
    return _OldEnvironment(env), params


def _is_missing(name: str) -> bool:
    return name not in sys.modules and importlib.util.find_spec(name) is None


def _supply_missing_modules() -> None:
    if _is_missing("brax"):
        for name in ("brax", "brax.envs", "brax.envs.wrappers", "brax.envs.wrappers.training"):
            sys.modules[name] = types.ModuleType(name)
        sys.modules["brax"].envs = sys.modules["brax.envs"]  # type: ignore[attr-defined]
        training = sys.modules["brax.envs.wrappers.training"]
        training.EpisodeWrapper = training.AutoResetWrapper = object  # type: ignore[attr-defined]
    for name in ("navix", "wandb"):
        if _is_missing(name):
            sys.modules[name] = types.ModuleType(name)
    if not hasattr(jax, "tree_map"):
        jax.tree_map = jax.tree.map
    try:
        importlib.import_module("distrax")
    except ImportError:
        stand_in = types.ModuleType("distrax")
        stand_in.Categorical = _Categorical  # type: ignore[attr-defined]
        sys.modules["distrax"] = stand_in


class _Categorical:
    """What `ppo.py` uses of distrax."""

    def __init__(self, logits: jax.Array):
        self._log_probs = jax.nn.log_softmax(logits)

    def sample(self, seed: jax.Array) -> jax.Array:
        return jax.random.categorical(seed, self._log_probs)

    def log_prob(self, action: jax.Array) -> jax.Array:
        return jnp.take_along_axis(self._log_probs, action[..., None], axis=-1)[..., 0]

    def entropy(self) -> jax.Array:
        return -jnp.sum(jnp.exp(self._log_probs) * self._log_probs, axis=-1)
