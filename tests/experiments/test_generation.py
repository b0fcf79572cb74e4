"""Generative models from end to end: scores beside their floor, pictures, and runs that resume."""

import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import data, generation, pictures, sample_pictures
from experiments.errors import UserError
from mathai.learners.batches import as_vectors

KEY = jax.random.key(0)


def config_of(name, **learner):
    config = runpy.run_path(f"configs/{name}.py")["get_config"]()
    config.learner.update(learner)
    config.run.update({"updates_per_chunk": 2, "evaluate_every": 4, "checkpoint_every": 4})
    return config


TINY = {
    "vae_digits": {"hidden_sizes": (8,), "num_latents": 2, "num_draws": 2, "batch_size": 360, "num_epochs": 2},
    "gan_mixture": {"generator_sizes": (4,), "discriminator_sizes": (4,), "batch_size": 8, "num_updates": 8},
    "diffusion_digits": {
        "num_blocks": 1,
        "num_features": 8,
        "batch_size": 8,
        "num_updates": 8,
        "num_noise_steps": 20,
        "num_sampling_steps": 10,
    },
}
PICTURES = {
    "vae_digits": ["latent_walk.png", "reconstructions.png", "samples.png"],
    "gan_mixture": ["samples.png"],
    "diffusion_digits": ["reverse_process.png", "samples.png"],
}


@pytest.fixture
def few(monkeypatch):
    """Little data and a judge that hardly learned, where scores do not matter."""
    monkeypatch.setattr(data, "NUM_TRAIN_POINTS", 1000)
    monkeypatch.setattr(data, "NUM_TEST_POINTS", 200)
    monkeypatch.setattr(generation, "MOST_JUDGE_UPDATES", 5)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    "name", [name if name.startswith("gan") else pytest.param(name, marks=pytest.mark.slow) for name in TINY]
)
def test_a_run_leaves_scores_and_pictures(name, train_here, rows, tmp_path):
    config = config_of(name, **TINY[name])
    config.run.num_updates = 8
    train_here(config, tmp_path)
    for picture in ["learning_curve.png", *PICTURES[name]]:
        assert (tmp_path / picture).stat().st_size > 5000
    last = rows(tmp_path)[-1]
    assert last["step"] == 8
    assert np.isfinite(last[f"evaluation/{config.run.best_metric}"])


@pytest.mark.slow
@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("name", ["gan_mixture", "diffusion_digits"])
def test_a_run_interrupted_and_resumed_ends_with_the_same_bits(name, train_here, signal_at, tmp_path):
    config = config_of(name, **TINY[name])
    train_here(config, tmp_path / "whole")
    signal_at(2)
    assert "the same command resumes" in train_here(config, tmp_path / "stopped")
    signal_at(None)
    assert "resume" in train_here(config, tmp_path / "stopped")
    found = [(tmp_path / folder / "metrics.jsonl").read_bytes() for folder in ("whole", "stopped")]
    assert found[0] == found[1]


@pytest.fixture(scope="module")
def digits():
    data_set = data.load(data.DEFAULTS)
    score, test = generation._make_score("digits", data_set)
    return data_set, jax.jit(score), test


def test_data_themselves_are_at_distance_zero_and_other_data_at_the_floor(digits):
    _, score, test = digits
    same = score(KEY, as_vectors(test.test), test)
    other = score(KEY, as_vectors(test.reference), test)
    assert same["frechet_distance"] < 1e-2 * same["frechet_distance_floor"]
    np.testing.assert_allclose(other["frechet_distance"], other["frechet_distance_floor"], rtol=1e-4)
    assert same["class_entropy"] > 0.995  # ten digits, about as many of each
    assert same["judge_confidence"] > 0.9


