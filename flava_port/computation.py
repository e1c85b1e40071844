"""Both models on the same inputs: outputs, losses and gradients, and the first module that diverges.

The noise floor is measured, not guessed: the original in float32 against itself in float64. Models
small enough run in float64, where that floor shrinks with the unit roundoff; larger ones in float32.
"""

import contextlib
import ctypes
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from .checkpoint import open_checkpoint
from .claims import Claim, Finding, Measured, Verdict
from .compare import compare_values
from .forward import (
    Scenario, first_divergence, original_module_names, outputs_and_gradients, recording,
    relative_error, run_codebooks, run_converted, run_original, scenarios,
)  # fmt: skip
from .layout import load_model, quiet
from .original import DalleEncoder, Flava
from .placing import Source
from .progress import Progress
from .rules import FLAVA, source_name
from .tensors import MemoryTensor, StoredTensor, TensorSource, dtype_name, load
from .writing import write_torch_zip

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
    seen: dict[str, float]  # by parameter: how large its gradient is, relative to what is usual


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
    with quiet(), tempfile.TemporaryDirectory(prefix="flava_port-") as scratch:
        return _run_both(sides, Path(scratch) / "gradients.pt")


def _run_both(sides: Sides, scratch: Path) -> _Results:
    """One side at a time in memory; the original's gradients, as large as the model, wait on the disk."""
    size = sum(prod(tensor.shape) for tensor in sides.sources[0].checkpoint.tensors.values())
    brief = size > FLOAT64_PARAMETERS_MAX
    dtype = torch.float32 if brief else torch.float64
    tolerance = max(_noise_floor(sides, brief) * _ROUNDOFF[dtype] / _ROUNDOFF[torch.float32], 2 * _ROUNDOFF[dtype]) * MARGIN[dtype]

    ours = sides.original(dtype)
    cases = scenarios(ours, brief=brief)
    expected, slopes = outputs_and_gradients(run_original, ours, cases)
    write_torch_zip(scratch, {_parameter(FLAVA.rename(name) or name): MemoryTensor(slope) for name, slope in slopes.items()})
    slopes = open_checkpoint(scratch).tensors
    del ours
    _return_freed_memory()
    theirs = sides.converted(dtype)
    actual, their_slopes = outputs_and_gradients(run_converted, theirs, cases)
    errors: dict[str, dict[str, float]] = {"output": {}, "loss": {}, "codebook": {}}
    for case, wanted, found in zip(cases, expected, actual):
        for name, value in wanted.items():
            error = relative_error(found[name], value) if name in found else float("inf")
            errors["loss" if name.endswith(" loss") else "output"][f"{case.name}: {name}"] = error
    sizes = {name: float(load(slope).abs().max()) for name, slope in slopes.items()}
    errors["gradient"] = dict(_gradient_errors({_parameter(name): slope for name, slope in their_slopes.items()}, slopes, sizes))
    if (codebook := sides.codebook(dtype)) is not None:
        with torch.no_grad():
            errors["codebook"] = {name: relative_error(*pair) for name, pair in run_codebooks(codebook, theirs.image_codebook).items()}
    diverged = next((case for case in cases for name, e in errors["output"].items() if name.startswith(case.name) and not e <= tolerance), None)
    theirs.zero_grad(set_to_none=True)
    where = _localise(sides, theirs, diverged, dtype, tolerance) if diverged else []
    usual = _median(sizes) or 1.0
    return _Results(tolerance, errors, where, {name: size / usual for name, size in sizes.items()})


def _return_freed_memory() -> None:
    """Gives a freed model's memory back to the system; the C library would keep it and the next model come on top."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _noise_floor(sides: Sides, brief: bool) -> float:
    """The largest relative error of the original in float32, measured against itself in float64."""
    runs = []
    for dtype in (torch.float64, torch.float32):
        model = sides.original(dtype)
        case = scenarios(model, brief=brief)[1 if brief else 0]  # images alone go through as many layers, sooner
        with torch.no_grad():
            runs.append(run_original(model, case))
        del model
        _return_freed_memory()
    return max(relative_error(runs[1][name], runs[0][name]) for name in runs[0])


def _parameter(name: str) -> str:
    """A head's bias is the decoder's, under whichever of its names it comes."""
    return name if not name.endswith("_head.bias") else name.removesuffix("bias") + "decoder.bias"


def _gradient_errors(theirs: Mapping[str, torch.Tensor], ours: Mapping[str, StoredTensor], sizes: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """Errors relative to each gradient's largest value; to the median one's where the gradient is zero but for rounding."""
    usual = _median(sizes)
    for name, stored in ours.items():
        actual = theirs.get(name)
        if actual is None or actual.shape != stored.shape:
            yield name, float("inf")
        else:
            is_zero = name.endswith(tuple(SEEN_BY_VALUES_ALONE))
            scale = max(usual if is_zero else sizes[name], 1e-300)
            yield name, float((actual - load(stored)).abs().max()) / scale


def _median(sizes: Mapping[str, float]) -> float:
    return sorted(sizes.values())[len(sizes) // 2]


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
