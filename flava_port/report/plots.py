"""Measured errors on a line: each by how far it lies below or above its tolerance, in powers of ten."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite

from ..proof.certificate import Claim
from .model_map import level_of, power_of

WIDTH, HEIGHT = 720, 104
_LEFT, _RIGHT = 96, 700  # where the axis begins and ends; what is exactly equal stands left of it
_LOWEST, _HIGHEST = -6, 2  # powers of ten that the axis shows at least
_FARTHEST = 18

_CHARACTER = WIDTH / 120  # about the width of one in a label


@dataclass(frozen=True)
class Dot:
    """One measured error."""

    x: float
    y: float
    level: str
    says: str


@dataclass(frozen=True)
class Mark:
    """Something to compare errors with: a planted fault, the noise floor."""

    x: float
    says: str


@dataclass(frozen=True)
class Strip:
    """The errors of one claim along an axis of powers of ten; 0 is the tolerance."""

    dots: Sequence[Dot]
    exact: int  # how many have no error at all, which have no place on a log scale
    ticks: Sequence[tuple[float, int]]
    tolerance: float  # where it stands
    bands: Sequence[tuple[str, float, float]]  # levels, each with where it begins and how wide it is
    floor: Mark | None
    planted: Sequence[Mark]  # the weakest first
    about: str

    @property
    def label_x(self) -> float:
        """Where the label of the weakest fault begins: at its mark, or so far before it that it ends inside."""
        return max(0.0, min(self.planted[0].x, WIDTH - _CHARACTER * len(f"weakest planted fault: {self.planted[0].says}")))


def strip_of(claim: Claim) -> Strip | None:
    """The claim's errors to be drawn; None where it measured none."""
    if not claim.measured:
        return None
    powers = [power_of(each.error, each.tolerance) for each in claim.measured]
    planted, noise = _planted(claim), _floor(claim)
    drawn = [power for power in (*powers, *(power for power, _ in planted), *([noise[0]] if noise else [])) if isfinite(power)]
    lowest = max(min([_LOWEST, *map(floor, drawn)]), -_FARTHEST)
    highest = min(max([_HIGHEST, *map(ceil, drawn)]), _FARTHEST)

    def x(power: float) -> float:
        inside = min(max(power, lowest), highest)
        return round(_LEFT + (inside - lowest) / (highest - lowest) * (_RIGHT - _LEFT), 1)

    dots = [
        Dot(x(power), round(26 + (number * 0.618 % 1) * 32, 1), level_of(power), f"{each.what}: {each.error:.1e} of {each.tolerance:.1e}")
        for number, (each, power) in enumerate(zip(claim.measured, powers))
        if power > float("-inf")
    ]
    exact = len(powers) - len(dots)
    step = max(1, (highest - lowest) // 6)
    return Strip(
        dots,
        exact,
        [(x(power), power) for power in range(lowest, highest + 1) if power % step == 0],
        x(0),
        _bands(x(-2), x(0), x(3)),
        Mark(x(noise[0]), noise[1]) if noise else None,
        [Mark(x(power), says) for power, says in planted],
        f"{len(powers)} errors against their tolerances: {exact} with no error, {sum(power > 0 for power in powers)} too large",
    )


def _planted(claim: Claim) -> list[tuple[float, str]]:
    """The weakest fault in each block, in the comparison that shows it best, or else those of the whole model; the weakest first."""
    common = max(each.tolerance for each in claim.measured)
    whole = [(power_of(size, common), f"{name} would show {size:.1e}") for name, size in claim.planted.items() if size]
    blocks: dict[str, tuple[float, str]] = {}  # a block is compared in more ways than one: "NAME: on whole inputs"
    for each in claim.measured:
        if each.weakest:
            block, fault = each.what.partition(":")[0], (power_of(each.weakest, each.tolerance), f"in {each.what} {each.weakest:.1e}")
            blocks[block] = max(fault, blocks.get(block, fault))
    return sorted(blocks.values() or whole)


def _floor(claim: Claim) -> tuple[float, str] | None:
    """The noise floor of the whole model, or else of the block where it comes nearest to its tolerance."""
    if claim.floor:
        common = max(each.tolerance for each in claim.measured)
        # Errors in float64 are held to far less than the noise that was measured in float32.
        return power_of(claim.floor, common), f"noise{' in float32' if claim.floor > common else ' floor'}: {claim.floor:.1e}"
    blocks = [
        (power_of(m.floor, m.tolerance), f"noise floor, at most {m.floor:.1e}") for m in claim.measured if m.floor and m.floor < m.tolerance
    ]
    return max(blocks, default=None)


def _bands(near: float, over: float, far: float) -> list[tuple[str, float, float]]:
    """The levels from left to right, by where each begins."""
    begins = {"exact": 0.0, "below": float(_LEFT - 12), "near": near, "over": over, "far": far}
    ends = [*list(begins.values())[1:], float(WIDTH)]
    return [(level, begin, round(end - begin, 1)) for (level, begin), end in zip(begins.items(), ends) if end > begin]
