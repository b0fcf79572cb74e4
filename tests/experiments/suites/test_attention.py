"""The suite `attention`: its score tells right from wrong, and ours and the peer's are right."""

import jax
import pytest

from experiments.suites import attention


@pytest.fixture(scope="module")
def cases():
    return [case for case, _ in zip(attention.cases(with_peers=True), range(2), strict=False)]


def test_ours_and_the_peers_have_the_digits_of_float32(cases):
    assert [case.name for case in cases] == ["256 tokens", "256 tokens, gradient"]
    for case in cases:
        assert [contestant.name for contestant in case.contestants] == ["mathai", "jax.nn"]
        for contestant in case.contestants:
            assert 5 < contestant.score(jax.jit(contestant.program)(*case.arguments)) < 9


def test_attention_that_sees_later_keys_is_wrong(cases):
    case = cases[0]
    result = jax.nn.dot_product_attention(*case.arguments)
    assert case.contestants[0].score(result) < 2
