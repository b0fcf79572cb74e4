"""Runs on labelled data from end to end: what they leave, that they resume, and what their tasks are made of."""

import json
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

from experiments import data, evaluate, members, pictures
from experiments.checkpoints import Checkpoints
from experiments.errors import UserError
from experiments.tasks import make_task
from mathai.learners import classifier
from tests.experiments.conftest import ALONE

EVALUATION = ("accuracy", "loss", "cross_entropy", "expected_calibration_error")
NUM_UPDATES, EVALUATED = 24, [8, 16, 24]


@pytest.fixture(scope="module")
def finished(once, programs):
    """A run that nothing interrupted: its workdir, and how the program ended. Not to be changed."""
    return once("digits", lambda folder: programs.run("train", programs.classifier_config, f"--workdir={folder}"))


def load(workdir, config, step):
    """The state of a checkpoint."""
    init = members.make_programs(make_task(config)).init
    checkpoints = Checkpoints(workdir, keep=2, best_mode="max", read_only=True)
    state = checkpoints.restore(step, jax.eval_shape(init, members.of_seeds(config.run.seed, None)))
    checkpoints.close()
    return state


# A run


def test_a_run_ends_well_and_says_what_it_did(finished):
    workdir, done = finished
    assert (done.returncode, done.stderr) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert lines["run"] == f"{workdir}: classifier on digits, 24 updates"
    assert re.match(r"24 updates in \d+\.\d s \([\d,]+ examples/s", lines["done"])
    assert re.fullmatch(r"evaluation accuracy 0\.\d+", lines["result"])
    names = ("summary.json", "learning_curve.png", "confusion_matrix.png", "worst_mistakes.png")
    assert lines["wrote"] == ", ".join(str(workdir / name) for name in names)
    for name in names[1:]:
        assert (workdir / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_nothing_unfinished_is_left(finished):
    ours = {"config.json", "metrics.jsonl", "tensorboard", "checkpoints", "summary.json", ".lock"}
    drawn = {"learning_curve.png", "confusion_matrix.png", "worst_mistakes.png"}
    assert {path.name for path in finished[0].iterdir()} == ours | drawn


def test_the_log_counts_examples_and_evaluates_in_time(finished, rows):
    found = rows(finished[0])
    assert [row["step"] for row in found] == [4, 8, 12, 16, 20, 24]
    assert [row["examples"] for row in found] == [119 * row["step"] for row in found]
    assert [row["step"] for row in found if "evaluation/accuracy" in row] == EVALUATED
    for row in found:
        assert {"loss", "accuracy", "gradient_norm"} <= set(row)
        if row["step"] in EVALUATED:
            assert {f"evaluation/{name}" for name in EVALUATION} <= set(row)


def test_the_summary_holds_the_scores_that_scikit_learn_gives_the_last_checkpoint(finished, digits_config):
    workdir = finished[0]
    summary = json.loads((workdir / "summary.json").read_text())
    assert (summary["algorithm"], summary["problem"], summary["updates"]) == ("classifier", "digits", NUM_UPDATES)
    assert set(summary["evaluation"]) == set(EVALUATION)
    state = load(workdir, digits_config, NUM_UPDATES)
    test = data.load(digits_config.data.to_dict()).test
    hyperparameters = classifier.Config(hidden_sizes=(8,), normalization="batch")
    logits = classifier.predict(hyperparameters, 10, state, jnp.asarray(test.inputs))
    p = np.asarray(jax.nn.softmax(logits), np.float64)
    p /= p.sum(-1, keepdims=True)
    accuracy = metrics.accuracy_score(test.labels, p.argmax(-1))
    assert summary["evaluation"]["accuracy"]["mean"] == pytest.approx(accuracy, rel=1e-6)
    assert summary["evaluation"]["cross_entropy"]["mean"] == pytest.approx(metrics.log_loss(test.labels, p), rel=1e-4)
    assert accuracy > 0.3  # of ten classes: it has begun to learn


@pytest.mark.slow
def test_a_run_interrupted_and_resumed_ends_with_the_same_bits(
    finished, digits_config, train_here, signal_at, tmp_path, bits, rows
):
    signal_at(8)
    assert "the same command resumes" in train_here(digits_config, tmp_path)
    assert rows(tmp_path)[-1]["step"] % 12 != 0  # within an epoch
    signal_at(None)
    assert "resume     from the checkpoint" in train_here(digits_config, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (finished[0] / "metrics.jsonl").read_bytes()
    states = [bits(load(workdir, digits_config, NUM_UPDATES)) for workdir in (tmp_path, finished[0])]
    assert states[0] == states[1]
    assert any("num_examples" in name for name in states[0])
    assert any("statistics" in name for name in states[0])
    summaries = [json.loads((workdir / "summary.json").read_text()) for workdir in (tmp_path, finished[0])]
    assert summaries[0]["evaluation"] == summaries[1]["evaluation"]


def test_evaluate_gives_the_scores_of_the_run(finished, rows, monkeypatch, capsys):
    flags = types.SimpleNamespace(workdir=str(finished[0]), checkpoint="last", seed=1, **ALONE)
    monkeypatch.setattr(evaluate, "FLAGS", flags)
    evaluate.main([])
    printed = capsys.readouterr().out
    for name in EVALUATION:
        assert f"result     {name} {rows(finished[0])[-1][f'evaluation/{name}']:.4g}\n" in printed


@pytest.mark.slow
def test_several_seeds_train_in_one_program_and_the_first_is_drawn(
    digits_config, train_here, tmp_path, rows, monkeypatch
):
    drawn = []
    monkeypatch.setattr(pictures, "confusion_matrix", lambda workdir, p, labels, names: drawn.append(p))
    monkeypatch.setattr(pictures, "worst_mistakes", lambda workdir, *arguments: None)
    digits_config.run.num_updates = 8
    train_here(digits_config, tmp_path, seeds=2)
    labels = data.load(digits_config.data.to_dict()).test.labels
    accuracies = rows(tmp_path)[-1]["evaluation/accuracy"]
    assert accuracies[0] != accuracies[1]
    assert metrics.accuracy_score(labels, drawn[0].argmax(-1)) == pytest.approx(accuracies[0], rel=1e-6)


# The task


def test_the_batches_of_an_epoch_are_the_training_examples_once(digits_config):
    digits_config.learner.batch_size = 719  # a half of them
    task = make_task(digits_config)
    train, test = data.load(digits_config.data.to_dict())[:2]
    draw = jax.jit(task.draw)
    batches = [draw(jax.random.key(3), task.data, step) for step in range(4)]
    whole = sorted(zip(map(np.ndarray.tobytes, train.inputs), train.labels.tolist(), strict=True))
    epochs = [jax.tree.map(lambda *x: np.concatenate(x), *batches[i : i + 2]) for i in (0, 2)]
    for epoch in epochs:
        assert sorted(zip(map(np.ndarray.tobytes, epoch.inputs), epoch.labels.tolist(), strict=True)) == whole
    assert np.any(epochs[0].labels != epochs[1].labels)
    np.testing.assert_array_equal(task.evaluation_data.inputs, test.inputs)
    np.testing.assert_array_equal(task.evaluation_data.labels, test.labels)


@pytest.mark.parametrize(("batch_size", "num_epochs", "updates"), [(119, 2, 24), (1438, 3, 3), (1000, 3, 3)])
def test_a_run_makes_as_many_updates_as_its_epochs_have_whole_batches(digits_config, batch_size, num_epochs, updates):
    digits_config.learner.batch_size, digits_config.learner.num_epochs = batch_size, num_epochs
    task = make_task(digits_config)
    assert task.num_updates == updates
    assert (task.work, task.unit, task.problem) == (batch_size, "examples", "digits")
    digits_config.run.num_updates = 5
    assert make_task(digits_config).num_updates == 5


@pytest.mark.parametrize(
    ("shape", "drawn"),
    [
        ((3,), ["confusion_matrix"]),
        ((3, 3), ["confusion_matrix", "worst_mistakes"]),
        ((3, 3, 1), ["confusion_matrix", "worst_mistakes"]),
        ((3, 3, 2), ["confusion_matrix"]),  # of no colours that there are
        ((3, 3, 3), ["confusion_matrix", "worst_mistakes"]),
        ((3, 3, 4), ["confusion_matrix", "worst_mistakes"]),
    ],
)
def test_mistakes_are_drawn_where_examples_are_images(digits_config, tmp_path, monkeypatch, shape, drawn):
    rng, calls = np.random.default_rng(0), []
    np.savez(tmp_path / "own.npz", x_train=rng.random((20, *shape)), y_train=np.arange(20) % 2)
    for name in ("confusion_matrix", "worst_mistakes"):
        monkeypatch.setattr(pictures, name, lambda workdir, *arguments, name=name: calls.append((name, arguments)))
    digits_config.data.name, digits_config.data.directory = "own.npz", str(tmp_path)
    digits_config.learner.batch_size = 4
    task = make_task(digits_config)
    assert task.problem == "own"
    task.pictures(tmp_path, jax.jit(task.learner.init)(jax.random.key(0)))
    assert [name for name, _ in calls] == drawn
    probabilities, labels, class_names = calls[0][1]
    np.testing.assert_allclose(probabilities.sum(-1), 1.0, rtol=1e-5)
    assert (probabilities.shape, sorted(labels), class_names) == ((4, 2), [0, 0, 1, 1], ("0", "1"))


def test_a_mistake_of_the_learner_is_one_for_the_user(digits_config):
    digits_config.learner.batch_size = 1439
    with pytest.raises(UserError, match="batch_size is 1439; it must be from 1 to 1438, the number of examples"):
        make_task(digits_config)
