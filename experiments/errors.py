"""Errors written for the person at the terminal."""

import re
import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging


class UserError(Exception):
    """What was given, what is allowed, what to do: one line, shown without a traceback."""


def run_program(main: Callable[[Sequence[str]], None]) -> None:
    """Run an absl program whose mistakes in flags and input end in one line and exit status 1."""

    def parse(argv: Sequence[str]) -> list[str]:
        try:
            return flags.FLAGS(list(argv))
        except (flags.Error, UserError, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
            fail(f"{one_line(error)} (--helpshort lists the flags)")

    def guarded(argv: Sequence[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.ERROR)  # orbax reports each of its internal steps as information
        try:
            if len(argv) > 1:
                raise UserError(f"unexpected argument {argv[1]!r}: every option is a flag, --name=value.")
            main(argv)
        except UserError as error:
            fail(str(error))
        except KeyboardInterrupt:
            fail("interrupted; the same command resumes from the last checkpoint.")

    app.run(guarded, flags_parser=parse)


def fail(message: str) -> None:
    """Print one line to stderr and exit with status 1."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


def one_line(error: BaseException) -> str:
    """Say in one line what an error of absl, ml_collections or the file system says in several."""
    text = str(error)
    misspelt = re.search(r'Did you mean "(\w+)" instead of "(\w+)"', text)
    if misspelt:
        return f"the config has no field {misspelt[2]!r} (did you mean {misspelt[1]!r}?)"
    unreadable = re.search(r"\[Errno \d+\] (.*)", text)
    if unreadable:
        return f"the config file cannot be read: {unreadable[1]}"
    return " ".join(text.split()) or type(error).__name__
