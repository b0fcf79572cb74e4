"""Every mistake ends in one line that says what to do, a status other than 0, and nothing half-written."""

import re

import jax
import pytest

from experiments.errors import UserError, one_line

CONFIG_WITH_A_MISTAKE = """
from experiments.configuration import make_config

def get_config():
    return make_config("ppo", environment="CartPole-v1", learner={"num_env": 3})
"""

# flags beside --config and --workdir (which they may replace), and what the line must say
CASES = {
    "a misspelt flag": (["--worksdir=x"], r"Unknown command line flag 'worksdir'\. Did you mean: workdir"),
    "a misspelt field": (["--config.learner.lerning_rate=1"], r"'lerning_rate' \(did you mean 'learning_rate'\?\)"),
    "a field of the wrong type": (["--config.learner.num_envs=many"], r"config\.learner\.num_envs=many"),
    "a config file that is missing": (["--config=configs/nothing.py"], r"configs/nothing\.py"),
    "a config file with an unknown field": (["--config={unknown}"], r"'num_env' \(did you mean 'num_envs'\?\)"),
    "a workdir that cannot be made": (["--workdir={file}/run"], r"run cannot be written: .*choose another --workdir"),
    "a platform that is not there": (["--platform=gpu"], r"--platform=gpu was demanded, but JAX finds only cpu"),
    "an argument that is no flag": (["overwrite"], r"unexpected argument 'overwrite': every option is a flag"),
    "NaN": (["--config.learner.learning_rate=1e30"], r"metric '\w+' is NaN at step \d+; no checkpoint .* Lower"),
    "a misspelt data set": (
        ["--config=configs/mlp_digits.py", "--config.data.name=digts"],
        r"config\.data\.name is 'digts' \(did you mean 'digits'\?\); it must be one of digits, moons, ring, mnist",
    ),
    "no workdir of a run": (["evaluate", "--workdir={fresh}"], r"config\.json cannot be read .*the workdir of a run"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_ends_in_one_line(programs, tmp_path, case):
    if case.startswith("a platform") and jax.default_backend() != "cpu":
        pytest.skip("there is a device other than the CPU")
    flags, message = CASES[case]
    (tmp_path / "file").write_text("mine")
    (tmp_path / "unknown.py").write_text(CONFIG_WITH_A_MISTAKE)
    names = {"file": tmp_path / "file", "unknown": tmp_path / "unknown.py", "fresh": tmp_path / "run"}
    flags = [flag.format(**names) for flag in flags]
    if flags[0] != "evaluate":
        config = [] if any(flag.startswith("--config=") for flag in flags) else [programs.config]
        flags = ["train", *config, f"--workdir={tmp_path / 'run'}", *flags]
    done = programs.run(*flags)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert re.search(message, line)
    if case == "NaN":
        assert (tmp_path / "run" / "config.json").exists()
        assert not list((tmp_path / "run" / "checkpoints").iterdir())
    else:
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("learner", "num_minibatches", 3, "num_minibatches = 3 does not divide .* 2 \\* 8 = 16 .*divisor of 16"),
        ("learner", "num_envs", 0, "num_envs is 0; it must be at least 1"),
        ("learner", "activation", "tanth", "activation 'tanth' is unknown; use one of tanh, relu"),
        ("learner", "total_env_steps", 3, "would make 0 updates; raise"),
        ("run", "num_updates", -1, "would make -1 updates"),
        ("run", "updates_per_chunk", 0, "updates_per_chunk is 0"),
        ("run", "evaluate_every", 6, "evaluate_every is 6; it must be 0 .* or a multiple of"),
        ("run", "checkpoint_every", -4, "checkpoint_every is -4"),
        ("run", "keep_checkpoints", 0, "keep_checkpoints is 0"),
        ("run", "best_metric", "return", "best_metric is 'return'.*; evaluation gives episode_length, episode_return"),
        ("run", "best_mode", "most", "best_mode is 'most'; it must be 'max' or 'min'"),
        ("environment_params", "gravty", 1.0, "environment_params has no field 'gravty' .did you mean 'gravity'"),
        ("environment_params", "max_steps_in_episode", "many", "max_steps_in_episode"),
        ("learner", "hidden_sizes", (8, "a"), "hidden_sizes"),
        ("learner", "hidden_sizes", (-8,), "hidden_sizes"),
        ("learner", "max_evaluation_steps", 0, "max_evaluation_steps is 0"),
        ("learner", "num_steps", "many", "num_steps"),
    ],
)
def test_a_wrong_value_is_refused_before_anything_is_written(
    tiny_config, train_here, tmp_path, section, field, value, message
):
    with tiny_config.ignore_type():
        tiny_config[section][field] = value
    with pytest.raises(UserError, match=message) as caught:
        train_here(tiny_config, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("algorithm", "pp", r"algorithm 'pp' is unknown \(did you mean 'ppo'\?\); the learners are .*ppo"),
        ("environment", "CartPole-v9", r"'CartPole-v9' is unknown \(did you mean 'CartPole-v1'\?\); .*Acrobot-v1"),
    ],
)
def test_an_unknown_name_is_refused_with_the_list(tiny_config, train_here, tmp_path, field, value, message):
    tiny_config[field] = value
    with pytest.raises(UserError, match=message):
        train_here(tiny_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("data", "name", "minst", r"config\.data\.name is 'minst' \(did you mean 'mnist'\?\)"),
        ("data", "name", "mnist", "data set mnist needs --config.data.directory, the folder with train-images"),
        ("data", "name", "own.npz", "data set /.*own.npz cannot be read: there is no such file"),
        ("data", "name", 3, "config.data.name is 3; it must be of type str"),
        ("data", "evaluate_on", "train", "config.data.evaluate_on is 'train'; it must be 'test' or 'validation'"),
        ("learner", "batch_size", 5000, "batch_size is 5000; it must be from 1 to 1438, the number of examples"),
        ("learner", "num_epochs", 0, "would make 0 updates; raise"),
        ("learner", "model", "mpl", "model 'mpl' is unknown; use 'mlp' or 'convnet'"),
        ("learner", "normalization", "group", "normalization 'group' is unknown"),
        ("learner", "loss", "hinge", "loss 'hinge' is unknown"),
        ("learner", "schedule", "step", "schedule 'step' is unknown"),
        ("learner", "hidden_sizes", (0,), "positive widths"),
        ("learner", "dropout_rate", 1.5, "dropout_rate is 1.5; it must be from 0 to 1"),
        ("run", "best_metric", "acuracy", "best_metric is 'acuracy' .did you mean 'accuracy'.*; evaluation gives acc"),
    ],
)
def test_a_wrong_value_for_labelled_data_is_refused_before_anything_is_written(
    digits_config, train_here, tmp_path, section, field, value, message
):
    with digits_config.ignore_type():
        digits_config[section][field] = value
    with pytest.raises(UserError, match=message) as caught:
        train_here(digits_config, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_a_directory_without_the_files_is_named_with_those_that_are_missing(digits_config, train_here, tmp_path, name):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-images-idx3-ubyte").write_bytes(b"")
    digits_config.data.name, digits_config.data.directory = name, str(tmp_path / "data")
    missing = "train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte"
    with pytest.raises(UserError, match=rf"data set {name}: no {missing} \(or \.gz\); looked in .*data\.$"):
        train_here(digits_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_message_of_several_lines_becomes_one():
    assert one_line(ValueError("first\n   second\n")) == "first second"
    assert one_line(ValueError()) == "ValueError"
    assert one_line(FileNotFoundError(2, "No such file or directory", "a/b.py")) == (
        "the config file cannot be read: No such file or directory: 'a/b.py'"
    )
