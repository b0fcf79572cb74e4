"""Support vector machines beside LIBSVM as scikit-learn calls it: grids of widths, prices and folds, and single fits.

Grids are of the data sets that scikit-learn bundles, standardized (digits: divided by 16). Single fits are of
`make_classification(n, 20, n_informative=10, flip_y=0.05)` with γ = 1/20 and C = 1. Ours compiles at its first call,
which is reported apart; the peer has both cores in a grid, and one in a fit, since LIBSVM has no more. Operations are
those of the products that all kernels are made of, once, a lower bound: how many steps a solver makes is its own
affair.
"""

import functools
from collections.abc import Iterator

import jax
import numpy as np
from sklearn import datasets
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from experiments.configuration import num_cores
from experiments.suites.base import Case, Contestant
from experiments.suites.options import Options
from mathai.kernel import svm
from mathai.kernel._cross_validation import stratified_folds
from mathai.kernel.kernels import rbf

NUM_FOLDS = 5
GRIDS = {  # data set: (least accuracy of the best point, smallest γ, points of a side)
    "iris": (0.95, 1e-3, 5),
    "wine": (0.95, 1e-3, 5),
    "breast_cancer": (0.95, 1e-3, 5),
    "digits": (0.985, 1e-2, 5),
    "digits, fine": (0.985, 1e-2, 10),
}


def cases(options: Options) -> Iterator[Case]:
    """Grids, only the smallest one where there are few examples; then a fit for each number of examples."""
    made = [lambda name=name: _grid(name) for name in (GRIDS if max(options.examples) >= 2000 else ["iris"])]
    made += [lambda number=number: _fit(number) for number in options.examples]
    for make in made:
        case = make()
        yield case if options.with_peers else case._replace(contestants=case.contestants[:1])


def _grid(name: str) -> Case:
    least, smallest, side = GRIDS[name]
    load = getattr(datasets, f"load_{name.split(',')[0]}")
    X, y = load(return_X_y=True)
    X = (X / 16 if name.startswith("digits") else StandardScaler().fit_transform(X)).astype(np.float32)
    gammas, prices = np.geomspace(smallest, 1, side), np.geomspace(0.1, 100, side)
    folds = stratified_folds(jax.random.key(0), y, NUM_FOLDS)

    def ours():
        return np.asarray(svm.cross_validate(X, y, gammas=gammas, Cs=prices, folds=folds))

    def peer():
        search = GridSearchCV(
            SVC(),
            {"C": prices, "gamma": gammas},
            cv=PredefinedSplit(folds),
            n_jobs=num_cores(),
            refit=False,
        )
        return search.fit(X, y).cv_results_["mean_test_score"].reshape(side, side, 1)

    best = lambda accuracies: float(accuracies.mean(-1).max())  # noqa: E731
    return Case(
        f"{name}, {side} x {side} x {NUM_FOLDS}",
        [Contestant("mathai", ours, best, compiles=False), Contestant("scikit-learn", peer, best, compiles=False)],
        side * side * NUM_FOLDS,
        "fits",
        least,
        (),
        flops=2 * len(X) ** 2 * X.shape[1],
    )


def _fit(num_examples: int) -> Case:
    X, y = datasets.make_classification(num_examples, 20, n_informative=10, flip_y=0.05, random_state=0)
    X = X.astype(np.float32)
    kernel, few = functools.partial(rbf, gamma=1 / 20), slice(0, 1000)

    def ours():
        model = jax.block_until_ready(svm.fit(X, y, kernel=kernel, C=1.0))
        return model, bool(model.converged.all())

    def accuracy(result):
        model, converged = result
        predicted = model.predict(X[few]) if isinstance(model, SVC) else np.asarray(svm.predict(model, X[few]))
        return float(np.mean(predicted == y[few])) if converged else 0.0

    return Case(
        f"{num_examples} examples",
        [
            Contestant("mathai", ours, accuracy, compiles=False),
            Contestant("scikit-learn", lambda: (SVC(gamma=1 / 20).fit(X, y), True), accuracy, compiles=False),
        ],
        num_examples,
        "examples",
        0.85,
        (),
        flops=2 * num_examples**2 * X.shape[1],
        family="fit, γ = 1/20, C = 1",
        variable="examples",
        size=num_examples,
    )
