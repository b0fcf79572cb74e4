"""Machines for any classes, their cross-validation, the linear primal, regression and probabilities, against peers."""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy import optimize, special
from sklearn import datasets
from sklearn.svm import SVC, SVR

from mathai.kernel import _model, _optimum, svm
from mathai.kernel._cross_validation import stratified_folds
from mathai.kernel.kernels import add, linear, polynomial, rbf

NUM_TRAIN = 90
LABELS = {3: 12, 5: -7, 8: 3}  # what the digits are called here: negative, and not in their order
KERNELS = {
    "linear": (linear, {"kernel": "linear"}),
    "polynomial": (
        functools.partial(polynomial, degree=3, c=1.0, gamma=0.05),
        {"kernel": "poly", "degree": 3, "coef0": 1.0, "gamma": 0.05},
    ),
    "rbf": (functools.partial(rbf, gamma=0.05), {"kernel": "rbf", "gamma": 0.05}),
}
STRATEGIES = ("one_vs_one", "one_vs_rest")
FLOAT32_MATRIX = 5e-6  # what it costs libsvm's decisions that it holds K in float32
NAN, INF = np.nan, np.inf

decide = jax.jit(svm.decisions)
predict = jax.jit(svm.predict)
judge = jax.jit(lambda model, X: (svm.decisions(model, X), svm.predict(model, X)))
solve_linear = jax.jit(svm.solve_primal, static_argnames="loss")
regress = jax.jit(svm.solve_regression)
scale = jax.jit(svm.platt_scaling)


class Data(NamedTuple):
    """Training examples, and others."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray


@pytest.fixture(scope="module")
def digits():
    """Three digits that look alike, 90 to learn from and 120 to decide."""
    X, y = datasets.load_digits(return_X_y=True)
    chosen = np.random.default_rng(0).permutation(np.flatnonzero(np.isin(y, list(LABELS))))[: NUM_TRAIN + 120]
    X, y = X[chosen] / 16, np.array([LABELS[digit] for digit in y[chosen]])
    return Data(X[:NUM_TRAIN], y[:NUM_TRAIN], X[NUM_TRAIN:])


def machines_of(strategy, y):
    """The examples and signs of each machine."""
    classes = np.unique(y)
    if strategy == "one_vs_rest" and len(classes) > 2:
        return [(np.arange(len(y)), np.where(y == label, 1, -1)) for label in classes]
    inside = [np.flatnonzero((y == a) | (y == b)) for a, b in itertools.combinations(classes, 2)]
    return [(rows, np.where(y[rows] == y[rows].min(), 1, -1)) for rows in inside]


def libsvm(strategy, data, C, weights=None, **kernel):
    """scikit-learn's machines, in the order of ours."""
    weights = np.ones(len(data.y)) if weights is None else weights
    return [
        SVC(C=C, tol=1e-10, **kernel).fit(data.X[rows], sign, weights[rows])
        for rows, sign in machines_of(strategy, data.y)
    ]


def decided_by(machines, X):
    return np.stack([machine.decision_function(X) for machine in machines], 1)


def fit_in_float64(data, **kwargs):
    """A model with arrays of NumPy, and what it decides and predicts of the test examples."""
    kwargs = {"kernel": KERNELS["rbf"][0], "C": 5.0, "tolerance": 1e-9} | kwargs
    with jax.enable_x64(True):
        model = svm.fit(data.X, data.y, **kwargs)
        decision, label = judge(model, data.X_test)
        return jax.tree.map(np.asarray, model), np.asarray(decision), np.asarray(label)


# Machines for any number of classes


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", KERNELS)
def test_decisions_and_labels_are_those_of_libsvm(digits, name, strategy):
    kernel, theirs = KERNELS[name]
    model, decision, label = fit_in_float64(digits, kernel=kernel, strategy=strategy)
    machines = libsvm(strategy, digits, 5.0, **theirs)
    expected = decided_by(machines, digits.X_test)
    assert model.converged.all()
    np.testing.assert_array_equal(model.classes, [-7, 3, 12])
    np.testing.assert_allclose(model.bias, [machine.intercept_[0] for machine in machines], atol=FLOAT32_MATRIX)
    np.testing.assert_allclose(decision, expected, atol=FLOAT32_MATRIX)
    assert np.abs(expected).min() > 10 * FLOAT32_MATRIX  # nobody stands on a border
    if strategy == "one_vs_one":
        voted = SVC(C=5.0, tol=1e-10, **theirs).fit(digits.X, digits.y).predict(digits.X_test)
    else:
        voted = np.unique(digits.y)[expected.argmax(1)]
    assert len(np.unique(voted)) == 3
    np.testing.assert_array_equal(label, voted)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_in_float32_decisions_are_as_near_as_their_tolerance(digits, strategy):
    X, X_test = digits.X.astype(np.float32), digits.X_test.astype(np.float32)
    model = svm.fit(X, digits.y, kernel=KERNELS["rbf"][0], C=5.0, strategy=strategy)
    decision, label = judge(model, X_test)
    expected = decided_by(libsvm(strategy, digits, 5.0, **KERNELS["rbf"][1]), digits.X_test)
    assert model.X.dtype == model.weights.dtype == model.bias.dtype == decision.dtype == jnp.float32
    assert model.converged.all()
    np.testing.assert_allclose(decision, expected, atol=10 * 1e-3)
    if strategy == "one_vs_one":
        is_clear = np.abs(expected).min(1) > 10 * 1e-3
        voted = SVC(C=5.0, tol=1e-10, **KERNELS["rbf"][1]).fit(digits.X, digits.y).predict(digits.X_test)
    else:
        is_clear = -np.diff(np.sort(expected, axis=1)[:, ::-1], axis=1)[:, 0] > 20 * 1e-3
        voted = np.unique(digits.y)[expected.argmax(1)]
    assert is_clear.mean() > 0.9
    np.testing.assert_array_equal(np.asarray(label)[is_clear], voted[is_clear])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_machine_proves_its_gap_anew(digits, strategy):
    """In float64 from the weights: 0 ≤ αᵢ ≤ C, their balance, nothing for examples of other classes, the gap."""
    model, _, _ = fit_in_float64(digits, strategy=strategy)
    K = np.exp(-0.05 * ((digits.X[:, None] - digits.X[None]) ** 2).sum(-1))
    for machine, (rows, sign) in enumerate(machines_of(strategy, digits.y)):
        weights = model.weights[machine]
        alpha = weights[rows] * sign
        assert alpha.min() >= 0
        assert alpha.max() <= 5.0
        np.testing.assert_allclose(weights.sum(), 0, atol=1e-12)
        np.testing.assert_array_equal(np.delete(weights, rows), 0)
        f = K[np.ix_(rows, rows)] @ weights[rows] - sign
        grows, shrinks = np.where(sign > 0, alpha < 5, alpha > 0), np.where(sign > 0, alpha > 0, alpha < 5)
        gap = f[shrinks].max() - f[grows].min()
        np.testing.assert_allclose(model.gap[machine], gap, atol=1e-12)
        assert gap <= 1e-9


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_prices_are_products_of_the_weights_of_classes_and_examples(digits, strategy):
    rng = np.random.default_rng(1)
    of_classes, of_examples = np.array([0.2, 3.0, 1.0]), rng.uniform(0.1, 2.0, NUM_TRAIN)
    _, decision, label = fit_in_float64(
        digits, C=0.5, strategy=strategy, class_weights=of_classes, example_weights=of_examples
    )
    product = of_examples * of_classes[np.searchsorted(np.unique(digits.y), digits.y)]
    expected = decided_by(libsvm(strategy, digits, 0.5, product, **KERNELS["rbf"][1]), digits.X_test)
    np.testing.assert_allclose(decision, expected, atol=FLOAT32_MATRIX)
    if strategy == "one_vs_one":
        named = dict(zip([-7, 3, 12], of_classes.tolist(), strict=True))
        peer = SVC(C=0.5, tol=1e-10, class_weight=named, **KERNELS["rbf"][1])
        np.testing.assert_array_equal(label, peer.fit(digits.X, digits.y, of_examples).predict(digits.X_test))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_example_of_weight_0_is_out_of_the_problem(digits, strategy):
    inside = np.random.default_rng(2).random(NUM_TRAIN) < 0.6
    model, decision, _ = fit_in_float64(digits, strategy=strategy, example_weights=inside.astype(float))
    rest = Data(digits.X[inside], digits.y[inside], digits.X_test)
    expected = decided_by(libsvm(strategy, rest, 5.0, **KERNELS["rbf"][1]), digits.X_test)
    np.testing.assert_allclose(decision, expected, atol=FLOAT32_MATRIX)
    np.testing.assert_array_equal(model.weights[:, ~inside], 0)


@pytest.mark.parametrize(
    ("labels", "dtype"),
    [
        ((7, 7, 9, 9), np.int64),
        ((9, 9, -7, -7), np.int32),
        ((-128, -128, 127, 127), np.int8),
        ((300, 300, 0, 0), np.int16),
    ],
    ids=["ascending", "descending", "int8", "int16"],
)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_classes_are_one_machine_for_the_smaller_label(labels, dtype, strategy):
    """Of x = 0, 1 and 4, 5: the border is at 2½, and the margin to 1 and 4 is 1½ wide: d = ∓(x − 2½) / 1½."""
    X = np.array([[0.0], [1.0], [4.0], [5.0]], np.float32)
    model = svm.fit(X, np.array(labels, dtype), kernel=linear, C=10.0, strategy=strategy, tolerance=1e-5)
    x = np.array([[-3.0], [2.0], [3.0], [8.0]], np.float32)
    smaller = -1 if labels[0] < labels[2] else 1
    np.testing.assert_allclose(decide(model, x)[:, 0], smaller * (x[:, 0] - 2.5) / 1.5, atol=1e-4)
    assert model.weights.shape == (1, 4)
    assert (model.positive.tolist(), model.negative.tolist()) == ([0], [1])
    np.testing.assert_array_equal(model.classes, sorted(set(labels)))
    np.testing.assert_array_equal(predict(model, x), [labels[0], labels[0], labels[2], labels[2]])


