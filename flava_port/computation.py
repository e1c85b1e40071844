"""Both models on the same inputs: outputs, losses and gradients, and the first module that diverges.

One side is in memory at a time. What counts as equal, and what that is worth, `expected` measures.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial

import torch

from .claims import Claim, Finding, Measured, Verdict
from .compare import compare_values
from .dtypes import FLOAT32
from .expected import Expected, expect
from .forward import (
    Scenario,
    first_divergence,
    in_float64,
    original_module_names,
    outputs,
    outputs_and_gradients,
    recording,
    relative_error,
    run_codebooks,
    run_converted,
    run_original,
)  # fmt: skip
from .layout import TIED, load_model, quiet
from .memory import freed_memory_kept, return_freed_memory
from .on_device import PRECISIONS, compare_on
from .progress import Progress
from .rules import FLAVA, source_name
from .semantics import ORIGINAL, Semantics
from .sides import Sides, give_seeded_weights
from .torch_tensors import MemoryTensor, dtype_of


def why_no_output_shows(name: str, parameter: torch.Tensor) -> str:
    """Why a parameter cannot influence any output, so that only a comparison of values sees it; empty where it can."""
    if name.endswith("attention.attention.key.bias"):
        return "attention's key.bias adds the same to every score, which softmax cancels"
    if name.startswith(("flava.image_projection.", "flava.text_projection.")) and len(parameter) == 1:
        return "an embedding of a single number is normalised to its sign"
    return ""


@dataclass(frozen=True)
class _Gradient:
    """One parameter's gradient on both sides: its size, the largest difference, what rounding allows; absolute."""

    size: float
    difference: float
    allowed: float
    excuse: str = ""  # why no output shows it


@dataclass
class _Compared:
    """Both sides' numbers with one set of weights."""

    expected: Expected
    errors: dict[str, float]  # relative, by scenario and output
    gradients: dict[str, _Gradient]  # by converted parameter

    @property
    def unseen(self) -> set[str]:
        """Parameters whose gradient is nothing beside the usual one, and should not be."""
        least = self.expected.slope_rounding * _usual(self.gradients)
        return {name for name, g in self.gradients.items() if g.size <= least and not g.excuse}

    @property
    def diverged(self) -> Scenario | None:
        """The first scenario in which an output differs."""
        wrong = [name for name, error in self.errors.items() if not error <= self.expected.tolerance]
        return next((case for case in self.expected.cases if any(name.startswith(case.name) for name in wrong)), None)


@dataclass(frozen=True)
class _Apart:
    """How far an output of the source's own code lies from what a config of transformers can say."""

    what: str
    absolute: float
    relative: float


@dataclass
class _Results:
    """The checkpoint's own weights on both sides; and seeded ones, where its own hide something."""

    own: _Compared
    seeded: _Compared | None
    codebook: dict[str, float]
    where: list[Finding]
    apart: list["_Apart"]  # what the source's own code computes from what the config says


def compare_computation(sides: Sides, progress: Progress, device: torch.device | None = None) -> Iterator[tuple[str, Callable]]:
    """Claims and their checks; the models run once, on the first of them, and what stops them stops each claim."""

    @cache
    def results() -> _Results | Exception:
        with progress("run", None):
            try:
                return _run(sides)
            except Exception as error:
                return error

    def check(judge: Callable) -> Callable:
        def fill(claim: Claim) -> None:
            found = results()
            if isinstance(found, Exception):
                raise found
            judge(claim, found)

        return fill

    yield "loaded values", lambda claim: _judge_loaded(claim, sides)
    yield "forward", check(_judge_forward)
    yield "losses", check(_judge_losses)
    yield "gradients", check(_judge_gradients)
    yield "seen by a probe", check(_judge_seen)
    if sides.codebook_state is not None:
        yield "codebook", check(_judge_codebook)
    if sides.made_by is not ORIGINAL:
        yield f"as {sides.made_by.name}", check(partial(_judge_as_its_own, sides.made_by))
    for dtype in PRECISIONS if device is not None else ():
        yield f"{device.type}, {dtype_of(dtype)}", check(partial(_judge_on_device, sides, device, dtype))


def _judge_loaded(claim: Claim, sides: Sides) -> None:
    """What `from_pretrained` ends up with is the original's values: no tie lost, no dtype changed, nothing made anew."""
    model, version = load_model(sides.folder)
    loaded = {key: MemoryTensor(value) for key, value in model.state_dict().items() if key in sides.originals}
    originals = {key: sides.originals[key] for key in loaded}
    claim.findings, _ = compare_values(loaded, originals)
    claim.findings += [Finding(key, sides.name_of(key), "not loaded at all") for key in sides.originals if key not in loaded]
    claim.findings += [
        Finding(key, originals[key][0], f"loaded as {tensor.dtype}")
        for key, tensor in loaded.items()
        if tensor.dtype not in (FLOAT32, originals[key][1].dtype)
    ]
    claim.verdict = Verdict.DIFFERS if claim.findings else Verdict.PROVEN
    claim.summary = f"{len(claim.findings)} found" if claim.findings else f"transformers {version} loads every value, bit for bit"


