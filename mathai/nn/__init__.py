"""Neural-network formulas: activations, attention, forward and backward propagation, losses, regularization, scores."""

from mathai.nn import activations, attention, feedforward, losses, regularization, ring_attention, scores

__all__ = ["activations", "attention", "feedforward", "losses", "regularization", "ring_attention", "scores"]
