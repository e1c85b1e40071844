"""Both models on the same inputs: outputs, losses and gradients, and the first module that diverges.

One side is in memory at a time. What counts as equal, and what that is worth, `expected` measures.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from ..rules.layouts import ORIGINAL_SEMANTICS
from ..rules.tables import FLAVA
from ..target.installed import quiet
from ..target.keys import TIED
from .bounds import Expected, expect
from .certificate import Finding
from .forward import in_float64, outputs, outputs_and_gradients, relative_error, run_codebooks, run_converted, run_original
from .localise import localise
from .memory import freed_memory_kept, return_freed_memory
from .scenarios import Scenario
from .sides import Sides, give_seeded_weights


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
        least = self.expected.slope_rounding * usual_size(self.gradients)
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
class Results:
    """The checkpoint's own weights on both sides; and seeded ones, where its own hide something."""

    own: _Compared
    seeded: _Compared | None
    codebook: dict[str, float]
    where: list[Finding]
    apart: list["_Apart"]  # what the source's own code computes from what the config says


def usual_size(gradients: Mapping[str, _Gradient]) -> float:
    """The median size of a gradient."""
    return sorted(g.size for g in gradients.values())[len(gradients) // 2] or 1.0


# ---------------------------------------------------------------------------------- running both


@quiet()
@freed_memory_kept()
def run_both(sides: Sides) -> Results:
    """One side at a time in memory, but where they differ or the checkpoint's own weights hide something."""
    expected, slopes = expect(sides.original())
    return_freed_memory()
    theirs = sides.converted()
    own = _compare(expected, slopes, theirs)
    codebook = {}
    if (ours := sides.codebook()) is not None:
        codebook = {name: relative_error(*pair) for name, pair in run_codebooks(ours.double(), theirs.image_codebook).items()}
    where = localise(sides, theirs, own.diverged, expected.tolerance) if own.diverged else []
    apart = list(_apart(sides, expected)) if sides.made_by is not ORIGINAL_SEMANTICS else []
    seeded = None
    if own.unseen or not expected.shows_the_weakest:
        # Where a softmax or a tanh saturates, no output shows what lies before it: how that is wired shows with
        # other values.
        ours, theirs = sides.original(), theirs.float()
        give_seeded_weights(ours, theirs)
        seeded = _compare(*expect(ours), theirs)
    return Results(own, seeded, codebook, where, apart)


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
    usual = usual_size(found)
    for key, gradient in found.items():
        least = (expected.slope_tolerance if gradient.excuse else expected.slope_rounding) * usual
        found[key] = replace(gradient, difference=differences.get(key, gradient.difference), allowed=max(gradient.allowed, least))
    return actual, found


def _tied(name: str) -> str:
    """A head's bias is the decoder's, under whichever of its names it comes."""
    return dict(TIED).get(name, name)
