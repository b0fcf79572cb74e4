"""Pictures of an agent at work: one episode as a strip of frames and as an animation."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.figure import Figure

from experiments.pictures import save
from mathai.learners.environments import make_environments

MOST_STEPS = 1000
STRIP_FRAMES = 8
MOST_FRAMES = 60


def draw_rollout(
    workdir: pathlib.Path, name: str, env: Any, env_params: Any, act: Callable[[jax.Array, jax.Array], jax.Array]
) -> list[pathlib.Path]:
    """Play an episode and draw it as `rollout.png` and `rollout.gif`; an environment of no known look gets neither."""
    look = _look(name, env, env_params)
    if look is None:
        return []
    observations, total = play(env, env_params, act)
    steps = len(observations) - 1
    title = f"{name}: {'the first' if steps == MOST_STEPS else 'one episode of'} {steps} steps, return {total:.4g}"
    strip = np.linspace(0, len(observations) - 1, STRIP_FRAMES).astype(int)

    def draw(figure):
        figure.suptitle(title)
        for panel, step in zip(figure.subplots(1, STRIP_FRAMES), strip, strict=True):
            look(panel, observations[step])
            panel.set_title(f"step {step}", fontsize=8)

    return [
        save(workdir / "rollout.png", draw, (1.6 * STRIP_FRAMES, 2.3)),
        _animate(workdir / "rollout.gif", title, observations, look),
    ]


def play(
    env: Any, env_params: Any, act: Callable[[jax.Array, jax.Array], jax.Array], seed: int = 0
) -> tuple[np.ndarray, float]:
    """Return the observations [steps + 1, ...] of one episode, its last one too, and its undiscounted return.

    It is cut after `MOST_STEPS`.
    """
    environments = make_environments(env, env_params, 1)
    reset_key, env_key, act_key = jax.random.split(jax.random.key(seed), 3)

    @jax.jit
    def episode():
        def step(carry, x):
            observation, env_state, running = carry
            noise, key = x
            following, env_state, outcome = environments.step(env_state, act(key, observation), noise)
            record = observation[0], outcome.final_observation[0], outcome.reward[0], running
            return (following, env_state, running & ~(outcome.terminated | outcome.truncated)[0]), record

        noise = environments.draw_noise(env_key, MOST_STEPS)
        start = (*environments.reset(reset_key), jnp.asarray(True))
        return jax.lax.scan(step, start, (noise, jax.random.split(act_key, MOST_STEPS)))[1]

    observations, reached, rewards, running = map(np.asarray, episode())
    last = np.flatnonzero(running)[-1]
    return np.concatenate([observations[running], reached[last : last + 1]]), float(rewards[running].sum())


def _animate(path: pathlib.Path, title: str, observations: np.ndarray, look: Callable[..., None]) -> pathlib.Path:
    figure = Figure(figsize=(3.2, 3.4), layout="constrained")
    panel = figure.subplots()
    figure.suptitle(title.replace(": ", "\n"), fontsize=8)
    steps = np.unique(np.linspace(0, len(observations) - 1, MOST_FRAMES).astype(int))

    def draw(index):
        panel.clear()
        look(panel, observations[steps[index]])
        panel.set_title(f"step {steps[index]}", fontsize=8)

    temporary = path.with_name(f".{path.name}")
    FuncAnimation(figure, draw, frames=len(steps)).save(temporary, writer=PillowWriter(fps=15), dpi=80)
    temporary.replace(path)
    return path


def _look(name: str, env: Any, env_params: Any) -> Callable[[Any, np.ndarray], None] | None:
    """How an observation becomes a frame."""
    known = {
        "CartPole-v1": _cart_pole,
        "Acrobot-v1": _acrobot,
        "MountainCar-v0": _mountain_car,
        "Pendulum-v1": _pendulum,
    }
    is_image = len(getattr(env.observation_space(env_params), "shape", ())) == 3
    return known.get(name, _image if is_image else None)


def _frame(panel: Any, left: float, right: float, bottom: float, top: float) -> None:
    panel.set_xlim(left, right)
    panel.set_ylim(bottom, top)
    panel.set_aspect("equal")
    panel.set_xticks([])
    panel.set_yticks([])


def _cart_pole(panel: Any, observation: np.ndarray) -> None:
    x, angle = observation[0], observation[2]
    panel.plot([-2.4, 2.4], [0, 0], color="gray", linewidth=1)
    panel.plot([x - 0.3, x + 0.3], [0, 0], color="black", linewidth=6)
    panel.plot([x, x + 2 * np.sin(angle)], [0, 2 * np.cos(angle)], color="tab:orange", linewidth=3)
    _frame(panel, -2.6, 2.6, -1.5, 3.0)


def _acrobot(panel: Any, observation: np.ndarray) -> None:
    first = np.arctan2(observation[1], observation[0])
    second = first + np.arctan2(observation[3], observation[2])
    x = np.cumsum([0, np.sin(first), np.sin(second)])
    y = np.cumsum([0, -np.cos(first), -np.cos(second)])
    panel.axhline(1, color="tab:green", linewidth=1)
    panel.plot(x, y, "-o", color="tab:blue", markersize=4, linewidth=3)
    _frame(panel, -2.2, 2.2, -2.2, 2.2)


def _mountain_car(panel: Any, observation: np.ndarray) -> None:
    x = np.linspace(-1.2, 0.6, 100)
    panel.plot(x, np.sin(3 * x) / 3, color="gray")
    panel.plot([0.5, 0.5], [np.sin(1.5) / 3, np.sin(1.5) / 3 + 0.2], color="tab:green", linewidth=3)  # the goal
    panel.plot(observation[0], np.sin(3 * observation[0]) / 3 + 0.05, "o", color="black")
    _frame(panel, -1.3, 0.7, -0.9, 1.1)


def _pendulum(panel: Any, observation: np.ndarray) -> None:
    cosine, sine = observation[0], observation[1]
    panel.plot([0, -sine], [0, cosine], color="tab:red", linewidth=4)
    panel.plot(0, 0, "o", color="black")
    _frame(panel, -1.2, 1.2, -1.2, 1.2)


def _image(panel: Any, observation: np.ndarray) -> None:
    """Channels as colours; where several are set, the last."""
    channels = np.asarray(observation, float)
    shown = np.max((channels > 0) * (1 + np.arange(channels.shape[-1])), axis=-1)
    panel.imshow(shown, cmap="tab20c", vmin=0, vmax=max(channels.shape[-1], 1), interpolation="nearest")
    panel.set_xticks([])
    panel.set_yticks([])
