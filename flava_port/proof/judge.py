"""Judges the claims about the computation by what was measured."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from math import isfinite

from ..rules.layouts import Semantics
from ..rules.tables import source_name
from .certificate import Claim, Finding, Measured, Verdict
from .results import Gradient, Loaded, Results

# What Meta's own tests allow a loss of torchmultimodal's (tests/models/flava/test_checkpoint.py).
OWN_LOSS_TOLERANCE = 1e-4


def judge_loaded_values(loaded: Loaded, claim: Claim) -> None:
    """`from_pretrained` ends up with the original's values: every tie kept, every dtype right, nothing newly initialised."""
    claim.findings = loaded.findings
    claim.settle(f"transformers {loaded.release} loads every value, bit for bit")


def judge_forward(results: Results, claim: Claim) -> None:
    """Every output agrees, and the weakest planted fault would show: otherwise agreement would mean little."""
    judge_measured(_errors(results, lambda output: not output.endswith(" loss")), claim)
    bounds = (results.seeded or results.own).bounds
    claim.planted, claim.floor = dict(bounds.planted), bounds.floor
    size = claim.planted[bounds.weakest]
    if claim.verdict is Verdict.DIFFERS:
        claim.findings[:0] = results.where
    elif claim.verdict is Verdict.NOT_PROVEN:
        return
    elif bounds.shows_the_weakest:
        claim.summary += f"; {bounds.weakest} would show {size / bounds.tolerance:,.0f} times that"
    else:
        claim.verdict = Verdict.NOT_PROVEN
        claim.summary += f"; {bounds.weakest} would move {size:.1e} and stay hidden"


def judge_losses(results: Results, claim: Claim) -> None:
    judge_measured(_errors(results, lambda output: output.endswith(" loss")), claim)


def judge_gradients(results: Results, claim: Claim) -> None:
    """Every parameter's gradient agrees; for those that the checkpoint's own weights hide, under seeded weights too."""
    measured = _measured(results.own.gradients)
    if results.seeded:
        shown = {name: g for name, g in results.seeded.gradients.items() if name in results.own.unseen}
        measured += _as_seeded(_measured(shown))
    judge_measured(measured, claim)


def judge_seen(results: Results, claim: Claim) -> None:
    """Every parameter shows in an output or a loss, or is known to show only when values are compared."""
    hidden = results.own.unseen
    unseen = sorted(hidden & results.seeded.unseen if results.seeded else hidden)
    claim.findings = [Finding(name, source_name(name), "no output, loss or gradient shows it") for name in unseen]
    claim.verdict = Verdict.NOT_PROVEN if unseen else Verdict.PROVEN
    excuses = [g.excuse for g in results.own.gradients.values() if g.excuse]
    why = "; ".join(dict.fromkeys(excuses))
    claim.summary = f"{len(results.own.gradients) - len(excuses) - len(unseen)} parameters; {len(excuses)} by their values alone ({why})"
    if len(hidden) > len(unseen):
        claim.summary += f"; {len(hidden) - len(unseen)} with seeded weights, as the checkpoint's own saturate"


def judge_codebook(results: Results, claim: Claim) -> None:
    bounds = results.own.bounds if isfinite(results.own.bounds.tolerance) or results.seeded is None else results.seeded.bounds
    judge_measured([Measured(name, error, bounds.tolerance) for name, error in results.codebook.items()], claim)


def judge_deviations(made_by: Semantics, results: Results, claim: Claim) -> None:
    """The source's own code computes nearly the losses that its config says; other claims prove that transformers computes those."""
    losses = [deviation for deviation in results.deviations if deviation.what.endswith(" loss")]
    others = [deviation for deviation in results.deviations if not deviation.what.endswith(" loss")]
    claim.measured = [Measured(loss.what, loss.absolute, OWN_LOSS_TOLERANCE) for loss in losses]
    wrong = [m for m in claim.measured if m.is_too_large and isfinite(m.error)]
    if len(wrong) < len([m for m in claim.measured if m.is_too_large]):
        claim.summary = "with the checkpoint's own weights a loss is no finite number"
        return
    allowed = f"the tests of {made_by.name} allow {OWN_LOSS_TOLERANCE:.0e}"
    claim.findings = [Finding(m.what, "", f"{m.error:.1e} from {made_by.name}'s; {allowed}") for m in wrong]
    claim.verdict = Verdict.DIFFERS if wrong else Verdict.PROVEN if losses else Verdict.NOT_PROVEN
    farthest = max(others, key=lambda deviation: deviation.relative)
    why = f", whose heads have epsilon {made_by.head_layer_norm_eps}" if made_by.head_layer_norm_eps is not None else ""
    claim.summary = (
        f"every loss within {max(m.error for m in claim.measured):.1e} of {made_by.name}'s{why}; "
        f"of all outputs {farthest.what} lies farthest, {farthest.relative:.1e} of itself"
    )


OVERFLOWS = "with the checkpoint's own weights numbers overflow in float32, so that no rounding can be told from a difference"


def judge_measured(measured: list[Measured], claim: Claim) -> None:
    """Proven if every error lies within its tolerance. Where nothing was measured, the claim stays not proven.

    A tolerance that is no finite number judges nothing. Where all the claim has are such, it stays not proven, with the reason.
    """
    claim.measured = measured
    judged = [m for m in measured if isfinite(m.tolerance)]
    wrong = [m for m in judged if m.is_too_large]
    claim.findings += [Finding(m.what, "", f"relative error {m.error:.1e}, rounding allows {m.tolerance:.1e}") for m in wrong]
    if wrong:
        claim.verdict, claim.summary = Verdict.DIFFERS, f"{len(wrong)} of {len(measured)} differ"
    elif judged:
        worst = max(judged, key=lambda m: m.error / m.tolerance)
        claim.verdict = Verdict.PROVEN
        claim.summary = f"{len(judged)} compared; largest relative error {worst.error:.1e}, rounding allows {worst.tolerance:.1e}"
        if len(judged) < len(measured):
            claim.summary += f"; {OVERFLOWS}, and these are of seeded ones"
    elif measured:
        claim.summary = OVERFLOWS


def _errors(results: Results, chosen: Callable[[str], bool]) -> list[Measured]:
    """The errors of the chosen outputs, by scenario and output; under seeded weights too if there are any."""
    found = [Measured(name, error, results.own.bounds.tolerance) for name, error in results.own.errors.items()]
    if results.seeded:
        tolerance = results.seeded.bounds.tolerance
        found += _as_seeded([Measured(name, error, tolerance) for name, error in results.seeded.errors.items()])
    return [measured for measured in found if chosen(measured.what)]


def _measured(gradients: Mapping[str, Gradient]) -> list[Measured]:
    """Gradients' differences, relative to their sizes."""
    return [Measured(name, g.difference / (g.size or 1.0), g.allowed / (g.size or 1.0)) for name, g in gradients.items()]


def _as_seeded(measured: Iterable[Measured]) -> list[Measured]:
    return [replace(m, what=f"seeded weights: {m.what}") for m in measured]
