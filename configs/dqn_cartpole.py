"""DQN on CartPole-v1, with three-step targets.

    python -m experiments.train --config=configs/dqn_cartpole.py --workdir=runs/dqn_cartpole

Two x86-64 cores: 8 s of compilation, 20 s of training for 5 seeds in one program. Evaluation return over 128 episodes
after 100 000 steps: interquartile mean 496, 95 % interval 430 to 500, worst 399.
"""

from experiments.configuration import make_config


def get_config():
    """Return the config; every field can be overridden, as in `--config.learner.learning_rate=1e-3`."""
    return make_config(
        "dqn",
        environment="CartPole-v1",
        learner={
            "n_step": 3,
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
