"""Dimensionality reduction: principal components, neighbours, embeddings of neighbourhoods."""
