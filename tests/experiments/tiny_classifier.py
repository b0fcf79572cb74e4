"""A run of seconds: a perceptron with eight hidden units on the digits, two epochs of twelve updates."""

from experiments.configuration import make_config


def get_config():
    return make_config(
        "classifier",
        data={"name": "digits"},
        learner={
            "hidden_sizes": (8,),
            "normalization": "batch",
            "dropout_rate": 0.1,
            "batch_size": 119,
            "num_epochs": 2,
            "learning_rate": 0.02,
        },
        run={"updates_per_chunk": 4, "evaluate_every": 8, "checkpoint_every": 8, "best_metric": "accuracy"},
    )
