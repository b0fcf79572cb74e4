"""PPO on MinAtar's Seaquest.

    python -m experiments.train --config=configs/ppo_seaquest.py --workdir=runs/ppo_seaquest

Two x86-64 cores: with `--seeds=2` 32 s of compilation, 555 s of training: a step of this game costs 100 times one
of Breakout. Evaluation return of sampled actions over 128 episodes after 2 million steps: 4.1 and 4.1.
"""

from experiments.configuration import make_config


def get_config():
    """Return the config; every field can be overridden, as in `--config.learner.learning_rate=1e-3`."""
    return make_config(
        "ppo",
        environment="Seaquest-MinAtar",
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
