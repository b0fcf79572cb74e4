"""The results section of README.md, made from records alone: what no file records, the section does not say.

    python -m experiments.results --record=runs/ppo_cartpole,runs/mlp_digits
    python -m experiments.results

The first form adds finished runs to `results/runs.jsonl`; `experiments.benchmark --out=results` adds to
`results/results.jsonl`. The second writes the section anew.
"""

import datetime
import json
import pathlib
import re
import shlex
from typing import Any

from absl import flags

from experiments import progress
from experiments.benchmarking import tables
from experiments.embedding_comparison import MEASURES
from experiments.errors import UserError, run_program
from experiments.metrics import json_line
from experiments.workdir import CONFIG, SUMMARY, read_json

FLAGS = flags.FLAGS
RUNS = "runs.jsonl"
BEGIN, END = "<!-- results: begin, written by `make results` -->", "<!-- results: end -->"


def define_flags() -> None:
    """Define the flags of this program."""
    flags.DEFINE_string("directory", "results", "Folder of the records.")
    flags.DEFINE_list("record", [], "Workdirs of finished runs to add to the records.")
    flags.DEFINE_string("readme", "README.md", "The document with the section.")


def main(argv: list[str]) -> None:
    """Record runs, and write the section anew."""
    del argv
    directory, readme = pathlib.Path(FLAGS.directory), pathlib.Path(FLAGS.readme)
    for workdir in FLAGS.record:
        row = record(pathlib.Path(workdir))
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / RUNS).open("a") as file:
            file.write(json_line(row))
        shown = any((row["name"], row["seeds"]) == (system.name, system.seeds) for system in tables.SYSTEMS)
        note = "" if shown else "; the table of systems has no line for it"
        progress.say("recorded", f"{workdir}: {row['name']}, {row['seeds']} seeds{note}")
    try:
        readme.write_text(replaced(readme.read_text(), section(directory)))
    except OSError as error:
        raise UserError(f"--readme={readme} cannot be read or written: {error.strerror}.") from error
    progress.say("wrote", f"the results section of {readme}")


def record(workdir: pathlib.Path) -> dict[str, Any]:
    """Return the record of a finished run.

    Raises:
      UserError: it is not finished, or was resumed, so that nobody knows its time.
    """
    config, summary = read_json(workdir / CONFIG), read_json(workdir / SUMMARY)
    spent = summary["this_process"]
    if spent["updates"] != summary["updates"]:
        raise UserError(f"{workdir} was resumed: its time is not known. Run it anew with --overwrite, and record that.")
    measures = workdir / MEASURES
    return {
        "kind": "run",
        "name": name_of(config["command"]),
        "seeds": summary["seeds"],
        "problem": summary["problem"],
        "evaluation": summary["evaluation"],
        "measures": read_json(measures) if measures.exists() else {},
        "seconds": spent["seconds"],
        "compile_seconds": spent["compile_seconds"],
        "recorded": datetime.date.today().isoformat(),
        **{key: config[key] for key in ("command", "versions", "device", "host", "git")},
    }


def name_of(command: str) -> str:
    """Return the name of the config that a command trains, with a star where it overrides fields of it.

    Where a config's data lie, is none of its results' business.

    >>> name_of("python -m experiments.train --config=configs/ppo_cartpole.py --seeds=5")
    'ppo_cartpole'
    >>> name_of("python -m experiments.train --config=configs/mlp_digits.py --config.learner.num_epochs=1")
    'mlp_digits*'
    """
    words = shlex.split(command)
    path = next((word for word in words if word.startswith("--config=")), "")
    changed = any(re.match(r"--config\.(?!data\.directory=)", word) for word in words)
    return pathlib.Path(path.partition("=")[2]).stem + "*" * changed


def section(directory: pathlib.Path) -> str:
    """Return the section that the records of a folder give.

    Raises:
      UserError: there is no record, or one cannot be read.
    """
    rows = []
    for path in sorted(directory.glob("*.jsonl")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise UserError(f"{path}, line {number} is no JSON: {error}.") from error
    if not rows:
        raise UserError(f"--directory={directory} holds no record (*.jsonl); nothing was written.")
    return tables.render(rows)


def replaced(document: str, text: str) -> str:
    """Return a document with its section replaced.

    Raises:
      UserError: the marks between which it stands are missing.
    """
    head, begin, rest = document.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise UserError(f"the document lacks the marks of its results section: {BEGIN} and {END}.")
    return f"{head}{BEGIN}\n\n{text.strip()}\n\n{END}{tail}"


if __name__ == "__main__":
    define_flags()
    run_program(main)
