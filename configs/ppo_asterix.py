"""PPO on MinAtar's Asterix.

    python -m experiments.train --config=configs/ppo_asterix.py --workdir=runs/ppo_asterix

Two x86-64 cores: 23 s of compilation, 144 s of training for 3 seeds in one program. Evaluation return of sampled
actions over 128 episodes after 2 million steps: interquartile mean 2.1, a poor score. One NVIDIA H200, with
`--config.learner.torso=conv --config.learner.hidden_sizes='(128,)' --config.learner.learning_rate=1e-3 --seeds=5`:
20 s, 9.9, worst 8.3.
"""

from experiments.configuration import make_config


def get_config():
    """Return the config; every field can be overridden, as in `--config.learner.learning_rate=1e-3`."""
    return make_config(
        "ppo",
        environment="Asterix-MinAtar",
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
