"""PureJaxRL's `ppo.py`, run unchanged from a checkout on today's gymnax.

Its wrappers import brax and navix, which the program does not use, and expect gymnax's old `step` of five values.
Both are supplied here. distrax is used where it is installed; otherwise a categorical distribution that does the same
operations stands in for it.
"""

import importlib
import pathlib
import sys
import types
from collections.abc import Callable
from typing import Any

import gymnax
import jax
import jax.numpy as jnp

from experiments.errors import UserError
from mathai.learners import ppo


def ppo_on_cartpole(checkout: pathlib.Path, config: ppo.Config) -> tuple[Callable[[jax.Array], Any], Callable]:
    """Return its training program, key → mean return of each update, and the score of a result.

    Args:
      checkout: the folder of the repository.
      config: hyperparameters, given to it under its own names.

    Raises:
      UserError: the folder does not hold PureJaxRL.
    """
    folder = checkout / "purejaxrl"
    if not (folder / "ppo.py").exists():
        raise UserError(f"--purejaxrl={checkout} holds no purejaxrl/ppo.py; give the folder of a checkout.")
    _supply_missing_modules()
    sys.path.insert(0, str(folder))
    try:
        program = importlib.import_module("ppo")
    finally:
        sys.path.remove(str(folder))
    program.gymnax = types.SimpleNamespace(make=_make_old)
    train = program.make_train(
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
            "ENV_NAME": "CartPole-v1",
            "ANNEAL_LR": config.anneal_learning_rate,
            "DEBUG": False,
        }
    )
    return train, lambda result: float(result["metrics"]["returned_episode_returns"][-50:].mean())


class _OldEnvironment:
    """gymnax's interface before version 1.0: `done` is one flag, and info has no final observation."""

    def __init__(self, env: Any):
        self._env = env

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def step(self, key, state, action, params):
        observation, state, reward, terminated, truncated, info = self._env.step(key, state, action, params)
        return observation, state, reward, terminated | truncated, {"discount": info["discount"]}


def _make_old(name: str) -> tuple[Any, Any]:
    env, params = gymnax.make(name)
    return _OldEnvironment(env), params


def _supply_missing_modules() -> None:
    for name in ("brax", "brax.envs", "brax.envs.wrappers", "brax.envs.wrappers.training", "navix"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["brax"].envs = sys.modules["brax.envs"]  # type: ignore[attr-defined]
    training = sys.modules["brax.envs.wrappers.training"]
    training.EpisodeWrapper = training.AutoResetWrapper = object  # type: ignore[attr-defined]
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
