"""Neural-network formulas: activations, forward and backward propagation, losses, regularization, scores."""

from mathai.nn import activations, feedforward, losses, regularization, scores

__all__ = ["activations", "feedforward", "losses", "regularization", "scores"]
