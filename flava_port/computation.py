"""Both models on the same inputs: outputs, losses and gradients, and the first module that diverges.

The noise floor is measured, not guessed: the original in float32 against itself in float64. Models
small enough run in float64, where that floor shrinks with the unit roundoff; larger ones in float32.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from .claims import Claim, Finding, Measured, Verdict
from .compare import compare_values
from .forward import (
    Scenario, first_divergence, gradients, original_module_names, recording,
    relative_error, run_codebooks, run_converted, run_original, scenarios,
)  # fmt: skip
from .layout import load_model
from .original import DalleEncoder, Flava
from .placing import Source
from .progress import Progress
from .rules import FLAVA, source_name
from .tensors import MemoryTensor, StoredTensor, TensorSource, dtype_name, load

FLOAT64_PARAMETERS_MAX = 50_000_000

# How far above the measured floor a difference must lie to count. float32: both sides have the floor's
# error, and sum in other orders. float64: the floor is scaled from float32's by the ratio of their unit
# roundoffs, which is rough; the weakest planted faults still lie orders of magnitude above it.
MARGIN = {torch.float32: 16.0, torch.float64: 1024.0}
_ROUNDOFF = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}
# Backward passes sum over all positions what forward passes compute for each.
GRADIENT_MARGIN = 16.0

# Parameters that no output shows, by the end of their names, and why.
SEEN_BY_VALUES_ALONE = {"attention.attention.key.bias": "attention's key.bias adds the same to every score, which softmax cancels"}


@dataclass
class Sides:
    """What is needed to run both: the original's files, the converted folder, the original's config."""

    sources: list[Source]
    folder: Path
    config: dict
    originals: Mapping[str, tuple[str, TensorSource]]  # by converted key: the original's key and tensor

    def original(self, dtype: torch.dtype) -> Flava:
        """The reference implementation with the original's weights."""
        told = {
            section: {name: self.config[f"{section}_config"][name] for name in ("num_attention_heads", "hidden_act", "layer_norm_eps")}
            for section in ("image", "text", "multimodal")
        }
        told["text"]["pad_token_id"] = self.config["text_config"]["pad_token_id"]
        return Flava.from_state_dict(_loaded(self.sources[0], dtype), **told).eval()

    def codebook(self, dtype: torch.dtype) -> DalleEncoder | None:
        return DalleEncoder.from_state_dict(_loaded(self.sources[1], dtype)).eval() if len(self.sources) > 1 else None

    def converted(self, dtype: torch.dtype) -> torch.nn.Module:
        return load_model(self.folder)[0].to(dtype)


