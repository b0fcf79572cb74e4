"""Dimensionality reduction: principal components, neighbours, embeddings of neighbourhoods."""

from mathai.reduction import neighbors, pca, tsne, umap

__all__ = ["neighbors", "pca", "tsne", "umap"]
