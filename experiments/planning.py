"""Tasks on small MDPs whose solution is known: the problem by name, and pictures of what was found."""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from experiments.configuration import check_types, did_you_mean
from experiments.errors import UserError
from experiments.pictures import save
from experiments.tasks import Task, maker
from mathai.rl import mdp, small_mdps

LAYOUTS = {"frozen_lake": small_mdps.FROZEN_LAKE, "frozen_lake_8": small_mdps.FROZEN_LAKE_8}
PROBLEMS = ("chain", "frozen_lake", "frozen_lake_8", "garnet", "grid_world")
DEFAULTS = {
    "name": "frozen_lake",
    "discount": 0.99,
    "slip": 0.0,  # probability of going astray, of chain and grid_world
    "slippery": True,  # of frozen_lake and frozen_lake_8: two of three moves go astray
    "layout": ("S..#", "..#G", "...."),  # of grid_world
    "step_reward": 0.0,  # of grid_world
    "num_states": 20,  # of chain and garnet
    "num_actions": 4,  # of garnet,
    "branching": 3,  # likewise
    "seed": 0,  # likewise
}
ARROWS = ("←", "↓", "→", "↑")
CURVES = {
    "value_iteration": ("residual",),
    "tabular_q": ("value_error", "td_error", "episode_return"),
}


def make_task(config: ml_collections.ConfigDict, module: Any, hyperparameters: Any) -> Task:
    """Build the task of a config with the section `problem`."""
    fields = config.problem.to_dict()
    check_types("problem", fields, DEFAULTS)
    try:
        problem, layout, start = make_problem(fields)
        _check_that_it_ends(fields["discount"], problem)
        arguments = (problem, start) if config.algorithm == "tabular_q" else (problem,)
        make = maker(module, *arguments)
        learner = make(hyperparameters)
    except ValueError as error:
        raise UserError(str(error)) from error
    return Task(
        learner,
        num_updates=hyperparameters.num_updates,
        problem=fields["name"],
        curves=CURVES[config.algorithm],
        work=getattr(hyperparameters, "num_steps", problem.num_states * problem.num_actions),
        unit="environment steps" if hasattr(hyperparameters, "num_steps") else "action values",
        pictures=functools.partial(_draw, problem, layout),
        hyperparameters=hyperparameters,
        make=make,
    )


def make_problem(fields: dict[str, Any]) -> tuple[mdp.MDP, tuple[str, ...] | None, jax.Array | None]:
    """Return the problem that a section `problem` describes, its layout if it has one, and where episodes begin."""
    name = fields["name"]
    if name not in PROBLEMS:
        raise UserError(f"problem {name!r} is unknown{did_you_mean(name, PROBLEMS)}; use one of {', '.join(PROBLEMS)}.")
    if not 0 <= fields["discount"] <= 1 or not 0 <= fields["slip"] <= 1:
        raise UserError(
            f"config.problem.discount is {fields['discount']} and slip {fields['slip']}; both lie in [0, 1]."
        )
    if not np.isfinite(fields["step_reward"]):
        raise UserError(f"config.problem.step_reward is {fields['step_reward']}; it must be a finite number.")
    if name == "chain":
        return small_mdps.chain(fields["num_states"], discount=fields["discount"], slip=fields["slip"]), None, None
    if name == "garnet":
        sizes = {size: fields[size] for size in ("num_states", "num_actions", "branching")}
        return small_mdps.garnet(jax.random.key(fields["seed"]), discount=fields["discount"], **sizes), None, None
    if name in LAYOUTS:
        layout = LAYOUTS[name]
        problem = small_mdps.frozen_lake(layout, discount=fields["discount"], slippery=fields["slippery"])
        return problem, layout, small_mdps.start_distribution(layout)
    layout = tuple(fields["layout"])
    problem = small_mdps.grid_world(
        layout, discount=fields["discount"], slip=fields["slip"], step_reward=fields["step_reward"]
    )
    return problem, layout, small_mdps.start_distribution(layout)


