"""Tasks of generative models: batches drawn on the device, scores beside the floor of the data, pictures of samples."""

import functools
import math
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, PyTree

from experiments import data, sample_pictures
from experiments.classification import batches
from experiments.configuration import check_types
from experiments.errors import UserError
from experiments.tasks import Task, maker
from mathai.generative import scores
from mathai.learners import classifier, diffusion, gan, samples, vae
from mathai.learners.base import Metrics, train
from mathai.learners.batches import Examples, as_vectors, minibatch, steps_per_epoch
from mathai.nn import activations, feedforward

MOST_KNOWN = 20_000  # training examples that are held in memory where training streams
MOST_SCORED = 2000  # images that samples are compared with
NUM_REFERENCES = 4  # sets of points that samples are compared with
KERNEL_BANDWIDTH = 0.2  # of points in the plane
MODE_RADIUS = 5 * data.RING_STD
JUDGE = classifier.Config(hidden_sizes=(128, 32), batch_size=128, num_epochs=40, weight_decay=0.01)
MOST_JUDGE_UPDATES = 1500
COLUMNS = 10


class ImageTest(NamedTuple):
    """What samples of images are compared with.

    Attributes:
      test: images that were not trained on.
      reference: as many that were, for the floor.
      judge: parameters of a classifier.
    """

    test: Array
    reference: Array
    judge: PyTree


def make_task(config: ml_collections.ConfigDict, module: Any, hyperparameters: Any) -> Task:
    """Build the task of a config with the section `data` and a generative algorithm."""
    fields = config.data.to_dict()
    check_types("data", fields, data.DEFAULTS)
    data_set = data.load(fields)
    inputs, test, source = data_set.train.inputs, jnp.asarray(data_set.test.inputs), data_set.source
    if source is not None:  # what training is checked, scored and drawn by: some of the examples
        some = np.random.default_rng(0).permutation(len(source))[:MOST_KNOWN]
        data_set = data_set._replace(train=data.Split(*source.read(some)))
    try:
        if config.algorithm == "vae":
            _check_range(hyperparameters, jnp.asarray(data_set.train.inputs))
            evaluation_data: PyTree = test
            make = maker(module, inputs, test)
            num_updates = hyperparameters.num_epochs * steps_per_epoch(len(inputs), hyperparameters.batch_size)
        else:
            score, evaluation_data = _make_score(config.data.name, data_set)
            make = maker(module, inputs, evaluation_data, score)
            steps_per_epoch(len(inputs), hyperparameters.batch_size)  # an error if the batch is larger
            num_updates = hyperparameters.num_updates
        learner = make(hyperparameters)
    except ValueError as error:
        raise UserError(str(error)) from error
    draw_pictures = {"vae": _draw_vae, "gan": _draw_gan, "diffusion": _draw_diffusion}[config.algorithm]
    return Task(
        learner,
        num_updates=num_updates,
        **batches(source, inputs, hyperparameters.batch_size, lambda inputs, labels: inputs),
        evaluation_data=evaluation_data,
        problem=data.title(fields),
        curves=CURVES[config.algorithm],
        work=hyperparameters.batch_size,
        unit="examples",
        pictures=functools.partial(draw_pictures, hyperparameters, data_set),
        hyperparameters=hyperparameters,
        make=make,
    )


CURVES = {
    "vae": ("loss", "kl", "negative_elbo"),
    "gan": ("discriminator_loss", "generator_loss", "discriminator_accuracy", "sliced_wasserstein", "frechet_distance"),
    "diffusion": ("loss", "sliced_wasserstein", "frechet_distance", "bits_per_dimension"),
}


def _check_range(hyperparameters: vae.Config, inputs: jax.Array) -> None:
    x = as_vectors(inputs)
    if hyperparameters.likelihood == "bernoulli" and not (x.min() >= 0 and x.max() <= 1):
        raise ValueError(
            f"the data go from {x.min():.3g} to {x.max():.3g}; the Bernoulli likelihood takes values from 0 to 1. "
            "Set config.learner.likelihood to 'gaussian'."
        )


def is_plane(inputs: np.ndarray) -> bool:
    """Whether examples are points in the plane."""
    return inputs.shape[1:] == (2,)