@pytest.mark.parametrize("labels", [(5, 3, 8), (-1, -30, -2), (0, 1000, -1000)])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_labels_may_be_any_integers_in_any_order(labels, strategy):
    """Three corners of a triangle of sides ≥ 4: who is within 1 of a corner has its label."""
    corners = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]], np.float32)
    rng = np.random.default_rng(0)
    X = (corners[:, None] + rng.uniform(-1, 1, (3, 10, 2))).reshape(-1, 2).astype(np.float32)
    order = rng.permutation(30)
    y = np.repeat(labels, 10)
    model = svm.fit(X[order], y[order], kernel=Partial(rbf, gamma=0.1), C=10.0, strategy=strategy)
    np.testing.assert_array_equal(model.classes, np.sort(labels))
    np.testing.assert_array_equal(predict(model, X), y)


def model_that_decides_its_inputs(positive, negative, classes):
    """d = x: the training examples are the unit vectors, and machine i has the weight 1 for the i-th."""
    size, zeros = len(positive), np.zeros(len(positive), np.float32)
    model = svm.SVMModel(
        kernel=Partial(linear),
        X=np.eye(size, dtype=np.float32),
        classes=np.asarray(classes),
        weights=np.eye(size, dtype=np.float32),
        bias=zeros,
        positive=np.asarray(positive),
        negative=np.asarray(negative),
        gap=zeros,
        iterations=zeros.astype(np.int32),
        converged=zeros == 0,
    )
    return jax.tree.map(jnp.asarray, model)


def test_the_smaller_label_of_equal_votes():
    """All signs and zeros of six machines of four classes; a decision of 0 is a vote against."""
    classes, pairs = (-3, 0, 8, 11), list(itertools.combinations(range(4), 2))
    model = model_that_decides_its_inputs(*zip(*pairs, strict=True), classes)
    decision = np.array(list(itertools.product([-0.5, 0.0, 2.0], repeat=6)), np.float32)
    expected, num_ties = [], 0
    for row in decision:
        votes = [0] * 4
        for (a, b), d in zip(pairs, row, strict=True):
            votes[a if d > 0 else b] += 1
        expected.append(classes[votes.index(max(votes))])
        num_ties += votes.count(max(votes)) > 1
    assert num_ties > 100
    np.testing.assert_array_equal(predict(model, decision), expected)


def test_the_smaller_label_of_equal_decisions_against_the_rest():
    model = model_that_decides_its_inputs([0, 1, 2], [-1, -1, -1], (-4, 6, 7))
    decision = np.array([[1, 1, 1], [-1, 2, 2], [-2, -1, -1], [0, -1, 0], [-3, -2, -1], [1, 3, 2]], np.float32)
    np.testing.assert_array_equal(predict(model, decision), [-4, 6, 6, -4, 7, 6])


def test_many_rows_are_decided_in_blocks(digits):
    """1797 of all digits, of which 1024 at once."""
    X = datasets.load_digits().data / 16
    _, decision, label = fit_in_float64(digits._replace(X_test=X))
    expected = decided_by(libsvm("one_vs_one", digits, 5.0, **KERNELS["rbf"][1]), X)
    np.testing.assert_allclose(decision, expected, atol=FLOAT32_MATRIX)
    voted = SVC(C=5.0, tol=1e-10, **KERNELS["rbf"][1]).fit(digits.X, digits.y).predict(X)
    is_clear = np.abs(expected).min(1) > FLOAT32_MATRIX
    assert is_clear.sum() > 1780
    np.testing.assert_array_equal(label[is_clear], voted[is_clear])


@pytest.mark.parametrize("num_rows", [0, 1])
def test_few_rows_are_decided_too(num_rows):
    model = model_that_decides_its_inputs([0], [1], (4, 9))
    X = np.ones((num_rows, 1), np.float32)
    assert svm.decisions(model, X).shape == (num_rows, 1)
    assert predict(model, X).tolist() == [4] * num_rows


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rows_on_demand_give_what_a_matrix_in_memory_gives(digits, strategy):
    model, decision, _ = fit_in_float64(digits, strategy=strategy, memory_budget=1.0)
    expected = decided_by(libsvm(strategy, digits, 5.0, **KERNELS["rbf"][1]), digits.X_test)
    assert model.converged.all()
    assert model.gap.max() <= 1e-9
    np.testing.assert_allclose(decision, expected, atol=FLOAT32_MATRIX)


def test_no_matrix_is_held_that_is_larger_than_its_budget():
    """300² numbers of four bytes."""
    y = np.arange(300) % 2

    def program(memory_budget):
        return str(jax.make_jaxpr(lambda X: svm.fit(X, y, kernel=linear, C=1.0, memory_budget=memory_budget))(X))

    X = np.zeros((300, 2), np.float32)
    assert "f32[300,300]" in program(300 * 300 * 4.0)
    assert "f32[300,300]" not in program(300 * 300 * 4.0 - 1)


def laplacian(x, z):
    return jnp.exp(-0.1 * jnp.sum(jnp.abs(x - z)))


@pytest.mark.parametrize("memory_budget", [1.0, 2.0**30], ids=["rows on demand", "in memory"])
def test_any_function_of_two_examples_may_be_the_kernel(digits, memory_budget):
    _, decision, _ = fit_in_float64(digits, kernel=laplacian, memory_budget=memory_budget)

    def matrix(X, Z):
        return np.exp(-0.1 * np.abs(X[:, None] - Z[None]).sum(-1))

    expected = decided_by(libsvm("one_vs_one", digits, 5.0, kernel=matrix), digits.X_test)
    np.testing.assert_allclose(decision, expected, atol=FLOAT32_MATRIX)


def test_rows_on_demand_may_come_in_blocks_far_smaller_than_the_problem(digits, monkeypatch):
    """Of 16 examples; with a kernel that no program has been compiled for."""
    monkeypatch.setattr(_optimum, "BLOCK", 16)
    model, decision, _ = fit_in_float64(digits, kernel=lambda x, z: rbf(x, z, gamma=0.05), memory_budget=1.0)
    expected = decided_by(libsvm("one_vs_one", digits, 5.0, **KERNELS["rbf"][1]), digits.X_test)
    assert model.converged.all()
    np.testing.assert_allclose(decision, expected, atol=FLOAT32_MATRIX)


def test_a_composed_kernel_is_one(digits):
    kernel = add(linear, functools.partial(rbf, gamma=0.05))
    _, decision, _ = fit_in_float64(digits, kernel=kernel)

    def matrix(X, Z):
        return X @ Z.T + np.exp(-0.05 * ((X[:, None] - Z[None]) ** 2).sum(-1))

    expected = decided_by(libsvm("one_vs_one", digits, 5.0, kernel=matrix), digits.X_test)
    np.testing.assert_allclose(decision, expected, atol=FLOAT32_MATRIX)


def test_the_width_and_the_price_may_be_traced(digits):
    """A `Partial` carries the width into the program."""

    @jax.jit
    def decided(X, X_test, gamma, C):
        return svm.decisions(svm.fit(X, digits.y, kernel=Partial(rbf, gamma=gamma), C=C, tolerance=1e-9), X_test)

    for gamma, C in ((0.02, 1.0), (0.1, 20.0)):
        with jax.enable_x64(True):
            found = np.asarray(decided(digits.X, digits.X_test, gamma, C))
        expected = decided_by(libsvm("one_vs_one", digits, C, kernel="rbf", gamma=gamma), digits.X_test)
        np.testing.assert_allclose(found, expected, atol=FLOAT32_MATRIX)


@pytest.mark.parametrize("memory_budget", [1.0, 2.0**30], ids=["rows on demand", "in memory"])
@pytest.mark.parametrize("max_iterations", [0, 5])
def test_a_machine_that_is_cut_short_says_so(digits, max_iterations, memory_budget):
    """After none the gap is that of f = −y, 2."""
    model, _, _ = fit_in_float64(digits, max_iterations=max_iterations, memory_budget=memory_budget)
    np.testing.assert_array_equal(model.iterations, max_iterations)
    assert not model.converged.any()
    assert (model.gap > 1e-9).all()
    if max_iterations == 0:
        np.testing.assert_array_equal(model.gap, 2)
        np.testing.assert_array_equal(model.weights, 0)


def test_a_model_of_examples_in_few_digits_keeps_its_own():
    """x = 0 and 2: d = 1 − x; ½, 1 and −1 are exact in every precision."""
    X = jnp.array([[0.0], [2.0]], jnp.bfloat16)
    model = svm.fit(X, np.array([0, 1]), kernel=linear, C=10.0)
    assert {model.X.dtype, model.weights.dtype, model.bias.dtype} == {jnp.dtype(jnp.float32)}
    np.testing.assert_array_equal(model.weights, [[0.5, -0.5]])
    np.testing.assert_array_equal(model.bias, [1])
    assert svm.decisions(model, X).dtype == jnp.bfloat16


