"""t-SNE of scikit-learn's 8 × 8 digits by an encoder, which places test images too.

    python -m experiments.train --config=configs/parametric_tsne_digits.py --workdir=runs/parametric_tsne_digits

Two x86-64 cores: 20 s. KL divergence and accuracies are printed at the end; one seed.
"""

from experiments.configuration import make_config


def get_config():
    """Return the config; every field can be overridden, as in `--config.learner.perplexity=15`."""
    return make_config(
        "parametric_tsne",
        data={"name": "digits"},
        learner={"batch_size": 350, "num_epochs": 150, "perplexity": 15.0},
        run={
            "updates_per_chunk": 10,
            "evaluate_every": 20,
            "checkpoint_every": 100,
            "best_metric": "kl_divergence",
            "best_mode": "min",
        },
    )
