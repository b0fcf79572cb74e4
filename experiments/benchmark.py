"""Time formulas and learners on this machine, beside their peers, and see how near they come to its limits.

    python -m experiments.benchmark --suite=nn,losses,attention --peers --out=runs/bench
    python -m experiments.benchmark --suite=ppo --sizes=large --peers --purejaxrl=../purejaxrl --out=runs/bench
    python -m experiments.benchmark --suite=attention --scaling --out=runs/scaling
    python -m experiments.benchmark --suite=nn --out=runs/new --compare=runs/bench/results.jsonl

Lowering and compilation are timed apart, the first call is discarded, and contestants take turns (A B A B …), so that
a machine whose speed drifts slows them alike. A contestant whose result is wrong gets no time.
"""

import datetime
import importlib
import pathlib
import sys
from collections.abc import Iterable
from typing import Any

import jax
from absl import flags

from experiments import devices, peers, progress
from experiments.benchmarking import compare, peaks, pictures, report, scaling
from experiments.configuration import did_you_mean, provenance
from experiments.errors import UserError, run_program
from experiments.metrics import json_line
from experiments.suites.base import Case, run_case
from experiments.suites.options import SCALING, SIZES, Options

FLAGS = flags.FLAGS
RESULTS = "results.jsonl"
SUITES = {  # name: its module of experiments.suites, and the function that gives its cases
    "nn": ("nn", "cases"),
    "losses": ("losses", "cases"),
    "attention": ("attention", "cases"),
    "generative": ("generative", "cases"),
    "ppo": ("ppo", "cases"),
    "dqn": ("dqn", "cases"),
    "svm": ("svm", "cases"),
    "pca": ("reduction", "pca_cases"),
    "neighbors": ("reduction", "neighbors_cases"),
    "tsne": ("reduction", "tsne_cases"),
    "umap": ("reduction", "umap_cases"),
}
TYPED = {"nn", "losses", "attention"}  # that exist in every dtype
FEWEST = {"elements": 4096, "tokens": 64, "images": 1, "examples": 20, "rows": 200, "points": 200}  # of a list flag


def define_flags() -> None:
    """Define the flags of this program."""
    flags.DEFINE_list("suite", ["ppo"], f"Which suites to run: {', '.join(SUITES)}.")
    flags.DEFINE_enum("sizes", "small", list(SIZES), "Sizes of the cases; large is for an accelerator or patience.")
    flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16", "float16", "float64"], "Of nn, losses, attention.")
    flags.DEFINE_bool("peers", False, "Run the peers that can be found as well.")
    flags.DEFINE_string("purejaxrl", None, "A checkout of PureJaxRL, the peer of suites ppo and dqn.")
    flags.DEFINE_string("mnist", None, "A folder with MNIST's files, for more than 1797 points; else Gaussians.")
    flags.DEFINE_integer("repeats", 7, "Timed turns of each contestant, fewer where they are long.", lower_bound=3)
    flags.DEFINE_bool("scaling", False, "Run several sizes of each case, and fit how time and memory grow.")
    flags.DEFINE_string("out", None, f"Folder for {RESULTS} and pictures; nothing is written without it.")
    flags.DEFINE_string("compare", None, f"A {RESULTS} of before; exit status 1 where ours became slower.")
    flags.DEFINE_enum("platform", "any", ["any", "cpu", "gpu", "tpu"], "The device to demand.")
    flags.DEFINE_integer("env_steps", None, "Instead of --sizes: steps of suites ppo and dqn.", lower_bound=512)
    for name in FEWEST:
        flags.DEFINE_list(name, None, f"Instead of --sizes: {name}, one or several.")


def main(argv: list[str]) -> None:
    """Run the suites that the flags name."""
    del argv
    if not FLAGS.suite:
        raise UserError(f"--suite names no suite; use {', '.join(SUITES)}.")
    for name in FLAGS.suite:
        if name not in SUITES:
            raise UserError(f"suite {name!r} is unknown{did_you_mean(name, SUITES)}; use {', '.join(SUITES)}.")
    if FLAGS.purejaxrl and not FLAGS.peers:
        raise UserError("--purejaxrl is a peer; give --peers too.")
    options, before = read_options(), compare.read(FLAGS.compare) if FLAGS.compare else None
    devices.prepare(max(options.seeds) if {"ppo", "svm"} & set(FLAGS.suite) else 1)
    devices.demand_platform(FLAGS.platform)
    if FLAGS.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    suites = [(name, cases) for name in FLAGS.suite if (cases := _cases(name, options)) is not None]
    if not suites:
        raise UserError(f"--dtype={FLAGS.dtype} is of suites {', '.join(sorted(TYPED))}; name one of them.")
    if {"neighbors", "tsne", "umap"} & set(FLAGS.suite):
        from experiments.suites import reduction

        reduction.check_mnist(options)
    given = {**options._asdict(), "mnist": options.mnist is not None, "purejaxrl": options.purejaxrl is not None}
    directory = pathlib.Path(FLAGS.out) if FLAGS.out else None
    bench = Bench(directory, given | {"repeats": FLAGS.repeats}, is_scaling=FLAGS.scaling, purejaxrl=options.purejaxrl)
    try:
        for name, cases in suites:
            bench.run_suite(name, cases, FLAGS.repeats)
    except KeyboardInterrupt as error:
        kept = f"in {directory / RESULTS}" if directory else "above"
        raise UserError(f"interrupted; what was measured before stands {kept}.") from error
    bench.finish()
    failed = bench.failed + sum(row["is_ours"] and not row["is_right"] for row in bench.rows)
    if failed:
        progress.say("failed", f"{failed} of our own results are wrong or missing, see above")
    slower = before is not None and compare.report(before, bench.rows)
    if failed or slower:
        sys.exit(1)


