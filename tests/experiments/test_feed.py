"""Runs that stream their batches from disk: the same updates, resumed bit for bit, and mistakes told in one line."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import members
from experiments.configuration import make_config
from experiments.errors import UserError
from experiments.feed import Feed
from experiments.streaming import Stream, open_source
from experiments.tasks import make_task
from mathai.reduction import pca


@pytest.fixture
def shards(tmp_path):
    """Two files to train on, of 100 and 83 examples of 3 classes, and one of evaluation."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "shards"
    folder.mkdir()
    for name, n in (("train-0", 100), ("train-1", 83), ("test-0", 40)):
        np.savez(folder / f"{name}.npz", inputs=rng.normal(size=(n, 5)), labels=rng.integers(0, 3, n))
    return folder


@pytest.fixture
def config(digits_config, shards):
    """A classifier of them: two epochs, of 15 batches each."""
    digits_config.data.update(directory=str(shards), shards="train-*", test_shards="test-*")
    digits_config.learner.batch_size = 12
    return digits_config


def test_the_learner_gets_the_batches_of_the_stream(config, shards, tmp_path, train_here, rows):
    """What `examples` counts, and the first loss: of the first batch, by the first parameters."""
    assert "classifier on train-*, 30 updates" in train_here(config, tmp_path / "run")
    assert [row["examples"] for row in rows(tmp_path / "run")][-1] == 30 * 12
    task = make_task(config)
    stream = Stream(open_source(str(shards), "train-*"), seed=0, batch_size=12)
    inputs, labels = stream.next(1)
    state = task.learner.init(jax.random.key(0))
    config.run.update(updates_per_chunk=1, evaluate_every=0, checkpoint_every=0, num_updates=1)
    train_here(config, tmp_path / "one")
    _, metrics = task.learner.update(state, task.stream.batch_of(jnp.asarray(inputs[0]), labels[0]))
    np.testing.assert_allclose(rows(tmp_path / "one")[0]["loss"], metrics["loss"], rtol=1e-5)


def test_an_interrupted_run_ends_with_the_same_bytes(config, tmp_path, train_here, signal_at):
    train_here(config, tmp_path / "whole")
    signal_at(12)
    assert "the same command resumes" in train_here(config, tmp_path / "cut")
    signal_at(None)
    assert "from the checkpoint of update" in train_here(config, tmp_path / "cut")
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_a_checkpoint_says_where_the_stream_stands_and_other_shards_are_refused(
    config, shards, tmp_path, train_here, signal_at
):
    signal_at(8)
    train_here(config, tmp_path / "run")
    (step,) = (path for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdigit())
    kept = json.loads((step / "info" / "metadata").read_text())["stream"]
    assert kept["step"] == int(step.name)
    assert (kept["num_examples"], kept["batch_size"]) == (183, 12)
    signal_at(None)
    (shards / "train-1.npz").unlink()
    with pytest.raises(UserError, match=r"num_examples 183, this one has 100; resume with the same shards"):
        train_here(config, tmp_path / "run")


def test_principal_components_of_a_stream_are_those_of_its_matrix(config, shards, tmp_path):
    """Of a first epoch that fits whole batches: every example counts once."""
    arrays = [np.load(shards / f"train-{i}.npz")["inputs"].astype(np.float32) for i in (0, 1)]
    streamed = open_source(str(shards), "train-*")
    data = {"directory": str(shards), "shards": "train-*", "test_shards": "test-*"}
    pca_config = make_config("pca", data=data, learner={"num_components": 2, "batch_size": 61})
    task = make_task(pca_config)
    assert (task.num_updates, len(streamed)) == (3, 183)
    who, programs = members.of_seeds(0, None), members.make_programs(task)
    stream = Stream(streamed, seed=0, batch_size=61)
    batches = task.stream.batch_of(*stream.next(3))
    state, _ = programs.chunk(programs.init(who), who, batches, np.int32(0), 3)
    expected = pca.fit(np.concatenate(arrays), num_components=2)
    np.testing.assert_allclose(state.moments.mean, np.concatenate(arrays).mean(0), atol=1e-6)
    found = pca.fit_from_moments(state.moments, num_components=2)
    np.testing.assert_allclose(found.explained_variance, expected.explained_variance, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"test_shards": ""}, "config.data.shards and config.data.test_shards go together"),
        ({"shards": ""}, "config.data.shards and config.data.test_shards go together"),
        ({"evaluate_on": "validation"}, "streamed whole: leave evaluate_on and num_train"),
        ({"num_train": 5}, "streamed whole: leave evaluate_on and num_train"),
        ({"shards": "nothing-*"}, "nothing-"),
    ],
)
def test_a_mistake_is_told_in_one_line(config, fields, message):
    config.data.update(fields)
    with pytest.raises(UserError, match=message):
        make_task(config)


def test_examples_of_two_shapes_are_refused(config, shards):
    np.savez(shards / "test-0.npz", inputs=np.zeros((4, 6)), labels=np.zeros(4, int))
    with pytest.raises(UserError, match=r"training examples have shape \(5,\), those of evaluation \(6,\)"):
        make_task(config)


def test_learners_that_need_all_data_at_once_take_no_stream(config):
    other = make_config("svm_head", data=config.data.to_dict(), learner={"batch_size": 12})
    with pytest.raises(
        UserError,
        match=r"config\.data\.shards are streamed to classifier, vae, gan, diffusion, pca only; svm_head takes",
    ):
        make_task(other)


@pytest.mark.parametrize(
    ("algorithm", "learner"),
    [
        ("vae", {"hidden_sizes": (8,), "num_epochs": 1, "likelihood": "gaussian"}),
        ("diffusion", {"num_features": 8, "num_blocks": 1, "num_updates": 8, "num_sampling_steps": 2}),
    ],
)
def test_generative_models_stream_their_inputs(algorithm, learner, shards, tmp_path, train_here, rows):
    data = {"directory": str(shards), "shards": "train-*", "test_shards": "test-*"}
    run = {"updates_per_chunk": 4, "best_metric": {"vae": "negative_elbo", "diffusion": "noise_error"}[algorithm]}
    config = make_config(algorithm, data=data, learner={"batch_size": 12, **learner}, run=run | {"best_mode": "min"})
    task = make_task(config)
    batch = task.stream.batch_of(*Stream(open_source(str(shards), "train-*"), seed=0, batch_size=12).next(1))
    assert batch.shape == (1, 12, 5)
    assert "train-*" in train_here(config, tmp_path / "run")
    assert np.isfinite(rows(tmp_path / "run")[-1]["loss"])


@pytest.mark.slow  # a program of its own
def test_points_of_a_sweep_are_fed_alike(shards, tmp_path, programs):
    data = [f"--config.data.directory={shards}", "--config.data.shards=train-*", "--config.data.test_shards=test-*"]
    flags = [
        programs.classifier_config,
        *data,
        "--config.learner.batch_size=12",
        "--over=learner.learning_rate=1e-2,1e-3",
    ]
    done = programs.run("sweep", *flags, f"--workdir={tmp_path / 'sweep'}")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in (tmp_path / "sweep" / "sweep.jsonl").read_text().splitlines()]
    assert [row["point"]["learner.learning_rate"] for row in rows] == [1e-2, 1e-3]
    assert all(np.isfinite(row["score"]) for row in rows)


def test_data_on_the_device_are_the_same_at_every_call():
    data = {"x": np.ones(3)}
    feed = Feed(data)
    feed.seek(5, None)
    assert feed.next(2) is feed.shapes(2) is data
    assert feed.state() is None
    feed.close()
