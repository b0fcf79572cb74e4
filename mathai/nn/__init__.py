"""Neural-network formulas: activations, forward and backward propagation, losses, regularization."""

from mathai.nn import activations, feedforward, losses, regularization

__all__ = ["activations", "feedforward", "losses", "regularization"]
