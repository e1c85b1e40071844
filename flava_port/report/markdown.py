"""A proof and a comparison of releases in Markdown, as a pull request, the summary of a CI job or a model card takes it."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..proof.certificate import Certificate, Claim, Finding, Verdict
from ..text import count_of, few, printable

if TYPE_CHECKING:  # imports torch
    from ..releases.bisect import Transition

_FINDINGS_SHOWN = 10
_CHANGES_SHOWN = 40


def plain(text: str) -> str:
    """A text in which Markdown and HTML see nothing but text, on one line."""
    text = re.sub(r"\s+", " ", printable(text)).strip()
    return re.sub(r"[\\`*\[\]<>&|~]|(?<!\w)_|_(?!\w)", lambda found: "\\" + found[0], text)


def code(text: str) -> str:
    """A text as code, in as many backticks as it takes."""
    text = re.sub(r"\s+", " ", printable(text))
    ticks = "`" * (1 + max(map(len, re.findall(r"`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{space}{text}{space}{ticks}"


def proof_in_markdown(certificate: Certificate) -> str:
    """The verdict, the cause, a row for each claim, the findings folded, and what was compared by what."""
    return _document(
        f"FLAVA: {_verdict(certificate)}",
        [f"cause: {plain(certificate.why)}"] if certificate.why else [],
        _table(("claim", "verdict", "evidence"), ([plain(c.name), _marked(c.verdict), plain(c.summary)] for c in certificate.claims)),
        *(_findings(claim) for claim in certificate.claims if claim.findings),
        _made_with(certificate.versions),
    )


def _verdict(certificate: Certificate) -> str:
    rest = f" (of {certificate.asked}; not looked at: {certificate.not_looked_at})" if certificate.not_looked_at else ""
    return certificate.verdict.value + rest


def _marked(verdict: Verdict) -> str:
    return verdict.value if verdict is Verdict.PROVEN else f"**{verdict.value}**"


def _findings(claim: Claim) -> list[str]:
    items = few(claim.findings, _FINDINGS_SHOWN)
    lines = ["- " + (_finding(item) if isinstance(item, Finding) else plain(item)) for item in items]
    return _folded(f"{plain(claim.name)}: {count_of(len(claim.findings), 'finding')}", lines)


def _finding(finding: Finding) -> str:
    lines = [f"{code(finding.key)}: {plain(finding.what)}"]
    lines += [f"from {code(finding.source)}"] if finding.source else []
    lines += [f"looks like {plain(finding.looks_like)}"] if finding.looks_like else []
    return "<br>".join(lines)


def drift_in_markdown(steps: Sequence["Transition"]) -> str:
    """Of each step from release to release: the verdict, its reasons, and what changed, each kind folded."""
    return "\n".join(map(_step, steps))


def _step(step: "Transition") -> str:
    from ..releases.comparison import together
    from ..releases.drift import verdict

    advice = verdict(step.old, step.new)
    counts = Counter(change.kind for change in step.found)
    kinds: dict[str, list[str]] = {kind: [] for kind in counts}
    for likes in together(step.found):
        kinds[likes.kind].append(f"- {plain(likes.text)}")
    return _document(
        f"FLAVA: {advice.advice}",
        [f"From {plain(str(step.old))} to {plain(str(step.new))}."],
        [f"- {plain(line)}" for line in (*advice.reasons, *advice.notes)],
        *(_folded(f"{kind}: {count_of(counts[kind], 'difference')}", few(lines, _CHANGES_SHOWN)) for kind, lines in kinds.items()),
    )


def _document(title: str, *parts: Iterable[str]) -> str:
    paragraphs = ["\n".join(part) for part in parts]
    return "\n\n".join([f"### {title}", *filter(None, paragraphs)]) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _folded(title: str, lines: Iterable[str]) -> list[str]:
    return [f"<details><summary>{title}</summary>", "", *lines, "", "</details>"]


def _made_with(versions: Mapping[str, str]) -> list[str]:
    return ["<sub>" + ", ".join(f"{plain(name)} {plain(version)}" for name, version in versions.items()) + "</sub>"]
