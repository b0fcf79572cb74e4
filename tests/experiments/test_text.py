"""Texts as tokens: every character comes back, the end is held out, and mistakes say what is wrong."""

import numpy as np
import pytest

from experiments import text
from experiments.errors import UserError


def load(**changes):
    return text.load(text.DEFAULTS | changes)


def test_the_language_reference_is_english_and_split_by_position():
    data = load()
    whole = data.decode(np.concatenate([data.train, data.test]))
    assert len(whole) > 300_000
    paragraphs = whole.split("\n\n")
    assert len(set(paragraphs)) == len(paragraphs)  # what is held out is not trained on
    assert whole.count(" the ") > 2000
    assert len(data.test) == round(0.1 * len(whole))
    assert data.decode(data.train) == whole[: len(data.train)]
    assert 50 < data.num_tokens == len(set(whole)) < 300


@pytest.mark.parametrize("tokens", ["characters", "bytes"])
def test_a_file_is_read_character_by_character_or_byte_by_byte(tmp_path, tokens):
    (tmp_path / "text").write_text("Größe 10 µm\n" * 4, encoding="utf-8")
    data = load(name=str(tmp_path / "text"), tokens=tokens, validation_fraction=0.25)
    assert data.decode(data.train) == "Größe 10 µm\n" * 3
    assert data.decode(data.test) == "Größe 10 µm\n"
    assert len(data.test) == (12 if tokens == "characters" else 15)  # ö, ß and µ are two bytes each
    assert data.num_tokens == (11 if tokens == "characters" else 256)
    assert max(data.train) < data.num_tokens


def test_a_file_keeps_its_line_ends(tmp_path):
    (tmp_path / "text").write_bytes(b"a\r\nb\rc\n")
    data = load(name=str(tmp_path / "text"), tokens="bytes", validation_fraction=0.25)
    assert bytes(np.concatenate([data.train, data.test]).astype(np.uint8)) == b"a\r\nb\rc\n"


def test_bytes_that_are_no_text_are_marked():
    assert load(tokens="bytes").decode(np.array([72, 200, 105])) == "H\ufffdi"


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        (None, {}, "cannot be read: No such file.*config.text.name is 'pydoc_topics' or the path of a file"),
        (b"ab\xff", {}, "is not UTF-8: byte 2 is 0xff"),
        (b"ab", {"tokens": "words"}, "config.text.tokens is 'words'; it must be 'characters' or 'bytes'"),
        (b"ab", {"validation_fraction": 1.0}, "config.text.validation_fraction is 1.0; it must be between 0 and 1"),
    ],
)
def test_mistakes_are_refused(tmp_path, content, changes, message):
    if content is not None:
        (tmp_path / "text").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load(name=str(tmp_path / "text"), **changes)
