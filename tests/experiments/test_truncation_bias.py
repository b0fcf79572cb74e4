"""The problem on which taking a cut for an end is measured, and that the measurement sees it."""

import numpy as np
import pytest

from experiments import truncation_bias
from mathai.rl import mdp


def test_patience_pays_and_the_time_limit_hides_it():
    """Exact returns from the start: γ⁴/(1 − γ) of patience, 0.6/(1 − γ) of returning; in six steps γ⁴ + γ⁵ and less."""
    problem, discount = truncation_bias.make_problem(), truncation_bias.DISCOUNT
    best = mdp.policy_iteration(problem).value
    np.testing.assert_allclose(best, discount ** np.arange(4, -1, -1.0) / (1 - discount), rtol=1e-4)
    np.testing.assert_allclose(truncation_bias.impatient(problem), 0.6 / (1 - discount), rtol=1e-4)
    in_six_steps = discount ** np.arange(6.0)
    assert 0.6 * in_six_steps.sum() > in_six_steps[4:].sum()


@pytest.mark.slow
@pytest.mark.parametrize("name", truncation_bias.LEARNERS)
def test_learners_that_bootstrap_are_right_and_the_others_are_not(name):
    best = np.mean(mdp.policy_iteration(truncation_bias.make_problem()).value)
    right = np.asarray(truncation_bias.measure(name, 4, True))
    wrong = np.asarray(truncation_bias.measure(name, 4, False))
    np.testing.assert_allclose(right, best, rtol=1e-4)
    assert np.mean(wrong) < best - 0.1
