"""Tables of the results section: one of every system, and one of each suite of the benchmark beside its peers."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from experiments.benchmarking.report import duration, memory, ratio, size
from experiments.statistics import format_score


class System(NamedTuple):
    """A line of the first table.

    Attributes:
      label: what learns what.
      name: its config.
      seeds: how many.
      scores: metric of the evaluation, or `measures/…` of an embedding → what it is called; "{}" is its value.
      peer: the suite and the case of the benchmark that tells how fast it is beside others.
    """

    label: str
    name: str
    scores: dict[str, str]
    seeds: int = 1
    peer: tuple[str, str] | None = None


RETURN, ACCURACY = {"episode_return": "return {}"}, {"accuracy": "test accuracy {}"}
NEIGHBORS = {
    "measures/embedding/trustworthiness": "trustworthiness {}",
    "measures/embedding/accuracy": "10-NN accuracy {}",
    "measures/embedding/test_accuracy": "of test images {}",
}
FRECHET = {"frechet_distance": "Fréchet distance {}", "frechet_distance_floor": "floor {}"}
SLICED = {"sliced_wasserstein": "sliced Wasserstein distance {}", "sliced_wasserstein_floor": "floor {}"}
SYSTEMS = (
    System("PPO on CartPole-v1", "ppo_cartpole", RETURN, 1, ("ppo", "CartPole-v1, 4 envs")),
    System("PPO on CartPole-v1", "ppo_cartpole", RETURN, 8, ("ppo", "CartPole-v1, 8 seeds")),
    System("PPO on CartPole-v1", "ppo_cartpole", RETURN, 64),
    System("PPO on Acrobot-v1", "ppo_acrobot", RETURN, 5),
    System("PPO on MountainCar-v0", "ppo_mountain_car", RETURN, 5),
    System("PPO on Pendulum-v1", "ppo_pendulum", RETURN, 5),
    System("PPO on MinAtar's Breakout", "ppo_breakout", RETURN, 3, ("ppo", "Breakout-MinAtar, 64 envs")),
    System("PPO on MinAtar's Freeway", "ppo_freeway", RETURN, 6),
    System("PPO on MinAtar's SpaceInvaders", "ppo_space_invaders", RETURN, 6),
    System("PPO on MinAtar's Seaquest", "ppo_seaquest", RETURN, 2),
    System("DQN on CartPole-v1", "dqn_cartpole", RETURN, 5, ("dqn", "CartPole-v1")),
    System("DQN on Acrobot-v1", "dqn_acrobot", RETURN, 5),
    System("DQN on MountainCar-v0", "dqn_mountain_car", RETURN, 5),
    System("PQN on CartPole-v1", "pqn_cartpole", RETURN, 5),
    System("PQN on MinAtar's Breakout", "pqn_breakout", RETURN, 6),
    System("REINFORCE on CartPole-v1", "reinforce_cartpole", RETURN, 5),
    System("Time limits taken for ends of episodes: PPO, PQN, DQN, REINFORCE", "truncation_bias", {}, 32),
    System("Tabular Q-learning, frozen lake", "tabular_q_frozen_lake", {"value_error": "largest error {}"}),
    System("Value iteration, grid world", "value_iteration_grid", {"value_error": "largest error {}"}),
    System("MLP on 8 × 8 digits", "mlp_digits", ACCURACY, 5, ("nn", "mlp training")),
    System("MLP on MNIST", "mlp_mnist", ACCURACY),
    System("ConvNet on MNIST", "convnet_mnist", ACCURACY),
    System("Transformer on English", "transformer_text", {"bits_per_token": "{} bits per character"}),
    System("VAE on 8 × 8 digits", "vae_digits", {"negative_elbo": "−ELBO {} nats per image"}),
    System("VAE on MNIST", "vae_mnist", {"negative_elbo": "−ELBO {} nats per image"}),
    System("GAN on a ring of 8 Gaussians", "gan_mixture", {"modes": "{} modes", **SLICED}),
    System("GAN on 8 × 8 digits", "gan_digits", FRECHET),
    System("Diffusion on two moons", "diffusion_moons", SLICED),
    System("Diffusion on 8 × 8 digits", "diffusion_digits", FRECHET),
    System("Diffusion on MNIST", "diffusion_mnist", FRECHET),
    System("SVM on 8 × 8 digits: search, then the best", "svm_digits", ACCURACY, 1, ("svm", "digits, 5 x 5 x 5")),
    System("SVM on two moons", "svm_moons", ACCURACY),
    System("A network under an SVM head, digits", "svm_head", ACCURACY, 5),
    System(
        "PCA of 8 × 8 digits, batch by batch",
        "pca_digits",
        {"explained_variance_ratio": "{} of the variance in 29 components"},
        1,
        ("pca", "PCA, 1797 x 64"),
    ),
    System(
        "t-SNE of 8 × 8 digits",
        "tsne_digits",
        {"kl_divergence": "KL {}", **NEIGHBORS},
        1,
        ("tsne", "t-SNE, digits, 1797 x 64"),
    ),
    System("t-SNE of MNIST, 60,000 images", "tsne_mnist", {"kl_divergence": "KL {}", **NEIGHBORS}),
    System("UMAP of 8 × 8 digits", "umap_digits", NEIGHBORS, 1, ("umap", "UMAP, digits, 1797 x 64")),
    System("UMAP of MNIST, 60,000 images", "umap_mnist", NEIGHBORS),
)
SUITES = {
    "nn": "Activations and normalizations",
    "losses": "Losses",
    "attention": "Causal attention, 8 heads of 64 features",
    "ppo": "PPO, whole trainings",
    "dqn": "DQN, whole trainings",
    "generative": "Sampling of diffusion models",
    "svm": "Support vector machines: cross-validated grids, and single fits",
    "pca": "Principal components",
    "neighbors": "Exact nearest neighbours",
    "tsne": "t-SNE, perplexity 30, from the data to the embedding",
    "umap": "UMAP, 15 neighbours, from the data to the embedding",
}
SCORES = {
    "nn": "right digits",
    "losses": "right digits",
    "attention": "right digits",
    "ppo": "mean return, last quarter",
    "dqn": "mean return, last quarter",
    "svm": "accuracy",
    "pca": "right digits",
    "tsne": "KL",
    "umap": "trustworthiness in %",
}
FORMULAS = {"nn", "losses"}  # whose gradients stand in the row of their formula


def render(rows: Sequence[dict[str, Any]]) -> str:
    """Return the section that records give: the last record of each thing on each machine counts."""
    measured = {_key(row): row for row in rows if row.get("kind") == "measurement" and row["seconds"]}
    runs = {
        (row["name"], row["seeds"], _machine(row)): row for row in rows if row.get("kind") in ("run", "transcribed")
    }
    peers = {row["name"]: row["peer"] for row in rows if row.get("kind") == "transcribed_peer"}
    parts = [_systems(runs, list(measured.values()), peers)]
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in measured.values():
        groups.setdefault((row["suite"], row["dtype"], _machine(row)), []).append(row)
    for suite in SUITES:
        for (name, dtype, machine), mine in groups.items():
            if name == suite:
                parts.append(f"{_caption(suite, dtype, machine, mine)}\n\n{_tables(suite, mine)}")
    return "\n\n".join(parts)


def _caption(suite: str, dtype: str, machine: str, rows: Sequence[dict[str, Any]]) -> str:
    commands = " and ".join(f"`{command}`" for command in dict.fromkeys(row["command"] for row in rows))
    kind = "" if dtype == "float32" else f" in {dtype}"
    return f"**{SUITES[suite]}**{kind}, on {machine}, {_peaks(rows)} ({commands}):"


def _tables(suite: str, rows: Sequence[dict[str, Any]]) -> str:
    """Formulas with their gradients, and whatever else is a case of its own."""
    if suite not in FORMULAS:
        return _cases(suite, rows)
    formulas = [row for row in rows if row["unit"] == "elements"]
    others = [row for row in rows if row["unit"] != "elements"]
    return "\n\n".join([_formulas(formulas)] * bool(formulas) + [_cases("", others)] * bool(others))


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    names = ("suite", "case", "contestant", "dtype", "size", "work")
    return (*(row[name] for name in names), _machine(row))


def _systems(
    runs: dict[tuple[Any, ...], dict[str, Any]], measured: Sequence[dict[str, Any]], peers: dict[str, str]
) -> str:
    head = ["system", "score", "time + compilation", "beside the best peer", "device", "flags of `experiments.train`"]
    lines = [
        _system(
            system,
            row,
            machine,
            _best_peer(measured, system.peer, machine) if system.peer else peers.get(system.name, ""),
        )
        for system in SYSTEMS
        for (name, seeds, machine), row in runs.items()
        if (name, seeds) == (system.name, system.seeds)
    ]
    note = "\n\n† copied from what an earlier version measured, compilation apart; not repeated with this one."
    is_copied = bool(peers) or any(row["kind"] == "transcribed" for row in runs.values())
    return _table(head, lines) + note * is_copied


def _system(system: System, row: dict[str, Any], machine: str, peer: str) -> list[str]:
    """One line: what was copied from an earlier version, as it was written there."""
    name = system.label if system.seeds == 1 else f"{system.label}, {system.seeds} seeds"
    if row["kind"] == "transcribed":
        return [f"{name} †", row["score"], row["time"], peer, machine, f"`{row['command']}`"]
    spent = f"{duration(row['seconds'])} + {duration(row['compile_seconds'])}"
    flags = row["command"].removeprefix("python -m experiments.train ")
    return [name, _score(system, row), spent, peer, machine, f"`{flags}`"]


def _score(system: System, row: dict[str, Any]) -> str:
    parts = []
    for name, text in system.scores.items():
        if name.startswith("measures/"):
            _, embedding, measure = name.split("/")
            if measure in row["measures"].get(embedding, {}):
                parts.append(text.format(f"{row['measures'][embedding][measure]:.3f}"))
        elif name in row["evaluation"]:
            score = row["evaluation"][name]
            value = format_score(float(score["interquartile_mean"]))
            if system.seeds > 1:
                low, high = (format_score(float(end)) for end in score["interval_95"])
                value = f"{value} ({low} to {high})"
            parts.append(text.format(value))
    return ", ".join(parts)


def _best_peer(measured: Sequence[dict[str, Any]], peer: tuple[str, str], machine: str) -> str:
    """How many times as fast ours is as the quickest peer that is right, on the same machine."""
    rows = [row for row in measured if (row["suite"], row["case"], _machine(row)) == (*peer, machine)]
    rows = [row for row in rows if row.get("ours_is_faster_by")]
    if not rows:
        return ""
    best = min(rows, key=lambda row: row["median_seconds"])
    return f"{ratio(best)} times as fast as {_name(best['contestant'])}"


def _formulas(rows: Sequence[dict[str, Any]]) -> str:
    """One line for each formula: digits of all, then how many times as fast ours is, forward and with the gradient."""
    by_case: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        by_case.setdefault(row["case"], {})[row["contestant"]] = row
    names = [case for case in by_case if not case.endswith(", gradient")]
    head = ["formula", "right digits: ours", "peers", "ours is faster by", "with the gradient"]
    lines = []
    for name in names:
        forward, gradient = by_case[name], by_case.get(f"{name}, gradient", {})
        peers = [contestant for contestant in forward if contestant != "mathai"]
        if "mathai" in forward:
            digits = [f"{forward[peer]['score']:.1f} {_name(peer)}" for peer in peers]
            lines.append(
                [
                    name,
                    f"{forward['mathai']['score']:.1f}",
                    ", ".join(digits),
                    ", ".join(f"{_median_ratio(forward[peer])} {_name(peer)}" for peer in peers),
                    ", ".join(f"{_median_ratio(gradient[peer])} {_name(peer)}" for peer in peers if peer in gradient),
                ]
            )
    return _table(head, lines)


def _name(contestant: str) -> str:
    """The name of a contestant within a list: its variant in brackets."""
    name, _, variant = contestant.partition(", ")
    return f"{name} ({variant})" if variant else name


def _median_ratio(row: dict[str, Any]) -> str:
    ratios = row.get("ours_is_faster_by")
    return f"{statistics.median(ratios):.2f}" if ratios else "–"


def _cases(suite: str, rows: Sequence[dict[str, Any]]) -> str:
    """One line for each case, a column for each peer; of cases of one name, as with more steps, one for each."""
    peers = list(dict.fromkeys(row["contestant"] for row in rows if row["contestant"] != "mathai"))
    names = [_name(peer) for peer in peers]
    head = ["work", "ours", "first call", "memory", *names]
    head += [f"{SCORES[suite]}: ours, {', '.join(names)}" if peers else SCORES[suite]] if suite in SCORES else []
    lines = []
    for case, work in dict.fromkeys((row["case"], row["work"]) for row in rows):
        found = {row["contestant"]: row for row in rows if (row["case"], row["work"]) == (case, work)}
        ours = found.get("mathai")
        if ours is None:
            continue
        line = [case, duration(ours["median_seconds"]), duration(ours["first_call_seconds"]), size(memory(ours))]
        line += [_beside(found.get(peer)) for peer in peers]
        if suite in SCORES:
            line.append(", ".join(_plain_score(suite, found.get(name)) for name in ("mathai", *peers)))
        lines.append(line)
    return _table(head, lines)


def _beside(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{duration(row['median_seconds'])}: {ratio(row)} times"


def _plain_score(suite: str, row: dict[str, Any] | None) -> str:
    if row is None:
        return "–"
    return f"{-row['score']:.3f}" if suite == "tsne" else f"{row['score']:.4g}"


def _machine(row: dict[str, Any]) -> str:
    """The device; of a CPU, how many cores."""
    if row["kind"] == "transcribed":
        return row["machine"]
    if row["device"]["platform"] == "cpu":
        return f"{row['host']['cores']} CPU cores"
    count = row["device"]["count"]
    return row["device"]["kind"] + (f" × {count}" if count > 1 else "")


def _peaks(rows: Sequence[dict[str, Any]]) -> str:
    peaks = rows[-1]["peaks"]
    gemm, copy = peaks["flops_per_second"] / 1e9, peaks["bytes_per_second"] / 1e9
    return f"whose products reached {gemm:,.0f} GFLOP/s and copies {copy:,.0f} GB/s"


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
