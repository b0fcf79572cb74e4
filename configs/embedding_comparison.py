"""PCA, t-SNE and UMAP of scikit-learn's 8 × 8 digits side by side: a picture, and what each keeps and costs.

    python -m experiments.train --config=configs/embedding_comparison.py --workdir=runs/embedding_comparison

Two x86-64 cores: 70 s, most of it compilation. The run itself is UMAP's; the three are then made with their defaults:
PCA keeps 0.65 of the classes among 10 neighbours in 3 ms, t-SNE 0.987 in 2.5 s and UMAP 0.990 in 1.5 s.
"""

from experiments.configuration import make_config


def get_config():
    """Return the config; `--config.data.name=mnist` with its directory compares them on MNIST."""
    return make_config(
        "umap",
        data={"name": "digits"},
        search={"beside": ("pca", "tsne", "umap")},
        run={
            "updates_per_chunk": 25,
            "evaluate_every": 125,
            "checkpoint_every": 250,
            "best_metric": "loss",
            "best_mode": "min",
        },
    )
