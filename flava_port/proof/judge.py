"""Judges the claims about the computation by what was measured."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from math import isfinite

from ..rules.layouts import Semantics
from ..rules.tables import source_name
from .certificate import Claim, Finding, Measured, Verdict
from .results import BlockResult, Comparison, Gradient, Loaded, Results

# What Meta's own tests allow a loss of torchmultimodal's (tests/models/flava/test_checkpoint.py).
OWN_LOSS_TOLERANCE = 1e-4


def judge_loaded_values(loaded: Loaded, claim: Claim) -> None:
    """`from_pretrained` ends up with the original's values: every tie kept, every dtype right, nothing newly initialised."""
    claim.findings = loaded.findings
    claim.settle(f"transformers {loaded.release} loads every value, bit for bit")


def judge_forward(results: Results, claim: Claim) -> None:
    """Every output and every block agrees, and the weakest planted fault would show: otherwise agreement would mean little."""
    judge_measured(_errors(results, lambda output: not output.endswith(" loss")) + _blocks(results), claim)
    shown = _planted(results)
    if not shown:  # of no block there is a tolerance
        return
    claim.planted, claim.floor = {fault: effect for fault, (effect, _) in shown.items()}, results.own.bounds.floor
    weakest = min(shown, key=lambda fault: shown[fault][0] / shown[fault][1])
    size, tolerance = shown[weakest]
    if claim.verdict is Verdict.DIFFERS:
        claim.findings[:0] = results.where
    elif claim.verdict is Verdict.NOT_PROVEN:
        return
    elif size > tolerance:
        claim.summary += f"; {weakest} would show {size / tolerance:,.0f} times that"
    else:
        claim.verdict = Verdict.NOT_PROVEN
        claim.summary += f"; {weakest} would move {size:.1e} and stay hidden"


def _planted(results: Results) -> dict[str, tuple[float, float]]:
    """How far each planted fault moves the block in which it shows least, and that block's tolerance."""
    found: dict[str, tuple[float, float]] = {}
    for name, block in results.own.blocks.items():
        comparison = results.own
        if results.seeded and comparison.hidden(block):
            comparison, block = results.seeded, results.seeded.blocks[name]
        tolerance = comparison.tolerance_of(block)
        for fault, effect in block.planted.items() if isfinite(tolerance) else ():
            before, allowed = found.get(fault, (float("inf"), tolerance))
            if effect / tolerance < before / allowed:
                found[fault] = effect, tolerance
    return found


def judge_losses(results: Results, claim: Claim) -> None:
    judge_measured(_errors(results, lambda output: output.endswith(" loss")), claim)


def judge_gradients(results: Results, claim: Claim) -> None:
    """Every parameter's gradient agrees; for those that the checkpoint's own weights hide, under seeded weights too."""
    measured = [*_measured(results.own.gradients), *_arrivals(results.own)]
    if results.seeded:
        shown = {name: g for name, g in results.seeded.gradients.items() if name in results.own.unseen}
        measured += _as_seeded(_measured(shown))
    judge_measured(measured, claim)
    first = next((block for block in results.own.blocks.values() if any(m.what in _names(block) for m in measured if m.is_too_large)), None)
    if first is not None and claim.verdict is Verdict.DIFFERS:
        key = source_name(f"{first.name}.weight").removesuffix(".weight")
        claim.findings.insert(0, Finding(first.name, key, "the first block, from the end, in which gradients differ"))


def _names(block: BlockResult) -> set[str]:
    """What is measured of the block's gradients."""
    return {*block.gradients, _arrival(block)}


def _arrival(block: BlockResult) -> str:
    return f"{block.name}: what arrives from above"


def _arrivals(comparison: Comparison) -> list[Measured]:
    """The gradients that arrive at each block."""
    allowed = comparison.bounds.gradient_tolerance
    return [Measured(_arrival(block), block.arrived, allowed) for block in comparison.blocks.values()]


