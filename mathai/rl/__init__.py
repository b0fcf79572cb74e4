"""Reinforcement-learning formulas: one stream of time steps; `vmap` for batches."""
