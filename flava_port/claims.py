"""What a proof is made of: claims, each proven, refuted or left open, with what was found."""

from dataclasses import dataclass, field
from enum import Enum


@dataclass(frozen=True)
class Finding:
    """Something that differs: the converted name, the original's, what is wrong, and what it looks like."""

    key: str
    source: str
    what: str
    looks_like: str = ""

    def __str__(self) -> str:
        lines = [f"{self.key}: {self.what}"]
        if self.source:
            lines.append(f"  from {self.source}")
        if self.looks_like:
            lines.append(f"  looks like {self.looks_like}")
        return "\n".join(lines)


class Verdict(Enum):
    PROVEN = "proven"
    DIFFERS = "differs"
    NOT_PROVEN = "not proven"


@dataclass(frozen=True)
class Measured:
    """The largest relative error of one kind of number, and what rounding allows."""

    what: str
    error: float
    tolerance: float


@dataclass
class Claim:
    """One thing that the proof is about."""

    name: str
    verdict: Verdict = Verdict.NOT_PROVEN
    summary: str = ""
    findings: list[Finding] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)
    planted: dict[str, float] = field(default_factory=dict)  # by planted fault: how far it would move what was measured
