"""Changes that a release could make to FLAVA's schema, each to be planted in the installed transformers."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import nn

from flava_port.target.schema import PROBE, Schema

TIE = "mlm_head.bias = mlm_head.decoder.bias"
LAYER = "flava.{0}_model.encoder.layer.N."


class Plant(NamedTuple):
    """A class of transformers, what is done to each of its objects once built, and the lines that name the change."""

    changed: str
    change: Callable[[nn.Module], None]
    named: tuple[str, ...]


def rename_intermediate(layer: nn.Module) -> None:
    layer.widening = layer._modules.pop("intermediate")


def untie_mlm_head(model: nn.Module) -> None:
    """Unties the head's biases; in 5.0.0, where they are not tied, it ties them, which is a change as well."""
    head = model.mlm_head
    head.decoder.bias = nn.Parameter(torch.zeros_like(head.bias)) if head.decoder.bias is head.bias else head.bias


def buffer_a_scale(embeddings: nn.Module) -> None:
    embeddings.register_buffer("scale", torch.zeros(7))


def loosen_a_norm(layer: nn.Module) -> None:
    layer.layernorm_before.eps = 1e-6


def loosen_the_last_norm(encoder: nn.Module) -> None:
    encoder.layer[-1].layernorm_after.eps = 1e-5


def always_have_a_bias(attention: nn.Module) -> None:
    if attention.query.bias is None:
        attention.query.bias = nn.Parameter(torch.zeros(attention.query.out_features))


def widen_a_pooler(pooler: nn.Module) -> None:
    width = pooler.dense.in_features
    pooler.dense = nn.Linear(width, 2 * width)


def halve_positions(embeddings: nn.Module) -> None:
    embeddings.position_embeddings.half()


ENCODERS = ("text", "image", "multimodal")

PLANTS = {
    "a renamed submodule": Plant(
        "FlavaLayer",
        rename_intermediate,
        tuple(
            f"renamed {LAYER.format(encoder)}intermediate.dense.{part} -> {LAYER.format(encoder)}widening.dense.{part}"
            for encoder in ENCODERS
            for part in ("weight", "bias")
        ),
    ),
    "a removed tie": Plant("FlavaForPreTraining", untie_mlm_head, (f"removed tie {TIE}",)),
    "a new persistent buffer": Plant(
        "FlavaTextEmbeddings",
        buffer_a_scale,
        ("added persistent buffer flava.text_model.embeddings.scale [7]",),
    ),
    "an epsilon that no config sets": Plant(
        "FlavaLayer",
        loosen_a_norm,
        tuple(
            f"epsilon of {LAYER.format(encoder)}layernorm_before: {encoder}_config.layer_norm_eps -> 1e-06"
            for encoder in ENCODERS
        ),
    ),
    "a wider pooler": Plant(
        "FlavaPooler",
        widen_a_pooler,
        tuple(
            line
            for name, width in (
                *((f"flava.{encoder}_model", PROBE[f"{encoder}_config"]["hidden_size"]) for encoder in ENCODERS),
                ("itm_head", PROBE["hidden_size"]),
            )
            for line in (
                f"shape of {name}.pooler.dense.weight: [{width}, {width}] -> [{2 * width}, {width}]",
                f"shape of {name}.pooler.dense.bias: [{width}] -> [{2 * width}]",
            )
        ),
    ),
    "a layer unlike the others": Plant(
        "FlavaEncoder",
        loosen_the_last_norm,
        tuple(
            f"epsilon of flava.{encoder}_model.encoder.layer.{PROBE[f'{encoder}_config']['num_hidden_layers'] - 1}.layernorm_after: "
            f"{encoder}_config.layer_norm_eps -> 1e-05"
            for encoder in ENCODERS
        ),
    ),
    "a switch that does nothing": Plant(
        "FlavaSelfAttention",
        always_have_a_bias,
        tuple(
            f"{LAYER.format(encoder)}attention.attention.query.bias: no longer left out where the config's switches are off"
            for encoder in ENCODERS
        ),
    ),
    "another dtype": Plant(
        "FlavaTextEmbeddings",
        halve_positions,
        ("dtype of flava.text_model.embeddings.position_embeddings.weight: float32 -> float16",),
    ),
}  # fmt: skip


def plant(name: str, unchanged: Schema, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Changes transformers until the test ends, and returns the lines that must name the change."""
    changed, change, named = PLANTS[name]
    change_when_built(monkeypatch, changed, change)
    return named if TIE in unchanged.ties else tuple(line.replace("removed tie", "added tie") for line in named)


def change_when_built(monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[nn.Module], object]) -> None:
    """Does ``change`` to each new object of a class of transformers' FLAVA."""
    from transformers.models.flava import modeling_flava

    changed = getattr(modeling_flava, name)
    original = changed.__init__

    def init(self, *arguments, **options):
        original(self, *arguments, **options)
        change(self)

    monkeypatch.setattr(changed, "__init__", init)


def plant_default_epsilon(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Gives text encoders whose config says nothing of an epsilon another one, and returns the lines that must name it."""
    from transformers import FlavaTextConfig

    original = FlavaTextConfig.__init__

    def init(self, *arguments, **options):
        original(self, *arguments, **{"layer_norm_eps": 1e-5, **options})

    monkeypatch.setattr(FlavaTextConfig, "__init__", init)
    return ("default of text_config.layer_norm_eps: 1e-12 -> 1e-05",)
