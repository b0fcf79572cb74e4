"""Configs: built, overridden, stored, compared; and what is recorded beside them."""

import dataclasses
import json
import subprocess
import sys

import jax
import pytest
from absl import flags
from ml_collections import config_flags

from configs import ppo_cartpole
from experiments.configuration import (
    as_json,
    did_you_mean,
    differences,
    from_json,
    learner_config,
    learner_module,
    make_config,
    provenance,
)
from experiments.errors import UserError
from mathai.learners import ppo

# one value of each type that is no default of any field, as a flag gives it and as Python has it
OTHER = {int: ("7", 7), float: ("0.03125", 0.03125), str: ("other", "other"), tuple: ("(3, 5)", (3, 5))}


@pytest.fixture
def override(monkeypatch):
    """Parse flags as a program does, without touching the flags of this process."""

    def parse(config, *arguments):
        values = flags.FlagValues()
        monkeypatch.setattr(sys, "argv", ["program", *arguments])  # config_flags looks for the overrides there
        config_flags.DEFINE_config_dict("config", config, lock_config=True, flag_values=values)
        values(sys.argv)
        return values.config

    return parse


@pytest.mark.parametrize("field", dataclasses.fields(ppo.Config), ids=lambda field: field.name)
def test_every_field_of_a_learner_can_be_overridden(field, override):
    if isinstance(field.default, bool):
        text, value = ("false", False) if field.default else ("true", True)
    else:
        text, value = OTHER[type(field.default)]
    assert value != field.default
    config = override(make_config("ppo"), f"--config.learner.{field.name}={text}")
    assert learner_config(config) == dataclasses.replace(ppo.Config(), **{field.name: value})


@pytest.mark.parametrize("name", ["seed", "updates_per_chunk", "evaluate_every", "checkpoint_every", "num_updates"])
def test_every_count_of_a_run_can_be_overridden(name, override):
    assert override(make_config("ppo"), f"--config.run.{name}=12").run[name] == 12


def test_a_config_begins_with_the_defaults_of_its_learner():
    assert learner_config(make_config("ppo")) == ppo.Config()
    changed = make_config("ppo", learner={"num_envs": 8}, run={"seed": 3, "num_updates": 5})
    assert learner_config(changed) == ppo.Config(num_envs=8)
    assert (changed.run.seed, changed.run.num_updates) == (3, 5)


def test_a_whole_number_in_a_field_of_floats_is_a_float():
    config = make_config("ppo", learner={"learning_rate": 1, "num_envs": 2, "shared_torso": True})
    assert [type(config.learner[name]) for name in ("learning_rate", "num_envs", "shared_torso")] == [float, int, bool]
    config.learner.learning_rate = 0.5  # ml_collections lets no field change its type


@pytest.mark.parametrize("section", ["learner", "run"])
def test_an_unknown_field_is_refused_with_a_suggestion(section):
    near = {"learner": ("lerning_rate", "learning_rate"), "run": ("evaluate_evry", "evaluate_every")}[section]
    message = rf"config\.{section} has no field '{near[0]}' \(did you mean '{near[1]}'\?\)"
    with pytest.raises(UserError, match=message):
        make_config("ppo", **{section: {near[0]: 1}})


def test_an_unknown_algorithm_is_refused_with_the_list():
    with pytest.raises(
        UserError, match=r"algorithm 'pppo' is unknown \(did you mean 'ppo'\?\); the learners are .*ppo"
    ):
        make_config("pppo")


@pytest.mark.parametrize("helper", ["base", "environments", "policies", "os"])
def test_what_is_not_a_learner_is_no_algorithm(helper):
    with pytest.raises(UserError, match="is unknown"):
        learner_module(helper)


def test_a_suggestion_is_made_only_where_something_is_close():
    assert did_you_mean("tnah", ["tanh", "relu"]) == " (did you mean 'tanh'?)"
    assert did_you_mean("swish", ["tanh", "relu"]) == ""


@pytest.mark.parametrize(
    "config",
    [
        make_config("ppo"),
        make_config("ppo", environment="CartPole-v1", environment_params={}, learner={"hidden_sizes": ()}),
        make_config("ppo", environment_params={"max_steps_in_episode": 20, "gravity": 9.81}, run={"num_updates": 3}),
        ppo_cartpole.get_config(),
    ],
)
def test_a_stored_config_comes_back_as_it_was(config):
    stored = json.loads(json.dumps(as_json(config)))
    restored = from_json(stored)
    assert restored.to_dict() == config.to_dict()
    assert as_json(restored) == stored
    assert learner_config(restored) == learner_config(config)
    hash(learner_config(restored))  # tuples again: lists could not be static


def test_overriding_with_the_same_value_is_no_difference(override):
    config = make_config("ppo", learner={"hidden_sizes": (8, 8)})
    again = override(make_config("ppo"), "--config.learner.hidden_sizes=(8, 8)")
    assert differences(as_json(config), as_json(again)) == []


def test_differences_name_every_field_with_both_values():
    stored = {"a": 1, "b": {"c": [1, 2], "d": {"e": None}}, "gone": 3, "same": {"x": 1}}
    given = {"a": 2, "b": {"c": [1, 3], "d": {"e": "f"}}, "new": 4, "same": {"x": 1}}
    assert differences(stored, given) == [
        "a is 2, was 1",
        "b.c is [1, 3], was [1, 2]",
        "b.d.e is 'f', was None",
        "gone is None, was 3",
        "new is 4, was None",
    ]


def test_a_section_that_became_a_value_is_a_difference():
    assert differences({"a": {"b": 1}}, {"a": 1}) == ["a is 1, was {'b': 1}"]


def test_provenance_names_versions_and_device():
    found = provenance()
    assert found["versions"]["jax"] == jax.__version__
    assert found["device"] == {
        "platform": jax.default_backend(),
        "kind": jax.devices()[0].device_kind,
        "count": len(jax.devices()),
    }
    json.dumps(found)


def test_provenance_names_the_commit_and_whether_files_were_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)

    def git(*arguments):
        author = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", *author, *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "--quiet")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "--quiet", "--no-verify", "--message=first")
    commit = git("rev-parse", "HEAD")
    assert provenance()["git"] == {"commit": commit, "modified": False}
    (tmp_path / "file").write_text("2")
    assert provenance()["git"] == {"commit": commit, "modified": True}


def test_provenance_without_a_repository_has_no_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance()["git"]["commit"] is None