def judge_seen(results: Results, claim: Claim) -> None:
    """Every parameter shows in an output or a loss, or is known to show only when values are compared."""
    hidden, own = results.own.unseen, results.own.gradients
    unseen = sorted(hidden & results.seeded.unseen if results.seeded else hidden)
    claim.findings = [Finding(name, source_name(name), "no output, loss or gradient shows it") for name in unseen]
    claim.verdict = Verdict.NOT_PROVEN if unseen else Verdict.PROVEN
    excuses = [g.excuse for g in own.values() if g.excuse]
    why = "; ".join(dict.fromkeys(excuses))
    claim.summary = f"{len(own) - len(excuses) - len(unseen)} parameters; {len(excuses)} by their values alone ({why})"
    if len(hidden) > len(unseen):
        claim.summary += f"; {len(hidden) - len(unseen)} with seeded weights, as the checkpoint's own saturate"


def judge_codebook(results: Results, claim: Claim) -> None:
    assert results.codebook is not None
    judge_measured([*_outputs(results.codebook), *_of_blocks(results.codebook)], claim)


def judge_deviations(made_by: Semantics, results: Results, claim: Claim) -> None:
    """The reference as the source's own code computes gives nearly the losses of the reference as transformers computes."""
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


_SEEDED = "seeded weights: "
OVERFLOWS = "with the checkpoint's own weights numbers overflow in float32, so that no tolerance can be measured"


def judge_measured(measured: list[Measured], claim: Claim) -> None:
    """Proven if every error lies within its tolerance. Where nothing was measured, the claim stays not proven.

    A tolerance that is no finite number judges nothing. Where no seeded weights stand in, the claim stays not proven, with the reason.
    """
    claim.measured = measured
    judged = [m for m in measured if isfinite(m.tolerance)]
    wrong = [m for m in judged if m.is_too_large]
    claim.findings += [Finding(m.what, "", f"relative error {m.error:.1e}, rounding allows {m.tolerance:.1e}") for m in wrong]
    if wrong:
        claim.verdict, claim.summary = Verdict.DIFFERS, f"{len(wrong)} of {len(measured)} differ"
    elif judged and (len(judged) == len(measured) or any(m.what.startswith(_SEEDED) for m in judged)):
        worst = max(judged, key=lambda m: m.error / m.tolerance)
        claim.verdict = Verdict.PROVEN
        claim.summary = f"{len(judged)} compared; largest relative error {worst.error:.1e}, rounding allows {worst.tolerance:.1e}"
        if len(judged) < len(measured):
            claim.summary += f"; {OVERFLOWS}, and these are of seeded ones"
    elif measured:
        claim.summary = OVERFLOWS


def _errors(results: Results, chosen: Callable[[str], bool]) -> list[Measured]:
    """The errors of the chosen outputs, by scenario and output."""
    return [measured for measured in _outputs(results.own) if chosen(measured.what)]


def _outputs(comparison: Comparison) -> list[Measured]:
    return [Measured(name, error, comparison.bounds.tolerance) for name, error in comparison.errors.items()]


def _blocks(results: Results) -> list[Measured]:
    """The errors of all blocks; under seeded weights too where there are any."""
    return _of_blocks(results.own) + (_as_seeded(_of_blocks(results.seeded)) if results.seeded else [])


def _of_blocks(comparison: Comparison) -> list[Measured]:
    """Of each block: what comes out, fed what the original's block gets; and what the whole model gives to it and gets from it."""
    found = []
    for block in comparison.blocks.values():
        tolerance = comparison.tolerance_of(block)
        weakest = min(block.planted.values(), default=None)
        found.append(Measured(block.name, block.error, tolerance, block.floor, weakest))
        found.append(Measured(f"{block.name}: what goes in", block.entered, comparison.bounds.tolerance, block.floor))
        found.append(Measured(f"{block.name}: on whole inputs", block.left, comparison.whole_tolerance_of(block), block.floor, weakest))
    return found


def _measured(gradients: Mapping[str, Gradient]) -> list[Measured]:
    """Gradients' differences, relative to their sizes."""
    return [Measured(name, g.difference / (g.size or 1.0), g.allowed / (g.size or 1.0)) for name, g in gradients.items()]


def _as_seeded(measured: Iterable[Measured]) -> list[Measured]:
    return [replace(m, what=_SEEDED + m.what) for m in measured]
