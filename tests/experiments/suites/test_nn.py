"""The suite `nn`: its score tells right from wrong, and ours is right wherever it is timed."""

import jax
import numpy as np
import pytest

from experiments.suites import nn


@pytest.fixture(scope="module")
def cases():
    return list(nn.cases(with_peers=True, num_elements=4096))


def test_every_formula_of_the_bar_is_there_with_its_gradient_and_a_peer(cases):
    names = {case.name for case in cases}
    for name in ("softplus", "binary_cross_entropy", "sigmoid_focal", "softmax (10)", "layer_norm (1024)"):
        assert {name, f"{name}, gradient"} <= names
    assert {"batch_norm (10)", "cross_entropy, integers (1024)", "mlp training"} <= names
    assert all(len(case.contestants) >= 2 and case.contestants[0].name == "mathai" for case in cases)


@pytest.mark.parametrize("name", ["tanh, gradient", "sigmoid_focal", "softmax (10)", "batch_norm (10), gradient"])
def test_ours_has_the_digits_of_float32(cases, name):
    case = next(case for case in cases if case.name == name)
    ours = case.contestants[0]
    assert 6 < ours.score(jax.jit(ours.program)(*case.arguments)) < 9


def test_the_score_counts_right_digits():
    exact = (np.array([2.0, -4.0]), np.array([1.0]))
    assert nn._right_digits(exact, (np.array([2.0, -4.004]), np.array([1.0]))) == pytest.approx(3)
    assert nn._right_digits(exact, (np.array([2.0, -4.0]), np.array([1.0]))) == 16


def test_without_peers_ours_is_alone():
    assert {len(case.contestants) for case in nn.cases(with_peers=False, num_elements=4096)} == {1}
