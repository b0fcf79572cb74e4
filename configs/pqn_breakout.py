"""PQN on MinAtar's Breakout.

    python -m experiments.train --config=configs/pqn_breakout.py --workdir=runs/pqn_breakout

Two x86-64 cores: with `--seeds=6` 32 s of compilation, 323 s of training, beside other work. Evaluation return of
the greedy policy over 128 episodes after 2 million steps: interquartile mean 23.3, worst 21.7.
"""

from experiments.configuration import make_config


def get_config():
    """Return the config; every field can be overridden, as in `--config.learner.learning_rate=1e-3`."""
    return make_config(
        "pqn",
        environment="Breakout-MinAtar",
        learner={
            "num_envs": 64,
            "num_steps": 32,
            "num_epochs": 2,
            "num_minibatches": 8,
            "total_env_steps": 2000000,
            "learning_rate": 0.0005,
            "q_lambda": 0.65,
        },
        run={"updates_per_chunk": 8, "evaluate_every": 240},
    )
