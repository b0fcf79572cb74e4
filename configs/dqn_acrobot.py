"""DQN on Acrobot-v1.

    python -m experiments.train --config=configs/dqn_acrobot.py --workdir=runs/dqn_acrobot

Two x86-64 cores: 10 s of compilation, 20 s of training for 5 seeds in one program. Evaluation return over 128 episodes
after 100 000 steps: interquartile mean −85.5, 95 % interval −87.9 to −83.2, worst −88.1.
"""

from experiments.configuration import make_config


def get_config():
    """Return the config; every field can be overridden, as in `--config.learner.learning_rate=1e-3`."""
    return make_config(
        "dqn",
        environment="Acrobot-v1",
        learner={
            "num_envs": 10,
            "num_steps": 100,
            "total_env_steps": 100000,
            "learning_rate": 0.001,
            "anneal_learning_rate": True,
            "target_update_interval": 20,
            "exploration_fraction": 0.2,
        },
        run={"updates_per_chunk": 10, "evaluate_every": 50},
    )
