"""A diffusion model on two moons in the plane.

    python -m experiments.train --config=configs/diffusion_moons.py --workdir=runs/diffusion_moons

Two x86-64 cores: 4 minutes. Sliced Wasserstein distance 0.0129 to 10,000 points, 1.4 times that of data (0.0092).
"""

from experiments.configuration import make_config


def get_config():
    """Return the config; every field can be overridden, as in `--config.learner.learning_rate=1e-3`."""
    return make_config(
        "diffusion",
        data={"name": "moons"},
        learner={
            "prediction": "velocity",
            "noise_schedule": "cosine",
            "model": "mlp",
            "num_blocks": 3,
            "num_features": 128,
            "minimum": -2.0,
            "maximum": 2.0,
            "batch_size": 512,
            "num_updates": 12000,
            "sampler": "ddpm",
            "num_sampling_steps": 250,
            "learning_rate": 0.002,
        },
        run={
            "updates_per_chunk": 250,
            "evaluate_every": 6000,
            "checkpoint_every": 6000,
            "best_metric": "sliced_wasserstein",
            "best_mode": "min",
        },
    )