def test_noise_and_one_class_alone_are_far_from_data(digits):
    data_set, score, test = digits
    n = len(test.test)
    noise = score(KEY, jax.random.uniform(KEY, (n, 64)), test)
    assert noise["frechet_distance"] > 10 * noise["frechet_distance_floor"]
    threes = data_set.train.inputs[data_set.train.labels == 3]
    alone = score(KEY, as_vectors(jnp.asarray(np.resize(threes, (n, 8, 8)))), test)
    assert alone["class_entropy"] < 0.05
    assert alone["frechet_distance"] > 5 * alone["frechet_distance_floor"]


def test_the_ring_counts_its_modes(few):
    data_set = data.load(data.DEFAULTS | {"name": "ring"})
    score, test = generation._make_score("ring", data_set)
    assert test[1].shape == (4, 200, 2)
    found = jax.jit(score)(KEY, test[0], test)
    assert found["modes"] == 8
    assert found["share_near_modes"] > 0.999
    np.testing.assert_allclose(found["sliced_wasserstein"], found["sliced_wasserstein_floor"], rtol=1e-5)
    one_mode = jnp.broadcast_to(jnp.array([[1.0, 0.0]]), test[0].shape)
    assert jax.jit(score)(KEY, one_mode, test)["modes"] == 1


@pytest.mark.parametrize(("name", "moments"), [("moons", ([0.5, 0.25], None)), ("ring", ([0, 0], [0.7074, 0.7074]))])
def test_points_in_the_plane_are_those_of_their_definition(name, moments):
    data_set = data.load(data.DEFAULTS | {"name": name})
    assert data_set.train.inputs.shape == (50_000, 2)
    assert data_set.test.inputs.shape == (10_000, 2)
    np.testing.assert_allclose(data_set.train.inputs.mean(0), moments[0], atol=0.02)
    if moments[1]:
        np.testing.assert_allclose(data_set.train.inputs.std(0), moments[1], atol=0.01)  # √(1/2 + σ²)
    assert not {*map(tuple, data_set.test.inputs)} & {*map(tuple, data_set.train.inputs)}
    again = data.load(data.DEFAULTS | {"name": name})
    np.testing.assert_array_equal(again.train.inputs, data_set.train.inputs)


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("vae_digits", "likelihood", "poisson", "likelihood 'poisson' is unknown"),
        ("gan_mixture", "variant", "hinge", "variant 'hinge' is unknown"),
        ("gan_mixture", "batch_size", 60_000, "batch_size is 60000; it must be from 1 to 50000"),
        ("diffusion_moons", "model", "unet", "a unet takes images"),
        ("vae_moons", "likelihood", "bernoulli", "the Bernoulli likelihood takes values from 0 to 1"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(train_here, tmp_path, name, field, value, message):
    config = config_of("vae_digits" if name == "vae_moons" else name, **{field: value})
    if name == "vae_moons":
        config.data.name, config.learner.dequantization = "moons", 0.0
    with pytest.raises(UserError, match=message) as caught:
        train_here(config, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_pictures_have_labels_and_the_numbers_that_they_were_given(tmp_path, monkeypatch):
    figures, make = [], pictures.Figure
    monkeypatch.setattr(pictures, "Figure", lambda **options: figures.append(make(**options)) or figures[-1])
    images = np.linspace(0, 1, 3 * 4).reshape(3, 2, 2)
    sample_pictures.image_rows(tmp_path / "rows.png", [("data", images), ("samples", images[:2])], "a title")
    panel = figures[0].axes[1]
    np.testing.assert_array_equal(panel.images[0].get_array(), images[1])
    assert figures[0].axes[0].get_ylabel() == "data"
    assert not figures[0].axes[5].images
    points = np.array([[0.0, 0.0], [0.0, 0.0], [5.0, 0.0]])
    sample_pictures.point_panels(tmp_path / "points.png", [("some", points)], "a title", (-1, 1, -1, 1))
    panel = figures[1].axes[0]
    assert panel.get_title() == "some\n33% outside"
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("$x_1$", "$x_2$")
    assert panel.images[0].get_array().max() == np.sqrt(2)
