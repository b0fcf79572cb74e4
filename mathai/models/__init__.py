"""Flax modules: each wraps formulas and adds nothing but parameters."""