def _judge_forward(claim: Claim, results: _Results) -> None:
    """Every output; and rounding must not hide the weakest planted fault, or agreement would mean little."""
    _judge(claim, _errors(results, lambda name: not name.endswith(" loss")))
    witness = results.seeded or results.own
    claim.planted = dict(witness.expected.planted)
    size = claim.planted[witness.expected.weakest]
    if claim.verdict is not Verdict.PROVEN:
        claim.findings[:0] = results.where
    elif witness.expected.shows_the_weakest:
        claim.summary += f"; {witness.expected.weakest} would show {size / witness.expected.tolerance:,.0f} times that"
    else:
        claim.verdict = Verdict.NOT_PROVEN
        claim.summary += f"; {witness.expected.weakest} would move {size:.1e} and stay hidden"


def _judge_losses(claim: Claim, results: _Results) -> None:
    _judge(claim, _errors(results, lambda name: name.endswith(" loss")))


def _judge_codebook(claim: Claim, results: _Results) -> None:
    _judge(claim, [Measured(name, error, results.own.expected.tolerance) for name, error in results.codebook.items()])


# What Meta's own tests allow a loss of torchmultimodal's (tests/models/flava/test_checkpoint.py).
OWN_LOSS_TOLERANCE = 1e-4


def _judge_as_its_own(made_by: Semantics, claim: Claim, results: _Results) -> None:
    """What the source's own code computes, against what the config says; the other claims prove that transformers computes that."""
    losses = [apart for apart in results.apart if apart.what.endswith(" loss")]
    claim.measured = [Measured(apart.what, apart.absolute, OWN_LOSS_TOLERANCE) for apart in losses]
    wrong = [m for m in claim.measured if not m.error <= m.tolerance]
    allowed = f"the tests of {made_by.name} allow {OWN_LOSS_TOLERANCE:.0e}"
    claim.findings = [Finding(m.what, "", f"{m.error:.1e} from {made_by.name}'s; {allowed}") for m in wrong]
    claim.verdict = Verdict.DIFFERS if wrong else Verdict.PROVEN if losses else Verdict.NOT_PROVEN
    farthest = max((apart for apart in results.apart if apart not in losses), key=lambda apart: apart.relative)
    why = f", whose heads have epsilon {made_by.head_layer_norm_eps}" if made_by.head_layer_norm_eps is not None else ""
    claim.summary = (
        f"every loss within {max(m.error for m in claim.measured):.1e} of {made_by.name}'s{why}; "
        f"of all outputs {farthest.what} lies farthest, {farthest.relative:.1e} of itself"
    )


def _judge_on_device(sides: Sides, device: torch.device, dtype: torch.dtype, claim: Claim, results: _Results) -> None:
    with quiet():
        _judge(claim, compare_on(device, dtype, sides, results.own.expected))


def _judge_gradients(claim: Claim, results: _Results) -> None:
    gradients = results.own.gradients.items()
    measured = [Measured(name, g.difference / (g.size or 1.0), g.allowed / (g.size or 1.0)) for name, g in gradients]
    if results.seeded:
        shown = {name: g for name, g in results.seeded.gradients.items() if name in results.own.unseen}
        measured += [
            Measured(f"seeded weights: {name}", g.difference / (g.size or 1.0), g.allowed / (g.size or 1.0)) for name, g in shown.items()
        ]
    _judge(claim, measured)


def _errors(results: _Results, chosen: Callable[[str], bool]) -> list[Measured]:
    found = [Measured(name, error, results.own.expected.tolerance) for name, error in results.own.errors.items()]
    if results.seeded:
        found += [
            Measured(f"seeded weights: {name}", error, results.seeded.expected.tolerance) for name, error in results.seeded.errors.items()
        ]
    return [measured for measured in found if chosen(measured.what)]


def _judge(claim: Claim, measured: list[Measured]) -> None:
    claim.measured = measured
    wrong = [m for m in measured if not m.error <= m.tolerance]
    claim.findings += [Finding(m.what, "", f"relative error {m.error:.1e}, rounding allows {m.tolerance:.1e}") for m in wrong]
    if wrong:
        claim.verdict, claim.summary = Verdict.DIFFERS, f"{len(wrong)} of {len(measured)} differ"
    elif measured:
        worst = max(measured, key=lambda m: m.error / m.tolerance)
        claim.verdict = Verdict.PROVEN
        claim.summary = f"{len(measured)} compared; largest relative error {worst.error:.1e}, rounding allows {worst.tolerance:.1e}"


