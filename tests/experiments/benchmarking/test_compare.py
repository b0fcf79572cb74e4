"""Two benchmarks: what became slower beyond the noise, and what cannot be told."""

import json

import pytest

from experiments.benchmarking import compare
from experiments.errors import UserError

PEAKS = {"flops_per_second": 1e11, "bytes_per_second": 1e10}


def row(seconds, **changes):
    made = {
        "kind": "measurement",
        "suite": "nn",
        "case": "tanh",
        "contestant": "mathai",
        "dtype": "float32",
        "size": 8,
        "work": 8,
    }
    made |= {"is_ours": True, "seconds": seconds, "peaks": PEAKS, "host": {"processor": "one", "cores": 2}}
    return made | {"device": {"platform": "cpu", "kind": "cpu", "count": 1}} | changes


BEFORE = row([1.0, 1.1, 0.9])


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        ([1.0, 1.1, 0.9], "equal"),
        ([1.05, 1.08, 1.06], "equal"),  # beyond the quartiles, but by less than a tenth
        ([0.8, 1.3, 1.2], "equal"),  # by more than a tenth, but quartiles meet
        ([1.3, 1.4, 1.2], "slower"),
        ([0.7, 0.75, 0.8], "faster"),
        ([], "wrong"),
    ],
)
def test_slower_is_by_more_than_a_tenth_with_quartiles_apart(after, verdict):
    (found,) = compare.compare([BEFORE], [row(after)])
    assert (found["case"], found["verdict"]) == ("nn: tanh", verdict)


@pytest.mark.parametrize(
    "changes",
    [
        {"device": {"platform": "gpu", "kind": "H", "count": 1}},
        {"host": {"processor": "other", "cores": 2}},
    ],
    ids=["device", "host"],
)
def test_times_of_another_machine_have_no_verdict(changes):
    (found,) = compare.compare([BEFORE], [row([9.0], **changes)])
    assert found["verdict"] == "other device"


def test_on_a_cpu_the_number_of_devices_is_a_programs_own_choice():
    device = {"platform": "cpu", "kind": "cpu", "count": 2}
    assert compare.compare([BEFORE], [row([1.0], device=device)])[0]["verdict"] == "equal"


def test_a_machine_that_became_slower_may_take_longer_by_as_much():
    slowed = {"peaks": PEAKS | {"bytes_per_second": 0.8e10}}
    bound = {"copy_fraction": 0.5, "gemm_fraction": 0.1}
    assert compare.compare([BEFORE], [row([1.3, 1.3, 1.3], **slowed, **bound)])[0]["verdict"] == "equal"
    assert compare.compare([BEFORE], [row([1.5, 1.5, 1.5], **slowed, **bound)])[0]["verdict"] == "slower"
    assert compare.compare([BEFORE], [row([1.3, 1.3, 1.3], **slowed)])[0]["verdict"] == "slower"  # not bound by copies


def test_what_is_allowed_for_a_slower_machine_has_an_end():
    slowed = {"peaks": PEAKS | {"flops_per_second": 1e10}}
    assert compare.compare([BEFORE], [row([1.4, 1.4, 1.4], **slowed)])[0]["verdict"] == "equal"
    assert compare.compare([BEFORE], [row([1.5, 1.5, 1.5], **slowed)])[0]["verdict"] == "slower"


def test_other_work_of_the_same_name_is_another_case():
    with pytest.raises(UserError, match="no case in common"):
        compare.report([BEFORE], [row([1.0], work=40)])


def test_only_ours_is_compared_and_of_several_rows_the_last():
    peer = row([1.0], contestant="jax.nn", is_ours=False)
    assert len(compare.compare([BEFORE, peer], [row([9.0]), row([1.0]), peer])) == 1
    assert compare.compare([BEFORE], [row([9.0]), row([1.0])])[0]["verdict"] == "equal"


def test_the_report_tells_what_is_slower_and_fails(capsys):
    assert compare.report([BEFORE], [row([2.0, 2.0, 2.0])])
    printed = capsys.readouterr().out
    assert "1.00 s     2.00 s        2.00  slower" in printed
    assert "1 slower or wrong: nn: tanh" in printed
    assert not compare.report([BEFORE], [BEFORE])


def test_nothing_in_common_is_an_error():
    with pytest.raises(UserError, match="no case in common"):
        compare.report([BEFORE], [row([1.0], size=9)])


@pytest.mark.parametrize(
    ("content", "message"),
    [("no json", "cannot be read"), ('{"kind": "scaling"}', "no measurement"), ("[1]", "cannot be read")],
)
def test_a_file_that_is_no_benchmark_is_refused(tmp_path, content, message):
    path = tmp_path / "results.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        compare.read(str(path))
    with pytest.raises(UserError, match="cannot be read"):
        compare.read(str(tmp_path / "none"))
    path.write_text(json.dumps(BEFORE))
    assert compare.read(str(path)) == [BEFORE]
