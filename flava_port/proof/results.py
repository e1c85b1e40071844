"""What running both models showed, in numbers and names. Judging it needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite

from .certificate import Finding


@dataclass(frozen=True)
class Bounds:
    """How far numbers of the two models may lie apart, and how far wrong models would.

    ``tolerance`` is relative to an output's largest value, ``gradient_tolerance`` to a gradient's.
    ``gradient_floors`` are absolute: by how much rounding was seen to move the gradient of each of the
    original's parameters. A gradient below ``gradient_rounding``, relative to the usual gradient, is
    nothing but rounding. ``planted`` says how far each planted fault moves the outputs.
    """

    tolerance: float
    gradient_tolerance: float
    gradient_rounding: float
    gradient_floors: Mapping[str, float]
    planted: Mapping[str, float]
    floor: float = 0.0  # the rounding of outputs that the tolerance lies above, relative too

    @property
    def weakest(self) -> str:
        """The planted fault that moves the outputs least."""
        return min(self.planted, key=lambda fault: self.planted[fault])

    @property
    def shows_the_weakest(self) -> bool:
        """Whether even that fault moves the outputs further than the tolerance; a tolerance that is no number shows none."""
        return self.planted[self.weakest] > self.tolerance


@dataclass(frozen=True)
class Gradient:
    """One parameter's gradient: its size, the largest difference between the models, and what rounding allows; absolute."""

    size: float
    difference: float
    allowed: float
    excuse: str = ""  # why no output shows this parameter


@dataclass(frozen=True)
class Comparison:
    """Both models' outputs and gradients under the same weights."""

    bounds: Bounds
    errors: dict[str, float]  # relative, by scenario and output
    gradients: dict[str, Gradient]  # by converted parameter

    @property
    def unseen(self) -> set[str]:
        """Parameters whose gradient is nothing but rounding, or no number at all, though an output should show them."""
        least = self.bounds.gradient_rounding * usual_size(self.gradients)
        return {name for name, g in self.gradients.items() if not (least < g.size < inf) and not g.excuse}


def usual_size(gradients: Mapping[str, Gradient]) -> float:
    """The median size of a gradient, of those that are finite; 1 where that is 0, or where none is."""
    sizes = sorted(g.size for g in gradients.values() if isfinite(g.size))
    return (sizes[len(sizes) // 2] if sizes else 0.0) or 1.0


@dataclass(frozen=True)
class Deviation:
    """How far an output of the source's own code lies from what transformers computes with its config."""

    what: str
    absolute: float
    relative: float


@dataclass(frozen=True)
class Loaded:
    """What `from_pretrained` ended up with: the differences from the original's values, and the transformers release."""

    findings: list[Finding]
    release: str


@dataclass(frozen=True)
class Results:
    """Both models under the checkpoint's own weights, and under seeded ones where its own hide something."""

    own: Comparison
    seeded: Comparison | None
    codebook: dict[str, float]  # relative errors
    where: list[Finding]  # the first module to diverge, if an output differs
    deviations: list[Deviation]  # only for a source whose own code computes otherwise
