"""Which checkpoints are kept, that they come back bit for bit, and that a damaged one is found and replaced."""

import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from experiments.checkpoints import Checkpoints, digest
from experiments.errors import UserError

SCORES = {8: 3.0, 16: None, 24: 9.0, 32: 1.0, 40: None, 48: 2.0}


def state_at(step):
    return {
        "key": jax.random.key(step),
        "raw_key": jax.random.PRNGKey(step),
        "params": {"w": jnp.linspace(0.0, step, 24).reshape(4, 6), "half": jnp.full(3, step, jnp.bfloat16)},
        "flags": jnp.array([True, False]),
        "count": jnp.int32(step),
    }


TARGET = jax.eval_shape(lambda: state_at(0))


def save(workdir, scores=SCORES, *, keep=2, best_mode="max"):
    checkpoints = Checkpoints(workdir, keep=keep, best_mode=best_mode)
    for step, score in scores.items():
        checkpoints.save(step, state_at(step), score)
    checkpoints.close()


@pytest.fixture
def reopen():
    """Open the checkpoints of a workdir; they are closed when the test ends."""
    opened = []

    def open_again(workdir, **options):
        opened.append(Checkpoints(workdir, **({"keep": 2, "best_mode": "max"} | options)))
        return opened[-1]

    yield open_again
    for checkpoints in opened:
        checkpoints.close()


@pytest.fixture
def damage(flip_a_byte):
    """Flip a byte in every data file of a checkpoint's arrays."""

    def spoil(workdir, step):
        data = [path for path in (workdir / "checkpoints" / str(step) / "state").rglob("d/*") if path.is_file()]
        assert data
        for path in data:
            flip_a_byte(path)

    return spoil


@pytest.mark.parametrize(("best_mode", "best"), [("max", 24), ("min", 32)])
def test_the_last_two_and_the_best_are_kept(tmp_path, reopen, best_mode, best):
    save(tmp_path, best_mode=best_mode)
    checkpoints = reopen(tmp_path, best_mode=best_mode)
    assert checkpoints.steps() == [best, 40, 48]
    assert checkpoints.best_step() == best
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [str(best), "40", "48"]


def test_a_best_checkpoint_among_the_last_takes_no_more_room(tmp_path, reopen):
    save(tmp_path, {8: 1.0, 16: 2.0, 24: 3.0, 32: 4.0}, keep=3)
    assert reopen(tmp_path, keep=3).steps() == [16, 24, 32]


def test_without_scores_there_is_no_best(tmp_path, reopen):
    save(tmp_path, {8: None, 16: None, 24: None})
    checkpoints = reopen(tmp_path)
    assert checkpoints.steps() == [16, 24]
    assert checkpoints.best_step() is None


def test_every_bit_comes_back_and_typed_keys_stay_typed(tmp_path, reopen, bits):
    save(tmp_path)
    restored = reopen(tmp_path).restore(48, TARGET)
    assert bits(restored) == bits(state_at(48))
    assert restored["key"].dtype == jax.random.key(0).dtype
    assert jax.random.bits(restored["key"]) == jax.random.bits(jax.random.key(48))


def test_reading_only_changes_nothing(tmp_path, reopen, files):
    save(tmp_path)
    before = files(tmp_path)
    checkpoints = reopen(tmp_path, read_only=True)
    assert checkpoints.steps() == [24, 40, 48]
    checkpoints.restore(40, TARGET)
    checkpoints.close()
    assert files(tmp_path) == before


def test_reading_only_where_nothing_was_saved_finds_nothing(tmp_path, reopen):
    checkpoints = reopen(tmp_path, read_only=True)
    assert (checkpoints.steps(), checkpoints.best_step()) == ([], None)
    assert not (tmp_path / "checkpoints").exists()


def test_nothing_to_restore_is_no_error(tmp_path, reopen):
    assert reopen(tmp_path).restore_last(TARGET, pytest.fail) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state | {"count": jnp.int32(1)},
        lambda state: state | {"count": jnp.float32(0)},
        lambda state: state | {"key": jax.random.key(1)},
        lambda state: state | {"flags": jnp.array([True, True])},
        lambda state: state | {"raw_key": jnp.zeros((2, 1), jnp.uint32)},
        lambda state: state | {"params": state["params"] | {"w": -state["params"]["w"]}},  # 0.0 and −0.0 are equal
    ],
)
def test_the_digest_notices_every_change(change):
    assert digest(change(state_at(0))) != digest(state_at(0)) == digest(state_at(0))