X6, Y6 = np.arange(6, dtype=np.float32)[:, None], np.array([0, 1, 1, 0, 1, 0])
FIT = {"X": X6, "y": Y6, "kernel": linear, "C": 1.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "one_vs_all"}, "strategy 'one_vs_all' is unknown; use one_vs_one or one_vs_rest"),
        ({"y": np.full(6, 4)}, "one class only"),
        ({"y": Y6.astype(np.float32)}, "must be integers|Type-check"),
        ({"y": Y6 == 1}, "must be integers|Type-check"),
        ({"C": -1.0}, "C is -1; every price must be at least 0"),
        ({"C": NAN}, "C is nan"),
        ({"class_weights": np.array([1, -2], np.float32)}, "class_weights: C is -2"),
        ({"example_weights": np.full(6, NAN, np.float32)}, "example_weights: C is nan"),
        ({"X": np.where(X6 == 1, NAN, X6).astype(np.float32)}, "X holds NaN or infinite"),
        ({"X": np.where(X6 == 1, INF, X6).astype(np.float32)}, "X holds NaN or infinite"),
        ({"kernel": lambda x, z: -jnp.sum(x * z)}, "negative k\\(x, x\\)"),
        ({"kernel": lambda x, z: jnp.sum(x * z) / 0.0}, "NaN or infinite numbers"),
        ({"kernel": lambda x, z: -jnp.sum(x * z), "memory_budget": 1.0}, "negative k\\(x, x\\)"),
        ({"kernel": lambda x, z: jnp.sum(x * z) / 0.0, "memory_budget": 1.0}, "NaN or infinite numbers"),
    ],
)
def test_what_cannot_be_fitted_is_refused(changes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        svm.fit(**FIT | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"X": X6[:2]},
        {"X": X6[:, 0]},
        {"y": Y6[:, None]},
        {"C": np.ones(6, np.float32)},
        {"class_weights": np.ones(3, np.float32)},
        {"class_weights": np.ones(1, np.float32)},
        {"example_weights": np.ones(1, np.float32)},
        {"example_weights": np.ones((6, 1), np.float32)},
    ],
)
def test_shapes_of_examples_and_weights_must_match(changes):
    with pytest.raises((AssertionError, TypeError, ValueError), match=r"shape|rank|Type-check"):
        svm.fit(**FIT | changes)


def test_labels_cannot_be_traced():
    with pytest.raises(ValueError, match="y is traced; the classes must be known"):
        jax.jit(lambda y: svm.fit(X6, y, kernel=linear, C=1.0).bias)(Y6)


def test_examples_of_other_features_are_refused():
    model = model_that_decides_its_inputs([0], [1], (4, 9))
    for call in (svm.decisions, svm.predict):
        with pytest.raises((AssertionError, TypeError), match=r"shape|Type-check"):
            call(model, np.ones((3, 2), np.float32))


# Cross-validation

GAMMAS, PRICES, NUM_FOLDS = (0.3, 0.01), (0.05, 30.0, 1.0), 3


class Folded(NamedTuple):
    """What libsvm scores on every held-out fold, and on how many examples it is nearly undecided."""

    fold_of: np.ndarray
    accuracies: np.ndarray
    undecided: np.ndarray


@pytest.fixture(scope="module")
def folded(digits):
    """Folds of several sizes, at random."""
    fold_of = np.random.default_rng(3).choice(NUM_FOLDS, NUM_TRAIN, p=[0.3, 0.3, 0.4])
    accuracies, undecided = np.zeros((2, len(GAMMAS), len(PRICES), NUM_FOLDS))
    for (g, gamma), (c, C), fold in itertools.product(enumerate(GAMMAS), enumerate(PRICES), range(NUM_FOLDS)):
        out = fold_of == fold
        peer = SVC(C=C, gamma=gamma, tol=1e-10, decision_function_shape="ovo").fit(digits.X[~out], digits.y[~out])
        accuracies[g, c, fold] = peer.score(digits.X[out], digits.y[out])
        undecided[g, c, fold] = (np.abs(peer.decision_function(digits.X[out])).min(1) < 10 * 1e-3).mean()
    return Folded(fold_of, accuracies, undecided)


def cross_validated(data, folds, **kwargs):
    kwargs = {"gammas": GAMMAS, "Cs": PRICES} | kwargs
    return np.asarray(svm.cross_validate(data.X.astype(np.float32), data.y, folds=folds, **kwargs))


def test_accuracies_on_held_out_folds_are_those_of_libsvm(digits, folded):
    """But for who is within ten tolerances of a border."""
    found = cross_validated(digits, folded.fold_of)
    assert found.dtype == np.float32
    assert folded.undecided.mean() < 0.02
    assert np.ptp(folded.accuracies) > 0.3
    assert np.all(np.abs(found - folded.accuracies) <= folded.undecided + 1e-6)
    is_clear = folded.undecided == 0
    assert is_clear.mean() > 0.6
    np.testing.assert_allclose(found[is_clear], folded.accuracies[is_clear], rtol=1e-6)


def test_the_order_of_widths_and_prices_does_not_matter(digits, folded):
    found = cross_validated(digits, folded.fold_of)
    assert len({found[:, c].tobytes() for c in range(len(PRICES))}) == len(PRICES)  # prices are told apart
    assert len({found[g].tobytes() for g in range(len(GAMMAS))}) == len(GAMMAS)
    for order in ([1, 2, 0], [2, 1, 0]):
        turned = cross_validated(digits, folded.fold_of, Cs=[PRICES[i] for i in order], gammas=GAMMAS[::-1])
        np.testing.assert_array_equal(turned, found[::-1, order])


def test_names_of_classes_do_not_matter_as_long_as_their_order_is_kept(digits, folded):
    renamed = digits._replace(y=np.searchsorted(np.unique(digits.y), digits.y))
    np.testing.assert_array_equal(cross_validated(renamed, folded.fold_of), cross_validated(digits, folded.fold_of))


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_a_number_of_folds_is_stratified(digits, seed):
    """Shares of every class, and whole folds, differ by one example at most."""
    labels = np.searchsorted(np.unique(digits.y), digits.y)
    key = None if seed is None else jax.random.key(seed)
    for num_folds in (2, 3, 7):
        fold_of = stratified_folds(key, labels, num_folds)
        counts = np.array([np.bincount(fold_of[labels == label], minlength=num_folds) for label in range(3)])
        assert np.ptp(counts, axis=1).max() <= 1
        assert np.ptp(counts.sum(0)) <= 1
        assert counts.shape == (3, num_folds)


def test_the_key_shuffles_the_folds(digits):
    labels = np.searchsorted(np.unique(digits.y), digits.y)
    by_key = [stratified_folds(jax.random.key(seed), labels, NUM_FOLDS) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(by_key[0], by_key[1])
    assert (by_key[0] != by_key[2]).mean() > 0.3
    for key, fold_of in ((jax.random.key(0), by_key[0]), (None, stratified_folds(None, labels, NUM_FOLDS))):
        found = cross_validated(digits, NUM_FOLDS, key=key)
        np.testing.assert_array_equal(found, cross_validated(digits, fold_of))
        right = found * np.bincount(fold_of)
        np.testing.assert_allclose(right, right.round(), atol=1e-4)  # a whole number of examples


def test_an_accuracy_is_nan_where_a_machine_did_not_converge(digits, folded):
    """At a low price all α soon are at it; a high one, with a wide kernel, needs more pairs."""
    found = cross_validated(digits, folded.fold_of, max_iterations=60)
    enough = cross_validated(digits, folded.fold_of)
    missing = np.isnan(found)
    assert missing[GAMMAS.index(0.01), PRICES.index(30.0)].all()
    assert not missing[:, PRICES.index(0.05)].any()
    np.testing.assert_array_equal(found[~missing], enough[~missing])
    assert np.isnan(cross_validated(digits, folded.fold_of, max_iterations=0)).all()
    assert not np.isnan(enough).any()


def test_folds_of_four_examples_by_hand():
    """Each fold holds one neighbour of each class; with one turned about, both folds fail on one class."""
    X, folds = np.array([[0.0], [0.1], [1.0], [1.1]], np.float32), np.array([0, 1, 0, 1])
    for y, accuracy in (([3, 3, 8, 8], 1.0), ([3, 8, 8, 3], 0.0)):
        found = svm.cross_validate(X, np.array(y), gammas=[1.0], Cs=[1.0], folds=folds)
        np.testing.assert_array_equal(found, [[[accuracy, accuracy]]])


CV = {"X": np.zeros((6, 1), np.float32), "y": np.arange(6) % 2, "gammas": [1.0], "Cs": [1.0], "folds": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": np.zeros(6, int)}, "one class only"),
        ({"y": np.arange(6) % 2 * 1.0}, "must be integers|Type-check"),
        ({"gammas": [1.0, 0.0]}, "gammas is .*at least"),
        ({"gammas": [NAN]}, "gammas is .*at least"),
        ({"Cs": [-1.0]}, "Cs is .*at least"),
        ({"Cs": [0.0]}, "Cs is .*at least"),
        ({"X": np.full((6, 1), NAN, np.float32)}, "X holds NaN or infinite"),
        ({"folds": 1}, "folds is 1; there must be at least 2"),
        ({"folds": 4}, "a class has 3 examples, fewer than the 4 folds"),
        ({"folds": np.array([0, 0, 2, 2, 0, 2])}, "every number from 0 to F - 1"),
        ({"folds": np.array([1, 1, 2, 2, 1, 2])}, "every number from 0 to F - 1"),
        ({"folds": np.zeros(6, int)}, "with F at least 2"),
        ({"folds": np.array([-1, 0, 1, 0, 1, 0])}, "every number from 0 to F - 1"),
        ({"folds": np.array([1, 0, 1, 0, 1, 0])}, "all examples of a class are in fold 0"),
    ],
)
def test_what_cannot_be_validated_is_refused(changes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        svm.cross_validate(**CV | changes)


@pytest.mark.parametrize(
    "changes",
    [{"X": CV["X"][:4]}, {"y": CV["y"][:, None]}, {"folds": np.arange(4) % 2}, {"gammas": 1.0}, {"Cs": [[1.0]]}],
)
def test_shapes_of_what_is_validated_must_match(changes):
    with pytest.raises((AssertionError, TypeError, ValueError), match=r"shape|rank|Type-check"):
        svm.cross_validate(**CV | changes)


# The linear primal

LOSSES = ("hinge", "squared_hinge")


class Line(NamedTuple):
    """Sixty examples of two classes that overlap, and a price for each."""

    X: np.ndarray
    y: np.ndarray
    C: np.ndarray


@pytest.fixture(scope="module")
def line():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4)) + 0.5
    y = np.where(X @ [1.0, -1.0, 0.5, 0.0] + 0.7 * rng.normal(size=60) > 0.3, 1, -1)
    return Line(X, y, rng.uniform(0.2, 4.0, 60))


