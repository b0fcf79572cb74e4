"""Tasks on small decision processes: which problem a config describes, what is refused, and what is drawn of it."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import planning
from experiments.configuration import make_config
from experiments.errors import UserError
from experiments.tasks import make_task
from mathai.rl import small_mdps

PNG = b"\x89PNG\r\n\x1a\n"
SIZES = {"chain": (20, 2), "frozen_lake": (16, 4), "frozen_lake_8": (64, 4), "garnet": (5, 2), "grid_world": (12, 4)}
SMALL = {"num_states": 5, "num_actions": 2, "branching": 2}


def config_of(algorithm="value_iteration", learner=None, **problem):
    return make_config(algorithm, problem=problem, learner=learner)


def problem_of(**changes):
    return planning.make_problem(planning.DEFAULTS | changes)


@pytest.fixture
def figures(figures_of):
    return figures_of(planning)


# The problem of a config


@pytest.mark.parametrize("name", planning.PROBLEMS)
def test_every_problem_becomes_a_task_of_both_algorithms(name):
    num_states, num_actions = SIZES[name]
    problem = {"name": name} | (SMALL if name == "garnet" else {})
    sweep = make_task(config_of(**problem, learner={"num_updates": 7}))
    assert (sweep.num_updates, sweep.problem, sweep.curves) == (7, name, ("residual",))
    assert (sweep.work, sweep.unit) == (num_states * num_actions, "action values")
    state = jax.eval_shape(sweep.learner.init, jax.random.key(0))
    assert state.value.shape == (num_states,)

    walk = make_task(config_of("tabular_q", **problem, learner={"num_steps": 10, "total_env_steps": 35}))
    assert (walk.num_updates, walk.problem, walk.work, walk.unit) == (3, name, 10, "environment steps")
    state = jax.eval_shape(walk.learner.init, jax.random.key(0))
    assert state.q.shape == (num_states, num_actions)
    _, metrics = jax.eval_shape(walk.learner.update, state)
    scores = jax.eval_shape(walk.learner.evaluate, jax.random.key(0), state)
    assert set(walk.curves) <= {*metrics, *scores}


def test_a_problem_has_the_numbers_that_its_config_gives():
    chain, layout, start = problem_of(name="chain", num_states=3, discount=0.5, slip=0.25)
    assert (layout, start) == (None, None)
    assert (float(chain.discount), chain.num_states) == (0.5, 3)
    # with probability ¼ going on earns 0.2 and returns
    np.testing.assert_allclose(chain.reward[0], [0.75 * 0.2, 0.25 * 0.2], rtol=1e-6)
    np.testing.assert_allclose(chain.transition[0, 1], [0.25, 0.75, 0], rtol=1e-6)


def test_a_grid_has_the_layout_the_steps_and_the_start_that_its_config_gives():
    grid, layout, start = problem_of(name="grid_world", layout=["S.G"], discount=0.9, slip=0.0, step_reward=-0.5)
    assert layout == ("S.G",)
    np.testing.assert_array_equal(start, [1, 0, 0])
    np.testing.assert_array_equal(grid.reward[0], [-0.5] * 4)
    np.testing.assert_array_equal(grid.reward[1], [-0.5, -0.5, 1.0, -0.5])


@pytest.mark.parametrize(
    ("name", "layout"), [("frozen_lake", small_mdps.FROZEN_LAKE), ("frozen_lake_8", small_mdps.FROZEN_LAKE_8)]
)
def test_the_lakes_are_those_of_gymnasium_unless_one_asks_for_other_ice(name, layout):
    lake, found, start = problem_of(name=name, layout=("SG",), step_reward=-1.0)  # both are of grid_world alone
    expected = small_mdps.frozen_lake(layout)
    assert found == layout
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), lake, expected)
    np.testing.assert_array_equal(start, np.eye(len(start))[0])
    dry, _, _ = problem_of(name=name, slippery=False)
    np.testing.assert_array_equal(dry.transition, small_mdps.frozen_lake(layout, slippery=False).transition)


def test_a_garnet_is_drawn_by_its_seed():
    first, again, other = (problem_of(name="garnet", seed=seed, **SMALL)[0] for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert np.all(first.reward != other.reward)
    assert first.transition.shape == (5, 2, 5)
    np.testing.assert_array_equal(np.sum(first.transition > 0, axis=2), 2)


def test_episodes_of_a_grid_begin_at_its_start():
    task = make_task(config_of("tabular_q", name="grid_world", layout=("..", ".S")))
    states = jax.jit(jax.vmap(task.learner.init))(jax.random.split(jax.random.key(0), 20))
    np.testing.assert_array_equal(states.state, 3)


# Mistakes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"name": "frozen_lak"},
            r"problem 'frozen_lak' is unknown \(did you mean 'frozen_lake'\?\); use one of chain, f",
        ),
        (
            {"name": "maze"},
            r"problem 'maze' is unknown; use one of chain, frozen_lake, frozen_lake_8, garnet, grid_wor",
        ),
        ({"discount": 1.5}, r"config\.problem\.discount is 1\.5 .*\[0, 1\]"),
        ({"discount": -0.1}, r"config\.problem\.discount is -0\.1 .*\[0, 1\]"),
        ({"discount": float("nan")}, r"config\.problem\.discount is nan .*\[0, 1\]"),
        ({"slip": 1.01}, r"slip 1\.01; .*\[0, 1\]"),
        ({"slip": -0.5}, r"slip -0\.5; .*\[0, 1\]"),
        ({"name": "garnet", "branching": 0}, "branching is 0; it must be from 1 to num_states = 20"),
        ({"name": "garnet", "branching": 21}, "branching is 21; it must be from 1 to num_states = 20"),
        ({"name": "garnet", "num_states": 0}, "num_states is 0"),
        ({"name": "grid_world", "layout": ()}, "must have rows of one length, at least one letter long"),
        ({"name": "grid_world", "layout": ("",)}, "must have rows of one length, at least one letter long"),
        ({"name": "grid_world", "layout": ("S.", ".")}, r"\['S\.', '\.'\] must have rows of one length"),
        ({"name": "grid_world", "layout": ("#G",)}, r"\['#G'\] has no free cell to start in"),
        ({"discount": "high"}, r"config\.problem\.discount is 'high'; it must be of type float, as 0\.99 is"),
        ({"num_states": 2.5}, r"config\.problem\.num_states is 2\.5; it must be of type int, as 20 is"),
        ({"layout": "S.G"}, r"config\.problem\.layout is 'S\.G'; it must be of type tuple"),
    ],
)
def test_a_wrong_problem_is_refused(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        make_task(config_of(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "chain", "num_states": 0}, "num_states is 0"),
        ({"name": "chain", "num_states": -1}, "num_states is -1"),
        ({"name": "garnet", "num_actions": 0}, "num_actions is 0"),
        ({"name": "garnet", "num_actions": -1}, "num_actions is -1"),
    ],
)
def test_a_problem_of_no_size_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        make_task(config_of(**changes))


def test_a_field_that_is_misspelt_is_refused():
    with pytest.raises(UserError, match=r"config\.problem has no field 'discont' \(did you mean 'discount'\?\)"):
        config_of(discont=0.5)
    config = config_of()
    with config.unlocked():
        config.problem.slipp = 0.5
    with pytest.raises(UserError, match=r"config\.problem has no field 'slipp' \(did you mean 'slip'\?\)"):
        make_task(config)


@pytest.mark.parametrize(
    ("algorithm", "learner", "message"),
    [
        ("value_iteration", {"num_updates": 0}, "num_updates is 0; it must be at least 1"),
        ("tabular_q", {"num_steps": 0}, "num_steps is 0; it must be at least 1"),
        ("tabular_q", {"max_episode_steps": -1}, "max_episode_steps is -1; it must be at least 1"),
        ("tabular_q", {"num_steps": 10, "total_env_steps": 9}, "would make 0 updates; raise"),
    ],
)
def test_a_mistake_of_the_learner_is_one_for_the_user(algorithm, learner, message):
    with pytest.raises(UserError, match=message):
        make_task(config_of(algorithm, learner=learner))


def test_a_config_without_a_problem_is_refused():
    with pytest.raises(UserError, match=r"algorithm 'tabular_q' learns on config\.problem, which this config lacks"):
        make_task(make_config("tabular_q"))


# Pictures


def test_the_map_shows_the_value_and_the_best_action_of_every_free_cell(figures, tmp_path):
    """Left, down, right, up are actions 0 to 3; the value is the largest of a row."""
    q = np.zeros((6, 4))
    for cell, (action, value) in {0: (2, 0.5), 1: (1, 0.25), 4: (0, 2.0), 5: (3, 1.0)}.items():
        q[cell, action] = value
    path = planning.value_map(tmp_path, ("..G", "#.."), q)
    assert path == tmp_path / "value_and_policy.png"
    panel, colours = figures["value_and_policy.png"].axes
    texts = {tuple(map(int, text.get_position())): text.get_text() for text in panel.texts}
    assert texts == {  # (column, row)
        (0, 0): "→\n0.5",
        (1, 0): "↓\n0.25",
        (2, 0): "goal",
        (0, 1): "wall",
        (1, 1): "←\n2",
        (2, 1): "↑\n1",
    }
    shown = panel.images[0].get_array()
    np.testing.assert_array_equal(shown.mask, [[False, False, True], [True, False, False]])
    np.testing.assert_array_equal(shown.compressed(), [0.5, 0.25, 2.0, 1.0])
    assert "value" in colours.get_ylabel()


def test_a_map_without_a_free_cell_or_with_equal_values_can_be_drawn(tmp_path):
    for layout in (("G#",), ("..", "..")):
        path = planning.value_map(tmp_path, layout, np.zeros((len("".join(layout)), 4)))
        assert path.read_bytes().startswith(PNG)


def curves(figure):
    """The errors and their bound, one for each number of iterations."""
    (panel,) = figure.axes
    errors, bound = panel.lines
    np.testing.assert_array_equal(errors.get_xdata(), np.arange(len(errors.get_xdata())))
    np.testing.assert_array_equal(bound.get_xdata(), errors.get_xdata())
    return errors.get_ydata(), bound.get_ydata()


def test_convergence_shows_errors_below_their_bound(figures, tmp_path):
    problem, *_ = problem_of(name="garnet", discount=0.8, **SMALL)
    path = planning.convergence(tmp_path, problem)
    assert path == tmp_path / "convergence.png"
    errors, bound = curves(figures["convergence.png"])
    # V* and V_k by NumPy in float64
    transition, reward = np.asarray(problem.transition, np.float64), np.asarray(problem.reward, np.float64)
    values = [np.zeros(5)]
    for _ in range(300):
        values.append((reward + 0.8 * transition @ values[-1]).max(1))
    expected = np.abs(np.array(values) - values[-1]).max(1)
    assert len(errors) == 1 + 42  # 0.8⁴² is the first power below 10⁻⁴
    np.testing.assert_allclose(errors, expected[:43], atol=1e-5)
    np.testing.assert_allclose(bound, expected[0] * 0.8 ** np.arange(43), rtol=1e-4)
    assert np.all(errors <= bound + 1e-5)


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({"name": "chain", "num_states": 2, "discount": 0.0, "slip": 0.0}, 1.0),  # one step is all
        ({"layout": ("S.",), "discount": 0.5}, 0.0),  # nothing to gain
        ({"layout": ("SG",), "discount": 1.0, "step_reward": -1.0}, None),  # an end is near, whatever one does
    ],
)
def test_convergence_can_be_drawn_at_the_limits(figures, tmp_path, changes, first):
    problem, *_ = problem_of(**{"name": "grid_world"} | changes)
    planning.convergence(tmp_path, problem)
    figures["convergence.png"].savefig(io.BytesIO(), dpi=40)
    errors, _ = curves(figures["convergence.png"])
    assert np.all(np.isfinite(errors))
    if first is not None:
        np.testing.assert_allclose(errors, np.where(np.arange(len(errors)) == 0, first, 0), atol=1e-7)


def test_the_pictures_of_a_task_show_what_its_state_found(figures, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "convergence", lambda workdir, problem: workdir / "convergence.png")
    corridor = {"name": "grid_world", "layout": ("S.G",), "discount": 0.5, "slip": 0.0}
    sweep, walk = (make_task(config_of(algorithm, **corridor)) for algorithm in ("value_iteration", "tabular_q"))
    of_sweep = jax.eval_shape(sweep.learner.init, jax.random.key(0))._replace(value=jnp.array([0.5, 1.0, 0.0]))
    of_walk = jax.eval_shape(walk.learner.init, jax.random.key(0))._replace(q=jnp.zeros((3, 4)).at[1, 2].set(0.75))
    for task, state, expected in (
        (sweep, of_sweep, {"→\n0.5", "→\n1", "goal"}),
        (walk, of_walk, {"←\n0", "→\n0.75", "goal"}),
    ):
        names = [path.name for path in task.pictures(tmp_path, state)]
        # how value iteration converges says nothing of a walk
        assert names == ["convergence.png"] * (task is sweep) + ["value_and_policy.png"]
        assert {text.get_text() for text in figures["value_and_policy.png"].axes[0].texts} == expected


def test_a_problem_without_a_layout_has_no_map(figures, tmp_path):
    task = make_task(config_of(name="garnet", **SMALL))
    state = jax.eval_shape(task.learner.init, jax.random.key(0))._replace(value=jnp.zeros(5))
    assert task.pictures(tmp_path, state) == [tmp_path / "convergence.png"]
    assert set(figures) == {"convergence.png"}


# A run


def test_a_run_plans_and_draws(train_here, tmp_path):
    config = config_of(
        **{"name": "grid_world", "layout": ("S.", "#G"), "discount": 0.5, "slip": 0.0},
        learner={"tolerance": 1e-6, "num_updates": 8},
    )
    with config.unlocked():
        config.run.update({"updates_per_chunk": 4, "best_metric": "value_error", "best_mode": "min"})
    printed = train_here(config, tmp_path)
    assert "value_iteration on grid_world, 8 updates" in printed
    summary = json.loads((tmp_path / "summary.json").read_text())
    for name in ("value_error", "policy_regret"):
        assert summary["evaluation"][name]["mean"] == pytest.approx(0, abs=1e-6)
    for name in ("learning_curve", "convergence", "value_and_policy"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(PNG)
