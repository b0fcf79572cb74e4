"""Tasks of dimensionality reduction: what runs, what is saved, what is said, what is drawn."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import data, embedding, embedding_comparison, embedding_pictures
from experiments.configuration import make_config
from experiments.data import DataSet, Split
from experiments.errors import UserError
from experiments.tasks import make_task
from mathai.learners.base import train

DATA = {"name": "digits", "num_train": 60}
QUICK = {"perplexity": 5.0, "num_early_iterations": 5, "num_iterations": 5}


@pytest.fixture
def keep_compiled(monkeypatch):
    """Measuring with compilation forgets all programs, which other tests would have to compile again."""
    monkeypatch.setattr(embedding_comparison.jax, "clear_caches", lambda: None)


@pytest.fixture
def figures(figures_of):
    return figures_of(embedding_pictures)


def digits_of_60():
    return data.load(data.DEFAULTS | DATA).train


def tsne_task(search=None, **learner):
    return make_task(make_config("tsne", data=DATA, search=search or {}, learner=QUICK | learner))


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
    task = make_task(make_config("parametric_tsne", data=DATA, learner=learner))
    assert task.num_updates == 4
    batch = task.draw(jax.random.key(0), task.data, jnp.int32(0))
    state, _ = train(task.learner, jax.random.key(0), lambda step: batch, 1)
    assert [path.name for path in task.pictures(tmp_path, state)] == ["embedding.png"]


def umap_task(search=None, **learner):
    learner = {"num_neighbors": 5, "num_epochs": 5} | learner
    return make_task(make_config("umap", data=DATA, search=search or {}, learner=learner))


def test_umap_is_saved_with_ids_and_its_test_examples(tmp_path, capsys, figures):
    task = umap_task()
    assert task.num_updates == 5
    state, _ = train(task.learner, jax.random.key(0), lambda step: task.data, 5)
    assert [path.name for path in task.pictures(tmp_path, state)] == ["embedding.png"]
    assert figures["embedding.png"].axes[0].get_title().startswith("60 examples")
    with np.load(tmp_path / "embedding.npz") as saved:
        np.testing.assert_array_equal(saved["ids"], np.arange(60))
        np.testing.assert_array_equal(saved["test_ids"], 60 + np.arange(359))
        np.testing.assert_array_equal(saved["embedding"], state.Y)
        np.testing.assert_array_equal(np.isfinite(saved["test_embedding"]), np.ones((359, 2), bool))
        assert (len(saved["labels"]), len(saved["test_labels"])) == (60, 359)
    (said,) = capsys.readouterr().out.splitlines()
    for part in ("trustworthiness 0.", "neighbour recall 0.", "10-NN accuracy 0.", "of test examples placed in it 0."):
        assert part in said


def test_test_examples_are_placed_as_the_training_examples_were(tmp_path, figures, monkeypatch):
    """On the same components, with the same curve and pushes."""
    given = {}

    def transform(key, X, Y, X_new, **options):
        given.update(options, shapes=(X.shape, Y.shape, X_new.shape))
        return jnp.zeros((len(X_new), 2))

    monkeypatch.setattr(embedding.fuzzy_formulas, "transform", transform)
    choices = {"min_dist": 0.3, "spread": 2.0, "metric": "cosine", "repulsion_strength": 1.5, "num_negatives": 3}
    task = umap_task(num_input_components=7, **choices)
    task.pictures(tmp_path, task.learner.init(jax.random.key(0)))
    assert given == choices | {"shapes": ((60, 7), (60, 2), (359, 7))}


def test_umap_knows_the_classes_if_asked_and_makes_500_epochs_of_few_points_by_itself():
    plain, supervised = (umap_task(supervised=value, target_weight=1.0, num_epochs=0) for value in (False, True))
    assert plain.num_updates == 500
    labels = digits_of_60().labels
    for task, joins_classes in ((plain, True), (supervised, False)):
        rows, columns, weights = (np.asarray(part) for part in task.data.graph)
        assert np.any(weights[labels[rows] != labels[columns]] > 0) == joins_classes


def test_methods_beside_are_measured_and_drawn(tmp_path, capsys, figures, keep_compiled):
    task = umap_task({"beside": ("pca", "tsne", "umap")})
    drawn = task.pictures(tmp_path, task.learner.init(jax.random.key(0)))
    assert [path.name for path in drawn] == ["embedding.png", "comparison.png"]
    panels = figures["comparison.png"].axes
    assert [panel.get_title().split(",")[0] for panel in panels] == ["PCA", "t-SNE", "UMAP"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["embedding", "PCA", "t-SNE", "UMAP"]
    for line, panel in zip(lines[1:], panels, strict=True):
        assert re.search(
            r" \d+\.\d\d s \(\d+\.\d s with compilation\), trustworthiness 0\.\d+, neighbour recall 0\.", line
        )
        assert re.fullmatch(r"[\w-]+, [\d.e-]+ s", panel.get_title())
        assert sum(len(dots.get_offsets()) for dots in panel.collections) == 60


def test_principal_components_beside_another_method_are_those_of_numpy(tmp_path, figures, keep_compiled):
    """Up to the sign of each; points are drawn class by class."""
    task = tsne_task({"beside": ("pca",)})
    drawn = task.pictures(tmp_path, task.learner.init(jax.random.key(0)))
    assert [path.name for path in drawn] == ["embedding.png", "comparison.png"]
    train_part = digits_of_60()
    X = np.reshape(train_part.inputs, (60, 64)).astype(np.float64)
    centred = X - X.mean(0)
    expected = (centred @ np.linalg.svd(centred)[2][:2].T)[np.argsort(train_part.labels, kind="stable")]
    (panel,) = figures["comparison.png"].axes
    found = np.concatenate([dots.get_offsets() for dots in panel.collections])
    signs = np.sign(np.sum(found * expected, axis=0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-3)


@pytest.mark.parametrize("make", [tsne_task, umap_task])
def test_an_unknown_method_is_the_users_error(make):
    with pytest.raises(UserError, match=r"config\.search\.beside names 'lda'; use some of pca, tsne, umap"):
        make({"beside": ("pca", "lda")})
    with pytest.raises(UserError, match="beside"):
        make({"beside": (2,)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"search": {"perplexities": (5.0,)}}, r"config\.search\.perplexities are t-SNE's; UMAP has .*num_neighbors"),
        ({"num_neighbors": 1}, "num_neighbors is 1"),
        ({"min_dist": 3.0}, "min_dist is 3.0 and spread 1.0"),
    ],
)
def test_what_umap_cannot_do_is_the_users_error(change, message):
    with pytest.raises(UserError, match=message):
        umap_task(**change)


def test_an_encoder_of_edges_places_both_parts_of_the_data(tmp_path, capsys, figures):
    learner = {"num_neighbors": 5, "hidden_sizes": (8,), "batch_size": 30, "num_updates": 4}
    task = make_task(make_config("parametric_umap", data=DATA, learner=learner))
    assert (task.num_updates, task.work, task.unit) == (4, 30, "edges")
    state, metrics = train(
        task.learner, jax.random.key(0), lambda step: task.draw(jax.random.key(1), task.data, step), 4
    )
    assert len(set(metrics["loss"].tolist())) == 4
    assert np.isfinite(jax.jit(task.learner.evaluate)(jax.random.key(0), state, task.evaluation_data)["loss"])
    assert [path.name for path in task.pictures(tmp_path, state)] == ["embedding.png"]
    assert "of test examples placed in it 0." in capsys.readouterr().out
    with np.load(tmp_path / "embedding.npz") as saved:
        assert (saved["embedding"].shape, saved["test_embedding"].shape) == ((60, 2), (359, 2))


def test_votes_fall_to_the_commonest_label_and_then_to_the_smallest():
    labels = np.array([0, 0, 1, 1, 2])
    assert embedding_comparison._vote(jnp.array([[0, 1, 2], [2, 3, 0], [4, 2, 0]]), labels).tolist() == [0, 1, 0]


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
