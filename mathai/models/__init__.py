"""Flax modules: each wraps the formulas and adds nothing but parameters."""

from mathai.models.actor_critic import ActorCritic
from mathai.models.convnet import ConvNet
from mathai.models.denoiser import Denoiser, UNet
from mathai.models.gan import Discriminator, Generator
from mathai.models.mlp import MLP
from mathai.models.q_network import QNetwork
from mathai.models.transformer import Transformer
from mathai.models.vae import VAE

__all__ = [
    "MLP",
    "VAE",
    "ActorCritic",
    "ConvNet",
    "Denoiser",
    "Discriminator",
    "Generator",
    "QNetwork",
    "Transformer",
    "UNet",
]
