"""Runs the original and the converted model on the same inputs, and gives their outputs the same names.

The original is `flava_port.original`; the converted model is the installed transformers'.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from typing import Protocol, TypeAlias, TypeVar, cast

import torch
from torch import Tensor, nn

from ..original.codebook import DalleEncoder
from ..original.flava import Flava
from .scenarios import IGNORED, Scenario

LOSSES = ("global_contrastive", "itm", "mim", "mlm", "mmm_image", "mmm_text")
LOGITS = ("itm_logits", "mim_logits", "mlm_logits", "mmm_image_logits", "mmm_text_logits",
          "contrastive_logits_per_image", "contrastive_logits_per_text")  # fmt: skip
_ENCODINGS = ("image", "text", "multimodal", "image_masked", "text_masked", "multimodal_masked")

ModelT = TypeVar("ModelT", bound=nn.Module)
# Runs a model on a scenario and returns every output by name.
Runner: TypeAlias = Callable[[ModelT, Scenario], dict[str, Tensor]]


def run_original(model: Flava, scenario: Scenario) -> dict[str, Tensor]:
    """Every output of the original, by the name that both sides share."""
    out = model(**scenario.inputs)
    found: dict[str, Tensor | None] = {name: getattr(out, name) for name in LOGITS}
    losses = {f"{name} loss": _weighted(getattr(out, f"{name}_loss"), getattr(model, "loss_weights", {}).get(name, 1.0)) for name in LOSSES}
    made = [loss for loss in losses.values() if loss is not None]
    found |= losses | {"total loss": torch.stack(made).sum() if made else None}
    for name in _ENCODINGS:
        if (encoding := getattr(out, name)) is not None:
            found |= states_by_name(name, encoding.hidden_states, encoding.last_hidden_state, encoding.pooler_output)
    return {name: value for name, value in found.items() if value is not None}


def _weighted(loss: Tensor | None, weight: float) -> Tensor | None:
    """The loss times its weight in the config; none where that is 0."""
    return loss * weight if loss is not None and weight else None


class _Config(Protocol):
    ce_ignore_index: int


class _Codebook(Protocol):
    def __call__(self, pixel_values: Tensor, /) -> Tensor: ...
    def get_codebook_probs(self, pixel_values: Tensor, /) -> Tensor: ...
    def get_codebook_indices(self, pixel_values: Tensor, /) -> Tensor: ...


class _ForPreTraining(Protocol):
    """What is used of transformers' `FlavaForPreTraining`; `nn.Module` itself declares no such attributes."""

    config: _Config
    image_codebook: _Codebook


def run_converted(model: nn.Module, scenario: Scenario) -> dict[str, Tensor]:
    """Every output of the converted model, a `FlavaForPreTraining`, by the same names."""
    inputs = {name: value.clone() for name, value in scenario.inputs.items()}  # transformers writes into its labels
    for labels in ("mim_labels", "mlm_labels", "itm_labels"):
        if labels in inputs:
            inputs[labels][inputs[labels] == IGNORED] = cast(_ForPreTraining, model).config.ce_ignore_index
    masked = {"input_ids_masked": inputs.get("input_ids_masked", inputs.get("input_ids"))}
    options = {"return_loss": scenario.has_labels, "skip_unmasked_multimodal_encoder": False, "return_dict": True}
    with _multimodal_states(model) as multimodal_states:
        out = model(**{**inputs, **masked, **options})
    found: dict[str, Tensor | None] = {name: getattr(out, name) for name in LOGITS}
    found |= {f"{name} loss": getattr(out.loss_info, name) for name in LOSSES} | {"total loss": out.loss}
    for name in _ENCODINGS:
        if (encoding := getattr(out, f"{name}_output")) is not None:
            states = encoding.hidden_states or multimodal_states.pop(0)
            found |= states_by_name(name, states, encoding.last_hidden_state, encoding.pooler_output)
    return {name: value for name, value in found.items() if value is not None}


def states_by_name(name: str, states: Sequence[Tensor], last: Tensor, pooled: Tensor) -> dict[str, Tensor]:
    """One encoder's outputs: each hidden state with its number, the last after its layer norm, and the pooled one."""
    by_layer = {f"{name} hidden state {number}": state for number, state in enumerate(states)}
    return {**by_layer, f"{name} last hidden state": last, f"{name} pooled": pooled}


