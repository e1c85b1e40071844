"""How far a right and a wrong block lie from what the original computes. Both are measured, never typed in.

The floor is rounding: the original's block in float32 against itself in float64. The ceiling is the weakest of a few
small faults, each planted in the original's block. A tolerance belongs between the two.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from ..original.config import ACTIVATIONS, GELUS_BY_TANH
from ..original.encoder import Layer
from ..original.heads import PredictionHead

# A model of more parameters is large: its blocks run on whole inputs in float32 only, and in float64 on a few tokens.
LARGE_MODEL_PARAMETERS = 50_000_000

# How far above the measured floor a difference must lie to count. The floor in float64 is float32's, scaled by
# the ratio of their unit roundoffs: a rough estimate, but faults lie orders of magnitude above it. In float32
# both sides have the floor's error. A backward pass sums over all positions what a forward pass computes for each.
MARGIN = {torch.float32: 16.0, torch.float64: 1024.0}
GRADIENT_MARGIN = 16.0
_ROUNDOFF = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}


def is_large(model: nn.Module) -> bool:
    return sum(parameter.numel() for parameter in model.parameters()) > LARGE_MODEL_PARAMETERS


def noise(error: float) -> float:
    """The floor where float32 was this far from float64: no less than two roundings."""
    return max(2 * _ROUNDOFF[torch.float32], error)


def scale(dtype: torch.dtype) -> float:
    """The factor from float32's rounding to the difference that is allowed in ``dtype``."""
    return MARGIN[dtype] * _ROUNDOFF[dtype] / _ROUNDOFF[torch.float32]


@dataclass(frozen=True)
class PlantedFault:
    """One field of an encoder's config, and a value that makes a slightly different model."""

    encoder: str
    field: str
    value: object

    def __str__(self) -> str:
        return f"{self.encoder}_config.{self.field} = {self.value!r}"


# What ports get wrong: an epsilon, and a variant of the activation. FLAVA's value, and what is planted in its place.
_EPSILONS, _ACTIVATIONS = (1e-12, 1e-5), ("gelu", "gelu_new")
_ENCODERS = {
    "image": ("flava.image_model.", "mim_head", "mmm_image_head"),
    "text": ("flava.text_model.", "mlm_head", "mmm_text_head"),
    "multimodal": ("flava.multimodal_model.",),
}


def faults_of(name: str, block: nn.Module) -> Iterator[PlantedFault]:
    """Each field of its encoder's config that the original's block of this name computes with, with its other value."""
    encoder = next((encoder for encoder, names in _ENCODERS.items() if name.startswith(names)), None)
    if encoder is None:
        return
    if norm := next((module for module in block.modules() if isinstance(module, nn.LayerNorm)), None):
        usual, other = _EPSILONS
        yield PlantedFault(encoder, "layer_norm_eps", usual if norm.eps == other else other)
    if isinstance(block, Layer | PredictionHead):
        gelu, by_tanh = _ACTIVATIONS
        yield PlantedFault(encoder, "hidden_act", gelu if block.activation in GELUS_BY_TANH.values() else by_tanh)


@contextmanager
def planted(fault: PlantedFault, block: nn.Module) -> Iterator[None]:
    """Within the context the original's block computes with the fault."""
    changed: type[nn.Module] | tuple[type[nn.Module], ...] = nn.LayerNorm
    attribute, value = "eps", fault.value
    if fault.field == "hidden_act":
        changed, attribute, value = (Layer, PredictionHead), "activation", ACTIVATIONS[str(fault.value)]
    kept = [(module, getattr(module, attribute)) for module in block.modules() if isinstance(module, changed)]
    try:
        for module, _ in kept:
            setattr(module, attribute, value)
        yield
    finally:
        for module, own in kept:
            setattr(module, attribute, own)
