"""PPO on MinAtar's SpaceInvaders.

    python -m experiments.train --config=configs/ppo_space_invaders.py --workdir=runs/ppo_space_invaders

Two x86-64 cores: with `--seeds=6` 17 s of compilation, 333 s of training, beside other work. Evaluation return of
sampled actions over 128 episodes after 2 million steps: interquartile mean 79.8, worst 53.4.
"""

from experiments.configuration import make_config


def get_config():
    """Return the config; every field can be overridden, as in `--config.learner.learning_rate=1e-3`."""
    return make_config(
        "ppo",
        environment="SpaceInvaders-MinAtar",
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
