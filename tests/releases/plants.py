"""What a release could change of FLAVA's layout, each planted in the installed transformers."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import nn

from flava_port.target.epochs import Schema

TIE = "mlm_head.bias = mlm_head.decoder.bias"
LAYER = "flava.{0}_model.encoder.layer.{{0, {0}_config.num_hidden_layers}}."


class Plant(NamedTuple):
    """A class of transformers, what is done to each of its objects once built, and the lines that name the change."""

    kind: str
    change: Callable[[nn.Module], None]
    named: tuple[str, ...]


def rename_intermediate(layer: nn.Module) -> None:
    layer.widening = layer._modules.pop("intermediate")


def untie_mlm_head(model: nn.Module) -> None:
    """The heads of 5.0.0 are not tied to begin with; a release that ties one again is a change as well."""
    head = model.mlm_head
    head.decoder.bias = nn.Parameter(torch.zeros_like(head.bias)) if head.decoder.bias is head.bias else head.bias


def buffer_a_scale(embeddings: nn.Module) -> None:
    embeddings.register_buffer("scale", torch.zeros(7))


def loosen_a_norm(layer: nn.Module) -> None:
    layer.layernorm_before.eps = 1e-6


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
            for name, field in (
                *((f"flava.{encoder}_model", f"{encoder}_config.") for encoder in ENCODERS),
                ("itm_head", ""),
            )
            for line in (
                f"shape of {name}.pooler.dense.weight: [{field}hidden_size, {field}hidden_size] -> "
                f"[2 * {field}hidden_size, {field}hidden_size]",
                f"shape of {name}.pooler.dense.bias: [{field}hidden_size] -> [2 * {field}hidden_size]",
            )
        ),
    ),
    "another dtype": Plant(
        "FlavaTextEmbeddings",
        halve_positions,
        ("dtype of flava.text_model.embeddings.position_embeddings.weight: float32 -> float16",),
    ),
}  # fmt: skip


def plant(name: str, unchanged: Schema, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Changes transformers until the test ends; gives the lines that must name it."""
    from transformers.models.flava import modeling_flava

    kind, change, named = PLANTS[name]
    changed = getattr(modeling_flava, kind)
    original = changed.__init__

    def init(self, *arguments, **options):
        original(self, *arguments, **options)
        change(self)

    monkeypatch.setattr(changed, "__init__", init)
    return named if TIE in unchanged.ties else tuple(line.replace("removed tie", "added tie") for line in named)


def plant_default_epsilon(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Text encoders whose config says nothing of an epsilon get another than before."""
    from transformers import FlavaTextConfig

    original = FlavaTextConfig.__init__

    def init(self, *arguments, **options):
        original(self, *arguments, **{"layer_norm_eps": 1e-5, **options})

    monkeypatch.setattr(FlavaTextConfig, "__init__", init)
    return ("default of text_config.layer_norm_eps: 1e-12 -> 1e-05",)
