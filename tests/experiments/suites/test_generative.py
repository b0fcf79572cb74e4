"""The suite `generative`: every network with both samplers, and a score that sees whether samples were made."""

import jax
import jax.numpy as jnp
import pytest

from experiments.suites import generative


@pytest.mark.slow
def test_every_network_is_sampled_in_both_ways(tiny):
    cases = list(generative.cases(tiny(with_peers=True, images=(100,))))
    assert [case.name.split(", ")[-2:] for case in cases] == [["ddim 50", "100 images"], ["heun 25", "100 images"]] * 2
    for case in cases:
        (contestant,) = case.contestants
        assert (contestant.name, case.unit, case.work) == ("mathai", "images", 100)
        # the noise as it was, and none at all, are not what the sampler makes of it
        assert contestant.score(jax.random.normal(jax.random.key(0), (100, 64))) < case.least_score
        assert contestant.score(jnp.zeros(3)) < case.least_score


def test_samples_are_right(tiny):
    case = next(generative.cases(tiny(images=(100,))))
    assert case.contestants[0].score(jax.jit(case.contestants[0].program)(jax.random.key(1))) > case.least_score
