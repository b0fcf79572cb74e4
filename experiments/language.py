"""Tasks on text: windows drawn on the device, samples while it trains, pictures of attention and of positions."""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import PyTree

from experiments import pictures, text
from experiments.configuration import check_types
from experiments.errors import UserError
from experiments.tasks import SEQUENCE, Rows, Task, maker
from mathai.learners import language_model
from mathai.models.layers import LayerNorm
from mathai.nn.attention import sinusoidal_position_encoding

SHOWN_TOKENS = 48  # of an attention map
SHOWN_HEADS = 6


def make_task(config: ml_collections.ConfigDict, module: Any, hyperparameters: language_model.Config) -> Task:
    """Build the task of a config with the section `text`."""
    fields = config.text.to_dict()
    check_types("text", fields, text.DEFAULTS)
    data = text.load(fields)
    train, test = data.train, jnp.asarray(data.test)
    length = hyperparameters.context_length
    if len(train) <= length:
        raise UserError(f"the text has {len(train)} tokens to train on; config.learner.context_length is {length}.")
    make = maker(module, data.num_tokens, test)
    try:
        learner = make(hyperparameters)
    except ValueError as error:
        raise UserError(str(error)) from error
    return Task(
        learner,
        num_updates=hyperparameters.num_updates,
        data=train,
        draw=Rows(functools.partial(_choose, hyperparameters.batch_size, length + 1)),
        evaluation_data=test,
        problem=pathlib.Path(config.text.name).name,
        curves=("bits_per_token",),
        work=hyperparameters.batch_size * length,
        unit="tokens",
        on_evaluation=_Sampler(hyperparameters, data),
        pictures=functools.partial(_draw_pictures, hyperparameters, data),
        hyperparameters=hyperparameters,
        make=make,
        sequence=length,
        over_devices=lambda mesh, axis: make(hyperparameters, mesh=mesh if SEQUENCE in mesh.axis_names else None),
    )


def _choose(batch_size: int, length: int, key: jax.Array, num_tokens: int, step: jax.Array) -> jax.Array:
    return language_model.window_indices(
        jax.random.fold_in(key, step), num_tokens, batch_size=batch_size, length=length
    )


class _Sampler:
    """Writes samples/STEP.txt: how the model goes on from the beginning of the held-out text."""

    def __init__(self, hyperparameters: language_model.Config, data: text.Text):
        self._data = data
        half = hyperparameters.context_length // 2
        self._prompt = data.test[: max(half, 1)]
        self._sample = jax.jit(
            lambda key, state: language_model.sample(
                key, hyperparameters, data.num_tokens, state, self._prompt, max(half, 1), temperature=0.8
            )
        )

    def __call__(self, workdir: pathlib.Path, step: int, state: PyTree) -> None:
        tokens = self._sample(jax.random.key(step), state)
        path = workdir / "samples" / f"{step:06d}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{self._data.decode(self._prompt)}⟶{self._data.decode(tokens)}\n", encoding="utf-8")


def _draw_pictures(
    hyperparameters: language_model.Config, data: text.Text, workdir: pathlib.Path, state: PyTree
) -> list[pathlib.Path]:
    """Draw what a few heads attend to, and the position encoding."""
    shown = data.test[: min(SHOWN_TOKENS, hyperparameters.context_length)]
    weights = jax.jit(functools.partial(_attention_weights, hyperparameters, data.num_tokens))(state, shown)
    labels = [data.decode(shown[i : i + 1]) for i in range(len(shown))]
    encoding = sinusoidal_position_encoding(hyperparameters.context_length, hyperparameters.num_features)
    return [
        pictures.attention_maps(workdir, {name: np.asarray(w) for name, w in weights.items()}, labels),
        pictures.position_encoding(workdir, np.asarray(encoding)),
    ]


def _attention_weights(
    hyperparameters: language_model.Config, num_tokens: int, state: PyTree, tokens: jax.Array
) -> dict[str, jax.Array]:
    """A few heads' attention [T, T], of the first and of the last layer."""
    model, params = language_model.make_model(hyperparameters, num_tokens), language_model.evaluated(state)
    captured = model.apply(
        {"params": params},
        tokens,
        capture_intermediates=lambda module, _: isinstance(module, LayerNorm),
        mutable=["intermediates"],
    )[1]["intermediates"]
    layers = sorted({0, hyperparameters.num_layers - 1})
    num_heads = min(SHOWN_HEADS // len(layers), hyperparameters.num_heads)
    found = {}
    for layer in layers:
        x = captured[f"blocks_{layer}"]["LayerNorm_0"]["__call__"][0]
        weights = params[f"blocks_{layer}"]["MultiHeadAttention_0"]
        query, key = (jnp.einsum("te,ehd->htd", x, weights[name][:, :num_heads]) for name in ("query", "key"))
        scores = query @ key.mT / query.shape[-1] ** 0.5
        scores = jnp.where(jnp.tri(len(tokens), dtype=bool)[None], scores, -jnp.inf)
        for head, p in enumerate(jax.nn.softmax(scores)):
            found[f"layer {layer + 1}, head {head + 1}"] = p
    return found
