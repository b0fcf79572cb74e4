"""t-SNE of scikit-learn's 8 × 8 digits: training images embedded, test images placed among them, six perplexities.

    python -m experiments.train --config=configs/tsne_digits.py --workdir=runs/tsne_digits

Two x86-64 cores: 3 s after compilation. KL divergence 0.676, trustworthiness 0.990; 10 neighbours in the embedding know
the class of 0.987 of the images, and of 0.978 of the test images placed among them.
"""

from experiments.configuration import make_config


def get_config():
    """Return the config; every field can be overridden, as in `--config.learner.perplexity=50`."""
    return make_config(
        "tsne",
        data={"name": "digits"},
        search={"perplexities": (5.0, 15.0, 30.0, 50.0, 100.0, 200.0)},
        run={
            "updates_per_chunk": 25,
            "evaluate_every": 25,
            "checkpoint_every": 250,
            "best_metric": "kl_divergence",
            "best_mode": "min",
        },
    )
