"""What the computation shows of each claim."""

from collections.abc import Callable, Iterator
from functools import cache, partial

import torch

from ..files.dtypes import FLOAT32
from ..files.torch_tensors import MemoryTensor, dtype_of
from ..progress import Progress
from ..rules.layouts import ORIGINAL_SEMANTICS, Semantics
from ..rules.tables import source_name
from ..target.installed import load_model, quiet
from .certificate import Claim, Finding, Measured, Verdict
from .computation import Results, run_both
from .on_device import PRECISIONS, compare_on
from .sides import Sides
from .values import compare_values


def compare_computation(sides: Sides, progress: Progress, device: torch.device | None = None) -> Iterator[tuple[str, Callable]]:
    """Claims and their checks; the models run once, on the first of them, and what stops them stops each claim."""

    @cache
    def results() -> Results | Exception:
        with progress("run", None):
            try:
                return run_both(sides)
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
    if sides.made_by is not ORIGINAL_SEMANTICS:
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


def _judge_forward(claim: Claim, results: Results) -> None:
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


def _judge_losses(claim: Claim, results: Results) -> None:
    _judge(claim, _errors(results, lambda name: name.endswith(" loss")))


def _judge_codebook(claim: Claim, results: Results) -> None:
    _judge(claim, [Measured(name, error, results.own.expected.tolerance) for name, error in results.codebook.items()])


# What Meta's own tests allow a loss of torchmultimodal's (tests/models/flava/test_checkpoint.py).
OWN_LOSS_TOLERANCE = 1e-4


def _judge_as_its_own(made_by: Semantics, claim: Claim, results: Results) -> None:
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


def _judge_on_device(sides: Sides, device: torch.device, dtype: torch.dtype, claim: Claim, results: Results) -> None:
    with quiet():
        _judge(claim, compare_on(device, dtype, sides, results.own.expected))


def _judge_gradients(claim: Claim, results: Results) -> None:
    gradients = results.own.gradients.items()
    measured = [Measured(name, g.difference / (g.size or 1.0), g.allowed / (g.size or 1.0)) for name, g in gradients]
    if results.seeded:
        shown = {name: g for name, g in results.seeded.gradients.items() if name in results.own.unseen}
        measured += [
            Measured(f"seeded weights: {name}", g.difference / (g.size or 1.0), g.allowed / (g.size or 1.0)) for name, g in shown.items()
        ]
    _judge(claim, measured)


def _errors(results: Results, chosen: Callable[[str], bool]) -> list[Measured]:
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


def _judge_seen(claim: Claim, results: Results) -> None:
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
