"""Dimensionality reduction: principal components, neighbours, embeddings of neighbourhoods."""

from mathai.reduction import neighbors, pca, tsne

__all__ = ["neighbors", "pca", "tsne"]
