"""The command that a sweep ends with: `experiments.train` reads it as what was swept."""

import math
import shlex
import sys

import pytest
from absl import flags

from experiments import train
from experiments.sweeping import outcomes


@pytest.fixture
def parsed(monkeypatch):
    """Parse a command line by the flags of `train`, which are forgotten afterwards: the config and the flags."""
    before = set(flags.FLAGS)
    was_parsed = flags.FLAGS.is_parsed()

    def parse(line):
        words = shlex.split(line)
        monkeypatch.setattr(sys, "argv", words[2:])  # where overrides of a config are looked up
        train.define_flags()
        assert flags.FLAGS(words[2:]) == ["experiments.train"]
        return train.loaded(flags.FLAGS.config), {name: flags.FLAGS[name].value for name in ("seeds", "workdir")}

    yield parse
    flags.FLAGS.remove_flag_values(set(flags.FLAGS) - before)
    if not was_parsed:
        flags.FLAGS.unparse_flags()


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
def test_the_command_is_one_that_train_reads(tmp_path, parsed):
    """Also where the config gives a whole number to a float, for which absl would take no other."""
    path = tmp_path / "config.py"
    path.write_text(
        "from experiments.configuration import make_config\n\n\n"
        "def get_config():\n    return make_config('ppo', environment='CartPole-v1', learner={'learning_rate': 1})\n"
    )
    point = {
        **{"learner.learning_rate": 0.5, "learner.max_kl": math.inf, "learner.hidden_sizes": (8, 8)},
        **{"learner.shared_torso": True, "learner.num_envs": 2, "learner.activation": "relu"},
        **{"environment": "Acrobot-v1", "run.num_updates": 30},
    }
    config, other = parsed(outcomes.command(str(path), {"run.seed": 3, "learner.discount": 0.9}, point, 2))
    found = {f"{name}.{field}": v for name in ("learner", "run") for field, v in config[name].items()}
    assert {name: {**config, **found}[name] for name in point} == point
    assert (config.run.seed, config.learner.discount) == (3, 0.9)
    assert other == {"seeds": 2, "workdir": "runs/best"}
