"""Who may write into a workdir, what began it, and what --overwrite removes."""

import json
import os

import pytest

from experiments import workdir
from experiments.errors import UserError

CONFIG = {"learner": {"learning_rate": 0.1, "hidden_sizes": [8]}, "seeds": 1}
PROVENANCE = {"versions": {"jax": "1"}, "device": {"platform": "cpu"}, "git": {"commit": "a"}}


def begin(folder, config=CONFIG, provenance=PROVENANCE, *, overwrite=False):
    return workdir.begin(folder, config, provenance, overwrite=overwrite)


@pytest.fixture
def used(tmp_path):
    """A workdir with all that a run writes, and a file and a folder of its user."""
    begin(tmp_path)
    for name in ("metrics.jsonl", "learning_curve.png", "summary.json", "notes.txt"):
        (tmp_path / name).write_text("x")
    for name in ("checkpoints/8", "checkpoints_corrupt/16", "tensorboard", "profile", "figures"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text("x")
    return tmp_path


def test_a_workdir_is_created_with_its_parents(tmp_path):
    with workdir.claim(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()


def test_a_second_holder_is_refused_until_the_first_is_gone(tmp_path):
    with workdir.claim(tmp_path), pytest.raises(UserError, match="another process is running in"):
        workdir.claim(tmp_path).__enter__()
    with workdir.claim(tmp_path):
        pass


def test_a_holder_that_fails_lets_go(tmp_path):
    with pytest.raises(ZeroDivisionError), workdir.claim(tmp_path):
        raise ZeroDivisionError
    with workdir.claim(tmp_path):
        pass


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_workdir_that_cannot_be_written_is_refused(tmp_path, place):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"cannot be written: .*; choose another --workdir"):
        workdir.claim(tmp_path / place).__enter__()
    assert (tmp_path / "file").read_text() == "mine"


def test_a_run_begins_with_its_config_and_provenance(tmp_path):
    assert begin(tmp_path) == []
    assert json.loads((tmp_path / "config.json").read_text()) == {"config": CONFIG, **PROVENANCE}


def test_the_same_config_may_go_on_and_is_not_rewritten(tmp_path):
    begin(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    assert begin(tmp_path, provenance=PROVENANCE | {"git": {"commit": "b"}}) == []
    assert (tmp_path / "config.json").read_bytes() == before


def test_other_versions_or_devices_are_warned_of(tmp_path):
    begin(tmp_path)
    other = PROVENANCE | {"versions": {"jax": "2"}, "device": {"platform": "gpu"}}
    assert begin(tmp_path, provenance=other) == [
        "device.platform is 'gpu', was 'cpu'",
        "versions.jax is '2', was '1'",
    ]


def test_another_config_is_refused_by_the_names_of_its_fields(used, files):
    before = files(used)
    other = {"learner": {"learning_rate": 0.2, "hidden_sizes": [8]}, "seeds": 4}
    with pytest.raises(UserError) as caught:
        begin(used, other)
    message = str(caught.value)
    assert "learner.learning_rate is 0.2, was 0.1; seeds is 4, was 1" in message
    assert "hidden_sizes" not in message
    assert "--overwrite" in message
    assert files(used) == before


def test_overwrite_removes_the_run_and_nothing_of_its_user(used):
    begin(used, {"seeds": 4}, overwrite=True)
    assert sorted(path.name for path in used.iterdir()) == ["config.json", "figures", "notes.txt"]
    assert (used / "figures" / "file").exists()
    assert json.loads((used / "config.json").read_text())["config"] == {"seeds": 4}


def test_a_removal_that_is_killed_leaves_what_tells_whose_run_it_was(used, monkeypatch):
    def kill(path, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(workdir.shutil, "rmtree", kill)
    with pytest.raises(KeyboardInterrupt):
        workdir.remove(used)
    assert json.loads((used / "config.json").read_text())["config"] == CONFIG


def test_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    workdir.write_json(path, {"a": 1})

    def fill_the_disk(descriptor):
        os.truncate(descriptor, 5)  # what there was room for: {"a":
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(workdir.os, "fsync", fill_the_disk)
    with pytest.raises(OSError, match="No space"):
        workdir.write_json(path, {"a": 2})
    assert workdir.read_json(path) == {"a": 1}


def test_json_that_cannot_be_stored_leaves_no_file(tmp_path):
    with pytest.raises(TypeError):
        workdir.write_json(tmp_path / "summary.json", {"a": object()})
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize("content", [None, "", '{"config": '])
def test_a_missing_or_cut_file_is_an_error_of_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"is .* the workdir of a run") as caught:
        workdir.read_json(tmp_path / "config.json")
    assert "\n" not in str(caught.value)
