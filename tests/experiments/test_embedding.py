"""Tasks of dimensionality reduction: what runs, what is saved, what is said, what is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import embedding, embedding_pictures
from experiments.configuration import make_config
from experiments.data import DataSet, Split
from experiments.errors import UserError
from experiments.tasks import make_task
from mathai.learners.base import train

QUICK = {"perplexity": 5.0, "num_early_iterations": 5, "num_iterations": 5}


@pytest.fixture
def figures(figures_of):
    return figures_of(embedding_pictures)


def tsne_task(search=None, **learner):
    data = {"name": "digits", "num_train": 60}
    return make_task(make_config("tsne", data=data, search=search or {}, learner=QUICK | learner))


def test_an_embedding_is_saved_with_ids_and_its_test_examples(tmp_path, capsys, figures):
    task = tsne_task()
    assert task.num_updates == 10
    state, _ = train(task.learner, jax.random.key(0), lambda step: task.data, 10)
    drawn = task.pictures(tmp_path, state)
    assert [path.name for path in drawn] == ["embedding.png"]
    with np.load(tmp_path / "embedding.npz") as saved:
        np.testing.assert_array_equal(saved["ids"], np.arange(60))
        np.testing.assert_array_equal(saved["test_ids"], 60 + np.arange(359))
        np.testing.assert_array_equal(saved["embedding"], state.iterate.Y)
        assert saved["test_embedding"].shape == (359, 2)
        assert len(saved["labels"]) == 60
        assert len(saved["test_labels"]) == 359
    said = capsys.readouterr().out
    for part in ("trustworthiness 0.", "neighbour recall 0.", "10-NN accuracy 0.", "of test examples placed in it 0."):
        assert part in said


def test_a_sweep_of_perplexities_is_drawn_side_by_side(tmp_path, figures):
    task = tsne_task({"perplexities": (3, 5, 8, 12)})
    state, _ = train(task.learner, jax.random.key(0), lambda step: task.data, 2)
    drawn = task.pictures(tmp_path, state)
    assert [path.name for path in drawn] == ["embedding.png", "perplexities.png"]
    panels = [panel for panel in figures["perplexities.png"].axes if panel.get_visible()]
    assert [panel.get_title().split(",")[0] for panel in panels] == [f"perplexity {p}" for p in (3, 5, 8, 12)]


@pytest.mark.parametrize("perplexity", [0.5, 60.0])
def test_a_perplexity_that_cannot_be_is_the_users_error(perplexity):
    with pytest.raises(UserError, match="perplexity"):
        tsne_task(perplexity=perplexity)
    with pytest.raises(UserError, match=r"config\.search\.perplexities must lie between 1 and"):
        tsne_task({"perplexities": (perplexity,)})


def test_components_are_drawn_with_the_number_that_explains_95_percent(tmp_path, figures):
    """29 of the digits' 64, scikit-learn's figure for all 1797; of the 1438 to train on it is 29 too."""
    task = make_task(make_config("pca", data={"name": "digits"}, learner={"num_components": 5, "batch_size": 1438}))
    assert task.num_updates == 1
    state, _ = train(task.learner, jax.random.key(0), lambda step: task.data, 1)
    drawn = task.pictures(tmp_path, state)
    assert [path.name for path in drawn] == ["scree.png", "embedding.png"]
    assert figures["scree.png"].axes[0].get_title().startswith("29 of 64 components explain 95%")
    with np.load(tmp_path / "embedding.npz") as saved:
        assert saved["embedding"].shape == (359, 5)


def test_an_encoder_places_both_parts_of_the_data(tmp_path, figures):
    learner = {"hidden_sizes": (8,), "batch_size": 30, "perplexity": 5.0, "num_epochs": 2}
    task = make_task(make_config("parametric_tsne", data={"name": "digits", "num_train": 60}, learner=learner))
    assert task.num_updates == 4
    batch = task.draw(jax.random.key(0), task.data, jnp.int32(0))
    state, _ = train(task.learner, jax.random.key(0), lambda step: batch, 1)
    assert [path.name for path in task.pictures(tmp_path, state)] == ["embedding.png"]


def test_votes_fall_to_the_commonest_label_and_then_to_the_smallest():
    labels = np.array([0, 0, 1, 1, 2])
    assert embedding._vote(jnp.array([[0, 1, 2], [2, 3, 0], [4, 2, 0]]), labels).tolist() == [0, 1, 0]


def test_outliers_lie_among_others():
    Y = np.concatenate([np.arange(12.0), 100 + np.arange(12.0), [5.5]])[:, None] * [1.0, 0.0]
    labels = np.array([0] * 12 + [1] * 12 + [1])
    np.testing.assert_array_equal(embedding_pictures.outliers(Y.astype(np.float32), labels), [24])


def test_points_are_drawn_without_images_where_examples_are_vectors(tmp_path, figures):
    Y = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    split = Split(np.zeros((30, 7), np.float32), np.arange(30) % 3)
    data_set = DataSet(split, split, ("a", "b", "c"))
    embedding_pictures.classes(tmp_path, Y, split, data_set)
    (panel,) = figures["embedding.png"].axes
    assert panel.get_title() == "30 examples"
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["a", "b", "c"]
    assert not panel.artists