def objective_of(v, X, y, C, loss):
    """P in float64."""
    w, slack = v[:-1], np.maximum(0, 1 - y * (X @ v[:-1] + v[-1]))
    return 0.5 * w @ w + np.sum(C * (slack if loss == "hinge" else slack**2))


def corrected(X, y, C):
    """libsvm's (w, b), for which it holds K in float32, after one step of Newton on the free α and the bias."""
    peer, A = SVC(kernel="linear", C=1.0, tol=1e-10).fit(X, y, C), X * y[:, None]
    alpha = np.zeros(len(y))
    alpha[peer.support_] = np.abs(peer.dual_coef_[0])
    bound = alpha > (1 - 1e-5) * C
    alpha = np.where(bound, C, np.where(alpha < 1e-5 * C, 0, alpha))
    free = np.flatnonzero((alpha > 0) & ~bound)
    system = np.zeros((len(free) + 1, len(free) + 1))
    system[:-1, :-1], system[:-1, -1], system[-1, :-1] = A[free] @ A[free].T, y[free], y[free]
    step = np.linalg.lstsq(system, np.append(1 - A[free] @ (A.T @ alpha), -y @ alpha))[0]
    alpha[free] += step[:-1]
    w, b = A.T @ alpha, step[-1] if free.size else peer.intercept_[0]
    short = 1 - A @ w - y * b
    assert np.all((alpha >= 0) & (alpha <= C))
    assert (
        max(np.abs(short[free]).max(initial=0), short[alpha == 0].max(initial=-1), -short[bound].min(initial=0)) < 1e-9
    )
    return np.append(w, b)


def optimum_of(X, y, C, loss):
    """(w, b) to the last digits: for slack from libsvm, for its square by quasi-Newton steps; optimality is checked."""
    if loss == "hinge":
        return corrected(X, y, C)
    columns = np.column_stack([X, np.ones(len(X))])

    def gradient(v):
        slack = np.maximum(0, 1 - y * (columns @ v))
        return np.append(v[:-1], 0) - 2 * columns.T @ (C * y * slack)

    start, options = np.zeros(columns.shape[1]), {"gtol": 1e-9}
    v = optimize.minimize(objective_of, start, (X, y, C, loss), "BFGS", lambda v, *_: gradient(v), options=options).x
    v = optimize.root(gradient, v, tol=1e-13).x
    assert np.abs(gradient(v)).max() < 1e-10
    return v


def linear_in(dtype, X, y, C, loss, **kwargs):
    """The solution as NumPy arrays, and (w, b) in float64."""
    with jax.enable_x64(dtype == "float64"):
        X, C = jnp.asarray(X, dtype), jnp.asarray(C, dtype)
        solution = jax.tree.map(np.asarray, solve_linear(X, y, C, loss=loss, **kwargs))
    return solution, np.append(solution.weight, solution.bias).astype(np.float64)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_linear_machine_is_that_of_a_peer(line, loss):
    expected = optimum_of(*line, loss)
    solution, v = linear_in("float64", *line, loss, tolerance=1e-10)
    assert solution.converged
    np.testing.assert_allclose(v, expected, atol=1e-4)
    np.testing.assert_allclose(solution.objective, objective_of(expected, *line, loss), rtol=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-4), ("float64", 1e-9)])
def test_the_certificate_holds_in_float64(line, loss, dtype, tolerance):
    """The optimum is below the objective and at most the gap below; sums of 60 numbers lose what they do."""
    solution, v = linear_in(dtype, *line, loss, tolerance=tolerance)
    assert solution.weight.dtype == solution.objective.dtype == solution.gap.dtype == dtype
    primal, best = objective_of(v, *line, loss), objective_of(optimum_of(*line, loss), *line, loss)
    lost = 64 * np.finfo(dtype).eps * primal
    np.testing.assert_allclose(solution.objective, primal, atol=lost)
    assert primal - solution.gap - lost <= best <= primal + lost
    assert solution.gap <= tolerance * max(1, primal)
    assert solution.converged
    assert 0 < solution.iterations < 200  # as many as it may


