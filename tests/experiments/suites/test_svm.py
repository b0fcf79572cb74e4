"""The suite `svm`: ours and the peer's agree, and a fit that did not converge has no score."""

import pytest

from experiments.suites import svm


@pytest.mark.slow
def test_ours_and_the_peer_find_the_same_accuracies_on_a_grid_and_on_a_fit(tiny):
    grid, fit = svm.cases(tiny(with_peers=True, examples=(300,)))
    assert (grid.name, grid.work, fit.name, fit.work) == ("iris, 5 x 5 x 5", 125, "300 examples", 300)
    for case, accuracy in ((grid, 0.01), (fit, 0.01)):
        ours, peer = case.contestants
        assert (ours.name, peer.name) == ("mathai", "scikit-learn")
        scores = [contestant.score(contestant.program()) for contestant in (ours, peer)]
        assert min(scores) > 0.85
        assert abs(scores[0] - scores[1]) <= accuracy


def test_many_examples_bring_all_grids(tiny):
    cases = list(svm.cases(tiny(examples=(2000,))))
    names = [case.name.split(",")[0] for case in cases]
    assert names == ["iris", "wine", "breast_cancer", "digits", "digits", "2000 examples"]
    assert all(len(case.contestants) == 1 for case in cases)


def test_what_did_not_converge_has_no_score(tiny):
    *_, fit = svm.cases(tiny(examples=(300,)))
    model, converged = fit.contestants[0].program()
    assert converged
    assert fit.contestants[0].score((model, False)) == 0 < fit.least_score
