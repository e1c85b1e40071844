"""Every claim that a proof makes, and the check that judges it. There is no other list of them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from ..errors import FlavaPortError, NotFaithful
from ..files.watch import Watch
from ..rules.layouts import ORIGINAL_SEMANTICS, TORCHMULTIMODAL_SEMANTICS, Semantics
from .certificate import Claim, Finding, NothingToJudge, Verdict
from .judge import (
    judge_codebook,
    judge_deviations,
    judge_forward,
    judge_gradients,
    judge_loaded_values,
    judge_losses,
    judge_measured,
    judge_seen,
)
from .results import Results
from .weights import WeightClaims

if TYPE_CHECKING:  # imports torch, which a proof of the weights alone does without
    import torch

    from .computation import Computation
    from .processing import Processing

EvidenceT = TypeVar("EvidenceT")


@dataclass(frozen=True)
class Check(Generic[EvidenceT]):
    """The name of a claim, and what judges the claim by the evidence."""

    name: str
    judge: Callable[[EvidenceT, Claim], None]

    def settle(self, evidence: EvidenceT) -> Claim:
        """The claim, judged. Whatever stops the check leaves the claim not proven, with the reason."""
        claim = Claim(self.name)
        try:
            self.judge(evidence, claim)
        except NothingToJudge as reason:
            claim.verdict, claim.summary, claim.left_open = Verdict.NOT_PROVEN, str(reason), True
        except NotFaithful as error:
            claim.verdict, claim.summary = Verdict.DIFFERS, str(error)
        except FlavaPortError as error:
            claim.summary = str(error)
        except Exception as error:  # a check that breaks has proven nothing, whatever broke it
            claim.summary = f"could not run: {type(error).__name__}: {error}"
        return claim


ComputationCheck: TypeAlias = Check["Computation"]
ProcessingCheck: TypeAlias = Check["Processing"]


def _by_results(judge: Callable[[Results, Claim], None]) -> Callable[["Computation", Claim], None]:
    return lambda computation, claim: judge(computation.results(), claim)


def _unchanged(watch: Watch, claim: Claim) -> None:
    """No file of either side changed from before it was opened until all was judged, so that one and the same bytes were."""
    claim.findings = [Finding(path.name, "", "changed while it was verified; verify it again") for path in watch.changed()]
    claim.settle(f"{len(watch)} files, the same before and after")
    if claim.findings:
        claim.verdict = Verdict.NOT_PROVEN


def _as_loaded(weights: WeightClaims, claim: Claim) -> None:
    from .loading import judge_as_loaded  # imports torch and transformers

    judge_as_loaded(weights, claim)


ABOUT_THE_FILES: tuple[Check[WeightClaims], ...] = (
    Check("original", WeightClaims.original),
    Check("keys", WeightClaims.keys),
    Check("shapes, dtypes", WeightClaims.shapes_and_dtypes),
    Check("values", WeightClaims.values),
    Check("tied weights", WeightClaims.ties),
    Check("config", WeightClaims.config_fields),
    Check("processor config", WeightClaims.processor_config),
    Check("other weights", WeightClaims.other_weights),
)
ABOUT_THE_LOADING: tuple[Check[WeightClaims], ...] = (Check("as loaded", _as_loaded),)
ABOUT_EVERY_COMPUTATION: tuple[ComputationCheck, ...] = (
    Check("loaded values", lambda computation, claim: judge_loaded_values(computation.loaded(), claim)),
    Check("forward", _by_results(judge_forward)),
    Check("losses", _by_results(judge_losses)),
    Check("gradients", _by_results(judge_gradients)),
    Check("seen by a probe", _by_results(judge_seen)),
)
ABOUT_THE_PROCESSOR: tuple[ProcessingCheck, ...] = (
    Check("pixels", lambda processing, claim: processing.pixels(claim)),
    Check("codebook pixels", lambda processing, claim: processing.codebook_pixels(claim)),
    Check("tokens", lambda processing, claim: processing.tokens(claim)),
    Check("end to end", lambda processing, claim: processing.end_to_end(claim)),
)
UNCHANGED: Check[Watch] = Check("unchanged", _unchanged)
ABOUT_THE_CODEBOOK: ComputationCheck = Check("codebook", _by_results(judge_codebook))


def as_its_own_code(made_by: Semantics) -> ComputationCheck:
    """The claim about a source whose own code computes otherwise than any config tells transformers to."""
    return Check(f"as {made_by.name}", _by_results(partial(judge_deviations, made_by)))


def on_device(name: str, dtype: "torch.dtype") -> ComputationCheck:
    """The claim about the forward pass on a device, in one dtype."""
    return Check(name, lambda computation, claim: judge_measured(computation.on_device(dtype), claim))


def about_the_computation(computation: "Computation") -> list[ComputationCheck]:
    """The checks that this computation gives evidence for."""
    checks = [*ABOUT_EVERY_COMPUTATION]
    if computation.has_codebook:
        checks.append(ABOUT_THE_CODEBOOK)
    if computation.sides.made_by is not ORIGINAL_SEMANTICS:
        checks.append(as_its_own_code(computation.sides.made_by))
    return checks + [on_device(name, dtype) for name, dtype in computation.precisions.items()]


# The claims that not every proof makes, by name, and why another does not make them.
ONLY_SOME = {
    ABOUT_THE_CODEBOOK.name: "the checkpoint holds no codebook, and no file with one was given",
    as_its_own_code(TORCHMULTIMODAL_SEMANTICS).name: "the checkpoint is not torchmultimodal's",
}
# All claims, by name, except those about a device, which has to be asked for.
_ALWAYS_MADE: tuple[Check[Any], ...] = (*ABOUT_THE_FILES, *ABOUT_THE_LOADING, *ABOUT_EVERY_COMPUTATION, *ABOUT_THE_PROCESSOR, UNCHANGED)
CLAIM_NAMES = (*(check.name for check in _ALWAYS_MADE), *ONLY_SOME)
