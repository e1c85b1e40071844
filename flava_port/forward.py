"""The computation part of the proof: the original and the converted model run on the same inputs.

Both sides are recorded module by module, so that the first one to diverge is known by name. The
original is `flava_port.original`; the converted model is the installed transformers'.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .memory import return_freed_memory
from .original import DalleEncoder, Flava
from .rules import CODEBOOK_PREFIX, FLAVA

IGNORED = -100


@dataclass(frozen=True)
class Scenario:
    """One way to use FLAVA: its name, and the inputs by `Flava.forward`'s argument names."""

    name: str
    inputs: Mapping[str, Tensor]

    @property
    def has_labels(self) -> bool:
        return any(name.endswith("_labels") for name in self.inputs)

    def to(self, dtype: torch.dtype, device: torch.device | None = None) -> "Scenario":
        """The same values, pixels in ``dtype``; on another device, if one is given."""
        moved = {name: value.to(device) for name, value in self.inputs.items()}
        return Scenario(self.name, {name: value.to(dtype) if value.is_floating_point() else value for name, value in moved.items()})

    def unmasked(self) -> "Scenario":
        """The same without anything to predict."""
        predicting = ("bool_masked_pos", "input_ids_masked", "mim_labels", "mlm_labels", "itm_labels")
        return Scenario(self.name, {name: value for name, value in self.inputs.items() if name not in predicting})

    def shortened(self, tokens: int) -> "Scenario":
        """The same with no more than the first few tokens of each text."""
        texts = ("input_ids", "input_ids_masked", "attention_mask", "token_type_ids", "mlm_labels")
        return Scenario(self.name, {name: value[:, :tokens] if name in texts else value for name, value in self.inputs.items()})


def scenarios(model: Flava, *, brief: bool = False, seed: int = 0) -> list[Scenario]:
    """Inputs that reach every part: every position and patch, masks, padding, token types, labels, ITM negatives.

    Values come from a seed; pixels are float32. ``brief`` is for large models: short texts beside the
    images, and the longest text by itself, once.
    """
    longest = model.config.text_config.max_position_embeddings
    pairs = _inputs(model, 2, min(longest, 24), seed) if brief else _inputs(model, 3, longest, seed)
    single = _inputs(model, 1, longest, seed + 1) if brief else pairs
    image = ("pixel_values", "bool_masked_pos", "mim_labels")
    text = ("input_ids", "input_ids_masked", "attention_mask", "token_type_ids", "mlm_labels")
    cases = [
        Scenario("pairs, masked, with labels", pairs),
        Scenario("images, masked, with labels", {name: single[name] for name in image}),
        Scenario("texts, masked, with labels", {name: single[name] for name in text}),
    ]
    if not brief:
        cases.append(Scenario("pairs, plain", {name: pairs[name] for name in ("pixel_values", "input_ids")}))
    return cases


def _inputs(model: Flava, pairs: int, length: int, seed: int) -> dict[str, Tensor]:
    """Every input of FLAVA, for ``pairs`` images and texts; the first text is whole, the others end in padding."""
    generator = torch.Generator().manual_seed(seed)
    image, text = model.config.image_config, model.config.text_config
    patches = (image.image_size // image.patch_size) ** 2

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(min(1, high - 1), high, shape, generator=generator)

    def some(*shape: int) -> Tensor:
        mask = torch.rand(shape, generator=generator) < 0.4
        mask[:, 0] = True  # at least one in each row
        return mask

    pixels = torch.randn(pairs, image.num_channels, image.image_size, image.image_size, generator=generator)
    words, masked_words = integers(text.vocab_size, pairs, length), some(pairs, length)
    attention = torch.ones(pairs, length, dtype=torch.int64)
    for row in range(1, pairs):
        attention[row, max(1, length - 2 * row) :] = 0
    return {
        "pixel_values": pixels,
        "input_ids": words,
        "input_ids_masked": words.masked_fill(masked_words, 0),
        "attention_mask": attention,
        "token_type_ids": integers(text.type_vocab_size, pairs, length),
        "bool_masked_pos": some(pairs, patches),
        "mim_labels": integers(image.vocab_size, pairs, patches),
        "mlm_labels": words.masked_fill(~masked_words | (attention == 0), IGNORED),
        "itm_labels": torch.tensor([1] + [row % 2 for row in range(pairs - 1)]),
    }


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


# ------------------------------------------------------------------------- module by module


@dataclass(frozen=True)
class Call:
    """One call of a module that owns weights: its name on the converted side, and what went in and out."""

    name: str
    inputs: Tensor
    output: Tensor


def converted_name(original: str) -> str:
    """The converted name of an original module, by the rules: ``mm_encoder.module.layernorm`` and the like."""
    return FLAVA.trace(f"{original}.weight").target.removesuffix(".weight")


@contextmanager
def recording(model: nn.Module, name_of: Callable[[str], str] = str) -> Iterator[list[Call]]:
    """Lists every call of a module that owns weights, in order, while the block runs."""
    calls: list[Call] = []
    hooks = []
    seen: set[int] = set()
    for path, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)) and isinstance(module, (nn.Linear, nn.LayerNorm, nn.Embedding, nn.Conv2d)):
            if id(module) in seen:
                continue
            seen.add(id(module))

            def hook(_module, inputs, output, name=name_of(path)):
                calls.append(Call(name, inputs[0].detach(), output.detach()))

            hooks.append(module.register_forward_hook(hook))
    try:
        yield calls
    finally:
        for handle in hooks:
            handle.remove()


def original_module_names(path: str) -> str:
    """The converted name for a path in `Flava`; second copies of embeddings count as their first."""
    return converted_name(path.replace("_encoder.embeddings", "_encoder.module.embeddings"))


@dataclass(frozen=True)
class Divergence:
    """The first module whose output differs, and whether its own computation does."""

    name: str
    call: int
    error: float
    own_fault: bool  # fed the other side's input, it still differs


def first_divergence(theirs: list[Call], ours: list[Call], modules: Mapping[str, nn.Module], tolerance: float) -> Divergence | None:
    """The first call, in the converted model's order, that differs from the original's by more than ``tolerance``.

    ``modules`` has the converted model's modules by name, to run one again on the original's input.
    """
    queues: dict[str, list[Call]] = {}
    for call in ours:
        queues.setdefault(call.name, []).append(call)
    count: dict[str, int] = {}
    for call in theirs:
        number = count[call.name] = count.get(call.name, -1) + 1
        expected = queues.get(call.name, [])
        if number >= len(expected) or call.output.shape != expected[number].output.shape:
            continue
        error = relative_error(call.output, expected[number].output)
        if not error <= tolerance:
            with torch.no_grad():
                again = modules[call.name](expected[number].inputs)
            return Divergence(call.name, number, error, not relative_error(again, expected[number].output) <= tolerance)
    return None


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
