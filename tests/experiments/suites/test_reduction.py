"""The suites of reduction: scores come from definitions, and contestants do the same work."""

import numpy as np
import pytest
from scipy import sparse
from sklearn import decomposition

from experiments.errors import UserError
from experiments.suites import reduction


def test_the_divergence_is_that_of_its_definition():
    rng = np.random.default_rng(0)
    Y = rng.normal(size=(7, 2))
    P = np.triu(rng.uniform(size=(7, 7)), 1)
    P = (P + P.T) / (2 * P.sum())
    q = 1 / (1 + ((Y[:, None] - Y[None]) ** 2).sum(-1))
    np.fill_diagonal(q, 0)
    off = ~np.eye(7, dtype=bool)
    expected = np.sum(P[off] * np.log(P[off] / (q / q.sum())[off]))
    np.testing.assert_allclose(reduction.divergence(sparse.csr_matrix(P), Y), expected, rtol=1e-9)


def test_affinities_are_one_distribution():
    P = reduction._joint(np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32))
    np.testing.assert_allclose(P.sum(), 1, rtol=1e-5)
    assert abs(P - P.T).max() < 1e-9


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ImportWarning", "ignore::UserWarning")  # of umap-learn
def test_ours_and_the_peers_do_the_same_work(tiny):
    options = tiny(with_peers=True, points=(1797,))
    for case in (
        *reduction.pca_cases(options),
        *reduction.neighbors_cases(options),
        *reduction.tsne_cases(options),
        *reduction.umap_cases(options),
    ):
        scores = [contestant.score(contestant.program()) for contestant in case.contestants]
        assert min(scores) >= case.least_score
        assert len(scores) >= 2
        if case.name.startswith("t-SNE"):
            assert scores[0] >= 1.02 * max(scores)  # scores are negative
        if case.name.startswith("UMAP"):
            assert scores[0] >= max(scores) - 0.5


def test_without_peers_there_is_one_contestant_and_more_points_than_digits_are_gaussians(tiny):
    (case,) = reduction.neighbors_cases(tiny(points=(2100,)))
    assert (case.name, len(case.contestants)) == ("90 neighbours, Gaussians, 2100 x 50", 1)


def test_a_picture_of_two_components_is_no_embedding(tiny):
    (case,) = reduction.tsne_cases(tiny())
    X = reduction._points(200, None)
    components = decomposition.PCA(2).fit_transform(X)
    for scale in (0.1, 0.3, 1, 3):
        assert case.contestants[0].score(scale * components) < case.least_score
    assert case.contestants[0].score(np.random.default_rng(0).normal(size=(200, 2))) < case.least_score


def test_principal_components_are_right_only_if_all_are(tiny):
    (case,) = reduction.pca_cases(tiny())
    right = np.asarray(case.contestants[0].program())
    assert case.contestants[0].score(right) > 5
    assert case.contestants[0].score(np.where(np.arange(64) < 1, right, 0)) < case.least_score


def test_mnist_is_looked_at_before_anything_runs(tiny, tmp_path):
    with pytest.raises(UserError, match=f"--mnist={tmp_path}: "):
        reduction.check_mnist(tiny(mnist=str(tmp_path)))
    reduction.check_mnist(tiny())


def test_work_is_that_of_the_products(tiny):
    (case,) = reduction.pca_cases(tiny())
    assert (case.flops, case.bytes) == (2 * 1797 * 64**2, 1797 * 64 * 4)
    (case,) = reduction.neighbors_cases(tiny())
    assert case.flops == 2 * 200**2 * 64
