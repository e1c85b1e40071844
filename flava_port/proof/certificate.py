"""What a proof states: claims, each proven, refuted or not proven; and the certificate that lists them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path

from ..errors import FlavaPortError, NotFaithful
from ..files.staging import staged_files, write_json
from ..text import few


@dataclass(frozen=True)
class Finding:
    """One thing that differs: its converted name, the original's name, what is wrong, and what it looks like."""

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


@dataclass(frozen=True)
class MappedKey:
    """A key by its name in the checkpoint's file, and its converted name, or why it has none."""

    source: str
    converted: str = ""
    dropped: str = ""


class NothingToJudge(FlavaPortError):
    """The folder has nothing that a claim is about, or there is nothing to judge it by. The claim is left open."""

    exit_status = NotFaithful.exit_status


class Verdict(Enum):
    PROVEN = "proven"
    DIFFERS = "differs"
    NOT_PROVEN = "not proven"


@dataclass(frozen=True)
class Measured:
    """The largest error of one output, block or gradient, and the largest that rounding explains; relative, but of a source's own losses.

    Of a block also ``floor``, the original's own error in float32, and ``weakest``, by how much the weakest fault
    planted in it moves it.
    """

    what: str
    error: float
    tolerance: float
    floor: float | None = None
    weakest: float | None = None

    @property
    def is_too_large(self) -> bool:
        return not self.error <= self.tolerance  # NaN is too large


@dataclass
class Claim:
    """One statement that the proof judges. Until it is judged, it is not proven."""

    name: str
    verdict: Verdict = Verdict.NOT_PROVEN
    summary: str = ""
    findings: list[Finding] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)
    planted: dict[str, float] = field(default_factory=dict)  # how far each planted fault moves the block that shows it least
    floor: float = 0.0  # rounding as it was measured, in the terms of the errors; 0 where it was not
    left_open: bool = False  # not proven, since there is nothing to judge; see `NothingToJudge`

    def settle(self, summary: str) -> None:
        """Differs if anything was found; else it is proven, with this summary."""
        self.verdict = Verdict.DIFFERS if self.findings else Verdict.PROVEN
        self.summary = f"{len(self.findings)} found" if self.findings else summary


FINDINGS_SHOWN = 5
_FOLLOWING_SHOWN = 1  # of a claim after the first that differs, which mostly follows from that one


def claim_text(claim: Claim, most: int = FINDINGS_SHOWN) -> str:
    """One line for the claim, and its first findings below it."""
    first = f"{claim.verdict.value:<11} {claim.name:<18} {claim.summary}".rstrip()
    shown = few([str(finding) for finding in claim.findings], most)
    return "\n".join([first, *(f"    {line}" for finding in shown for line in finding.splitlines())])


def cause_text(claim: Claim) -> str:
    """What a claim found first, in one line, and how much else."""
    if not claim.findings:
        return f"{claim.name}: {claim.summary}"
    first, *others = claim.findings
    what = f"looks like {first.looks_like}" if first.looks_like else first.what
    return " ".join(f"{claim.name}: {first.key}: {what}".split()) + (f"; and {len(others):,} more" if others else "")


def claim_texts(claims: Iterable[Claim]) -> Iterator[str]:
    """The text of each claim, as soon as that is judged. Once one differs, those after it show fewer findings."""
    most = FINDINGS_SHOWN
    for claim in claims:
        yield claim_text(claim, most)
        if claim.verdict is Verdict.DIFFERS:
            most = _FOLLOWING_SHOWN


def so_far(claims: Sequence[Claim]) -> str:
    """What a proof that was interrupted has shown, in a line."""
    found = []
    for verdict in Verdict:
        names = [claim.name for claim in claims if claim.verdict is verdict]
        found += [f"{verdict.value}: {', '.join(names)}"] if names else []
    return f"verdict: none, since it was interrupted; so far {'; '.join(found) or 'nothing was judged'}"


@dataclass
class Certificate:
    """Every claim, the versions of the software that checked it, and the digests of both sides."""

    claims: list[Claim]
    versions: dict[str, str]
    digests: dict[str, str]
    asked: str = "everything"
    not_looked_at: str = ""  # what nobody asked about, or is not there
    keys: list[MappedKey] = field(default_factory=list)
    lost_in: list[str] = field(default_factory=list)  # releases of transformers that lose biases of the folder: "4.43.0 to 4.57.6"
    doubts: str = ""  # that the installed transformers is the cause of what is not proven

    @property
    def verdict(self) -> Verdict:
        """Differs if any claim does; proven only if every claim is, but for those left open, which the last line names."""
        verdicts = {claim.verdict for claim in self.claims if not claim.left_open}
        return next((v for v in (Verdict.DIFFERS, Verdict.NOT_PROVEN) if v in verdicts), Verdict.PROVEN)

    @property
    def cause(self) -> Claim | None:
        """The first claim that differs, or else the first that is not proven: those after it mostly follow from it."""
        for verdict in (Verdict.DIFFERS, Verdict.NOT_PROVEN):
            for claim in self.claims:
                if claim.verdict is verdict and not claim.left_open:
                    return claim
        return None

    @property
    def why(self) -> str:
        """The cause in a line: the installed transformers, or what the first claim found; empty where all is proven."""
        return self.doubts or (cause_text(self.cause) if self.cause is not None else "")

    @property
    def exit_status(self) -> int:
        return 0 if self.verdict is Verdict.PROVEN else NotFaithful.exit_status

    def write(self, path: str | Path) -> None:
        """Writes the certificate as JSON. An existing file is replaced atomically."""
        target = Path(path).absolute()
        with staged_files([target]) as (partial,):
            write_json(partial, self.as_json())

    def as_json(self) -> dict[str, object]:
        """What `write` writes: every claim in full."""
        claims = [{**asdict(claim), "verdict": claim.verdict.value} for claim in self.claims]
        return {
            "verdict": self.verdict.value,
            "asked": self.asked,
            "not_looked_at": self.not_looked_at,
            "doubts": self.doubts,
            "versions": self.versions,
            "digests": self.digests,
            "claims": claims,
            "keys": [asdict(key) for key in self.keys],
            "lost_in": self.lost_in,
        }

    def table(self) -> str:
        """One line for each claim, its first findings below it, and the conclusion last."""
        return "\n".join([*claim_texts(self.claims), "", self.conclusion()])

    def conclusion(self) -> str:
        """The verdict in a line, and the cause in another if it is not proven: the installed transformers, or the first claim."""
        rest = f" (of {self.asked}; not looked at: {self.not_looked_at})" if self.not_looked_at else ""
        verdict = f"verdict: {self.verdict.value}{rest}{self._left_open()}"
        return f"{verdict}\ncause: {self.why}" if self.why else verdict

    def _left_open(self) -> str:
        """The claims that are left open, by their reasons."""
        reasons: dict[str, list[str]] = {}
        for claim in self.claims:
            if claim.left_open:
                reasons.setdefault(claim.summary, []).append(claim.name)
        return "".join(f"; not proven: {', '.join(names)} ({reason})" for reason, names in reasons.items())