@pytest.mark.parametrize("max_iterations", [0, 1, 3])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_linear_machine_that_is_cut_short_says_so(line, loss, max_iterations):
    solution, v = linear_in("float64", *line, loss, tolerance=1e-12, max_iterations=max_iterations)
    primal, best = objective_of(v, *line, loss), objective_of(optimum_of(*line, loss), *line, loss)
    assert solution.iterations == max_iterations
    assert not solution.converged
    assert solution.gap > 1e-12 * primal
    np.testing.assert_allclose(solution.objective, primal, rtol=1e-12)
    assert primal - solution.gap <= best * (1 + 1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_tolerance_beyond_the_precision_is_not_met(line, loss):
    solution, v = linear_in("float32", *line, loss, tolerance=0.0)
    best = objective_of(optimum_of(*line, loss), *line, loss)
    assert solution.converged == (solution.gap <= 0)
    np.testing.assert_allclose(objective_of(v, *line, loss), best, rtol=1e-4)


def test_slack_gives_the_machine_of_the_dual(line):
    """The same optimum from both sides: P of the one is at least D of the other, and no more than both gaps above."""
    solution, v = linear_in("float64", *line, "hinge", tolerance=1e-10)
    with jax.enable_x64(True):
        other = jax.tree.map(np.asarray, jax.jit(svm.solve_dual)(line.X @ line.X.T, line.y, line.C, tolerance=1e-9))
    np.testing.assert_allclose(v, np.append(line.X.T @ (other.alpha * line.y), other.bias), atol=1e-4)
    difference = solution.objective - other.objective
    assert -1e-10 <= difference <= solution.gap + other.duality_gap + 1e-10


def test_two_points_have_slack_at_a_low_price_only():
    """x = 2 and −1: w = ⅔, b = −⅓ where the price allows it, α = 2/9 ≤ C; below, w = 3C and P = 2C − ½ · 9C²."""
    X, y = np.array([[2.0], [-1.0]]), np.array([1, -1])
    for C in (10.0, 0.3):
        solution, v = linear_in("float64", X, y, np.full(2, C), "hinge", tolerance=1e-12)
        np.testing.assert_allclose(v, [2 / 3, -1 / 3], atol=1e-6)
        np.testing.assert_allclose(solution.objective, 2 / 9, rtol=1e-11)
    solution, v = linear_in("float64", X, y, np.full(2, 0.05), "hinge", tolerance=1e-12)
    np.testing.assert_allclose(v[0], 0.15, rtol=1e-6)
    np.testing.assert_allclose(solution.objective, 0.08875, rtol=1e-10)


@pytest.mark.parametrize("C", [0.01, 1.0, 1000.0])
def test_two_points_have_squared_slack_at_every_price(C):
    """x = 2 and −1 have the same slack ξ = 1 − 3w/2: ½w² + 2Cξ² is least at w = 6C / (1 + 9C), b = −½w."""
    w = 6 * C / (1 + 9 * C)
    solution, v = linear_in(
        "float64", np.array([[2.0], [-1.0]]), np.array([1, -1]), np.full(2, C), "squared_hinge", tolerance=1e-12
    )
    np.testing.assert_allclose(v, [w, -w / 2], rtol=1e-6)
    np.testing.assert_allclose(solution.objective, 0.5 * w**2 + 2 * C * (1 - 1.5 * w) ** 2, rtol=1e-10)
    assert solution.converged


@pytest.mark.parametrize("loss", LOSSES)
def test_swapped_classes_turn_the_border_about(line, loss):
    _, v = linear_in("float64", *line, loss, tolerance=1e-10)
    _, turned = linear_in("float64", line.X, -line.y, line.C, loss, tolerance=1e-10)
    np.testing.assert_allclose(turned, -v, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
def test_examples_without_a_price_are_out_of_the_primal(line, loss, dtype):
    """Wherever they are."""
    inside = np.random.default_rng(1).random(60) < 0.5
    X = np.where(inside[:, None], line.X, 1e4 * line.X)
    rest = (line.X[inside], line.y[inside], line.C[inside])
    best = optimum_of(*rest, loss)
    solution, v = linear_in(dtype, X, line.y, line.C * inside, loss, tolerance=1e-4 if dtype == "float32" else 1e-10)
    assert solution.converged
    np.testing.assert_allclose(v, best, atol=0.1 if dtype == "float32" else 1e-4)
    rtol = 2e-4 if dtype == "float32" else 1e-9
    np.testing.assert_allclose(objective_of(v, *rest, loss), objective_of(best, *rest, loss), rtol=rtol)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
def test_points_given_twice_are_points_at_twice_the_price(line, loss, dtype):
    X, y, C = line.X[:30], line.y[:30], line.C[:30]
    best = objective_of(optimum_of(X, y, 2 * C, loss), X, y, 2 * C, loss)
    solution, _ = linear_in(dtype, np.tile(X, (2, 1)), np.tile(y, 2), np.tile(C, 2), loss)
    assert solution.converged
    assert best * (1 - 1e-6) <= solution.objective <= best * (1 + 1e-4 + 1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_features_may_be_more_than_examples_and_of_no_use(loss):
    """30 for 8 examples, one of them constant and one a copy of another."""
    rng = np.random.default_rng(5)
    X, y, C = rng.normal(size=(8, 30)), np.array([1, -1] * 4), np.full(8, 2.0)
    X[:, 1], X[:, 2] = 1, X[:, 3]
    best = objective_of(optimum_of(X, y, C, loss), X, y, C, loss)
    for dtype in ("float32", "float64"):
        solution, v = linear_in(dtype, X, y, C, loss)
        assert solution.converged
        np.testing.assert_allclose(objective_of(v, X, y, C, loss), best, atol=1e-4)  # the tolerance
        np.testing.assert_allclose(v[2], v[3], atol=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_prices_of_a_primal_are_batched(line, loss):
    prices = np.array([1e-3, 0.1, 1.0, 10.0], np.float32)
    X = line.X.astype(np.float32)
    together = jax.jit(jax.vmap(functools.partial(svm.solve_primal, loss=loss), (None, None, 0)))(X, line.y, prices)
    assert together.converged.all()
    for i, C in enumerate(prices):
        v = np.append(together.weight[i], together.bias[i]).astype(np.float64)
        best = objective_of(optimum_of(X.astype(np.float64), line.y, np.full(60, C, float), loss), X, line.y, C, loss)
        found = objective_of(v, X.astype(np.float64), line.y, np.float64(C), loss)
        assert best * (1 - 1e-6) <= found <= best + 1.1e-4 * max(1, best)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_broken_primal_is_nan_and_not_converged_where_only_a_run_can_know(line, loss):
    X, y, C = line.X.astype(np.float32), line.y, line.C.astype(np.float32)
    broken = [
        (np.where(np.arange(60)[:, None] == 3, NAN, X).astype(np.float32), y, C),
        (np.where(np.arange(60)[:, None] == 3, INF, X).astype(np.float32), y, C),
        (X, np.ones_like(y), C),
        (X, np.where(np.arange(60) == 3, 0, y), C),
        (X, y, np.where(np.arange(60) == 3, -1, C).astype(np.float32)),
        (X, y, np.where(np.arange(60) == 3, INF, C).astype(np.float32)),
        (X, y, np.where(np.arange(60) == 3, NAN, C).astype(np.float32)),
    ]
    for problem in broken:
        solution = solve_linear(*problem, loss=loss)
        assert not solution.converged
        for value in (solution.weight, solution.bias, solution.objective, solution.gap):
            assert np.isnan(value).all()
    assert solve_linear(X, y, C, loss=loss).converged


PRIMAL = {"X": np.eye(4, dtype=np.float32), "y": np.array([1, -1, 1, -1]), "C": 1.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "logistic"}, "loss 'logistic' is unknown; use hinge or squared_hinge"),
        ({"y": np.array([0, 1, 1, 0])}, "y holds 0, 1"),
        ({"y": np.ones(4, int)}, "one class only"),
        ({"C": -1.0}, "C is -1"),
        ({"C": INF}, "C is infinite; use solve_dual"),
        ({"C": NAN}, "C is nan"),
        ({"X": np.full((4, 2), NAN, np.float32)}, "X holds NaN or infinite"),
    ],
)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_primal_that_is_none_is_refused(changes, message, loss):
    with pytest.raises(ValueError, match=message):
        svm.solve_primal(**PRIMAL | {"loss": loss} | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"X": np.ones(4, np.float32)},
        {"X": np.ones((3, 2), np.float32)},
        {"y": PRIMAL["y"][:, None]},
        {"C": np.ones(1, np.float32)},
        {"C": np.ones((4, 1), np.float32)},
    ],
)
def test_shapes_of_a_primal_must_match(changes):
    with pytest.raises((AssertionError, TypeError, ValueError), match=r"shape|rank|Type-check"):
        svm.solve_primal(**PRIMAL | changes)


# Regression


class Curve(NamedTuple):
    """Noisy numbers along a line: some on the tube, some in it and, at their prices, some beyond."""

    K: np.ndarray
    K_test: np.ndarray
    targets: np.ndarray
    C: np.ndarray
    epsilon: float


@pytest.fixture(scope="module")
def curve():
    rng = np.random.default_rng(1)
    x = rng.uniform(-2, 2, 28)
    K = np.exp(-((x[:, None] - x[None, :]) ** 2))
    targets = np.sin(2 * x) + 0.3 * rng.normal(size=28) + 5
    return Curve(K[:20, :20], K[20:, :20], targets[:20], rng.uniform(0.3, 1.2, 20), 0.2)


def peer_of(K, targets, C, epsilon):
    """β and b of libsvm."""
    peer = SVR(kernel="precomputed", C=1.0, epsilon=epsilon, tol=1e-10).fit(K, targets, C)
    beta = np.zeros(len(K))
    beta[peer.support_] = peer.dual_coef_[0]
    return beta, peer.intercept_[0]


def regress_in(dtype, K, targets, C, epsilon, **kwargs):
    with jax.enable_x64(dtype == "float64"):
        arrays = (jnp.asarray(x, dtype) for x in (K, targets, C))
        return jax.tree.map(np.asarray, regress(*arrays, epsilon=jnp.asarray(epsilon, dtype), **kwargs))


def dual_of(beta, K, targets, epsilon):
    return targets @ beta - epsilon * np.abs(beta).sum() - 0.5 * beta @ K @ beta


def certificate_of(solution, K, targets, C, epsilon):
    """The gap of the optimality conditions, the primal and the dual objective, in float64."""
    beta, bias = solution.beta.astype(np.float64), np.float64(solution.bias)
    error = targets - K @ beta
    gains = np.where(beta >= 0, error - epsilon, error + epsilon)[beta < C]  # of a β that grows
    costs = np.where(beta > 0, error - epsilon, error + epsilon)[beta > -C]  # of one that shrinks
    primal = 0.5 * beta @ K @ beta + np.sum(C * np.maximum(0, np.abs(error - bias) - epsilon))
    return gains.max() - costs.min(), primal, dual_of(beta, K, targets, epsilon)


@pytest.mark.parametrize("epsilon", [0.0, 0.05, 0.2, 0.6])
def test_a_regression_is_libsvm_s(curve, epsilon):
    beta, bias = peer_of(curve.K, curve.targets, curve.C, epsilon)
    solution = regress_in("float64", curve.K, curve.targets, curve.C, epsilon, tolerance=1e-10)
    assert solution.converged
    np.testing.assert_allclose(solution.beta, beta, atol=1e-5)
    np.testing.assert_allclose(solution.bias, bias, atol=1e-6)
    np.testing.assert_allclose(curve.K_test @ solution.beta + solution.bias, curve.K_test @ beta + bias, atol=1e-6)
    np.testing.assert_allclose(solution.objective, dual_of(beta, curve.K, curve.targets, epsilon), rtol=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("float64", 1e-3), ("float64", 1e-9)])
def test_a_regression_proves_its_gap_anew(curve, dtype, tolerance):
    K, _, targets, C, epsilon = (np.asarray(np.asarray(x, dtype), np.float64) for x in curve)
    solution = regress_in(dtype, K, targets, C, epsilon, tolerance=tolerance)
    assert solution.beta.dtype == solution.bias.dtype == solution.duality_gap.dtype == dtype
    gap, primal, lower = certificate_of(solution, K, targets, C, epsilon)
    lost = 64 * np.finfo(dtype).eps * (1 + np.abs(targets).max()) * C.sum()
    np.testing.assert_allclose(solution.gap, gap, atol=lost)
    np.testing.assert_allclose(solution.objective, lower, atol=lost)
    np.testing.assert_allclose(solution.duality_gap, primal - lower, atol=lost)
    assert solution.converged
    assert gap <= 2 * tolerance
    assert np.all(np.abs(solution.beta) <= C)
    np.testing.assert_allclose(solution.beta.astype(np.float64).sum(), 0, atol=lost)
    best = dual_of(peer_of(K, targets, C, float(epsilon))[0], K, targets, epsilon)
    assert lower - lost <= best <= primal + lost


@pytest.mark.parametrize(
    ("C", "epsilon", "beta", "bias", "objective"),
    [(10.0, 0.25, 0.5, 0.25, 0.125), (10.0, 0.0, 1.0, 0.0, 0.5), (0.3, 0.25, 0.3, 0.35, 0.105)],
    ids=["on the tube", "through both", "at the price"],
)
def test_two_targets_by_hand(C, epsilon, beta, bias, objective):
    """t = 0 and 1, w = s: s(1 − 2ε) − ½s² is largest at s = min(C, 1 − 2ε).

    On the tube, b = ε. At the price, errors are −b and 1 − C − b, and b is in the middle of where both are beyond: of
    ε and 1 − C − ε.
    """
    solution = regress_in("float64", np.diag([0.0, 1.0]), [0.0, 1.0], np.full(2, C), epsilon)
    np.testing.assert_allclose(solution.beta, [-beta, beta], rtol=1e-12)
    np.testing.assert_allclose(solution.bias, bias, atol=1e-12)
    np.testing.assert_allclose(solution.objective, objective, rtol=1e-12)
    np.testing.assert_allclose(solution.duality_gap, 0, atol=1e-12)
    assert solution.converged


