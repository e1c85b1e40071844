"""What the original computes, and how far a right and a wrong model lie from it: both measured, never typed.

The floor is what rounding does: the original in float32 against itself in float64. The ceiling is what
the weakest of a few small faults does, planted in the original. A tolerance belongs between the two.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor, nn

from ..original.config import ACTIVATIONS
from ..original.encoder import Layer, Transformer
from ..original.flava import Flava
from .forward import in_float64, outputs, outputs_and_gradients, relative_error, run_original
from .scenarios import Scenario, scenarios

# Gradients of larger models are taken in float32, on fewer inputs: in float64 they take twice the memory and time.
FLOAT64_GRADIENTS_MAX = 50_000_000
_SHORT_TEXT = 128

# How far above the measured floor a difference must lie to count. In float64 the floor is scaled from
# float32's by the ratio of their unit roundoffs, which is rough; faults lie orders of magnitude above it.
# In float32 both sides have the floor's error. Backward passes sum over all positions what forward passes
# compute for each.
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
    """The original's outputs on each scenario, and the bounds around them and around its gradients.

    ``tolerance`` is relative to an output's largest value; ``slope_tolerance`` to a gradient's, unless rounding
    was seen to move it by more: ``slope_floors``, absolute. What is below ``slope_rounding``, relative
    to the usual gradient, is nothing but rounding. ``planted`` has how far each fault moves the outputs.
    """

    cases: Sequence[Scenario]
    slope_cases: Sequence[Scenario]
    outputs: Sequence[Mapping[str, Tensor]]  # in float64
    slope_dtype: torch.dtype
    tolerance: float
    slope_tolerance: float
    slope_rounding: float
    slope_floors: Mapping[str, float]
    planted: Mapping[str, float]

    @property
    def weakest(self) -> str:
        """The planted fault that is hardest to see."""
        return min(self.planted, key=self.planted.get)

    @property
    def shows_the_weakest(self) -> bool:
        return self.planted[self.weakest] > self.tolerance


def is_large(model: nn.Module) -> bool:
    return sum(parameter.numel() for parameter in model.parameters()) > FLOAT64_GRADIENTS_MAX


def expect(model: Flava) -> tuple[Expected, dict[str, Tensor]]:
    """Runs a float32 model as it is, then in float64, which it is left in; gradients by original parameter come apart."""
    large = is_large(model)
    cases = scenarios(model, brief=large)
    slope_cases = [case.shortened(_SHORT_TEXT) for case in cases] if large else cases
    rough, slopes = outputs_and_gradients(run_original, model, slope_cases)
    cases = [case.to(torch.float64) for case in cases]
    slope_dtype, slope_floors = torch.float32, {}
    if large:
        exact = outputs(run_original, in_float64(model), cases)
    else:
        slope_dtype, rough_slopes = torch.float64, slopes
        exact, slopes = outputs_and_gradients(run_original, model.double(), cases)
        slope_floors = {name: float((rough_slopes[name].double() - slope).abs().max()) for name, slope in slopes.items()}
    floor = max(2 * _ROUNDOFF[torch.float32], *(worst(run, wanted) for run, wanted in zip(rough[:2], exact)))
    expected = Expected(
        cases,
        slope_cases if large else cases,
        exact,
        slope_dtype,
        floor * _scale(torch.float64),
        floor * _scale(slope_dtype) * GRADIENT_MARGIN,
        floor * _scale(slope_dtype),
        {name: by * _scale(slope_dtype) for name, by in slope_floors.items() if isfinite(by)},
        {str(fault): _effect(fault, model, cases, exact) for fault in _faults(model)},
    )
    return expected, slopes


def _scale(dtype: torch.dtype) -> float:
    """From what float32 rounds to what a difference in ``dtype`` may be."""
    return MARGIN[dtype] * _ROUNDOFF[dtype] / _ROUNDOFF[torch.float32]


def worst(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The largest relative error of all outputs."""
    return max(relative_error(actual[name], value) for name, value in expected.items())


# ------------------------------------------------------------------------------- planted faults

# What ports get wrong, an epsilon and an activation's variant: FLAVA's value, and what stands in for it.
_PLANTED = {"layer_norm_eps": (1e-12, 1e-5), "hidden_act": ("gelu", "gelu_new")}


def _faults(model: Flava) -> Iterator[PlantedFault]:
    """Each field of each encoder with its other value; of the image encoder alone where running takes long."""
    for encoder in ("image",) if is_large(model) else ("image", "text", "multimodal"):
        for field, (usual, planted) in _PLANTED.items():
            present = getattr(getattr(model.config, f"{encoder}_config"), field)
            yield PlantedFault(encoder, field, usual if present == planted else planted)


def _effect(fault: PlantedFault, model: Flava, cases: Sequence[Scenario], exact: Sequence[Mapping[str, Tensor]]) -> float:
    """How far the fault moves what its encoder itself puts out."""
    case = {"multimodal": 0, "image": 1, "text": 2}[fault.encoder]
    encoder = {"image": model.image_encoder, "text": model.text_encoder, "multimodal": model.mm_encoder}[fault.encoder]
    with _planted(fault, encoder.module):
        (moved,) = outputs(run_original, model, [cases[case].unmasked()])
    return worst(moved, {name: value for name, value in exact[case].items() if name.startswith(f"{fault.encoder} ")})


@contextmanager
def _planted(fault: PlantedFault, encoder: Transformer) -> Iterator[None]:
    """The encoder computes with the fault while the block runs."""
    kind, attribute, value = nn.LayerNorm, "eps", fault.value
    if fault.field == "hidden_act":
        kind, attribute, value = Layer, "activation", ACTIVATIONS[fault.value]
    kept = [(module, getattr(module, attribute)) for module in encoder.modules() if isinstance(module, kind)]
    try:
        for module, _ in kept:
            setattr(module, attribute, value)
        yield
    finally:
        for module, own in kept:
            setattr(module, attribute, own)
