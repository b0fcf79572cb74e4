"""Time formulas and learners on this machine, beside their peers.

    python -m experiments.benchmark --suite=nn --peers --out=runs/bench
    python -m experiments.benchmark --suite=ppo --peers --purejaxrl=../purejaxrl

Lowering and compilation are timed apart, the first call is discarded, and contestants take turns (A B A B …), so that
a machine whose speed drifts slows them alike. A contestant whose result is wrong gets no time.
"""

import json
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
from absl import flags

from experiments import devices, progress
from experiments.configuration import provenance
from experiments.errors import UserError, run_program
from experiments.suites.base import NUM_SEEDS, Case, describe, run_case

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Define the flags of this program."""
    flags.DEFINE_list("suite", ["ppo"], f"Which suites to run: {', '.join(SUITES)}.")
    flags.DEFINE_bool("peers", False, "Run the peers that can be found as well.")
    flags.DEFINE_string("purejaxrl", None, "A checkout of PureJaxRL, the peer of suites ppo and dqn.")
    flags.DEFINE_integer("repeats", 5, "Timed runs of each contestant.", lower_bound=1)
    flags.DEFINE_integer("env_steps", 500_000, "Environment steps of one run of suites ppo and dqn.", lower_bound=512)
    flags.DEFINE_integer("elements", 4 * 2**20, "Numbers that a formula of suite nn works on.", lower_bound=4096)
    flags.DEFINE_list("examples", ["2000", "5000", "10000", "20000"], "Numbers of examples of the fits of suite svm.")
    flags.DEFINE_integer("rows", 1_000_000, "The most rows of a matrix of suite pca.", lower_bound=1797)
    flags.DEFINE_list("points", ["1797"], "Numbers of points of suites neighbors, tsne and umap; 1797 are the digits.")
    flags.DEFINE_string("mnist", None, "A folder with MNIST's files, for more points than that; else Gaussians.")
    flags.DEFINE_string("out", None, "Folder for benchmark.jsonl; nothing is written without it.")


def main(argv: list[str]) -> None:
    """Run the suites that the flags name."""
    del argv
    for name in FLAGS.suite:
        if name not in SUITES:
            raise UserError(f"suite {name!r} is unknown; use {', '.join(SUITES)}.")
    devices.prepare(NUM_SEEDS if {"ppo", "svm"} & set(FLAGS.suite) else 1)
    suites = [(name, SUITES[name]()) for name in FLAGS.suite]  # so that a flag that is missing is missed at once
    for name, cases in suites:
        progress.say("suite", f"{name} on {jax.devices()[0].device_kind}, median of {FLAGS.repeats} runs in turn")
        for case in cases:
            rows = run_case(case, FLAGS.repeats)
            for row in rows:
                progress.say("", describe(row))
            if FLAGS.out:
                write(pathlib.Path(FLAGS.out), name, rows)


def write(directory: pathlib.Path, suite: str, rows: list[dict[str, Any]]) -> None:
    """Append the rows, with versions and device, to `benchmark.jsonl`."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / "benchmark.jsonl").open("a") as file:
            for row in rows:
                file.write(json.dumps({"suite": suite, **row, **provenance()}) + "\n")
    except OSError as error:
        raise UserError(f"--out={directory} cannot be written: {error.strerror}") from error


def _nn() -> Iterable[Case]:
    from experiments.suites import nn

    return nn.cases(with_peers=FLAGS.peers, num_elements=FLAGS.elements)


def _attention() -> Iterable[Case]:
    from experiments.suites import attention

    return attention.cases(with_peers=FLAGS.peers)


def _generative() -> Iterable[Case]:
    from experiments.suites import generative

    return generative.cases(with_peers=FLAGS.peers)


def _ppo() -> Iterable[Case]:
    from experiments.suites import ppo

    return ppo.cases(with_peers=FLAGS.peers, purejaxrl_checkout=FLAGS.purejaxrl, env_steps=FLAGS.env_steps)


def _dqn() -> Iterable[Case]:
    from experiments.suites import dqn

    return dqn.cases(with_peers=FLAGS.peers, purejaxrl_checkout=FLAGS.purejaxrl, env_steps=FLAGS.env_steps)


def _svm() -> Iterable[Case]:
    from experiments.suites import svm

    if not all(number.isdigit() and int(number) >= 20 for number in FLAGS.examples):
        raise UserError(f"--examples={','.join(FLAGS.examples)} must be integers of at least 20, with commas between.")
    return svm.cases(with_peers=FLAGS.peers, examples=[int(number) for number in FLAGS.examples])


def _pca() -> Iterable[Case]:
    from experiments.suites import reduction

    return reduction.pca_cases(with_peers=FLAGS.peers, most=FLAGS.rows)


def _neighbors() -> Iterable[Case]:
    from experiments.suites import reduction

    return reduction.neighbors_cases(with_peers=FLAGS.peers, points=_points(), mnist=FLAGS.mnist)


def _tsne() -> Iterable[Case]:
    from experiments.suites import reduction

    return reduction.tsne_cases(with_peers=FLAGS.peers, points=_points(), mnist=FLAGS.mnist)


def _umap() -> Iterable[Case]:
    from experiments.suites import reduction

    return reduction.umap_cases(with_peers=FLAGS.peers, points=_points(), mnist=FLAGS.mnist)


def _points() -> list[int]:
    if not all(number.isdigit() and int(number) >= 200 for number in FLAGS.points):
        raise UserError(f"--points={','.join(FLAGS.points)} must be integers of at least 200, with commas between.")
    return [int(number) for number in FLAGS.points]


SUITES: dict[str, Callable[[], Iterable[Case]]] = {
    "nn": _nn,
    "attention": _attention,
    "generative": _generative,
    "ppo": _ppo,
    "dqn": _dqn,
    "svm": _svm,
    "pca": _pca,
    "neighbors": _neighbors,
    "tsne": _tsne,
    "umap": _umap,
}

if __name__ == "__main__":
    define_flags()
    run_program(main)