def test_where_all_examples_are_alike_the_median_is_predicted():
    """K = 0, ε = 0: β = −C, −C, 0, C, C in the order of the targets."""
    targets = np.array([10.0, 0.0, 1.0, -5.0, 12.0])
    solution = regress_in("float64", np.zeros((5, 5)), targets, np.full(5, 0.5), 0.0)
    np.testing.assert_allclose(solution.beta, [0.5, -0.5, 0, -0.5, 0.5], atol=1e-12)
    np.testing.assert_allclose(solution.bias, 1, rtol=1e-12)
    np.testing.assert_allclose(solution.objective, 0.5 * 27, rtol=1e-12)
    np.testing.assert_allclose(solution.duality_gap, 0, atol=1e-12)


@pytest.mark.parametrize("price", [0.5, 1e-3])
def test_a_tube_that_holds_all_targets_needs_no_example(curve, price):
    """No error beyond ε = 10: w = 0, and b is in the middle of the targets, whose ends are the first to leave."""
    solution = regress_in("float32", curve.K, curve.targets, np.full(20, price), 10.0)
    np.testing.assert_array_equal(solution.beta, 0)
    np.testing.assert_allclose(solution.bias, (curve.targets.min() + curve.targets.max()) / 2, rtol=1e-5)
    assert (solution.objective, solution.duality_gap, solution.iterations) == (0, 0, 0)
    np.testing.assert_allclose(solution.gap, np.ptp(curve.targets) - 20, rtol=1e-5)
    assert solution.converged


def test_targets_that_move_or_turn_move_or_turn_the_answer(curve):
    K, _, targets, C, epsilon = curve
    solution = regress_in("float64", K, targets, C, epsilon, tolerance=1e-10)
    for sign, shift in ((1, 100.0), (-1, 0.0)):
        other = regress_in("float64", K, sign * targets + shift, C, epsilon, tolerance=1e-10)
        np.testing.assert_allclose(other.beta, sign * solution.beta, atol=1e-6)
        np.testing.assert_allclose(other.bias, sign * solution.bias + shift, atol=FLOAT32_MATRIX)


def test_an_example_without_a_price_is_out_of_a_regression(curve):
    inside = np.random.default_rng(1).random(20) < 0.6
    beta, bias = peer_of(curve.K[np.ix_(inside, inside)], curve.targets[inside], curve.C[inside], 0.2)
    targets = np.where(inside, curve.targets, 1e3)
    solution = regress_in("float64", curve.K, targets, curve.C * inside, 0.2, tolerance=1e-10)
    assert solution.converged
    np.testing.assert_array_equal(solution.beta[~inside], 0)
    np.testing.assert_allclose(solution.beta[inside], beta, atol=1e-5)
    np.testing.assert_allclose(solution.bias, bias, atol=1e-6)
    _, primal, lower = certificate_of(solution, curve.K, targets, curve.C * inside, 0.2)
    np.testing.assert_allclose(solution.duality_gap, primal - lower, atol=1e-9)


def test_targets_given_twice_are_targets_at_twice_the_price(curve):
    K, targets, C = curve.K[:10, :10], curve.targets[:10], curve.C[:10]
    beta, bias = peer_of(K, targets, 2 * C, 0.2)
    solution = regress_in("float64", np.tile(K, (2, 2)), np.tile(targets, 2), np.tile(C, 2), 0.2, tolerance=1e-10)
    assert solution.converged
    np.testing.assert_allclose(solution.beta[:10] + solution.beta[10:], beta, atol=1e-5)
    np.testing.assert_allclose(solution.bias, bias, atol=1e-6)


@pytest.mark.parametrize("max_iterations", [0, 1, 6])
def test_a_regression_that_is_cut_short_says_so(curve, max_iterations):
    K, _, targets, C, epsilon = curve
    solution = regress_in("float64", K, targets, C, epsilon, max_iterations=max_iterations)
    gap, primal, lower = certificate_of(solution, K, targets, C, epsilon)
    assert solution.iterations == max_iterations
    assert not solution.converged
    np.testing.assert_allclose(solution.gap, gap, rtol=1e-10)
    np.testing.assert_allclose(solution.duality_gap, primal - lower, rtol=1e-10)
    assert gap > 1e-3


def test_blocks_find_the_same_regression(curve, monkeypatch):
    monkeypatch.setattr(_optimum, "BLOCKS_FROM", 10)
    monkeypatch.setattr(_optimum, "BLOCK", 8)
    K, _, targets, C, epsilon = curve
    beta, bias = peer_of(K, targets, C, epsilon)
    with jax.enable_x64(True):
        solution = jax.jit(lambda *args: svm.solve_regression(*args, epsilon=epsilon, tolerance=1e-9))(K, targets, C)
    assert solution.converged
    np.testing.assert_allclose(solution.beta, beta, atol=1e-5)
    np.testing.assert_allclose(solution.bias, bias, atol=1e-6)


def outputs(K, targets, C, epsilon, K_test):
    """Four numbers: a mean of β, the bias, the objective and a mean of predictions, with weights of no meaning."""
    solution = svm.solve_regression(K, targets, C, epsilon=epsilon, tolerance=1e-12)
    of_beta, of_prediction = (np.random.default_rng(n).normal(size=n) for n in (20, 8))
    prediction = K_test @ solution.beta + solution.bias
    weighted = jnp.sum(of_beta * solution.beta), jnp.sum(of_prediction * prediction)
    return jnp.stack([weighted[0], solution.bias, solution.objective, weighted[1]]), solution


@pytest.fixture(scope="module")
def derivatives(curve):
    """The derivatives of all four outputs in K, t, C and ε, and the solution, in float64."""
    with jax.enable_x64(True):
        jacobian = jax.jit(jax.jacrev(outputs, (0, 1, 2, 3), has_aux=True))
        return jax.tree.map(np.asarray, jacobian(curve.K, curve.targets, curve.C, curve.epsilon, curve.K_test))


def test_derivatives_of_a_regression_are_those_of_the_solution(curve, derivatives):
    """All pairs of entries of a symmetric K, every target, every price and ε, by central differences."""
    (in_K, in_targets, in_C, in_epsilon), solution = derivatives
    size, h = np.abs(solution.beta), 1e-6
    assert min(((size > 0) & (size < curve.C)).sum(), (size == curve.C).sum(), (size == 0).sum()) >= 3
    pairs, unit = [(i, j) for i in range(20) for j in range(i + 1)], np.eye(20)
    with jax.enable_x64(True):
        f = jax.jit(lambda *args: outputs(*args, curve.K_test)[0])

        def central(K_step=0.0, t_step=0.0, C_step=0.0, epsilon_step=0.0):
            K, _, targets, C, epsilon = curve
            ends = (
                f(K + s * K_step, targets + s * t_step, C + s * C_step, np.float64(epsilon + s * epsilon_step))
                for s in (h, -h)
            )
            return np.subtract(*ends) / (2 * h)

        of_K = np.stack([central(K_step=np.maximum(e := np.outer(unit[i], unit[j]), e.T)) for i, j in pairs], 1)
        of_targets = np.stack([central(t_step=unit[i]) for i in range(20)], 1)
        of_C = np.stack([central(C_step=unit[i]) for i in range(20)], 1)
        of_epsilon = central(epsilon_step=1.0)
    in_pairs = np.stack([in_K[:, i, j] + (in_K[:, j, i] if i != j else 0) for i, j in pairs], 1)
    for found, expected in ((in_pairs, of_K), (in_targets, of_targets), (in_C, of_C)):
        for row in range(4):
            atol = 1e-4 * np.abs(expected[row]).max()
            np.testing.assert_allclose(found[row], expected[row], rtol=1e-4, atol=atol)
    np.testing.assert_allclose(in_epsilon, of_epsilon, rtol=1e-4)


def test_the_derivatives_of_a_regression_s_objective_are_free(curve, derivatives):
    """Of the envelope theorem: −½ββᵀ in K, β in t, −Σ|β| in ε, and in the price of who is at it its error beyond ε."""
    (in_K, in_targets, in_C, in_epsilon), solution = derivatives
    beta = solution.beta
    beyond = np.abs(curve.targets - curve.K @ beta - solution.bias) - curve.epsilon
    np.testing.assert_allclose(in_K[2], -0.5 * np.outer(beta, beta), atol=1e-12)
    np.testing.assert_allclose(in_targets[2], beta, atol=1e-12)
    np.testing.assert_allclose(in_epsilon[2], -np.abs(beta).sum(), rtol=1e-10)
    np.testing.assert_allclose(in_C[2], np.where(np.abs(beta) == curve.C, beyond, 0), atol=1e-9)


