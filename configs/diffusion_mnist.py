r"""A diffusion model on MNIST: a small U-shaped network.

    python -m experiments.train --config=configs/diffusion_mnist.py --workdir=runs/diffusion_mnist \
            --config.data.directory=DIR

Two x86-64 cores: 10 minutes.
"""

from experiments.configuration import make_config


def get_config():
    """Return the config; every field can be overridden, as in `--config.learner.learning_rate=1e-3`."""
    return make_config(
        "diffusion",
        data={"name": "mnist"},
        learner={
            "prediction": "velocity",
            "noise_schedule": "cosine",
            "model": "unet",
            "channels": (16, 32, 64),
            "minimum": 0.0,
            "maximum": 1.0,
            "num_levels": 256,
            "batch_size": 64,
            "num_updates": 3000,
            "learning_rate": 0.002,
            "clips": True,
        },
        run={
            "updates_per_chunk": 50,
            "evaluate_every": 0,
            "checkpoint_every": 500,
            "best_metric": "frechet_distance",
            "best_mode": "min",
        },
    )
