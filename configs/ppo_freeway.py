"""PPO on MinAtar's Freeway.

    python -m experiments.train --config=configs/ppo_freeway.py --workdir=runs/ppo_freeway

Two x86-64 cores: with `--seeds=6` 98 s of compilation, 750 s of training, beside other work: the game is slow.
Evaluation return of sampled actions over 128 episodes after 2 million steps: interquartile mean 30.7, worst 23.7.
"""

from experiments.configuration import make_config


def get_config():
    """Return the config; every field can be overridden, as in `--config.learner.learning_rate=1e-3`."""
    return make_config(
        "ppo",
        environment="Freeway-MinAtar",
        learner={
            "num_envs": 64,
            "num_steps": 128,
            "num_epochs": 4,
            "num_minibatches": 8,
            "total_env_steps": 2000000,
            "learning_rate": 0.0005,
            "activation": "relu",
            "greedy_evaluation": False,
        },
        run={"updates_per_chunk": 4, "evaluate_every": 60},
    )