def test_broken_regressions_in_a_batch_are_nan_and_the_others_right():
    """The others are t = 0 and 1 on a tube of ¼, by hand above."""
    K, targets, C = np.stack([np.diag([0.0, 1.0])] * 7), np.array([[0.0, 1.0]] * 7), np.full((7, 2), 10.0)
    epsilon = np.full(7, 0.25)
    K[1, 0, 1], K[2, 1, 1], targets[3, 0], C[4, 1], epsilon[5] = NAN, -1, INF, -1, -1
    arrays = (x.astype(np.float32) for x in (K, targets, C, epsilon))
    solve = jax.vmap(lambda K, targets, C, epsilon: svm.solve_regression(K, targets, C, epsilon=epsilon))
    solution = jax.jit(solve)(*arrays)
    np.testing.assert_array_equal(solution.converged, [True, *[False] * 5, True])
    for i in (0, 6):
        np.testing.assert_allclose(solution.beta[i], [-0.5, 0.5], rtol=1e-6)
        np.testing.assert_allclose(solution.bias[i], 0.25, rtol=1e-6)
    for value in (solution.beta, solution.bias, solution.objective, solution.gap, solution.duality_gap):
        assert np.isnan(value[1:6]).all()


REGRESSION = {"K": np.eye(3, dtype=np.float32), "targets": np.arange(3, dtype=np.float32), "C": 1.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"C": -1.0}, "C is -1"),
        ({"C": np.array([1, NAN, 1], np.float32)}, "C is nan"),
        ({"epsilon": -0.1}, "epsilon is -0.1.*at least 0"),
        ({"epsilon": NAN}, "epsilon is nan.*at least 0"),
        ({"targets": np.array([0, INF, 1], np.float32)}, "targets holds NaN or infinite"),
        ({"K": np.full((3, 3), NAN, np.float32)}, "K holds NaN or infinite"),
        ({"K": -np.eye(3, dtype=np.float32)}, "negative number on its diagonal"),
    ],
)
def test_a_regression_that_is_none_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        svm.solve_regression(**REGRESSION | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"K": np.eye(4, dtype=np.float32)},
        {"K": np.ones((3, 4), np.float32)},
        {"targets": np.ones(1, np.float32)},
        {"C": np.ones(1, np.float32)},
        {"C": np.ones((3, 1), np.float32)},
    ],
)
def test_shapes_of_a_regression_must_match(changes):
    with pytest.raises((AssertionError, TypeError, ValueError), match=r"shape|rank|Type-check"):
        svm.solve_regression(**REGRESSION | changes)


# Probabilities


def platt_in(dtype, d, y):
    with jax.enable_x64(dtype == "float64"):
        return jax.tree.map(np.asarray, scale(jnp.asarray(d, dtype), y))


def targets_of(y):
    positive, negative = (y > 0).sum(), (y < 0).sum()
    return np.where(y > 0, (positive + 1) / (positive + 2), 1 / (negative + 2))


def gradient_of(scaling, d, y):
    """Of the mean loss in slope and offset, in float64."""
    error = special.expit(np.float64(scaling.slope) * d + np.float64(scaling.offset)) - targets_of(y)
    return np.array([(error * d).mean(), error.mean()])


def curve_of(d, y):
    """The slope and the offset of the smallest loss, by SciPy, where the gradient is 0."""

    def gradient(v):
        error = special.expit(v[0] * d + v[1]) - targets_of(y)
        return [(error * d).mean(), error.mean()]

    def loss(v):
        z = v[0] * d + v[1]
        return np.mean(np.logaddexp(0, z) - targets_of(y) * z)

    v = optimize.minimize(loss, [0.0, 0.0], jac=gradient, method="BFGS", options={"gtol": 1e-8}).x
    v = optimize.root(gradient, v, tol=1e-14).x
    assert np.abs(gradient(v)).max() < 1e-12
    return v


def noisy_decisions(seed, positive_share, slope):
    rng = np.random.default_rng(seed)
    y = np.where(np.arange(200) < 200 * positive_share, 1, -1)
    return slope * y + rng.normal(size=200), y


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("positive_share", "slope"), [(0.5, 1.0), (0.1, 0.5), (0.9, 3.0), (0.4, -1.0), (0.5, 0.0)])
def test_the_curve_is_that_of_the_smallest_loss(positive_share, slope, dtype):
    """As near as a gradient of 1e-5 and the curvature of the loss allow."""
    d, y = noisy_decisions(0, positive_share, slope)
    slope, offset = curve_of(d, y)
    scaling = platt_in(dtype, d, y)
    assert scaling.slope.dtype == scaling.offset.dtype == dtype
    assert scaling.converged
    assert scaling.iterations < 20
    assert np.abs(gradient_of(scaling, d, y)).max() <= (1.1e-5 if dtype == "float32" else 1e-5)
    p = special.expit(slope * d + offset)
    columns = np.stack([d, np.ones(200)])
    curvature = (p * (1 - p) * columns) @ columns.T / 200
    np.testing.assert_allclose(
        [scaling.slope, scaling.offset], [slope, offset], atol=2e-5 / np.linalg.eigvalsh(curvature)[0]
    )


@pytest.mark.parametrize("count", [1, 4, 50])
def test_where_decisions_separate_the_classes_the_slope_is_finite(count):
    """d = ±1: σ(a) = t = (n + 1)/(n + 2) is a = ln(n + 1), and b = 0."""
    y = np.repeat([1, -1], count)
    scaling = platt_in("float64", y, y)
    assert scaling.converged
    np.testing.assert_allclose(scaling.slope, np.log(count + 1), rtol=1e-3)
    np.testing.assert_allclose(scaling.offset, 0, atol=1e-12)


def test_decisions_that_say_nothing_give_the_share_of_the_classes():
    """All d = 0: σ(b) is the mean of t, of three against one (3 · ⅘ + ⅓) / 4, and no slope is better than 0."""
    scaling = platt_in("float64", np.zeros(4), np.array([1, 1, 1, -1]))
    assert scaling.converged
    assert scaling.slope == 0
    np.testing.assert_allclose(special.expit(scaling.offset), (3 * 4 / 5 + 1 / 3) / 4, atol=1e-5)


def test_decisions_that_are_all_one_number_give_the_share_of_the_classes_too():
    scaling = platt_in("float32", np.full(4, 3.0), np.array([1, 1, 1, -1]))
    assert scaling.converged
    p = special.expit(3 * np.float64(scaling.slope) + np.float64(scaling.offset))
    np.testing.assert_allclose(p, (3 * 4 / 5 + 1 / 3) / 4, atol=1e-5)


def test_swapped_classes_and_turned_decisions_turn_the_curve():
    d, y = noisy_decisions(1, 0.3, 1.0)
    slope, offset = platt_in("float64", d, y)[:2]
    swapped, turned = platt_in("float64", d, -y), platt_in("float64", -d, y)
    assert abs(offset) > 0.1
    np.testing.assert_allclose((swapped.slope, swapped.offset), (-slope, -offset), atol=1e-3)
    np.testing.assert_allclose((turned.slope, turned.offset), (-slope, offset), atol=1e-3)


@pytest.mark.parametrize("factor", [0.25, 64.0, 1e6])
def test_decisions_in_other_units_have_another_slope(factor):
    d, y = noisy_decisions(1, 0.3, 1.0)
    slope, offset = curve_of(d, y)
    scaling = platt_in("float64", factor * d, y)
    assert scaling.converged
    np.testing.assert_allclose(scaling.slope * factor, slope, rtol=1e-3)
    np.testing.assert_allclose(scaling.offset, offset, atol=1e-3)


def test_far_decisions_do_not_overflow_in_float64():
    """d = ±1e30, two of each class: a = ln 3 / 1e30, as of ±1."""
    scaling = platt_in("float64", [-1e30, -1e30, 1e30, 1e30], np.array([-1, -1, 1, 1]))
    assert scaling.converged
    np.testing.assert_allclose(scaling.slope * 1e30, np.log(3), rtol=1e-6)
    np.testing.assert_allclose(scaling.offset, 0, atol=1e-6)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_no_curve_is_fitted_to_what_is_no_number(value):
    scaling = platt_in("float32", [value, -1.0, 1.0, 2.0], np.array([-1, -1, 1, 1]))
    assert np.isnan([scaling.slope, scaling.offset]).all()
    assert not scaling.converged


@pytest.mark.parametrize("label", [1, -1])
def test_no_curve_is_fitted_to_one_class_where_only_a_run_can_know(label):
    scaling = platt_in("float32", [-1.0, 0.0, 1.0, 2.0], np.full(4, label))
    assert np.isnan([scaling.slope, scaling.offset]).all()
    assert not scaling.converged


def test_curves_are_batched():
    d, y = zip(*(noisy_decisions(seed, 0.2 + 0.2 * seed, 1.0) for seed in range(4)), strict=True)
    together = jax.jit(jax.vmap(svm.platt_scaling))(np.float32(d), np.stack(y))
    assert together.converged.all()
    for i in range(4):
        np.testing.assert_allclose((together.slope[i], together.offset[i]), curve_of(d[i], y[i]), atol=1e-3)


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-5), ("float64", 1e-13)])
def test_probabilities_are_the_logistic_function_far_into_its_tails(dtype, rtol):
    d = np.array([[-80.0, -20.0, -1.0], [0.0, 3.0, 200.0]])
    with jax.enable_x64(dtype == "float64"):
        scaling = svm.PlattScaling(jnp.asarray(0.5, dtype), jnp.asarray(-0.25, dtype), jnp.int32(1), jnp.bool_(True))
        found = jax.jit(svm.platt_probability)(scaling, jnp.asarray(d, dtype))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, special.expit(0.5 * d - 0.25), rtol=rtol)