def _check_that_it_ends(discount: float, problem: mdp.MDP) -> None:
    """With γ = 1, a policy that goes on for ever has no value, and the exact solution none either."""
    if discount < 1:
        return
    best = mdp.policy_iteration(problem)
    if not (jnp.all(jnp.isfinite(best.value)) and best.residual < 1e-3):
        raise ValueError("with config.problem.discount = 1 every policy must end; choose a discount below 1.")


def _draw(problem: mdp.MDP, layout: tuple[str, ...] | None, workdir: pathlib.Path, state: Any) -> list[pathlib.Path]:
    plans = hasattr(state, "value")
    q = mdp.action_values(problem, state.value) if plans else state.q
    drawn = [convergence(workdir, problem)] if plans else []
    if layout is not None:
        drawn.append(value_map(workdir, layout, np.asarray(q)))
    return drawn


def value_map(workdir: pathlib.Path, layout: tuple[str, ...], q: np.ndarray) -> pathlib.Path:
    """Draw the value maxₐ Q of every cell as a colour and as a number, and the best action as an arrow."""
    rows, columns = len(layout), len(layout[0])
    letters = np.array([list(row) for row in layout])
    value = q.max(1).reshape(rows, columns)
    is_free = ~np.isin(letters, list(small_mdps.TERMINAL))

    def draw(figure):
        panel = figure.subplots()
        shown = np.ma.masked_array(value, ~is_free)
        image = panel.imshow(shown, cmap="viridis")
        figure.colorbar(image, label="value (expected discounted return)", shrink=0.8)
        panel.set_title("value and greedy action of each cell")
        panel.set_xticks(range(columns))
        panel.set_yticks(range(rows))
        panel.set_xlabel("column")
        panel.set_ylabel("row")
        panel.set_facecolor("lightgray")
        middle = (shown.min() + shown.max()) / 2 if is_free.any() else 0
        for (row, column), letter in np.ndenumerate(letters):
            if not is_free[row, column]:
                name = {"G": "goal", "H": "hole", "#": "wall"}[letter]
                panel.text(column, row, name, ha="center", va="center", fontsize=8)
                continue
            best = q[row * columns + column].argmax()
            colour = "white" if value[row, column] < middle else "black"
            text = f"{ARROWS[best]}\n{value[row, column]:.3g}"
            panel.text(column, row, text, ha="center", va="center", fontsize=9, color=colour)

    return save(workdir / "value_and_policy.png", draw, (1.5 + 0.9 * columns, 0.8 + 0.9 * rows))


def convergence(workdir: pathlib.Path, problem: mdp.MDP) -> pathlib.Path:
    """Draw how value iteration nears the optimum, beside the rate γᵏ that theory promises."""
    best = mdp.policy_iteration(problem).value
    discount = float(problem.discount)
    num_iterations = 200 if discount == 1 else int(min(np.ceil(np.log(1e-4) / np.log(max(discount, 1e-3))), 2000))

    def improve(value, _):
        value = mdp.bellman_optimality(problem, value)
        return value, jnp.max(jnp.abs(value - best))

    _, errors = jax.jit(lambda: jax.lax.scan(improve, jnp.zeros(problem.num_states), length=num_iterations))()
    k = np.arange(num_iterations + 1)
    first = float(jnp.max(jnp.abs(best)))
    errors = np.concatenate([[first], np.asarray(errors)])

    def draw(figure):
        panel = figure.subplots()
        panel.semilogy(k, np.maximum(errors, np.finfo(np.float32).tiny), label="‖V$_k$ − V*‖∞")
        panel.semilogy(k, first * discount**k, "--", color="gray", label=f"bound γ$^k$ ‖V*‖∞, γ = {discount:.3g}")
        panel.set_ylim(max(errors[errors > 0].min(initial=1e-8) / 3, 1e-9), 2 * max(first, 1e-8))
        panel.set_title("convergence of value iteration")
        panel.set_xlabel("iteration k")
        panel.set_ylabel("largest error of the value")
        panel.grid(alpha=0.3)
        panel.legend()

    return save(workdir / "convergence.png", draw, (7, 4.5))
