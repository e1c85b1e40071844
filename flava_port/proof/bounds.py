"""What the original computes, and how far a right and a wrong model lie from it. Both are measured, never typed in.

The floor is rounding: the original in float32 against itself in float64. The ceiling is the weakest of
a few small faults, each planted in the original. A tolerance belongs between the two.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor, nn

from ..original.config import ACTIVATIONS, GELUS_BY_TANH
from ..original.encoder import Layer
from ..original.flava import Flava
from .forward import in_float64, outputs, outputs_and_gradients, relative_error, run_original
from .results import Bounds
from .scenarios import Scenario, scenarios

# Gradients of larger models are taken in float32 and on fewer inputs: in float64 they take twice the memory and time.
FLOAT64_GRADIENTS_MAX = 50_000_000
_SHORT_TEXT = 128

# How far above the measured floor a difference must lie to count. The floor in float64 is float32's, scaled by
# the ratio of their unit roundoffs: a rough estimate, but faults lie orders of magnitude above it. In float32
# both sides have the floor's error. A backward pass sums over all positions what a forward pass computes for each.
MARGIN = {torch.float32: 16.0, torch.float64: 1024.0}
GRADIENT_MARGIN = 16.0
_ROUNDOFF = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}


@dataclass(frozen=True)
class PlantedFault:
    """One field of an encoder's config, and a value that makes a slightly different model."""

    encoder: str
    field: str
    value: object

    def __str__(self) -> str:
        return f"{self.encoder}_config.{self.field} = {self.value!r}"


@dataclass(frozen=True)
class Expected:
    """The original's outputs on each scenario, in float64, and the bounds around them and around its gradients.

    Gradients are taken on ``gradient_cases``, in ``gradient_dtype``.
    """

    cases: Sequence[Scenario]
    outputs: Sequence[Mapping[str, Tensor]]
    gradient_cases: Sequence[Scenario]
    gradient_dtype: torch.dtype
    bounds: Bounds


def is_large(model: nn.Module) -> bool:
    return sum(parameter.numel() for parameter in model.parameters()) > FLOAT64_GRADIENTS_MAX


def expect(model: Flava) -> tuple[Expected, dict[str, Tensor]]:
    """Runs a float32 model in float32 and then in float64.

    The model ends in float64; returns gradients separately, keyed by original parameter, so that their
    memory can be taken over.
    """
    large = is_large(model)
    cases = scenarios(model, brief=large)
    gradient_cases = [case.shortened(_SHORT_TEXT) for case in cases] if large else cases
    rough, gradients = outputs_and_gradients(run_original, model, gradient_cases)
    cases = [case.to(torch.float64) for case in cases]
    gradient_dtype = torch.float32
    moved: dict[str, float] = {}
    if large:
        exact = outputs(run_original, in_float64(model), cases)
    else:
        gradient_dtype, gradient_cases, rough_gradients = torch.float64, cases, gradients
        exact, gradients = outputs_and_gradients(run_original, model.double(), cases)
        moved = {name: float((rough_gradients[name].double() - gradient).abs().max()) for name, gradient in gradients.items()}
    # Both lists begin with the same two scenarios; where the model is large, the texts of the third differ in length.
    floor = max(2 * _ROUNDOFF[torch.float32], *(worst(run, wanted) for run, wanted in zip(rough[:2], exact)))
    bounds = Bounds(
        tolerance=floor * _scale(torch.float64),
        gradient_tolerance=floor * _scale(gradient_dtype) * GRADIENT_MARGIN,
        gradient_rounding=floor * _scale(gradient_dtype),
        gradient_floors={name: by * _scale(gradient_dtype) for name, by in moved.items() if isfinite(by)},
        planted={str(fault): _effect(fault, model, cases, exact) for fault in _faults(model)},
        floor=floor * _ROUNDOFF[torch.float64] / _ROUNDOFF[torch.float32],
    )
    return Expected(cases, exact, gradient_cases, gradient_dtype, bounds), gradients


def _scale(dtype: torch.dtype) -> float:
    """The factor from float32's rounding to the difference that is allowed in ``dtype``."""
    return MARGIN[dtype] * _ROUNDOFF[dtype] / _ROUNDOFF[torch.float32]


def worst(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The largest relative error of all outputs."""
    return max(relative_error(actual[name], value) for name, value in expected.items())


# What ports get wrong: an epsilon, and a variant of the activation. FLAVA's value, and what is planted in its place.
_PLANTED: dict[str, tuple[object, object]] = {"layer_norm_eps": (1e-12, 1e-5), "hidden_act": ("gelu", "gelu_new")}


def _faults(model: Flava) -> Iterator[PlantedFault]:
    """Each field of each encoder with its other value; of a large model, where running takes long, the image encoder alone."""
    for encoder in ("image",) if is_large(model) else ("image", "text", "multimodal"):
        for field, (usual, planted) in _PLANTED.items():
            present = getattr(getattr(model.config, f"{encoder}_config"), field)
            alike = present == planted or (present in GELUS_BY_TANH and planted in GELUS_BY_TANH)
            yield PlantedFault(encoder, field, usual if alike else planted)


def _effect(fault: PlantedFault, model: Flava, cases: Sequence[Scenario], exact: Sequence[Mapping[str, Tensor]]) -> float:
    """How far the fault moves the outputs of its own encoder."""
    case = {"multimodal": 0, "image": 1, "text": 2}[fault.encoder]
    encoder = {"image": "image_encoder", "text": "text_encoder", "multimodal": "mm_encoder"}[fault.encoder]
    with _planted(fault, model.get_submodule(encoder)):
        (moved,) = outputs(run_original, model, [cases[case].unmasked()])
    return worst(moved, {name: value for name, value in exact[case].items() if name.startswith(f"{fault.encoder} ")})


@contextmanager
def _planted(fault: PlantedFault, encoder: nn.Module) -> Iterator[None]:
    """The encoder computes with the fault while the block runs."""
    changed: type[nn.Module]
    changed, attribute, value = nn.LayerNorm, "eps", fault.value
    if fault.field == "hidden_act":
        changed, attribute, value = Layer, "activation", ACTIVATIONS[str(fault.value)]
    kept = [(module, getattr(module, attribute)) for module in encoder.modules() if isinstance(module, changed)]
    try:
        for module, _ in kept:
            setattr(module, attribute, value)
        yield
    finally:
        for module, own in kept:
            setattr(module, attribute, own)
