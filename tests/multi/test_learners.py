"""One update of every learner on a mesh of 2 × 2 devices agrees with one device."""

import re

import pytest

from tests.multi.every_learner import LEARNERS
from tests.multi.processes import on_devices

pytestmark = pytest.mark.multi
TOLERANCE = 1e-4
# A head is a problem that is solved to such a tolerance; so are those fitted for the scores, where one example of 360
# that two classes are close to counts as much.
LOOSER = {("svm_head", "state"): 1e-3, ("svm_head", "metrics"): 1e-3, ("svm_head", "scores"): 0.05}
# Biases whose gradient is 0 but for rounding, of which Adam makes whole steps: a batch norm takes the mean away, a loss
# of distances sees differences alone, a hinge between classes sees what they do not share.
WITHOUT_GRADIENT = {
    "classifier": r"\.params.*Linear_[01].*bias",
    "svm_head": r"\.params.*bias",
    "parametric_tsne": r"\.params.*Linear_2.*bias",
    "parametric_umap": r"\.params.*Linear_2.*bias",
}
SHARDED = ["classifier", "language_model", "vae", "gan", "diffusion", "ppo", "pqn"]


@pytest.fixture(scope="module")
def on_a_mesh():
    return on_devices(4, "tests.multi.every_learner:compared", "data:2,model:2", False, [], timeout=1800)


@pytest.fixture(scope="module")
def sharded():
    return on_devices(4, "tests.multi.every_learner:compared", "data:2,model:2", True, SHARDED, timeout=1800)


@pytest.fixture(scope="module")
def over_sequences():
    mesh = "data:2,sequence:2,model:2"
    return on_devices(8, "tests.multi.every_learner:compared", mesh, False, ["language_model"], timeout=900)


def assert_agrees(name, found):
    allowed = WITHOUT_GRADIENT.get(name)
    state = {path: e for path, e in found["state"].items() if not (allowed and re.search(allowed, path))}
    for what, errors in (("state", state), ("metrics", found["metrics"]), ("scores", found["scores"])):
        assert errors, what
        wrong = {path: error for path, error in errors.items() if not error < LOOSER.get((name, what), TOLERANCE)}
        assert not wrong, f"{name}: {what} {wrong}"


@pytest.mark.parametrize("name", LEARNERS)
def test_an_update_on_a_mesh_agrees_with_one_device(name, on_a_mesh):
    assert_agrees(name, on_a_mesh[name])


@pytest.mark.parametrize("name", SHARDED)
def test_an_update_with_sharded_parameters_agrees_with_one_device(name, sharded):
    assert_agrees(name, sharded[name])


def test_a_transformer_is_cut_by_heads_and_hidden_units(on_a_mesh):
    over = on_a_mesh["language_model"]["over"]
    attention = [path for path in over if re.search(r"\['(query|key|value|output)'\]$", path)]
    hidden = [path for path in over if re.search(r"Linear_[01]'\]\['weight'\]$", path)]
    # Of two blocks: parameters, and the two moments of Adam.
    assert (len(attention), len(hidden)) == (3 * 2 * 4, 3 * 2 * 2)
    assert {tuple(over[path]) for path in attention + hidden} == {("model",)}


def test_windows_of_tokens_spread_over_devices_agree_with_one_device(over_sequences):
    assert_agrees("language_model", over_sequences["language_model"])


def test_an_update_on_long_windows_takes_less_of_each_device_the_more_there_are():
    one, two, four, eight = on_devices(8, "tests.multi.every_learner:bytes_of_long_windows", [1, 2, 4, 8], timeout=900)
    assert two < 0.6 * one
    assert four < 0.65 * two
    assert eight < 0.7 * four  # blocks of scores are of one size


def test_environments_lie_over_data(on_a_mesh):
    over = on_a_mesh["ppo"]["over"]
    assert over[".observation"] == over[".env_state.x"] == over[".episodes.running_return"] == ["data"]
    assert ".env_steps" not in over


@pytest.mark.parametrize("name", ["language_model", "diffusion"])
def test_sharded_parameters_take_less_of_each_device(name, on_a_mesh, sharded):
    """Over `model` a half of what is cut, over `data` as well a quarter; what is small is whole on each."""
    assert 0.5 < on_a_mesh[name]["share"] < 0.75
    assert 0.25 < sharded[name]["share"] < on_a_mesh[name]["share"] - 0.05