def test_the_digest_is_that_of_the_bytes_wherever_they_lie():
    values = np.arange(12, dtype=ml_dtypes.bfloat16).reshape(3, 4)
    assert digest(values) == digest(jnp.asarray(values)) == digest(np.asfortranarray(values)) != digest(values.T)


def test_a_checkpoint_with_a_changed_byte_is_refused(tmp_path, reopen, damage):
    save(tmp_path)
    damage(tmp_path, 48)
    with pytest.raises(UserError, match=r"checkpoints/48 is corrupt") as caught:
        reopen(tmp_path).restore(48, TARGET)
    assert "\n" not in str(caught.value)


def test_a_state_that_reads_well_and_is_not_what_was_written_is_refused(tmp_path, reopen):
    save(tmp_path)
    here = tmp_path / "checkpoints"
    shutil.rmtree(here / "48" / "state")
    shutil.copytree(here / "40" / "state", here / "48" / "state")
    (here / "48" / "digests.json").unlink()  # as if the run had been killed before it wrote them
    with pytest.raises(UserError, match="digest does not match"):
        reopen(tmp_path).restore(48, TARGET)


def test_a_corrupt_checkpoint_gives_way_to_the_one_before(tmp_path, reopen, damage, bits):
    save(tmp_path)
    damage(tmp_path, 48)
    reports = []
    step, state = reopen(tmp_path).restore_last(TARGET, reports.append)
    assert step == 40
    assert bits(state) == bits(state_at(40))
    (report,) = reports
    assert "checkpoints/48 is corrupt" in report
    assert "falling back" in report
    assert (tmp_path / "checkpoints_corrupt" / "48").is_dir()
    assert not (tmp_path / "checkpoints" / "48").exists()


def test_the_step_of_a_corrupt_checkpoint_can_be_saved_again(tmp_path, reopen, damage, bits):
    save(tmp_path)
    damage(tmp_path, 48)
    checkpoints = reopen(tmp_path)
    checkpoints.restore_last(TARGET, lambda text: None)
    checkpoints.save(48, state_at(48), 2.0)
    checkpoints.close()
    again = reopen(tmp_path)
    assert again.steps() == [24, 40, 48]
    assert bits(again.restore(48, TARGET)) == bits(state_at(48))


def test_two_corrupt_checkpoints_give_way_to_the_best(tmp_path, reopen, damage):
    save(tmp_path)
    damage(tmp_path, 48)
    damage(tmp_path, 40)
    reports = []
    step, _ = reopen(tmp_path).restore_last(TARGET, reports.append)
    assert (step, len(reports)) == (24, 2)


def test_where_all_are_corrupt_nothing_is_lost_and_one_error_says_what_to_do(tmp_path, reopen, damage, files):
    save(tmp_path)
    for step in (24, 40, 48):
        damage(tmp_path, step)
    before = files(tmp_path)
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read; --overwrite starts anew"):
        reopen(tmp_path).restore_last(TARGET, lambda text: None)
    assert files(tmp_path) == before


@pytest.mark.parametrize("content", [b"", b'{"score": 2'])
@pytest.mark.parametrize("name", ["digests.json", "info/metadata", "state/_METADATA", "state/manifest.ocdbt"])
def test_any_file_that_was_cut_short_counts_as_corruption(tmp_path, reopen, name, content):
    save(tmp_path)
    (tmp_path / "checkpoints" / "48" / name).write_bytes(content)
    reports = []
    step, _ = reopen(tmp_path).restore_last(TARGET, reports.append)
    assert (step, len(reports)) == (40, 1)


def test_an_empty_folder_is_no_checkpoint(tmp_path, reopen):
    save(tmp_path)
    (tmp_path / "checkpoints" / "56").mkdir()
    step, _ = reopen(tmp_path).restore_last(TARGET, lambda text: None)
    assert step == 48


def test_what_a_killed_save_left_is_ignored_and_cleaned(tmp_path, reopen):
    save(tmp_path)
    here = tmp_path / "checkpoints"
    shutil.copytree(here / "48", here / "56.orbax-checkpoint-tmp")
    checkpoints = reopen(tmp_path)
    assert checkpoints.steps() == [24, 40, 48]
    assert checkpoints.restore_last(TARGET, pytest.fail)[0] == 48
    assert sorted(path.name for path in here.iterdir()) == ["24", "40", "48"]
