"""A language model from end to end: what a run leaves, and that an interrupted one ends with the same bits."""

import json
import re
import runpy
import shutil

import numpy as np
import pytest

from experiments import pictures
from experiments.errors import UserError


@pytest.fixture
def text_config():
    config = runpy.run_path("configs/transformer_text.py")["get_config"]()
    config.learner.update(
        {"num_layers": 1, "num_heads": 2, "num_features": 8, "hidden_size": 8, "context_length": 8, "batch_size": 4}
    )
    config.learner.num_updates = 8
    config.text.validation_fraction = 0.001
    config.run.update({"updates_per_chunk": 2, "evaluate_every": 4, "checkpoint_every": 4})
    return config


@pytest.mark.slow
def test_a_run_leaves_samples_and_pictures_and_resumes_bit_for_bit(text_config, train_here, signal_at, tmp_path):
    printed = train_here(text_config, tmp_path / "whole")
    found = re.search(r"evaluation bits_per_token (\d\.\d+)", printed)
    assert 4 < float(found[1]) < 9  # of a hundred characters, hardly trained: log₂ 103 is 6.7
    for name in ("learning_curve.png", "attention_maps.png", "position_encoding.png", "summary.json"):
        assert (tmp_path / "whole" / name).exists()
    samples = sorted((tmp_path / "whole" / "samples").iterdir())
    assert [path.name for path in samples] == ["000004.txt", "000008.txt"]
    prompt, written = samples[0].read_text().rstrip("\n").split("⟶")
    assert len(prompt) == len(written) == 4

    signal_at(2)
    assert "the same command resumes" in train_here(text_config, tmp_path / "stopped")
    signal_at(None)
    shutil.rmtree(tmp_path / "stopped" / "samples")
    assert "resume" in train_here(text_config, tmp_path / "stopped")
    rows = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "stopped")]
    assert rows[0] == rows[1]
    assert json.loads(rows[0].splitlines()[-1])["tokens"] == 8 * 4 * 8
    assert (tmp_path / "stopped" / "samples" / "000008.txt").read_text() == samples[1].read_text()


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("text", "name", "nothing.txt", "nothing.txt cannot be read: No such file"),
        ("text", "tokens", "words", "config.text.tokens is 'words'"),
        ("learner", "context_length", 500_000, "context_length is 500000"),
        ("learner", "num_heads", 3, "num_heads is 3; it must divide the 8 features"),
        ("learner", "num_microbatches", 3, "the second must divide the first"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(text_config, train_here, tmp_path, section, field, value, message):
    text_config[section][field] = value
    with pytest.raises(UserError, match=message) as caught:
        train_here(text_config, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_pictures_have_labels_and_the_numbers_that_they_were_given(tmp_path, monkeypatch):
    figures, make = [], pictures.Figure
    monkeypatch.setattr(pictures, "Figure", lambda **options: figures.append(make(**options)) or figures[-1])
    weights = {f"layer 1, head {head}": np.eye(3) for head in range(1, 5)}
    assert pictures.attention_maps(tmp_path, weights, ["a", " ", "\n"]).exists()
    assert pictures.position_encoding(tmp_path, np.linspace(-1, 1, 12).reshape(3, 4)).exists()
    maps, encoding = figures
    panel = maps.axes[0]
    np.testing.assert_array_equal(panel.images[0].get_array(), np.eye(3))
    assert panel.get_title() == "layer 1, head 1"
    assert [label.get_text() for label in panel.get_xticklabels()] == ["a", " ", r"\n"]
    assert encoding.axes[0].get_ylabel() == "position"
