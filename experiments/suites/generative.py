"""Sampling of a diffusion model: images per second of deterministic DDIM, in 50 steps, and of Heun's method in 25.

The networks are those of `configs/diffusion_digits.py` and `configs/diffusion_mnist.py` before training: the time does
not depend on the parameters. The score is the share of finite numbers.
"""

from collections.abc import Iterator

import jax
import numpy as np

from experiments.suites.base import Case, Contestant
from mathai.learners import diffusion

NUM_SAMPLES = 100
SHARED = {"prediction": "velocity", "noise_schedule": "cosine"}
NETWORKS = {
    "8 × 8 digits, mlp": ((64,), diffusion.Config(model="mlp", num_blocks=4, num_features=256, **SHARED)),
    "28 × 28 images, unet": ((28, 28, 1), diffusion.Config(model="unet", channels=(16, 32, 64), **SHARED)),
}


def cases(*, with_peers: bool) -> Iterator[Case]:
    """Every network with both samplers; there is no peer."""
    del with_peers
    for name, (shape, config) in NETWORKS.items():
        for sampler, num_steps in (("ddim", 50), ("heun", 25)):
            chosen = diffusion.Config(**(vars(config) | {"sampler": sampler, "num_sampling_steps": num_steps}))
            yield _case(f"{name}, {sampler} {num_steps}", shape, chosen)


def _case(name: str, shape: tuple[int, ...], config: diffusion.Config) -> Case:
    examples = np.zeros((1, *shape), np.float32)
    learner = diffusion.make(config, jax.numpy.asarray(examples), jax.numpy.asarray(examples))
    state = jax.jit(learner.init)(jax.random.key(0))

    def draw(key):
        return diffusion.sample(key, config, shape, state, NUM_SAMPLES)

    return Case(name, [Contestant("mathai", draw, _share_of_finite)], NUM_SAMPLES, "images", 1.0)


def _share_of_finite(result: jax.Array) -> float:
    return float(np.mean(np.isfinite(np.asarray(result))))
