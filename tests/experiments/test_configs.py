"""Every config: it builds, traces, and its docstring tells how to run it. Nothing is compiled here."""

import pathlib
import re
import runpy

import numpy as np
import pytest

from experiments import data, kernel_machines, run_loop
from experiments.tasks import make_task

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))


def images(directory):
    """A data set of MNIST's shape."""
    del directory
    generator = np.random.default_rng(0)
    make = lambda n: data.Split(  # noqa: E731
        generator.integers(0, 256, (n, 28, 28), np.uint8), np.arange(n, dtype=np.int32) % 10
    )
    return data.DataSet(make(600), make(600), tuple("0123456789"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_builds_and_traces(path, monkeypatch):
    monkeypatch.setitem(data.LOADERS, "mnist", images)
    monkeypatch.setattr(
        kernel_machines, "cross_validate", lambda X, y, *, gammas, Cs, **_: np.ones((len(gammas), len(Cs), 1))
    )
    config = runpy.run_path(str(path))["get_config"]()
    if config.algorithm in ("umap", "parametric_umap"):
        config.data.num_train = 600  # as many as there are `images`: what sorts their edges is compiled once
    task = make_task(config)
    run_loop.validate(task, config.run)
    assert task.num_updates > 0


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_says_how_to_run_it_how_long_it_takes_and_what_it_scores(path):
    docstring = path.read_text().split('"""')[1]
    assert f"python -m experiments.train --config=configs/{path.name} --workdir=runs/" in docstring
    assert re.search(r"\d+ (s|minutes|min)\b", docstring)
    assert re.search(r"[Tt]wo x86-64 cores", docstring)
