"""PPO on MinAtar's Breakout.

    python -m experiments.train --config=configs/ppo_breakout.py --workdir=runs/ppo_breakout

Two x86-64 cores: 11 s of compilation, 182 s of training for 3 seeds in one program. Evaluation return of sampled
actions over 128 episodes after 2 million steps: interquartile mean 24.6, worst 19.7. One NVIDIA H200, with
`--config.learner.learning_rate=2e-3 --config.learner.total_env_steps=10000000 --seeds=5`: 30 s, 52.9, worst 29.
"""

from experiments.configuration import make_config


def get_config():
    """Return the config; every field can be overridden, as in `--config.learner.learning_rate=1e-3`."""
    return make_config(
        "ppo",
        environment="Breakout-MinAtar",
        learner={
            "num_envs": 64,
            "num_steps": 128,
            "num_epochs": 4,
            "num_minibatches": 8,
            "total_env_steps": 2000000,
            "learning_rate": 0.005,
            "activation": "relu",
            "greedy_evaluation": False,
        },
        run={"updates_per_chunk": 4, "evaluate_every": 60},
    )
