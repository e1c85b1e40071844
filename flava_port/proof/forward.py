"""The computation part of the proof: the original and the converted model run on the same inputs.

Both sides are recorded module by module, so that the first one to diverge is known by name. The
original is `flava_port.original`; the converted model is the installed transformers'.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..original.codebook import DalleEncoder
from ..original.flava import Flava
from ..rules.tables import CODEBOOK_PREFIX
from .memory import return_freed_memory
from .scenarios import IGNORED, Scenario

LOSSES = ("global_contrastive", "itm", "mim", "mlm", "mmm_image", "mmm_text")
LOGITS = ("itm_logits", "mim_logits", "mlm_logits", "mmm_image_logits", "mmm_text_logits",
          "contrastive_logits_per_image", "contrastive_logits_per_text")  # fmt: skip
_ENCODINGS = ("image", "text", "multimodal", "image_masked", "text_masked", "multimodal_masked")


def run_original(model: Flava, scenario: Scenario) -> dict[str, Tensor]:
    """Every output of the original, by the name that both sides share."""
    out = model(**scenario.inputs)
    found: dict[str, Tensor | None] = {name: getattr(out, name) for name in LOGITS}
    losses = {f"{name} loss": getattr(out, f"{name}_loss") for name in LOSSES}
    made = [loss for loss in losses.values() if loss is not None]
    found |= losses | {"total loss": torch.stack(made).sum() if made else None}
    for name in _ENCODINGS:
        if (encoding := getattr(out, name)) is not None:
            found |= states_by_name(name, encoding.hidden_states, encoding.last_hidden_state, encoding.pooler_output)
    return {name: value for name, value in found.items() if value is not None}


def run_converted(model: nn.Module, scenario: Scenario) -> dict[str, Tensor]:
    """The same of the converted model."""
    inputs = {name: value.clone() for name, value in scenario.inputs.items()}  # transformers writes into its labels
    for labels in ("mim_labels", "mlm_labels", "itm_labels"):
        if labels in inputs:
            inputs[labels][inputs[labels] == IGNORED] = model.config.ce_ignore_index
    inputs.setdefault("input_ids_masked", inputs.get("input_ids"))
    options = {"return_loss": scenario.has_labels, "skip_unmasked_multimodal_encoder": False, "return_dict": True}
    with _multimodal_states(model) as multimodal_states:
        out = model(**inputs, **options)
    found: dict[str, Tensor | None] = {name: getattr(out, name) for name in LOGITS}
    found |= {f"{name} loss": getattr(out.loss_info, name) for name in LOSSES} | {"total loss": out.loss}
    for name in _ENCODINGS:
        if (encoding := getattr(out, f"{name}_output")) is not None:
            states = encoding.hidden_states or multimodal_states.pop(0)
            found |= states_by_name(name, states, encoding.last_hidden_state, encoding.pooler_output)
    return {name: value for name, value in found.items() if value is not None}


def states_by_name(name: str, states: Sequence[Tensor], last: Tensor, pooled: Tensor) -> dict[str, Tensor]:
    by_layer = {f"{name} hidden state {number}": state for number, state in enumerate(states)}
    return {**by_layer, f"{name} last hidden state": last, f"{name} pooled": pooled}


@contextmanager
def _multimodal_states(model: nn.Module) -> Iterator[list[list[Tensor]]]:
    """The hidden states of each run of the multimodal encoder, which transformers does not hand out."""
    runs: list[list[Tensor]] = []
    layers = model.flava.multimodal_model.encoder.layer

    def begin(_layer, inputs):
        runs.append([inputs[0]])

    def collect(_layer, _inputs, output):
        runs[-1].append(output[0] if isinstance(output, tuple) else output)

    handles = [layers[0].register_forward_pre_hook(begin), *(layer.register_forward_hook(collect) for layer in layers)]
    try:
        yield runs
    finally:
        for handle in handles:
            handle.remove()


def relative_error(actual: Tensor, expected: Tensor, least: float = 0.0) -> float:
    """The largest difference, relative to the largest value expected, or to ``least`` if that is more; infinite for other shapes and for NaN on one side."""
    if actual.shape != expected.shape:
        return float("inf")
    if not actual.numel():
        return 0.0
    actual, expected = actual.detach().double(), expected.detach().double()
    both_nan = actual.isnan() & expected.isnan()
    difference = (actual - expected).abs().masked_fill(both_nan | (actual == expected), 0.0)
    if difference.isnan().any():
        return float("inf")
    finite = expected.isfinite()
    scale = expected.abs().masked_fill(~finite, 0.0).max() if finite.any() else torch.tensor(1.0)
    return float(difference.max() / scale.clamp(min=max(least, 1e-30)))


def outputs_and_gradients(
    run: Callable, model: nn.Module, cases: Sequence[Scenario], start: Mapping[str, Tensor] = {}
) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    """Every scenario's outputs, and the gradient of all that they sum to with respect to every parameter.

    What is summed: the losses, and every output's mean under seeded weights, so that a parameter that no loss
    reaches (a unimodal pooler's, say) has a gradient too. Gradients add up scenario by scenario, in place, from
    zero or what ``start`` has for a parameter: from minus another model's, the difference is left and no more
    memory taken.
    """
    parameters = {name: p for name, p in model.requires_grad_(True).named_parameters() if not name.startswith(CODEBOOK_PREFIX)}
    for name, parameter in parameters.items():  # before anything runs, so that what runs leaves its memory in one piece
        parameter.grad = start[name] if name in start else torch.zeros_like(parameter)
    collected = []
    for case in cases:
        found = _outputs(run, model, case)
        _total(found).backward()
        collected.append({name: value.detach() for name, value in found.items()})
    gradients = {name: parameter.grad for name, parameter in parameters.items()}
    model.zero_grad(set_to_none=True)
    return collected, gradients


def in_float64(model: nn.Module) -> nn.Module:
    """The model, made float64 in place, while neither what ran before nor its float32 weights lie idle in memory."""
    return_freed_memory()
    model.double()
    return_freed_memory()
    return model


def outputs(run: Callable, model: nn.Module, cases: Sequence[Scenario]) -> list[dict[str, Tensor]]:
    """Every scenario's outputs alone."""
    with torch.no_grad():
        return [_outputs(run, model, case) for case in cases]


def _outputs(run: Callable, model: nn.Module, case: Scenario) -> dict[str, Tensor]:
    found = run(model, case)
    return found if case.has_labels else {name: value for name, value in found.items() if not name.endswith(" loss")}


def _total(outputs: Mapping[str, Tensor]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    parts = []
    for name, value in sorted(outputs.items()):
        is_loss = name.endswith(" loss")
        parts.append(value if is_loss else (torch.randn(value.shape, generator=generator).to(value.dtype) * value).mean())
    return torch.stack(parts).sum()


def run_codebooks(ours: DalleEncoder, theirs: nn.Module, seed: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    """Codebook logits, probabilities and indices, (converted, original) each, on noise of high contrast, so that indices vary."""
    generator = torch.Generator().manual_seed(seed)
    weight = next(ours.parameters())
    pixels = 4 * torch.randn(2, ours.config.input_channels, 32, 32, generator=generator, dtype=torch.float64).to(weight.dtype)
    with torch.no_grad():
        logits = theirs(pixels), ours(pixels)
        probabilities = theirs.get_codebook_probs(pixels), logits[1].softmax(1)
        indices = theirs.get_codebook_indices(pixels), ours.codebook_indices(pixels)
    return {"codebook logits": logits, "codebook probabilities": probabilities, "codebook indices": indices}
