"""A run of seconds: PPO with eight hidden units on CartPole cut at 20 steps, of as many environments as divide."""

from experiments.configuration import make_config


def get_config():
    return make_config(
        "ppo",
        environment="CartPole-v1",
        environment_params={"max_steps_in_episode": 20},
        learner={
            "num_envs": 8,
            "num_steps": 8,
            "num_epochs": 1,
            "num_minibatches": 2,
            "hidden_sizes": (8,),
            "total_env_steps": 64 * 24,
            "num_evaluation_episodes": 4,
        },
        run={"updates_per_chunk": 4, "evaluate_every": 40, "checkpoint_every": 8},
    )
