"""Flax modules: each wraps the formulas and adds nothing but parameters."""

from mathai.models.actor_critic import ActorCritic
from mathai.models.convnet import ConvNet
from mathai.models.mlp import MLP
from mathai.models.transformer import Transformer

__all__ = ["MLP", "ActorCritic", "ConvNet", "Transformer"]