@contextmanager
def _multimodal_states(model: nn.Module) -> Iterator[list[list[Tensor]]]:
    """Collects the hidden states of each run of the multimodal encoder, which transformers does not return."""
    runs: list[list[Tensor]] = []
    layers = [*model.get_submodule("flava.multimodal_model.encoder.layer").children()]

    def begin(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        runs.append([inputs[0]])

    def collect(_layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]) -> None:
        runs[-1].append(output[0] if isinstance(output, tuple) else output)

    handles = [layers[0].register_forward_pre_hook(begin), *(layer.register_forward_hook(collect) for layer in layers)]
    try:
        yield runs
    finally:
        for handle in handles:
            handle.remove()


def relative_error(actual: Tensor, expected: Tensor, least: float = 0.0) -> float:
    """The largest difference, divided by the largest expected value or by ``least``, whichever is larger.

    Infinite where shapes differ, or one side alone is NaN.
    """
    if actual.shape != expected.shape:
        return float("inf")
    if not actual.numel():
        return 0.0
    actual, expected = actual.detach().double(), expected.detach().double()
    difference, size = magnitude(actual - expected), magnitude(expected)
    if isfinite(difference) and isfinite(size):
        return difference / max(size, least, _TINY)
    both_nan = actual.isnan() & expected.isnan()
    apart = (actual - expected).abs().masked_fill(both_nan | (actual == expected), 0.0)
    if apart.isnan().any():
        return float("inf")
    finite = expected.isfinite()
    size = magnitude(expected[finite]) if finite.any() else 1.0
    return float(apart.max()) / max(size, least, _TINY)


_TINY = 1e-30


def magnitude(tensor: Tensor) -> float:
    """The largest absolute value; NaN where there is one, 0 where there is nothing."""
    least, most = torch.aminmax(tensor) if tensor.numel() else (torch.zeros(()), torch.zeros(()))
    return abs(float(torch.maximum(-least, most)))  # of zeros it may be -0.0


def outputs_of(run: Runner[ModelT], model: ModelT, case: Scenario) -> dict[str, Tensor]:
    """Every output; without labels none is a loss."""
    found = run(model, case)
    return found if case.has_labels else {name: value for name, value in found.items() if not name.endswith(" loss")}


_HIDDEN_STATE = re.compile(r" hidden state \d+\Z")


def total_of(outputs: Mapping[str, Tensor], *, with_states: bool = True) -> Tensor:
    """The sum of the losses, and of every other output's mean under seeded weights.

    So a parameter that no loss reaches (a unimodal pooler's, say) has a gradient too. Hidden states, of which there is
    one after each layer, can be left out: what is computed from the last one depends on all.
    """
    generator = torch.Generator().manual_seed(0)
    parts = []
    for name, value in sorted(outputs.items()):
        if _HIDDEN_STATE.search(name) and not with_states:
            continue
        is_loss = name.endswith(" loss")
        parts.append(value if is_loss else (torch.randn(value.shape, generator=generator).to(value.dtype) * value).mean())
    return torch.stack(parts).sum()


CODEBOOK_PIXELS = "codebook_pixel_values"


def codebook_case(channels: int, images: int, seed: int = 0) -> Scenario:
    """Pixels of high contrast, so that indices vary."""
    generator = torch.Generator().manual_seed(seed)
    return Scenario("codebook", {CODEBOOK_PIXELS: 4 * torch.randn(images, channels, 32, 32, generator=generator, dtype=torch.float64)})


def run_codebook(ours: DalleEncoder, case: Scenario) -> dict[str, Tensor]:
    """The original codebook's logits, probabilities and indices."""
    logits = ours(case.inputs[CODEBOOK_PIXELS])
    return {"codebook logits": logits, "codebook probabilities": logits.softmax(1), "codebook indices": logits.argmax(1)}


def run_converted_codebook(model: nn.Module, case: Scenario) -> dict[str, Tensor]:
    """The same of the converted model, which holds the codebook."""
    theirs, pixels = cast(_ForPreTraining, model).image_codebook, case.inputs[CODEBOOK_PIXELS]
    return {
        "codebook logits": theirs(pixels),
        "codebook probabilities": theirs.get_codebook_probs(pixels),
        "codebook indices": theirs.get_codebook_indices(pixels),
    }
