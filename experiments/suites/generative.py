"""Sampling of a diffusion model: images per second of deterministic DDIM, in 50 steps, and of Heun's method in 25.

The networks are that of `configs/diffusion_digits.py` and a U-shaped one for 28 × 28 images, before training: the time
does not depend on the parameters. With its last bias at 1 the network predicts the velocity 1 everywhere, so that the
mean of samples is known; the score counts its right digits, about two since samples are random.
"""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import numpy as np

from experiments.benchmarking import work
from experiments.suites.base import Case, Contestant
from experiments.suites.options import Options
from mathai.learners import diffusion

SHARED = {"prediction": "velocity", "noise_schedule": "cosine"}
NETWORKS = {
    "8 × 8 digits, mlp": ((64,), diffusion.Config(model="mlp", num_blocks=4, num_features=256, **SHARED)),
    "28 × 28 images, unet": ((28, 28, 1), diffusion.Config(model="unet", channels=(32, 64), patch_size=2, **SHARED)),
}


def cases(options: Options) -> Iterator[Case]:
    """Every network with both samplers; there is no peer."""
    for num_images in options.images:
        for name, (shape, config) in NETWORKS.items():
            for sampler, num_steps in (("ddim", 50), ("heun", 25)):
                chosen = dataclasses.replace(config, sampler=sampler, num_sampling_steps=num_steps)
                yield _case(f"{name}, {sampler} {num_steps}", shape, chosen, num_images)


def _case(name: str, shape: tuple[int, ...], config: diffusion.Config, num_images: int) -> Case:
    examples = np.zeros((1, *shape), np.float32)
    learner = diffusion.make(config, jax.numpy.asarray(examples), jax.numpy.asarray(examples))
    state = jax.jit(learner.init)(jax.random.key(0))
    state = state._replace(average=state.average | {"output_bias": jax.numpy.ones_like(state.average["output_bias"])})

    def draw(key):
        return diffusion.sample(key, config, shape, state, num_images)

    return Case(
        f"{name}, {num_images} images",
        [Contestant("mathai", draw, functools.partial(_digits, _mean(config)))],
        num_images,
        "images",
        1.0 if num_images >= 100 else 0.5,  # of the mean of all pixels, which few images know less well
        flops=work.products(draw, jax.random.key(0)),
        family=name,
        variable="images",
        size=num_images,
    )


def _mean(config: diffusion.Config) -> float:
    """What the sampler makes of the mean 0 where the velocity is 1 everywhere."""
    log_alpha_bar = np.asarray(diffusion.make_schedule(config).log_alpha_bar, np.float64)
    t = np.append(np.round(np.linspace(config.num_noise_steps, 1, config.num_sampling_steps)), 0).astype(int)
    mean = 0.0
    for turn, is_last in zip(np.diff(np.arccos(np.exp(log_alpha_bar[t] / 2))), t[1:] == 0, strict=True):
        predicted = np.cos(turn) * mean + np.sin(turn)
        if config.sampler == "heun" and not is_last:  # the velocity at the end, in the frame of the beginning
            velocity = (1 + np.sin(turn) * predicted + np.cos(turn)) / 2
            predicted = np.cos(turn) * mean + np.sin(turn) * velocity
        mean = predicted
    return float(mean)


def _digits(expected: float, result: jax.Array) -> float:
    return float(-np.log10(abs(np.mean(np.asarray(result, np.float64)) / expected - 1) + 1e-16))
