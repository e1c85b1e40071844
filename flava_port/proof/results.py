"""What running both models showed, in numbers and names. Judging it needs no torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite

from .certificate import Finding


@dataclass(frozen=True)
class RawGradient:
    """One parameter's gradient: its size, the largest difference between the models, and by how much float32 moves it; absolute."""

    size: float
    difference: float
    moved: float
    excuse: str = ""  # why no output shows this parameter


@dataclass(frozen=True)
class BlockResult:
    """Both models' block of one name, fed the same; relative errors, and gradients by converted parameter.

    ``arrived`` is the error of the gradients that come from above, ``floor`` the original's own in float32. ``planted``
    says how far each fault moves what comes out. ``entered`` and ``left`` are the errors of what the whole models give to
    the block and get from it, ``left`` in float32 where the model is large.
    """

    name: str
    error: float
    arrived: float
    floor: float
    planted: Mapping[str, float]
    gradients: Mapping[str, RawGradient]
    entered: float = 0.0
    left: float = 0.0


@dataclass(frozen=True)
class Bounds:
    """How far numbers of the two models may lie apart, relative to the largest value of an output or a gradient.

    ``floor`` is the rounding of the block that rounds most, in float32. Numbers may differ by ``floor * scale``, and
    those of blocks that ran on whole inputs by ``floor * whole``. A gradient below ``gradient_rounding``, relative to the usual
    gradient, is nothing but rounding.
    """

    floor: float
    scale: float
    gradient_margin: float
    whole: float

    @property
    def tolerance(self) -> float:
        return self.floor * self.scale

    @property
    def whole_tolerance(self) -> float:
        return self.floor * self.whole

    @property
    def gradient_tolerance(self) -> float:
        return self.tolerance * self.gradient_margin

    @property
    def gradient_rounding(self) -> float:
        return self.tolerance


@dataclass(frozen=True)
class Gradient:
    """One parameter's gradient: its size, the largest difference between the models, and what rounding allows; absolute."""

    size: float
    difference: float
    allowed: float
    excuse: str = ""  # why no output shows this parameter


@dataclass(frozen=True)
class Comparison:
    """Both models' outputs, blocks and gradients under the same weights."""

    bounds: Bounds
    errors: Mapping[str, float]  # relative, by scenario and output
    blocks: Mapping[str, BlockResult]  # the last first
    between: Mapping[str, RawGradient] = field(default_factory=dict)  # gradients of weights that are in no block

    @property
    def gradients(self) -> dict[str, Gradient]:
        """By converted parameter. What rounding allows is relative to a gradient's largest value, or to the usual
        gradient's where it is zero but for rounding."""
        bounds, raw = self.bounds, self._raw
        usual = usual_size(raw.values())
        found = {}
        for name, g in raw.items():
            least = (bounds.gradient_tolerance if g.excuse else bounds.gradient_rounding) * usual
            allowed = max(bounds.gradient_tolerance * g.size, g.moved * bounds.scale, least)
            found[name] = Gradient(g.size, g.difference, allowed, g.excuse)
        return found

    @property
    def _raw(self) -> dict[str, RawGradient]:
        return {**self.between, **{name: g for block in self.blocks.values() for name, g in block.gradients.items()}}

    @property
    def unseen(self) -> set[str]:
        """Parameters whose gradient is nothing but rounding, or no number at all, though an output should show them."""
        raw = self._raw
        least = self.bounds.gradient_rounding * usual_size(raw.values())
        return {name for name, g in raw.items() if not (least < g.size < inf) and not g.excuse}

    def tolerance_of(self, block: BlockResult) -> float:
        return block.floor * self.bounds.scale

    def whole_tolerance_of(self, block: BlockResult) -> float:
        """Of what leaves the block on whole inputs, in float32 where the model is large."""
        return block.floor * self.bounds.whole

    def hidden(self, block: BlockResult) -> bool:
        """Whether a fault planted in the block would stay within its tolerance."""
        return any(not effect > self.tolerance_of(block) for effect in block.planted.values())


def usual_size(gradients: Iterable[RawGradient]) -> float:
    """The median size of a gradient, of those that are finite; 1 where that is 0, or none is."""
    sizes = sorted(g.size for g in gradients if isfinite(g.size))
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
    """Both models under the checkpoint's own weights, and blocks under seeded ones where its own hide something."""

    own: Comparison
    seeded: Comparison | None
    codebook: Comparison | None
    where: list[Finding]  # the first module to diverge, if an output or a block differs
    deviations: list[Deviation]  # only for a source whose own code computes otherwise


def why_no_output_shows(name: str, shape: Sequence[int]) -> str:
    """Why a parameter cannot influence any output, so that only a comparison of values sees it; empty where it can."""
    if name.endswith("attention.attention.key.bias"):
        return "attention's key.bias adds the same to every score, which softmax cancels"
    if name.startswith(("flava.image_projection.", "flava.text_projection.")) and shape[0] == 1:
        return "an embedding of a single number is normalised to its sign"
    return ""