@pytest.mark.parametrize(
    ("y", "message"),
    [(np.array([0, 1, 1]), "platt_scaling: y holds 0, 1"), (np.ones(3, int), "platt_scaling: there is one class only")],
)
def test_labels_of_no_two_classes_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        svm.platt_scaling(np.arange(3, dtype=np.float32), y)


@pytest.mark.parametrize(
    ("shape", "labels"), [((3, 1), (3,)), ((3,), (3, 1)), ((3,), (1,)), ((1,), (3,))], ids=lambda shape: f"{shape}"
)
def test_decisions_and_classes_must_match(shape, labels):
    y = np.resize([1, -1], labels)
    with pytest.raises((AssertionError, TypeError, ValueError), match=r"shape|rank|one class|Type-check"):
        svm.platt_scaling(np.ones(shape, np.float32), y)


# What an earlier version got wrong


def test_cross_validation_in_float64_has_libsvm_s_accuracies():
    X, y = datasets.load_iris(return_X_y=True)
    folds = np.arange(150) % 3
    expected = [
        [
            SVC(C=C, gamma=0.1, tol=1e-10).fit(X[folds != f], y[folds != f]).score(X[folds == f], y[folds == f])
            for f in range(3)
        ]
        for C in (0.1, 10.0)
    ]
    with jax.enable_x64(True):
        found = np.asarray(svm.cross_validate(X, y, gammas=[0.1], Cs=[0.1, 10.0], folds=folds, tolerance=1e-9))
    np.testing.assert_allclose(found[0], expected, rtol=1e-12)


@pytest.mark.parametrize("size", [1e20, 1e30])
def test_far_decisions_do_not_overflow(size):
    """d = ±size, two of each class: a = ln 3 / size, as of ±1."""
    scaling = svm.platt_scaling(np.float32([-size, -size, size, size]), np.array([-1, -1, 1, 1]))
    assert scaling.converged
    np.testing.assert_allclose(np.float64(scaling.slope) * size, np.log(3), rtol=1e-3)


def test_small_decisions_that_separate_the_classes_have_a_steep_slope():
    """d = ±1e-6: a = ln 3 / 1e-6, as of ±1."""
    scaling = svm.platt_scaling(np.float32([-1e-6, -1e-6, 1e-6, 1e-6]), np.array([-1, -1, 1, 1]))
    assert scaling.converged
    np.testing.assert_allclose(np.float64(scaling.slope) * 1e-6, np.log(3), rtol=0.1)


def test_the_number_of_folds_may_be_numpy_s():
    X, y = np.array([[0.0], [0.1], [1.0], [1.1]], np.float32), np.array([3, 3, 8, 8])
    assert svm.cross_validate(X, y, gammas=[1.0], Cs=[1.0], folds=np.int64(2)).shape == (1, 1, 2)


@pytest.mark.parametrize("num_examples", [3, 2])
def test_two_or_three_examples_are_solved_with_rows_on_demand(num_examples):
    X, y = np.arange(num_examples, dtype=np.float32)[:, None], (np.arange(num_examples) > 0).astype(int)
    model = svm.fit(X, y, kernel=linear, C=10.0, memory_budget=1)
    assert model.converged.all()
    np.testing.assert_allclose(svm.decisions(model, X)[:2, 0], [1, -1], atol=5e-3)  # w = −2, b = 1


def test_labels_that_do_not_fit_are_refused():
    X, y = np.array([[0.0], [1.0], [4.0], [5.0]], np.float32), np.array([5, 5, 2**40, 2**40])
    with pytest.raises(ValueError, match="labels up to 1099511627776 do not fit 32 bits"):
        svm.fit(X, y, kernel=linear, C=10.0)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(svm.predict(svm.fit(X, y, kernel=linear, C=10.0), X), y)


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({"C": 0.0}, 5),
        ({"class_weights": np.float32([1, 0])}, 7),
        ({"example_weights": np.float32([0, 0, 1, 1])}, 5),
    ],
)
def test_a_class_without_a_price_is_refused(changes, label):
    X, y = np.array([[0.0], [1.0], [4.0], [5.0]], np.float32), np.array([5, 5, 7, 7])
    with pytest.raises(ValueError, match=f"C is 0 for all examples of class {label}; each class needs one"):
        svm.fit(X, y, kernel=linear, **{"C": 1.0} | changes)


def test_a_price_of_0_that_only_a_running_program_knows_is_not_converged():
    X, y = np.array([[0.0], [1.0], [4.0], [5.0]], np.float32), np.array([5, 5, 7, 7])
    model = jax.jit(jax.vmap(lambda C: svm.fit(X, y, kernel=linear, C=C)))(np.float32([0.0, 10.0]))
    np.testing.assert_array_equal(model.converged[:, 0], [False, True])


def test_no_price_at_all_is_refused_in_the_primal_and_in_regression():
    X = np.array([[0.0], [1.0]], np.float32)
    with pytest.raises(ValueError, match="solve_primal: C is 0 for all examples of class -1"):
        svm.solve_primal(X, np.array([1, -1]), np.float32([1, 0]))
    with pytest.raises(ValueError, match="solve_regression: C is 0 for all examples"):
        svm.solve_regression(X @ X.T, X[:, 0], 0.0)


def test_folds_that_are_no_integers_are_refused():
    with pytest.raises((ValueError, TypeError), match=r"folds are float32; they must be integers|Type-check"):
        svm.cross_validate(
            np.eye(4, dtype=np.float32), np.array([0, 0, 1, 1]), gammas=[1.0], Cs=[1.0], folds=np.float32([0, 1, 0, 1])
        )


def test_a_gram_matrix_in_blocks_of_rows_is_the_same_matrix(monkeypatch):
    monkeypatch.setattr(_model, "PREDICTED_AT_ONCE", 16)
    X = np.random.default_rng(0).normal(size=(83, 4)).astype(np.float32)
    K = jax.jit(lambda X: _model._gram_by_blocks(Partial(rbf, gamma=0.5), X))(X)
    np.testing.assert_allclose(K, np.exp(-0.5 * ((X[:, None] - X[None]) ** 2).sum(-1)), atol=2e-6)
    np.testing.assert_array_equal(np.diagonal(K), 1)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [(Partial(rbf, gamma=-1.0), "gamma is -1.0"), (Partial(polynomial, degree=2, c=-1.0), "c is -1.0")],
)
def test_a_parameter_that_makes_no_kernel_is_refused_by_fit(kernel, message):
    with pytest.raises(ValueError, match=message):
        svm.fit(np.eye(2, dtype=np.float32), np.array([0, 1]), kernel=kernel, C=1.0)


def test_half_precision_rounds_decisions_once():
    """Margins are ±1, and 8 bits of α would be off by more."""
    rng = np.random.default_rng(0)
    X = jnp.asarray(rng.normal(size=(120, 3)), jnp.bfloat16)
    y = (np.asarray(X[:, 0], np.float32) + 0.3 * rng.normal(size=120) > 0).astype(int)
    half = svm.fit(X, y, kernel=Partial(rbf, gamma=0.1), C=100.0)
    whole = svm.fit(X.astype(jnp.float32), y, kernel=Partial(rbf, gamma=0.1), C=100.0)
    found, expected = svm.decisions(half, X), svm.decisions(whole, X.astype(jnp.float32))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, rtol=2.0**-8)


@pytest.mark.parametrize(("C", "scale"), [(1.0, 1.0), (1e3, 1.0), (1e5, 1.0), (1.0, 1e3)])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_the_primal_is_solved_in_float32_whatever_prices_and_units_are(C, scale, offset):
    """The certificate is recomputed in float64: w and b prove themselves."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 8))
    y = np.where(X @ rng.normal(size=8) + 2 * rng.normal(size=500) > 0, 1, -1)
    X = (scale * X + offset).astype(np.float32)
    solution = jax.jit(svm.solve_primal)(X, y, np.float32(C))
    assert solution.converged
    decision = X.astype(np.float64) @ np.asarray(solution.weight, np.float64) + float(solution.bias)
    objective = 0.5 * np.sum(np.asarray(solution.weight, np.float64) ** 2) + C * np.maximum(0, 1 - y * decision).sum()
    np.testing.assert_allclose(objective, solution.objective, rtol=1e-3 if offset else 1e-4)
    if C * scale == 1:  # others take libsvm minutes
        machine = SVC(kernel="linear", C=C).fit(X.astype(np.float64) - offset, y)
        w, b = machine.coef_[0], machine.intercept_[0]
        best = 0.5 * w @ w + np.maximum(0, 1 - y * ((X.astype(np.float64) - offset) @ w + b)).sum()
        np.testing.assert_allclose(objective, best, rtol=1e-3)


@pytest.mark.parametrize("far", [100.0, 1e4])
def test_one_far_decision_does_not_hide_the_others(far):
    rng = np.random.default_rng(0)
    d = rng.normal(size=300)
    y = np.where(d + 0.5 * rng.normal(size=300) > 0, 1, -1)
    d[0], y[0] = far, 1
    positive, negative = (y > 0).sum(), (y < 0).sum()
    target = np.where(y > 0, (positive + 1) / (positive + 2), 1 / (negative + 2))
    loss = lambda v: np.mean(np.logaddexp(0, v[0] * d + v[1]) - target * (v[0] * d + v[1]))  # noqa: E731
    slope, offset = optimize.minimize(loss, [1.0, 0.0], method="BFGS", options={"gtol": 1e-8}).x
    scaling = svm.platt_scaling(d.astype(np.float32), y)
    np.testing.assert_allclose(scaling.slope, slope, rtol=1e-3)
    np.testing.assert_allclose(scaling.offset, offset, rtol=1e-2)