def _judge_seen(claim: Claim, results: _Results) -> None:
    """Every parameter shows in an output or a loss, or is known to show in its values alone."""
    hidden = results.own.unseen
    unseen = sorted(hidden & results.seeded.unseen if results.seeded else hidden)
    claim.findings = [Finding(name, source_name(name), "no output, loss or gradient shows it") for name in unseen]
    claim.verdict = Verdict.NOT_PROVEN if unseen else Verdict.PROVEN
    excuses = [g.excuse for g in results.own.gradients.values() if g.excuse]
    why = "; ".join(dict.fromkeys(excuses))
    claim.summary = f"{len(results.own.gradients) - len(excuses) - len(unseen)} parameters; {len(excuses)} by their values alone ({why})"
    if len(hidden) > len(unseen):
        claim.summary += f"; {len(hidden) - len(unseen)} with seeded weights, as the checkpoint's own saturate"


def _usual(gradients: Mapping[str, _Gradient]) -> float:
    """The median size of a gradient."""
    return sorted(g.size for g in gradients.values())[len(gradients) // 2] or 1.0


# ---------------------------------------------------------------------------------- running both


@quiet()
@freed_memory_kept()
def _run(sides: Sides) -> _Results:
    """One side at a time in memory, but where they differ or the checkpoint's own weights hide something."""
    expected, slopes = expect(sides.original())
    return_freed_memory()
    theirs = sides.converted()
    own = _compare(expected, slopes, theirs)
    codebook = {}
    if (ours := sides.codebook()) is not None:
        codebook = {name: relative_error(*pair) for name, pair in run_codebooks(ours.double(), theirs.image_codebook).items()}
    where = _localise(sides, theirs, own.diverged, expected.tolerance) if own.diverged else []
    apart = list(_apart(sides, expected)) if sides.made_by is not ORIGINAL else []
    seeded = None
    if own.unseen or not expected.shows_the_weakest:
        # Where a softmax or a tanh saturates, no output shows what lies before it: how that is wired shows with
        # other values.
        ours, theirs = sides.original(), theirs.float()
        give_seeded_weights(ours, theirs)
        seeded = _compare(*expect(ours), theirs)
    return _Results(own, seeded, codebook, where, apart)


def _apart(sides: Sides, expected: Expected) -> Iterator[_Apart]:
    """Every output of the source's own code, in float64, against the one that a config of transformers can express."""
    for case, wanted, found in zip(
        expected.cases, expected.outputs, outputs(run_original, sides.original(sides.made_by).double(), expected.cases)
    ):
        found.pop("total loss", None)  # each loss is held to its bound by itself
        for name, value in found.items():
            yield _Apart(f"{case.name}: {name}", float((value - wanted[name]).abs().max()), relative_error(wanted[name], value))


def _compare(expected: Expected, slopes: dict[str, torch.Tensor], theirs: torch.nn.Module) -> _Compared:
    """The float32 converted model against what is expected of it; it is left in float64, and ``slopes`` empty."""
    theirs = theirs.to(expected.slope_dtype)
    actual, gradients = _compare_gradients(expected, slopes, theirs)
    if expected.slope_dtype is torch.float32:
        actual = outputs(run_converted, in_float64(theirs), expected.cases)
    errors = {}
    for case, wanted, found in zip(expected.cases, expected.outputs, actual):
        for name, value in wanted.items():
            errors[f"{case.name}: {name}"] = relative_error(found[name], value) if name in found else float("inf")
    return _Compared(expected, errors, gradients)


def _compare_gradients(
    expected: Expected, slopes: dict[str, torch.Tensor], theirs: torch.nn.Module
) -> tuple[list[dict[str, torch.Tensor]], dict[str, _Gradient]]:
    """The converted model's outputs, and its gradients beside the original's ``slopes``, whose memory they take over.

    Rounding is relative to a gradient's largest value; to the usual one's where it is zero but for rounding.
    """
    parameters = {_tied(name): (name, parameter.shape) for name, parameter in theirs.named_parameters()}
    found, minus_ours = {}, {}
    for name in list(slopes):
        slope, key = slopes.pop(name), _tied(FLAVA.rename(name))
        size = float(slope.abs().max())
        allowed = max(expected.slope_tolerance * size, expected.slope_floors.get(name, 0.0))
        found[key] = _Gradient(size, float("inf"), allowed, why_no_output_shows(key, slope))
        if key in parameters and parameters[key][1] == slope.shape:
            minus_ours[parameters[key][0]] = slope.neg_()
    actual, left = outputs_and_gradients(run_converted, theirs, expected.slope_cases, minus_ours)
    differences = {_tied(name): float(left[name].abs().max()) for name in minus_ours}
    usual = _usual(found)
    for key, gradient in found.items():
        least = (expected.slope_tolerance if gradient.excuse else expected.slope_rounding) * usual
        found[key] = replace(gradient, difference=differences.get(key, gradient.difference), allowed=max(gradient.allowed, least))
    return actual, found


def _tied(name: str) -> str:
    """A head's bias is the decoder's, under whichever of its names it comes."""
    return dict(TIED).get(name, name)


def _localise(sides: Sides, theirs: torch.nn.Module, case: Scenario, tolerance: float) -> list[Finding]:
    """The first module that diverges, in both names, and whether the fault is its own."""
    ours = sides.original().double()
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
