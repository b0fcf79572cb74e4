"""The suite `attention`: its score tells right from wrong, and ours and the peer's are right."""

import jax
import pytest

from experiments.suites import attention


@pytest.fixture(scope="module")
def cases(tiny):
    return list(attention.cases(tiny(with_peers=True)))


def test_ours_and_the_peers_have_the_digits_of_float32(cases):
    assert [case.name for case in cases] == ["64 tokens", "64 tokens, gradient"]
    for case in cases:
        assert [contestant.name for contestant in case.contestants[:2]] == ["mathai", "jax.nn"]
        for contestant in case.contestants[:2]:
            assert 5 < contestant.score(jax.jit(contestant.program)(*case.arguments)) < 9


def test_attention_that_sees_later_keys_is_wrong(cases):
    case = cases[0]
    result = jax.nn.dot_product_attention(*case.arguments)
    assert case.contestants[0].score(result) < 2


def test_work_is_that_of_the_causal_half_and_of_arrays_read_and_written_once(cases):
    forward, gradient = cases
    assert forward.flops == 2 * 64 * 64 * 8 * 64  # QKᵀ and PV, of half the pairs each
    assert forward.bytes == 4 * 64 * 8 * 64 * 4  # q, k, v and the output in float32
    assert gradient.bytes == 8 * 64 * 8 * 64 * 4  # their four cotangents too
    assert (gradient.family, gradient.variable, gradient.size) == ("causal attention, gradient", "tokens", 64)


def test_half_precision_has_few_digits_and_is_right(tiny):
    case = next(attention.cases(tiny(dtype="bfloat16")))
    ours = case.contestants[0]
    assert case.least_score < ours.score(jax.jit(ours.program)(*case.arguments)) < 4
