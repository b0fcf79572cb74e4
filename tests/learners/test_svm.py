"""The dual of every machine, round by round, against libsvm, `mathai.kernel.svm` and float64."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import datasets
from sklearn.svm import SVC

from mathai.kernel import svm as machines
from mathai.kernel.kernels import linear, polynomial, rbf
from mathai.learners import svm
from mathai.learners.base import train
from mathai.learners.batches import Examples

NUM_EXAMPLES, NUM_ROUNDS, BLOCK = 80, 60, 16
TOLERANCE = 1e-3
KERNELS = {
    "linear": (linear, {"kernel": "linear"}),
    "polynomial": (
        functools.partial(polynomial, degree=2, c=1.0, gamma=0.05),
        {"kernel": "poly", "degree": 2, "coef0": 1.0, "gamma": 0.05},
    ),
    "rbf": (functools.partial(rbf, gamma=0.05), {"kernel": "rbf", "gamma": 0.05}),
}
CONFIG = svm.Config(gamma=0.05, degree=2, C=2.0, tolerance=TOLERANCE, block=BLOCK)
CASES = [
    *itertools.product(KERNELS, svm.STRATEGIES, [3]),
    *itertools.product(["rbf"], svm.STRATEGIES, [2]),
]


@functools.cache
def digits(num_classes):
    """Digits that look alike as vectors of 0 to 1: to learn from, and to decide."""
    X, y = datasets.load_digits(return_X_y=True)
    chosen = np.random.default_rng(0).permutation(np.flatnonzero(np.isin(y, [8, 3, 5][:num_classes])))
    X, y = (X[chosen] / 16).astype(np.float32), np.unique(y[chosen], return_inverse=True)[1].astype(np.int32)
    return Examples(X[:NUM_EXAMPLES], y[:NUM_EXAMPLES]), Examples(X[NUM_EXAMPLES:230], y[NUM_EXAMPLES:230])


@functools.partial(jax.jit, static_argnames=("num_classes", "num_rounds"))
def improve(config, batch, test, num_classes, num_rounds):
    """States and metrics after every round, and the evaluation of each."""
    learner = svm.make(config, len(batch.labels), num_classes)

    def update(state, _):
        state, metrics = learner.update(state, batch)
        return state, (state, metrics, learner.evaluate(jax.random.key(0), state, (batch, test)))

    return jax.lax.scan(update, learner.init(jax.random.key(0)), length=num_rounds)[1]


@functools.cache
def improved(kernel, strategy, num_classes):
    config = dataclasses.replace(CONFIG, kernel=kernel, strategy=strategy)
    return jax.tree.map(np.asarray, improve(config, *digits(num_classes), num_classes, NUM_ROUNDS))


def problems_of(labels, strategy, num_classes):
    """The signs of each machine, 0 for who takes no part."""
    if strategy == "one_vs_rest" and num_classes > 2:
        return [np.where(labels == c, 1, -1) for c in range(num_classes)]
    pairs = itertools.combinations(range(num_classes), 2)
    return [np.where(labels == a, 1, np.where(labels == b, -1, 0)) for a, b in pairs]


def matrix(kernel, X, Z):
    X, Z = X.astype(np.float64), Z.astype(np.float64)
    if kernel == "rbf":
        return np.exp(-0.05 * ((X[:, None] - Z[None]) ** 2).sum(-1))
    return X @ Z.T if kernel == "linear" else (0.05 * X @ Z.T + 1) ** 2


def dual_of(beta, K, sign):
    return beta @ sign - 0.5 * beta @ K @ beta


def gap_of(beta, K, sign):
    f, C = K @ beta - sign, CONFIG.C
    grows, shrinks = beta < np.where(sign > 0, C, 0), beta > np.where(sign < 0, -C, 0)
    return f[shrinks].max() - f[grows].min()


def libsvm(kernel, strategy, num_classes, X):
    """The dual objective and the decisions of each machine."""
    batch, _ = digits(num_classes)
    optima, decisions = [], []
    for sign in problems_of(batch.labels, strategy, num_classes):
        inside = np.flatnonzero(sign)
        peer = SVC(C=CONFIG.C, tol=1e-10, **KERNELS[kernel][1]).fit(batch.inputs[inside], sign[inside])
        beta = np.zeros(NUM_EXAMPLES)
        beta[inside[peer.support_]] = peer.dual_coef_[0]
        optima.append(dual_of(beta, matrix(kernel, batch.inputs, batch.inputs), sign))
        decisions.append(peer.decision_function(X))
    return np.array(optima), np.stack(decisions, 1)


# The solution


@pytest.mark.parametrize(("kernel", "strategy", "num_classes"), CASES)
def test_it_ends_at_the_optimum_of_libsvm(kernel, strategy, num_classes):
    states, metrics, _ = improved(kernel, strategy, num_classes)
    batch, _ = digits(num_classes)
    assert metrics["converged"][-1] == 1
    K = matrix(kernel, batch.inputs, batch.inputs)
    optima, _ = libsvm(kernel, strategy, num_classes, batch.inputs)
    signs = problems_of(batch.labels, strategy, num_classes)
    assert states.beta.shape == (NUM_ROUNDS, len(signs), NUM_EXAMPLES)
    for beta, sign, optimum in zip(states.beta[-1].astype(np.float64), signs, optima, strict=True):
        np.testing.assert_allclose(dual_of(beta, K, sign), optimum, rtol=1e-5)
        assert gap_of(beta, K, sign) <= 2 * TOLERANCE
        assert (beta * sign).min() >= 0
        assert np.abs(beta).max() <= CONFIG.C
        np.testing.assert_array_equal(beta[sign == 0], 0)
        np.testing.assert_allclose(beta.sum(), 0, atol=1e-4)
    np.testing.assert_allclose(metrics["objective"][-1], optima.sum(), rtol=1e-5)


@pytest.mark.parametrize(("kernel", "strategy", "num_classes"), CASES)
def test_it_scores_what_libsvm_scores(kernel, strategy, num_classes):
    """But for who is within ten tolerances of a border."""
    _, _, evaluations = improved(kernel, strategy, num_classes)
    _, test = digits(num_classes)
    _, decision = libsvm(kernel, strategy, num_classes, test.inputs)
    if strategy == "one_vs_rest" and num_classes > 2:
        label, clear = decision.argmax(1), np.diff(np.sort(decision, 1), axis=1)[:, -1]
    else:
        pairs = itertools.combinations(range(num_classes), 2)
        votes = [np.where(d > 0, a, b) for (a, b), d in zip(pairs, decision.T, strict=True)]
        label = np.array([np.bincount(row).argmax() for row in np.stack(votes, 1)])
        clear = np.abs(decision).min(1)
    share = (label == test.labels).mean()
    undecided = (clear < 10 * TOLERANCE).mean()
    assert undecided < 0.1
    assert share > 0.5
    assert abs(evaluations["accuracy"][-1] - share) <= undecided + 1e-6


@pytest.mark.parametrize(("kernel", "strategy", "num_classes"), CASES)
def test_it_ends_where_the_whole_solver_does(kernel, strategy, num_classes):
    """Decisions are within ten tolerances of the optimum in both."""
    states, _, evaluations = improved(kernel, strategy, num_classes)
    batch, test = digits(num_classes)
    model = machines.fit(batch.inputs, batch.labels, kernel=KERNELS[kernel][0], C=CONFIG.C, strategy=strategy)
    K = matrix(kernel, batch.inputs, batch.inputs)
    for machine, sign in enumerate(problems_of(batch.labels, strategy, num_classes)):
        beta, other = (np.asarray(x, np.float64) for x in (states.beta[-1, machine], model.weights[machine]))
        np.testing.assert_allclose(K @ (beta - other), np.mean(K @ (beta - other)), atol=20 * TOLERANCE)
        np.testing.assert_allclose(dual_of(beta, K, sign), dual_of(other, K, sign), rtol=2e-5)
    label = machines.predict(model, test.inputs)
    assert abs(evaluations["accuracy"][-1] - np.mean(label == test.labels)) <= 0.02


# Rounds


@pytest.mark.parametrize(("kernel", "strategy", "num_classes"), CASES)
def test_the_objective_never_falls(kernel, strategy, num_classes):
    """Nor does the dual of β in float64, but for what float32 loses."""
    states, metrics, _ = improved(kernel, strategy, num_classes)
    batch, _ = digits(num_classes)
    K, signs = matrix(kernel, batch.inputs, batch.inputs), problems_of(batch.labels, strategy, num_classes)
    exact = np.array([sum(map(dual_of, beta, itertools.repeat(K), signs)) for beta in states.beta.astype(np.float64)])
    lost = 64 * np.finfo(np.float32).eps * exact[-1]
    assert np.all(np.diff(exact) >= -lost)
    np.testing.assert_allclose(metrics["objective"], exact, rtol=1e-5)
    assert exact[0] > 0
    assert exact[0] < 0.9 * exact[-1]


@pytest.mark.parametrize(("kernel", "strategy", "num_classes"), CASES)
def test_evaluation_proves_the_gap_anew(kernel, strategy, num_classes):
    states, metrics, evaluations = improved(kernel, strategy, num_classes)
    batch, _ = digits(num_classes)
    K, signs = matrix(kernel, batch.inputs, batch.inputs), problems_of(batch.labels, strategy, num_classes)
    rounding = 64 * np.finfo(np.float32).eps
    for betas, found in zip(states.beta[::5].astype(np.float64), evaluations["gap"][::5], strict=True):
        gap = max(gap_of(beta, K, sign) for beta, sign in zip(betas, signs, strict=True))
        sizes = 1 + np.abs(betas) @ np.abs(K)
        np.testing.assert_allclose(found, gap, atol=rounding * sizes.max())
    assert metrics["gap"][0] == 2  # of f = −y
    np.testing.assert_allclose(metrics["gap"][1:20], evaluations["gap"][:19], rtol=1e-3, atol=1e-3)


def test_gradients_that_have_drifted_do_not_deceive_evaluation():
    states, _, evaluations = improved("rbf", "one_vs_one", 3)
    batch, test = digits(3)
    state = svm.State(*(x[3] for x in states))
    learner = svm.make(CONFIG, NUM_EXAMPLES, 3)
    drifted = state._replace(gradient=np.zeros_like(state.gradient))
    found = jax.jit(learner.evaluate)(jax.random.key(0), drifted, (batch, test))
    np.testing.assert_allclose(found["gap"], evaluations["gap"][3], rtol=1e-5)
    np.testing.assert_allclose(found["accuracy"], evaluations["accuracy"][3], rtol=1e-6)


@pytest.mark.parametrize(("kernel", "strategy", "num_classes"), CASES)
def test_a_machine_that_is_solved_no_longer_changes(kernel, strategy, num_classes):
    """While others go on: to the bit."""
    states, metrics, _ = improved(kernel, strategy, num_classes)
    ends = []
    for machine in range(states.beta.shape[1]):
        iterations = states.iterations[:, machine]
        last = int(np.flatnonzero(iterations == iterations[-1])[0])
        ends.append(last)
        for x in states:
            np.testing.assert_array_equal(x[last:, machine], np.broadcast_to(x[last, machine], x[last:, machine].shape))
    assert max(ends) < NUM_ROUNDS - 1
    # the share is of those that were solved before the round
    solved = np.mean(np.array(ends)[:, None] < np.arange(NUM_ROUNDS)[None], axis=0)
    np.testing.assert_allclose(metrics["converged"], solved, rtol=1e-6)
    if len(ends) > 1:
        assert min(ends) < max(ends)


def test_a_round_changes_no_more_examples_than_its_block():
    states, _, _ = improved("rbf", "one_vs_rest", 3)
    changed = np.sum(np.diff(states.beta, axis=0, prepend=0) != 0, axis=2)
    assert changed.max() <= BLOCK
    assert changed.max() > BLOCK // 2


@pytest.mark.parametrize("round_of_pause", [0, 1, 7])
def test_an_interrupted_run_goes_on_to_the_bit(round_of_pause):
    """A state that went through memory."""
    batch, _ = digits(3)
    learner = svm.make(CONFIG, NUM_EXAMPLES, 3)
    update = jax.jit(learner.update)
    state, whole = learner.init(jax.random.key(0)), []
    for _ in range(12):
        state, _ = update(state, batch)
        whole.append(jax.tree.map(np.asarray, state))
    resumed = learner.init(jax.random.key(1)) if round_of_pause == 0 else whole[round_of_pause - 1]
    resumed = jax.tree.map(lambda x: jnp.asarray(np.array(x)), resumed)
    for expected in whole[round_of_pause:]:
        resumed, _ = update(resumed, batch)
        jax.tree.map(np.testing.assert_array_equal, resumed, expected)


# Metrics


def test_metrics_have_their_names_and_are_finite_numbers():
    batch, test = digits(3)
    learner = svm.make(CONFIG, NUM_EXAMPLES, 3)
    state, metrics = jax.jit(learner.update)(learner.init(jax.random.key(0)), batch)
    evaluation = jax.jit(learner.evaluate)(jax.random.key(0), state, (batch, test))
    assert set(metrics) == {"gap", "converged", "objective", "support_vectors", "iterations"}
    assert set(evaluation) == {"accuracy", "gap"}
    assert all(x.shape == () for x in (*metrics.values(), *evaluation.values()))
    for name in ("support_vectors", "iterations"):
        assert jnp.issubdtype(metrics[name].dtype, jnp.integer)
    for case in CASES:
        _, metrics, evaluations = improved(*case)
        assert all(np.isfinite(x).all() for x in (*metrics.values(), *evaluations.values()))
        assert metrics["gap"].min() >= 0


@pytest.mark.parametrize(("kernel", "strategy", "num_classes"), CASES)
def test_support_vectors_and_pairs_are_counted(kernel, strategy, num_classes):
    states, metrics, _ = improved(kernel, strategy, num_classes)
    np.testing.assert_array_equal(metrics["support_vectors"], (states.beta != 0).any(1).sum(1))
    np.testing.assert_array_equal(metrics["iterations"], states.iterations.sum(1))
    assert np.all(np.diff(states.iterations, axis=0) >= 0)


def test_a_first_round_by_hand():
    """x = 0, 1 and 4, 5 in one block: one pair gives the margin between 1 and 4, w = ⅔, D = ½w² = 2/9.

    Before it, no machine is solved and the gap is 2; after it, the border is in the middle: all are right.
    """
    batch = Examples(np.array([[0.0], [1.0], [4.0], [5.0]], np.float32), np.array([0, 0, 1, 1]))
    config = svm.Config(kernel="linear", C=10.0, tolerance=1e-4, block=4)
    states, metrics, evaluations = improve(config, batch, batch, 2, 8)
    np.testing.assert_array_equal(metrics["gap"][0], 2)
    np.testing.assert_array_equal(metrics["converged"][jnp.array([0, -1])], [0, 1])
    np.testing.assert_allclose(states.beta[-1], [[0, 2 / 9, -2 / 9, 0]], atol=1e-4)
    np.testing.assert_allclose(metrics["objective"][-1], 2 / 9, rtol=1e-4)
    assert metrics["support_vectors"][-1] == 2
    assert evaluations["accuracy"][-1] == 1


# The contract of learners


def test_evaluation_needs_no_key_and_never_changes_the_state():
    batch, test = digits(3)
    learner = svm.make(CONFIG, NUM_EXAMPLES, 3)
    state = svm.State(*(jnp.asarray(x[5]) for x in improved("rbf", "one_vs_one", 3)[0]))
    before, evaluate = jax.tree.map(np.array, state), jax.jit(learner.evaluate)
    first = evaluate(jax.random.key(0), state, (batch, test))
    assert first == evaluate(jax.random.PRNGKey(7), state, (batch, test))
    jax.tree.map(np.testing.assert_array_equal, state, before)


def test_the_state_keeps_its_shapes_and_types():
    batch, _ = digits(3)
    for strategy in svm.STRATEGIES:
        learner = svm.make(dataclasses.replace(CONFIG, strategy=strategy), NUM_EXAMPLES, 3)
        start = jax.eval_shape(learner.init, jax.random.key(0))
        assert jax.eval_shape(learner.update, start, batch)[0] == start


def test_train_makes_the_rounds():
    batch = jax.tree.map(jnp.asarray, digits(3)[0])
    learner = svm.make(CONFIG, NUM_EXAMPLES, 3)
    state, metrics = train(learner, jax.random.key(0), lambda step: batch, 4)
    states, expected, _ = improved("rbf", "one_vs_one", 3)
    np.testing.assert_allclose(state.beta, states.beta[3], atol=1e-5)
    np.testing.assert_array_equal(metrics["iterations"], expected["iterations"][:4])


def test_prices_and_widths_in_a_batch_compile_once_and_give_what_each_gives_alone():
    """The optimum of libsvm for each."""
    batch, test = digits(2)
    pairs = [(0.5, 0.05), (4.0, 0.02)]
    configs = dataclasses.replace(CONFIG, C=jnp.array([C for C, _ in pairs]), gamma=jnp.array([g for _, g in pairs]))
    axes = jax.tree.map(lambda x: 0 if jnp.ndim(x) else None, configs)
    together = jax.vmap(lambda config: improve(config, batch, test, 2, NUM_ROUNDS), in_axes=(axes,))
    _, metrics, _ = together(configs)
    np.testing.assert_array_equal(metrics["converged"][:, -1], 1)
    for i, (C, gamma) in enumerate(pairs):
        sign = np.where(batch.labels == 0, 1, -1)
        peer = SVC(C=C, gamma=gamma, tol=1e-10).fit(batch.inputs, sign)
        beta = np.zeros(NUM_EXAMPLES)
        beta[peer.support_] = peer.dual_coef_[0]
        squares = ((batch.inputs[:, None].astype(float) - batch.inputs[None]) ** 2).sum(-1)
        np.testing.assert_allclose(
            metrics["objective"][i, -1], dual_of(beta, np.exp(-gamma * squares), sign), rtol=1e-5
        )


def test_two_classes_are_one_machine_in_both_strategies():
    states, other = (improved("rbf", strategy, 2)[0] for strategy in svm.STRATEGIES)
    assert states.beta.shape[1] == 1
    jax.tree.map(np.testing.assert_array_equal, states, other)


# Inputs


def test_bytes_are_pixels_from_0_to_1():
    """Images of 8 × 8 bytes, v / 255."""
    batch, test = digits(2)
    images = [np.round(data.inputs.reshape(-1, 8, 8) * 255).astype(np.uint8) for data in (batch, test)]
    as_bytes = [Examples(x, data.labels) for x, data in zip(images, (batch, test), strict=True)]
    as_floats = [data._replace(inputs=(data.inputs.reshape(-1, 64) / np.float32(255))) for data in as_bytes]
    config = dataclasses.replace(CONFIG, C=1.0)
    (states, _, evaluations), (other, _, expected) = (improve(config, *data, 2, 20) for data in (as_bytes, as_floats))
    np.testing.assert_allclose(states.beta[0], other.beta[0], atol=1e-5)
    np.testing.assert_allclose(evaluations["gap"][:5], expected["gap"][:5], atol=1e-4)
    assert evaluations["accuracy"][-1] == expected["accuracy"][-1]


@pytest.mark.parametrize("num_examples", [7, 40])
@pytest.mark.parametrize("block", [41, 256])
def test_a_block_may_be_larger_than_the_examples(num_examples, block):
    """Then one round is nearly all."""
    batch, test = digits(2)
    few = Examples(batch.inputs[:num_examples], batch.labels[:num_examples])
    assert set(few.labels.tolist()) == {0, 1}
    states, metrics, _ = improve(dataclasses.replace(CONFIG, block=block), few, test, 2, 12)
    assert states.kept.shape == (12, 1, num_examples // 2)
    assert metrics["converged"][-1] == 1
    sign = np.where(few.labels == 0, 1, -1)
    peer = SVC(C=CONFIG.C, gamma=0.05, tol=1e-10).fit(few.inputs, sign)
    beta = np.zeros(num_examples)
    beta[peer.support_] = peer.dual_coef_[0]
    np.testing.assert_allclose(
        metrics["objective"][-1], dual_of(beta, matrix("rbf", few.inputs, few.inputs), sign), rtol=1e-5
    )


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel": "laplace"}, "kernel 'laplace' is unknown; use one of linear, polynomial, rbf"),
        ({"strategy": "all"}, "strategy 'all' is unknown; use one of one_vs_one, one_vs_rest"),
        ({"gamma": -0.1}, "gamma is -0.1; it must lie between 0"),
        ({"constant": -1.0}, "constant is -1.0"),
        ({"C": -1.0}, "C is -1.0"),
        ({"C": np.nan}, "C is nan"),
        ({"tolerance": -1e-3}, "tolerance is -0.001"),
        ({"degree": 0}, "degree is 0; it must be at least 1"),
        ({"num_updates": 0}, "num_updates is 0; it must be at least 1"),
        ({"block": 1}, "block is 1 of 80 examples; it must be at least 4"),
        ({"block": 0}, "block is 0 of 80"),
    ],
)
def test_a_config_that_is_none_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        svm.make(dataclasses.replace(CONFIG, **changes), NUM_EXAMPLES, 3)


@pytest.mark.parametrize(
    ("num_examples", "num_classes", "message"),
    [(80, 1, "num_classes is 1; there must be at least 2"), (1, 2, "block is 16 of 1 examples")],
)
def test_too_few_classes_or_examples_are_refused(num_examples, num_classes, message):
    with pytest.raises(ValueError, match=message):
        svm.make(CONFIG, num_examples, num_classes)


def test_the_smallest_block_makes_progress():
    """x = 0, 1 and 4, 5: w = ⅔, D = 2/9."""
    batch = Examples(np.array([[0.0], [1.0], [4.0], [5.0]], np.float32), np.array([0, 0, 1, 1]))
    learner = svm.make(svm.Config(kernel="linear", C=10.0, block=4), 4, 2)
    _, metrics = jax.jit(lambda: train(learner, jax.random.key(0), lambda _: batch, 100))()
    np.testing.assert_allclose(metrics["objective"][-1], 2 / 9, rtol=1e-3)
    assert metrics["converged"][-1] == 1


def test_a_machine_without_two_classes_is_not_called_solved():
    batch = Examples(np.array([[0.0], [1.0]], np.float32), np.array([0, 0]))
    learner = svm.make(svm.Config(kernel="linear", block=4), 2, 2)
    state, metrics = jax.jit(learner.update)(learner.init(jax.random.key(0)), batch)
    assert (metrics["converged"], metrics["gap"]) == (0, np.inf)
    assert learner.evaluate(jax.random.key(0), state, (batch, batch))["gap"] == np.inf


def test_a_price_of_0_is_refused():
    with pytest.raises(ValueError, match="C is 0; a price of slack above 0 is needed"):
        svm.make(svm.Config(C=0.0), 10, 2)
