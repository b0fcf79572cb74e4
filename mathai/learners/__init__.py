"""Formulas, models and Optax composed into `init` / `update` / `evaluate`."""
