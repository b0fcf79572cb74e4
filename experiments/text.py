"""Text for language models: characters or bytes, split by position.

pydoc_topics    the language reference that every CPython brings along: 460,000 characters of English
FILE            any UTF-8 text
"""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.errors import UserError

DEFAULTS = {
    "name": "pydoc_topics",  # or the path of a file
    "tokens": "characters",  # or "bytes"
    "validation_fraction": 0.1,  # the end of the text, which is not trained on
}


class Text(NamedTuple):
    """A text as tokens.

    Attributes:
      train: its beginning.
      test: its end.
      vocabulary: what each token stands for; empty for bytes.
    """

    train: np.ndarray
    test: np.ndarray
    vocabulary: tuple[str, ...]

    @property
    def num_tokens(self) -> int:
        """Size of the vocabulary."""
        return len(self.vocabulary) or 256

    def decode(self, tokens: np.ndarray) -> str:
        """Return what tokens stand for; bytes that are no UTF-8 become �."""
        if self.vocabulary:
            return "".join(self.vocabulary[token] for token in np.asarray(tokens))
        return bytes(np.asarray(tokens, np.uint8)).decode(errors="replace")


def load(config: Mapping[str, Any]) -> Text:
    """Load the text of a config with the fields of `DEFAULTS`.

    Raises:
      UserError: a field has a value that does not exist, or the file cannot be read as UTF-8.
    """
    if config["tokens"] not in ("characters", "bytes"):
        raise UserError(f"config.text.tokens is {config['tokens']!r}; it must be 'characters' or 'bytes'.")
    fraction = config["validation_fraction"]
    if not 0 < fraction < 1:
        raise UserError(f"config.text.validation_fraction is {fraction}; it must be between 0 and 1.")
    text = _pydoc_topics() if config["name"] == "pydoc_topics" else _file(config["name"])
    if config["tokens"] == "bytes":
        tokens, vocabulary = np.frombuffer(text.encode(), np.uint8).astype(np.int32), ()
    else:
        vocabulary = tuple(sorted(set(text)))
        index = {character: token for token, character in enumerate(vocabulary)}
        tokens = np.array([index[character] for character in text], np.int32)
    first = len(tokens) - round(fraction * len(tokens))
    return Text(tokens[:first], tokens[first:], vocabulary)


def _pydoc_topics() -> str:
    from pydoc_data.topics import topics

    paragraphs = "\n".join(topics[name] for name in sorted(topics)).split("\n\n")
    # Long topics repeat short ones: a paragraph is kept where it comes first, lest what is held out be trained on.
    return "\n\n".join(dict.fromkeys(paragraphs))


def _file(name: str) -> str:
    path = pathlib.Path(name)
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"text {path.resolve()} is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}."
        ) from error
    except OSError as error:
        raise UserError(
            f"text {path.resolve()} cannot be read: {error.strerror}; "
            "config.text.name is 'pydoc_topics' or the path of a file."
        ) from error
