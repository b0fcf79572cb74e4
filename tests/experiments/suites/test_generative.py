"""The suite `generative`: every network with both samplers, and a score that sees what is not finite."""

import jax.numpy as jnp

from experiments.suites import generative


def test_every_network_is_sampled_in_both_ways():
    cases = list(generative.cases(with_peers=True))
    assert [case.name.rpartition(", ")[2] for case in cases] == ["ddim 50", "heun 25"] * 2
    for case in cases:
        (contestant,) = case.contestants
        assert (contestant.name, case.unit, case.work) == ("mathai", "images", 100)
        assert contestant.score(jnp.zeros(3)) == 1
        assert contestant.score(jnp.array([1.0, jnp.nan])) < case.least_score
