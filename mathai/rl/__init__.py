"""Reinforcement-learning formulas: one stream of time steps; `vmap` for batches."""

from mathai.rl import mdp, policy_gradient, ppo, q_learning, returns, small_mdps

__all__ = ["mdp", "policy_gradient", "ppo", "q_learning", "returns", "small_mdps"]
