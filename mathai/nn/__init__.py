"""Neural-network formulas: activations, attention, forward and backward propagation, losses, regularization, scores."""

from mathai.nn import activations, attention, feedforward, losses, regularization, scores

__all__ = ["activations", "attention", "feedforward", "losses", "regularization", "scores"]