def read_options() -> Options:
    """Return the sizes that the flags ask for."""
    chosen = dict((SCALING if FLAGS.scaling else SIZES)[FLAGS.sizes])
    for name, fewest in FEWEST.items():
        given = FLAGS[name].value
        if given is not None:
            if not given or not all(number.isdigit() and int(number) >= fewest for number in given):
                raise UserError(f"--{name}={','.join(given)} must be integers of at least {fewest}, commas between.")
            chosen[name] = tuple(map(int, given))
    if FLAGS.env_steps is not None:
        chosen["env_steps"] = FLAGS.env_steps
    return Options(**chosen, with_peers=FLAGS.peers, dtype=FLAGS.dtype, mnist=FLAGS.mnist, purejaxrl=FLAGS.purejaxrl)


def _cases(name: str, options: Options) -> Iterable[Case] | None:
    if FLAGS.dtype != "float32" and name not in TYPED:
        progress.say("suite", f"{name} is of float32 only; left out")
        return None
    module, function = SUITES[name]
    return getattr(importlib.import_module(f"experiments.suites.{module}"), function)(options)


class Bench:
    """Rows of one call of the program, on the terminal at once and in `results.jsonl` after each case."""

    def __init__(
        self,
        directory: pathlib.Path | None,
        given: dict[str, Any] | None = None,
        *,
        is_scaling: bool = False,
        purejaxrl: str | None = None,
    ):
        self.rows: list[dict[str, Any]] = []
        self.failed = 0  # suites that did not come to their end
        self._directory, self._is_scaling, self._provenance = directory, is_scaling, provenance()
        self._provenance["versions"] |= peers.versions(purejaxrl)
        self._provenance["flags"] = given or {}
        self._provenance["began"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        if directory is not None:
            self._write([])  # so that a folder that cannot be written is known at once
        self._peaks: dict[str, peaks.Peaks] = {}

    def run_suite(self, name: str, cases: Iterable[Case], repeats: int) -> None:
        """Run every case of a suite."""
        progress.say("suite", f"{name} on {jax.devices()[0].device_kind}, {repeats} turns")
        print(report.header(), flush=True)
        self._peaks = {}
        try:
            for case in cases:
                self._run_case(name, case, repeats)
        except (RuntimeError, MemoryError) as error:  # outside of what a contestant does, as in making its data
            self.failed += 1
            progress.say("failed", f"suite {name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")

    def _run_case(self, suite: str, case: Case, repeats: int) -> None:
        found, rows = self._peaks_of(case.dtype), run_case(case, repeats)
        for row in rows:
            row |= {"peaks": found._asdict(), **report.fractions(row, found)}
            print(report.line(row), flush=True)
        self._keep(suite, rows)

    def finish(self) -> None:
        """Say how cost grows, draw, and say what was written."""
        if self._is_scaling:
            fits = scaling.fit(self.rows)
            for fit in fits:
                print(scaling.line(fit), flush=True)
            self._write([{"kind": "scaling", **fit, **self._provenance} for fit in fits])
        if self._directory is not None and self.rows:
            drawn = pictures.draw(self._directory, self.rows, is_scaling=self._is_scaling)
            progress.say("wrote", ", ".join(str(path) for path in (self._directory / RESULTS, *drawn)))

    def _peaks_of(self, dtype: str) -> peaks.Peaks:
        """Measure the peaks of a dtype when its first case of a suite comes: machines change their speed."""
        if dtype not in self._peaks:
            found = self._peaks[dtype] = peaks.measure(dtype)
            progress.say(
                "peaks",
                f"{dtype}: products {found.flops_per_second / 1e9:,.0f} GFLOP/s, "
                f"copies {found.bytes_per_second / 1e9:,.1f} GB/s",
            )
        return self._peaks[dtype]

    def _keep(self, suite: str, rows: list[dict[str, Any]]) -> None:
        rows = [{"kind": "measurement", "suite": suite, **row, **self._provenance} for row in rows]
        self.rows += rows
        self._write(rows)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        if self._directory is None:
            return
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with (self._directory / RESULTS).open("a") as file:
                file.writelines(map(json_line, rows))
        except OSError as error:
            raise UserError(f"--out={self._directory} cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    define_flags()
    run_program(main)
