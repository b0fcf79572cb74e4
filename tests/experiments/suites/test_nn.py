"""The suites `nn` and `losses`: their score tells right from wrong, and ours is right wherever it is timed."""

import jax
import numpy as np
import pytest

from experiments.peers import pytorch
from experiments.suites import formulas, losses, nn


@pytest.fixture(scope="module")
def cases(tiny):
    options = tiny(with_peers=True)
    return [*nn.cases(options), *losses.cases(options)]


def test_every_formula_of_the_bar_is_there_with_its_gradient_and_a_peer(cases):
    names = {case.name for case in cases}
    for name in ("softplus", "binary_cross_entropy", "sigmoid_focal", "softmax (10)", "layer_norm (1024)"):
        assert {name, f"{name}, gradient"} <= names
    assert {"batch_norm (10)", "cross_entropy, integers (1024)", "mlp training"} <= names
    assert all(len(case.contestants) >= 2 and case.contestants[0].name == "mathai" for case in cases)


@pytest.mark.parametrize(
    "name", ["tanh, gradient", "sigmoid_focal", "softmax (10)", "batch_norm (10), gradient", "huber, gradient"]
)
def test_ours_has_the_digits_of_float32(cases, name):
    case = next(case for case in cases if case.name == name)
    ours = case.contestants[0]
    assert 6 < ours.score(jax.jit(ours.program)(*case.arguments)) < 9


@pytest.mark.parametrize(("dtype", "least", "most"), [("bfloat16", 2, 4), ("float16", 3, 5)])
def test_half_precision_is_held_to_its_own_digits(tiny, dtype, least, most):
    case = next(case for case in nn.cases(tiny(dtype=dtype)) if case.name == "softmax (10)")
    ours = case.contestants[0]
    assert case.dtype == case.arguments[0].dtype.name == dtype
    assert case.least_score <= least < ours.score(jax.jit(ours.program)(*case.arguments)) < most


def test_the_score_counts_right_digits():
    exact = (np.array([2.0, -4.0]), np.array([1.0]))
    assert formulas.right_digits(exact, (np.array([2.0, -4.004]), np.array([1.0]))) == pytest.approx(3)
    assert formulas.right_digits(exact, (np.array([2.0, -4.0]), np.array([1.0]))) == 16


def test_a_formula_reads_its_arguments_and_writes_its_results_once(cases):
    forward, gradient = (next(case for case in cases if case.name == name) for name in ("tanh", "tanh, gradient"))
    assert (forward.bytes, gradient.bytes) == (2 * 4096 * 4, 4 * 4096 * 4)
    assert (forward.flops, gradient.flops) == (5 * 4096, 15 * 4096)


def test_a_training_step_of_the_mlp_is_three_products_of_each_layer_but_two_of_the_first(cases):
    case = next(case for case in cases if case.name == "mlp training")
    layers = (784 * 512, 512 * 512, 512 * 10)
    step = 2 * 128 * (3 * sum(layers) - layers[0])
    assert case.flops == pytest.approx(50 * step, rel=0.01)


def test_without_peers_ours_is_alone(tiny):
    for suite in (nn, losses):
        assert {len(case.contestants) for case in suite.cases(tiny())} == {1}


@pytest.mark.skipif(not pytorch.is_here(), reason="PyTorch is not installed")
def test_pytorch_computes_the_same(cases):
    for case in cases:
        if case.arguments is not None:
            theirs = next((c for c in case.contestants if c.name == "PyTorch"), None)
            assert theirs is None or theirs.score(theirs.program()) > 5, case.name
