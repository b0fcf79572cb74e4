"""Flax modules: each wraps formulas and adds nothing but parameters."""

from mathai.models.actor_critic import ActorCritic

__all__ = ["ActorCritic"]
