"""The program `benchmark`: every suite runs, what it writes, what it refuses, and when it fails."""

import json

import pytest

from experiments import benchmark
from experiments.benchmarking import peaks
from experiments.errors import UserError
from experiments.suites import base
from experiments.suites.options import SCALING, SIZES, Options

LONG = {"nn", "ppo", "dqn", "generative", "svm", "tsne", "umap"}  # to compile


@pytest.fixture
def run_here(monkeypatch, tmp_path, tiny):
    """Run a suite in this process at the smallest sizes; returns the rows of its file."""
    monkeypatch.setattr(base, "SHORTEST", 1e-6)
    monkeypatch.setattr(peaks, "LONG_ENOUGH", 1e-4)

    def run(suite, **changes):
        module, function = benchmark.SUITES[suite]
        cases = getattr(benchmark.importlib.import_module(f"experiments.suites.{module}"), function)(tiny(**changes))
        bench = benchmark.Bench(tmp_path, {"sizes": "tiny"}, is_scaling=bool(changes))
        bench.run_suite(suite, cases, 3)
        bench.finish()
        return [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]

    return run


@pytest.mark.parametrize(
    "suite", [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in benchmark.SUITES]
)
def test_every_suite_runs_and_is_right(run_here, suite, tmp_path, capsys):
    rows = run_here(suite)
    assert rows
    for row in rows:
        assert (row["kind"], row["suite"], row["error"], row["is_right"]) == ("measurement", suite, None, True)
        assert row["score"] >= (row["least_score"] if row["least_score"] is not None else -1e9)
        assert len(row["seconds"]) == 3
        assert row["gemm_fraction"] > 0
        assert row["flops"] > 0
        assert {"jax", "numpy"} <= set(row["versions"])
        assert {"device", "host", "git", "command", "flags", "began", "peaks"} <= set(row)
    assert (tmp_path / "roofline.png").stat().st_size > 10_000
    assert not (tmp_path / "ratios.png").exists()  # there was no peer
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed[:3:2]] == ["suite", "peaks"]
    assert len([line for line in printed if "mathai" in line]) == len(rows)


def test_scaling_fits_what_grows(run_here, tmp_path, capsys):
    rows = run_here("pca", rows=(1000, 8000, 64_000))
    (fit,) = [row for row in rows if row["kind"] == "scaling"]
    assert (fit["family"], fit["variable"], fit["sizes"]) == ("PCA, 100 features", "rows", [1000, 8000, 64_000])
    assert 0 < fit["time_exponent"] < 3
    assert "PCA, 100 features" in capsys.readouterr().out
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


def test_the_smallest_sizes_are_smaller_and_scaling_has_several_of_each():
    for name in ("elements", "tokens", "images", "examples", "rows", "points"):
        tiny, small, large = (getattr(Options(**SIZES[size]), name) for size in ("tiny", "small", "large"))
        assert max(tiny) <= max(small) <= max(large)
        assert all(len(SCALING[size][name]) >= 2 for size in SIZES)


BAD = {
    "an unknown suite": (["--suite=attentoin"], r"suite 'attentoin' is unknown (did you mean 'attention'?)"),
    "a size that is no number": (["--suite=nn", "--elements=many"], "--elements=many must be integers of at least"),
    "an old file that is none": (["--suite=nn", "--compare=nothing.jsonl"], "--compare=nothing.jsonl cannot be read"),
    "a folder that is a file": (["--suite=nn", "--sizes=tiny", "--out={file}"], "cannot be written"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_ends_in_one_line(programs, tmp_path, case):
    flags, message = BAD[case]
    (tmp_path / "file").write_text("mine")
    done = programs.run("benchmark", *(flag.format(file=tmp_path / "file") for flag in flags))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_slower_program_fails_and_another_dtype_leaves_untyped_suites_out(programs, tmp_path):
    flags = ["--suite=attention,pca", "--sizes=tiny", "--repeats=3", "--dtype=bfloat16"]
    done = programs.run("benchmark", *flags, f"--out={tmp_path}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "pca is of float32 only; left out" in done.stdout
    path = tmp_path / "results.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert {row["suite"] for row in rows} == {"attention"}
    quicker = [row | {"seconds": [seconds / 1000 for seconds in row["seconds"]]} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in quicker))
    done = programs.run("benchmark", *flags, f"--compare={path}")
    assert (done.returncode, done.stderr) == (1, "")
    assert "2 slower or wrong: attention: 64 tokens; attention: 64 tokens, gradient" in done.stdout


def test_our_own_wrong_result_is_a_failure(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(peaks, "LONG_ENOUGH", 1e-4)
    case = base.Case("one", [base.Contestant("mathai", lambda: 1, lambda _: 0.0, compiles=False)], 1, "x", 1.0, ())
    monkeypatch.setitem(benchmark.SUITES, "nn", ("nn", "wrong"))
    monkeypatch.setattr("experiments.suites.nn.wrong", lambda options: [case], raising=False)
    flags = {"suite": ["nn"], "compare": None, "platform": "any", "dtype": "float32", "out": None, "scaling": False}
    given = type("Flags", (), flags | {"repeats": 3, "purejaxrl": None})
    monkeypatch.setattr(benchmark, "FLAGS", given)
    monkeypatch.setattr(benchmark, "read_options", Options)
    with pytest.raises(SystemExit) as stopped:
        benchmark.main([])
    assert stopped.value.code == 1
    printed = capsys.readouterr().out
    assert "wrong result (below 1): no time" in printed
    assert "1 of our own results are wrong or missing" in printed


def test_a_folder_that_cannot_be_written_is_known_before_anything_runs(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        benchmark.Bench(tmp_path / "file" / "below")


def test_a_suite_that_cannot_make_its_data_ends_and_the_next_one_runs(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(peaks, "LONG_ENOUGH", 1e-4)
    case = base.Case("one", [base.Contestant("mathai", lambda: 1, lambda _: 1.0, compiles=False)], 1, "x", 1.0, ())

    def broken():
        yield case
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")

    bench = benchmark.Bench(tmp_path)
    bench.run_suite("nn", broken(), 3)
    bench.run_suite("losses", [case], 3)
    assert bench.failed == 1
    assert [row["suite"] for row in bench.rows] == ["nn", "losses"]
    assert "suite nn: RuntimeError: RESOURCE_EXHAUSTED: out of memory" in capsys.readouterr().out
