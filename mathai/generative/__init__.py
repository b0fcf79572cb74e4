"""Generative models: variational autoencoders, adversarial networks, diffusion, and scores of samples."""