def _loaded(source: Source, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A source's tensors in memory, each storage once."""
    loaded: dict[object, torch.Tensor] = {}

    def tensor(stored: StoredTensor) -> torch.Tensor:
        if stored not in loaded:
            value = load(stored)
            loaded[stored] = value.to(torch.float32).to(dtype) if value.is_floating_point() else value
        return loaded[stored]

    return {key: tensor(stored) for key, stored in source.checkpoint.tensors.items()}


@dataclass
class _Results:
    """Both sides' numbers, compared: name, relative error, by kind; and where the first divergence lies."""

    tolerance: float
    errors: dict[str, dict[str, float]]
    where: list[Finding]
    seen: dict[str, float]  # by parameter: the largest gradient that any probe gave it, relative to what is usual


def compare_computation(sides: Sides, progress: Progress) -> Iterator[tuple[str, Callable]]:
    """Claims and their checks; the models run once, on the first of them."""
    results: list[_Results] = []

    def check(kind: str, margin: float = 1.0) -> Callable:
        def fill(claim: Claim) -> None:
            if not results:
                with progress("run", None):
                    results.append(_run(sides))
            _judge(claim, kind, results[0], results[0].tolerance * margin)

        return fill

    yield "loaded values", lambda claim: _judge_loaded(claim, sides)
    yield "forward", check("output")
    yield "losses", check("loss")
    yield "gradients", check("gradient", GRADIENT_MARGIN)
    yield "seen by a probe", lambda claim: _judge_seen(claim, results)
    if len(sides.sources) > 1:
        yield "codebook", check("codebook")


def _judge_loaded(claim: Claim, sides: Sides) -> None:
    """What `from_pretrained` ends up with is the original's values: no tie lost, no dtype changed, nothing made anew."""
    model, version = load_model(sides.folder)
    loaded = {key: MemoryTensor(value) for key, value in model.state_dict().items() if key in sides.originals}
    originals = {key: sides.originals[key] for key in loaded}
    claim.findings, _ = compare_values(loaded, originals)
    claim.findings += [Finding(key, source_name(key), "not loaded at all") for key in sides.originals if key not in loaded]
    claim.findings += [
        Finding(key, originals[key][0], f"loaded as {dtype_name(tensor.dtype)}")
        for key, tensor in loaded.items()
        if tensor.dtype not in (torch.float32, originals[key][1].dtype)
    ]
    claim.verdict = Verdict.DIFFERS if claim.findings else Verdict.PROVEN
    claim.summary = f"{len(claim.findings)} found" if claim.findings else f"transformers {version} loads every value, bit for bit"


def _judge_seen(claim: Claim, results: list["_Results"]) -> None:
    """Every parameter shows in an output or a loss, or is known to show in its values alone."""
    if not results:
        claim.summary = "the models did not run"
        return
    unseen = [name for name, size in results[0].seen.items() if size <= results[0].tolerance]
    excused = [name for name in unseen if any(name.endswith(ending) for ending in SEEN_BY_VALUES_ALONE)]
    claim.findings = [Finding(name, source_name(name), "no output, loss or gradient shows it") for name in unseen if name not in excused]
    claim.verdict = Verdict.DIFFERS if claim.findings else Verdict.PROVEN
    seen = len(results[0].seen) - len(unseen)
    claim.summary = f"{seen} parameters; {len(excused)} by their values alone ({', '.join(SEEN_BY_VALUES_ALONE.values())})"


def _judge(claim: Claim, kind: str, results: _Results, tolerance: float) -> None:
    errors = results.errors[kind]
    wrong = {name: error for name, error in errors.items() if not error <= tolerance}
    worst = max(errors.values(), default=0.0)
    claim.measured = [Measured(name, error, tolerance) for name, error in errors.items()]
    if wrong:
        claim.findings += results.where if kind == "output" else []
        claim.findings += [Finding(name, "", f"relative error {error:.1e}, rounding allows {tolerance:.1e}") for name, error in wrong.items()]
    claim.verdict = Verdict.DIFFERS if wrong else Verdict.PROVEN if errors else Verdict.NOT_PROVEN
    claim.summary = f"{len(wrong)} of {len(errors)} differ" if wrong else f"{len(errors)} compared; largest relative error {worst:.1e}, rounding allows {tolerance:.1e}"


def _run(sides: Sides) -> _Results:
    size = sum(prod(tensor.shape) for tensor in sides.sources[0].checkpoint.tensors.values())
    dtype = torch.float64 if size <= FLOAT64_PARAMETERS_MAX else torch.float32
    pairs = 3 if dtype is torch.float64 else 2
    floor = _noise_floor(sides, pairs)
    tolerance = max(floor * _ROUNDOFF[dtype] / _ROUNDOFF[torch.float32], 2 * _ROUNDOFF[dtype]) * MARGIN[dtype]

    ours = sides.original(dtype)
    cases = scenarios(ours, pairs)
    expected = [_outputs_and_gradients(run_original, ours, case, _original_parameter) for case in cases]
    del ours
    theirs = sides.converted(dtype)
    errors: dict[str, dict[str, float]] = {"output": {}, "loss": {}, "gradient": {}, "codebook": {}}
    for case, (outputs, slopes) in zip(cases, expected):
        their_outputs, their_slopes = _outputs_and_gradients(run_converted, theirs, case, _converted_parameter)
        for name in outputs:
            error = relative_error(their_outputs[name], outputs[name]) if name in their_outputs else float("inf")
            errors["loss" if name.endswith(" loss") else "output"][f"{case.name}: {name}"] = error
        errors["gradient"] |= {f"{case.name}: {name}": error for name, error in _gradient_errors(their_slopes, slopes)}
    if (codebook := sides.codebook(dtype)) is not None:
        for name, (actual, wanted) in run_codebooks(codebook, theirs.image_codebook).items():
            errors["codebook"][name] = relative_error(actual, wanted)
    diverged = next((case for case in cases for name, e in errors["output"].items() if name.startswith(case.name) and not e <= tolerance), None)
    where = _localise(sides, theirs, diverged, dtype, tolerance) if diverged else []
    return _Results(tolerance, errors, where, _largest_slopes([slopes for _, slopes in expected]))


def _noise_floor(sides: Sides, pairs: int) -> float:
    """The largest relative error of the original in float32, measured against itself in float64."""
    runs = []
    for dtype in (torch.float64, torch.float32):
        model = sides.original(dtype)
        with torch.no_grad():
            runs.append(run_original(model, scenarios(model, pairs)[0]))
        del model
    return max(relative_error(runs[1][name], runs[0][name]) for name in runs[0])


def _outputs_and_gradients(run: Callable, model: torch.nn.Module, case: Scenario, name_of: Callable[[str], str]):
    """Outputs, and gradients with respect to every parameter: of the summed losses, or of the outputs where there are no labels."""
    has_labels = any(name.endswith("_labels") for name in case.inputs)
    model.requires_grad_(True)
    outputs = run(model, case)
    if not has_labels:
        outputs = {name: value for name, value in outputs.items() if not name.endswith(" loss")}
    slopes = gradients(model, outputs if has_labels else {"probe loss": _probe(outputs)}, name_of)
    return {name: value.detach() for name, value in outputs.items()}, slopes


def _probe(outputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """A number that every element of every output changes: their sum with seeded weights, each output's mean."""
    generator = torch.Generator().manual_seed(0)
    weighted = [(torch.randn(value.shape, generator=generator).to(value.dtype) * value).mean() for _, value in sorted(outputs.items())]
    return torch.stack(weighted).sum()


def _original_parameter(name: str) -> str:
    return _converted_parameter(FLAVA.rename(name) or name)


def _converted_parameter(name: str) -> str:
    """A head's bias is the decoder's, under whichever of its names it comes."""
    return name if not name.endswith("_head.bias") else name.removesuffix("bias") + "decoder.bias"


def _gradient_errors(theirs: dict, ours: dict) -> Iterator[tuple[str, float]]:
    """Errors relative to each gradient's largest value, or, where that is next to nothing, to what is usual.

    Attention's key.bias has a gradient of zero but for rounding: softmax cancels it.
    """
    sizes = sorted(float(g.abs().max()) for g in ours.values() if g.numel())
    usual = 1e-3 * sizes[len(sizes) // 2] if sizes else 0.0
    for name, expected in ours.items():
        actual = theirs.get(name)
        if actual is None or actual.shape != expected.shape:
            yield name, float("inf")
        elif expected.numel():
            scale = max(float(expected.abs().max()), usual, 1e-300)
            yield name, float((actual.double() - expected.double()).abs().max()) / scale


def _largest_slopes(slopes: list[dict[str, torch.Tensor]]) -> dict[str, float]:
    """By parameter, its largest gradient in any scenario, relative to the median one's of that scenario."""
    largest: dict[str, float] = {}
    for found in slopes:
        sizes = {name: float(g.abs().max()) if g.numel() else 0.0 for name, g in found.items()}
        reached = sorted(size for size in sizes.values() if size)
        usual = reached[len(reached) // 2] if reached else 1.0
        for name, size in sizes.items():
            largest[name] = max(largest.get(name, 0.0), size / usual)
    return largest


def _localise(sides: Sides, theirs: torch.nn.Module, case: Scenario, dtype: torch.dtype, tolerance: float) -> list[Finding]:
    """The first module that diverges, in both names, and whether the fault is its own."""
    ours = sides.original(dtype)
    with torch.no_grad(), recording(ours, original_module_names) as our_calls:
        run_original(ours, case)
    with torch.no_grad(), recording(theirs) as their_calls:
        run_converted(theirs, case)
    found = first_divergence(their_calls, our_calls, dict(theirs.named_modules()), tolerance)
    if found is None:
        return [Finding("no single module diverges", "", "what differs lies between modules: a mask, a scale, a slice or a loss")]
    key = f"{found.name}.weight"
    whose = "its own weights or computation" if found.own_fault else "fed the original's input it agrees, so the cause lies just before it"
    source = source_name(key).removesuffix(".weight")
    rules = FLAVA.trace(source_name(key)).rules
    what = f"the first module to diverge ({case.name}, call {found.call + 1}), relative error {found.error:.1e}: {whose}"
    return [Finding(found.name, f"{source} ({rules})", what)]