def _make_score(name: str, data_set: data.DataSet) -> tuple[Any, PyTree]:
    """Choose how samples are scored; returns the score and what it compares them with."""
    test, train_inputs = data_set.test.inputs, data_set.train.inputs
    order = np.random.default_rng(0).permutation(len(train_inputs))
    if is_plane(test):
        num_references = min(NUM_REFERENCES, len(train_inputs) // len(test))
        if not num_references:
            raise ValueError(
                f"{len(test)} test points need as many training points to be compared with, not {len(train_inputs)}."
            )
        references = train_inputs[order[: num_references * len(test)]].reshape(num_references, *test.shape)
        score = functools.partial(samples.compare_with_floor, bandwidth=KERNEL_BANDWIDTH)
        score = functools.partial(_score_ring, score) if name == "ring" else score
        return score, (jnp.asarray(test), jnp.asarray(references))
    test = test[:MOST_SCORED]
    if len(train_inputs) < len(test):
        raise ValueError(
            f"{len(test)} test images need as many training images for the floor, not {len(train_inputs)}."
        )
    reference = train_inputs[order[: len(test)]]
    return _score_images, ImageTest(jnp.asarray(test), jnp.asarray(reference), _train_judge(data_set))


def _score_ring(score: Any, key: jax.Array, found: Array, test: PyTree) -> Metrics:
    centers = jnp.asarray(data.RING_CENTERS, jnp.float32)
    return score(key, found, test) | samples.modes(found, centers, MODE_RADIUS)


def _score_images(key: jax.Array, found: Array, test: ImageTest) -> Metrics:
    """Fréchet distance in a classifier's last hidden layer, and which classes it sees."""
    del key
    real, _ = _judge(test.judge, as_vectors(test.test))
    other, _ = _judge(test.judge, as_vectors(test.reference))
    features, logits = _judge(test.judge, found)
    shares = jnp.mean(jax.nn.one_hot(jnp.argmax(logits, -1), logits.shape[-1]), 0)
    entropy = -jnp.sum(jnp.where(shares > 0, shares * jnp.log(jnp.where(shares > 0, shares, 1)), 0))
    return {
        "frechet_distance": scores.frechet_distance(features, real),
        "frechet_distance_floor": scores.frechet_distance(other, real),
        "class_entropy": entropy / math.log(max(logits.shape[-1], 2)),  # 1: all classes alike
        "judge_confidence": jnp.mean(jnp.max(activations.softmax(logits), -1)),
    }


def _train_judge(data_set: data.DataSet) -> PyTree:
    """Parameters of a small classifier of the training data, always the same for the same data and device."""
    examples = Examples(jnp.asarray(data_set.train.inputs), jnp.asarray(data_set.train.labels))
    learner = classifier.make(JUDGE, examples, examples, num_classes=len(data_set.class_names))
    num_updates = min(MOST_JUDGE_UPDATES, JUDGE.num_epochs * steps_per_epoch(len(examples.labels), JUDGE.batch_size))

    @jax.jit
    def train_all(examples):
        def draw(step):
            return minibatch(jax.random.key(1), examples, step, batch_size=JUDGE.batch_size)

        return train(learner, jax.random.key(0), draw, num_updates)[0].params

    return train_all(examples)


def _judge(params: PyTree, x: Array) -> tuple[Array, Array]:
    """The classifier's last hidden layer and its logits."""
    layers = [feedforward.Layer(**params[f"Linear_{i}"]) for i in range(len(JUDGE.hidden_sizes) + 1)]
    *_, features, logits = feedforward.forward_trace(layers, x).activations
    return features, logits


# Pictures


def _images(x: Any, data_set: data.DataSet) -> np.ndarray | None:
    """Vectors as images in [0, 1], or None where examples are no images."""
    shape = data_set.train.inputs.shape[1:]
    return np.asarray(x).reshape(-1, *shape) if len(shape) in (2, 3) else None


def _draw_vae(
    hyperparameters: vae.Config, data_set: data.DataSet, workdir: pathlib.Path, state: vae.State
) -> list[pathlib.Path]:
    """Draw reconstructions, samples of the prior, and a walk between two test images."""
    if _images(data_set.test.inputs[:1], data_set) is None:
        return []
    model = vae.make_model(hyperparameters, math.prod(data_set.train.inputs.shape[1:]))
    variables = {"params": state.params}
    x = as_vectors(jnp.asarray(data_set.test.inputs[:COLUMNS]))
    mean, _ = model.apply(variables, x, method="encode")

    def decode(z):
        return _images(vae.expected(hyperparameters, model.apply(variables, z, method="decode")), data_set)

    z = jax.random.normal(jax.random.key(0), (COLUMNS**2, hyperparameters.num_latents))
    share = jnp.linspace(0, 1, COLUMNS)[:, None]
    walks = [((1 - share) * mean[i][None] + share * mean[i + 1][None]) for i in range(0, len(mean) - 1, 2)]
    return [
        sample_pictures.image_rows(
            workdir / "reconstructions.png",
            [("data", _images(x, data_set)), ("reconstruction", decode(mean))],
            "test images and what the decoder makes of their codes",
        ),
        sample_pictures.image_grid(workdir / "samples.png", decode(z), "decoded draws from the prior"),
        sample_pictures.image_rows(
            workdir / "latent_walk.png",
            [("", decode(walk)) for walk in walks],
            "from one test image to another, in equal steps of the code",
        ),
    ]


def _draw_gan(
    hyperparameters: gan.Config, data_set: data.DataSet, workdir: pathlib.Path, state: gan.State
) -> list[pathlib.Path]:
    """Draw samples, beside data."""
    num_features = math.prod(data_set.train.inputs.shape[1:])
    found = gan.sample(jax.random.key(0), hyperparameters, num_features, state, _num_shown(data_set))
    return _draw_samples(data_set, workdir, np.asarray(found))


def _draw_diffusion(
    hyperparameters: diffusion.Config, data_set: data.DataSet, workdir: pathlib.Path, state: diffusion.State
) -> list[pathlib.Path]:
    """Draw samples, beside data, and the way to them."""
    shape = diffusion.prepare(hyperparameters, jnp.asarray(data_set.test.inputs[:1])).shape[1:]
    draw = jax.jit(
        lambda state: diffusion.sample(
            jax.random.key(0), hyperparameters, shape, state, _num_shown(data_set), return_trajectory=True
        )
    )
    trajectory = np.asarray(draw(state))
    steps = np.round(np.linspace(0, len(trajectory) - 1, 6 if is_plane(data_set.test.inputs) else COLUMNS)).astype(int)
    drawn = _draw_samples(data_set, workdir, trajectory[-1])
    path, title = workdir / "reverse_process.png", f"from noise to samples in {len(trajectory) - 1} steps"
    if is_plane(data_set.test.inputs):
        panels = [(f"after {step} steps", trajectory[step]) for step in steps]
        return [*drawn, sample_pictures.point_panels(path, panels, title, _limits(data_set, 3.0))]
    if _images(trajectory[-1], data_set) is None:
        return drawn
    rows = [("", np.concatenate([_images(trajectory[step][i], data_set) for step in steps])) for i in range(6)]
    return [*drawn, sample_pictures.image_rows(path, rows, title)]


def _num_shown(data_set: data.DataSet) -> int:
    return 10_000 if is_plane(data_set.test.inputs) else COLUMNS**2


def _draw_samples(data_set: data.DataSet, workdir: pathlib.Path, found: np.ndarray) -> list[pathlib.Path]:
    path = workdir / "samples.png"
    if is_plane(data_set.test.inputs):
        panels = [("data", data_set.train.inputs[: len(found)]), ("samples", found)]
        return [sample_pictures.point_panels(path, panels, "densities of data and of samples", _limits(data_set, 1.3))]
    images = _images(found, data_set)
    if images is None:
        return []
    real = _images(data_set.test.inputs[:COLUMNS] / (255 if data_set.test.inputs.dtype == np.uint8 else 1), data_set)
    rows = [
        ("data", real),
        *((("samples" if not i else ""), images[i : i + COLUMNS]) for i in range(0, len(images), COLUMNS)),
    ]
    return [sample_pictures.image_rows(path, rows, "test images, and samples")]


def _limits(data_set: data.DataSet, factor: float) -> tuple[float, float, float, float]:
    """The data's range, widened about its middle."""
    low, high = data_set.train.inputs.min(0), data_set.train.inputs.max(0)
    middle, half = (low + high) / 2, factor * (high - low).max() / 2
    return tuple(float(v) for pair in zip(middle - half, middle + half, strict=True) for v in pair)
