"""UMAP of scikit-learn's 8 × 8 digits: training images embedded, test images placed among them.

    python -m experiments.train --config=configs/umap_digits.py --workdir=runs/umap_digits

Two x86-64 cores: 2 s after compilation, 25 s with it, its measurements and pictures. Trustworthiness 0.988; 10
neighbours in the embedding know the class of 0.990 of the images, and of 0.981 of the test images placed among them.
"""

from experiments.configuration import make_config


def get_config():
    """Return the config; `--config.learner.supervised=True` lets the classes shape the graph."""
    return make_config(
        "umap",
        data={"name": "digits"},
        run={
            "updates_per_chunk": 25,
            "evaluate_every": 25,
            "checkpoint_every": 250,
            "best_metric": "loss",
            "best_mode": "min",
        },
    )
