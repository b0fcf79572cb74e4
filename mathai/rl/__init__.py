"""Reinforcement-learning formulas: one stream of time steps; `vmap` for batches."""

from mathai.rl import policy_gradient, ppo, returns

__all__ = ["policy_gradient", "ppo", "returns"]
