"""A proof and a comparison of releases as one page of HTML that loads nothing: style, script and drawings are inside."""

import hashlib
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from math import inf, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..proof.certificate import Certificate, Claim, Finding, Verdict
from ..target.epochs import recorded_releases
from ..text import count_of, printable
from .model_map import LEVELS, Panel, Shown, first_to_diverge, level_of, panels, power_of, unplaced
from .names import module_of, names_of, names_of_module, rows
from .plots import HEIGHT, WIDTH, strip_of

if TYPE_CHECKING:
    from jinja2 import Environment

    from ..releases.bisect import Transition
    from ..releases.observation import Observation

_TEMPLATES = Path(__file__).with_name("templates")
_FINDINGS_SHOWN = 50

_SENTENCES = {
    Verdict.PROVEN: "This folder is the original model.",
    Verdict.DIFFERS: "This folder is not the original model.",
    Verdict.NOT_PROVEN: "It is not proven that this folder is the original model.",
}


def proof_page(certificate: Certificate) -> str:
    """The page of a proof: verdict and cause, claims, the model, the releases that load it right, every key."""
    drawn = panels(certificate)
    measuring = [claim.name for claim in certificate.claims if claim.measured]
    converted = {key.converted for key in certificate.keys}
    return render(
        "proof.html",
        versions=certificate.versions,
        verdict=certificate.verdict.value,
        sentence=sentence(certificate),
        why=certificate.why,
        cause=certificate.cause,
        open=[claim.name for claim in certificate.claims if claim.left_open],
        culprit=_culprit(certificate.cause),
        first=_located(first_to_diverge(certificate), certificate),
        claims=[(claim, strip_of(claim)) for claim in certificate.claims],
        panels=drawn,
        unplaced=unplaced(certificate),
        levels={level: what for level, what in LEVELS.items() if measuring or level in ("equal", "wrong", "unknown")},
        measuring=measuring,
        scale=next((plot for plot in map(strip_of, certificate.claims) if plot and plot.planted), None),
        modules=_modules(drawn),
        releases=_releases(certificate.lost_in),
        rows=list(rows(certificate)),
        findings_shown=_FINDINGS_SHOWN,
        files={name: digest for name, digest in certificate.digests.items() if name not in converted},
        proven=sum(claim.verdict is Verdict.PROVEN for claim in certificate.claims),
        extent=_extent(certificate),
    )


def sentence(certificate: Certificate) -> str:
    """The verdict in one sentence, which never says more than was checked."""
    if certificate.verdict is Verdict.PROVEN and certificate.asked != "everything":
        return f"Of this folder, {certificate.asked} are the original's; what it computes was not verified."
    return _SENTENCES[certificate.verdict]


def _extent(certificate: Certificate) -> str:
    """How much was compared, and how near the largest error comes to its tolerance."""
    compared = f"{count_of(sum(key.converted in certificate.digests for key in certificate.keys), 'tensor')} compared by value"
    powers = [power_of(each.error, each.tolerance) for claim in certificate.claims for each in claim.measured]
    if not powers:
        return compared
    largest = f"the largest {10 ** max(powers):.0e} times its tolerance" if isfinite(max(powers)) else "one of them no number"
    return f"{compared}, {len(powers):,} errors measured, " + ("all of them 0" if max(powers) == -inf else largest)


def _culprit(cause: Claim | None) -> dict[str, Any] | None:
    """What the cause found first, with its names in all layouts."""
    if cause is None or not cause.findings:
        return None
    return _named(cause.findings[0])


def _named(finding: Finding) -> dict[str, Any]:
    return {"finding": finding, "names": names_of(finding.key), "module": module_of(finding.key)}


def _located(module: str, certificate: Certificate) -> dict[str, Any] | None:
    """The first module to diverge, with its names in all layouts and the finding about it."""
    found = [finding for claim in certificate.claims if claim.measured for finding in claim.findings if finding.key == module]
    return {"finding": found[0], "names": names_of_module(module), "module": module} if module and found else None


def _modules(drawn: Sequence[Panel]) -> dict[str, Any]:
    """What the script shows of each module, by its path."""
    cells = [cell for panel in drawn for line in panel.lines for cell in line.cells if cell is not None]
    return {
        cell.path: {
            "label": cell.label,
            "said": cell.said,
            "state": cell.state,
            "names": names_of_module(cell.path).__dict__ if cell.state != "unknown" or cell.diverges_first else {},
            "measured": [_measured(each, cell.shows_fault(each)) for each in sorted(cell.measured, key=lambda each: -each.power)],
        }
        for cell in cells
    }


def _measured(shown: Shown, shows_fault: bool) -> list[str | bool]:
    """A row of what was measured of a module: whether it shows whose fault it is, claim, name, level, then the numbers.

    These are the error, the noise floor, the tolerance and the weakest planted fault.
    """
    of = shown.measured
    numbers = of.error, of.floor, of.tolerance, of.weakest
    return [shows_fault, shown.claim, of.what, level_of(shown.power), *("" if number is None else f"{number:.1e}" for number in numbers)]


def _releases(lost_in: Sequence[str]) -> list[tuple[str, bool]]:
    """Every release that was observed, oldest first, and whether it loads the folder right."""
    from packaging.version import Version

    ranges = [tuple(map(Version, lost.split(" to "))) for lost in lost_in]
    return [(release, not any(span[0] <= Version(release) <= span[-1] for span in ranges)) for release in recorded_releases()]


def drift_page(steps: Sequence["Transition"]) -> str:
    """The page of a comparison: the verdict, the releases in a row, what changed where, and which agree with the original."""
    from ..releases.comparison import together
    from ..releases.drift import KINDS, ROUNDING, verdict

    observations = [steps[0].old, *(step.new for step in steps)]
    advice = [verdict(step.old, step.new) for step in steps]
    circumstances = _agreement(observations, ROUNDING)
    gravest = max(advice, key=lambda each: GRAVITY.index(each.advice))
    return render(
        "drift.html",
        verdict=gravest.advice,
        sentence=_advice_sentence(gravest.advice),
        reasons=[line for each in advice for line in (*each.reasons, *each.notes)],
        releases=_releases_compared(observations),
        steps=list(zip(steps, advice)),
        counts=[Counter(change.kind for change in step.found) for step in steps],
        changes=[{kind: [likes for likes in together(step.found) if likes.kind == kind] for kind in KINDS} for step in steps],
        kinds=KINDS,
        moved=[row for row in circumstances if len(set(row[1])) > 1],
        stayed=[row for row in circumstances if len(set(row[1])) == 1],
        rounding=ROUNDING,
    )


def _releases_compared(observations: Sequence["Observation"]) -> list[str]:
    """What to call each: its packages, of which all have the same release left out."""
    names = [name for name in observations[0].versions if len({observation.versions.get(name) for observation in observations}) > 1]
    return [", ".join(f"{name} {observation.versions.get(name)}" for name in names) or str(observation) for observation in observations]


# Verdicts of a comparison, the gravest last.
GRAVITY = ("safe to upgrade", "look before you upgrade", "reconvert", "do not upgrade")


def _advice_sentence(advice: str) -> str:
    return {
        "safe to upgrade": "It is safe to upgrade.",
        "look before you upgrade": "Look before you upgrade: something changed where the original is no reference.",
        "reconvert": "Reconvert, or repair: what the old release itself saved no longer loads right.",
        "do not upgrade": "Do not upgrade: a converted folder would load or compute otherwise than the original.",
    }[advice]


def _agreement(observations: Sequence["Observation"], rounding: float) -> list[tuple[str, list[tuple[str, str]]]]:
    """Of each circumstance: its name, and for each release a level and what to say of it."""

    def of(name: str, observation: "Observation") -> tuple[str, str]:
        run = observation.runs.get(name)
        if run is None:
            return "unknown", "not run"
        if run.error:
            return "wrong", f"stops: {run.error}"
        if run.from_original is None:
            return "equal", "runs"
        return level_of(
            power_of(run.from_original, rounding)
        ), "as the original" if run.from_original <= rounding else f"{run.from_original:.0e} off"

    names = dict.fromkeys(name for observation in observations for name in observation.runs)
    return [(name, [of(name, observation) for observation in observations]) for name in names]


def render(template: str, **values: Any) -> str:
    """The page that a template makes of these values, every one of them escaped."""
    script = (_TEMPLATES / "page.js").read_text("utf-8")
    policy = "sha256-" + b64encode(hashlib.sha256(script.encode()).digest()).decode()
    common: Mapping[str, Any] = {"script": script, "policy": policy, "style": (_TEMPLATES / "page.css").read_text("utf-8")}
    return _environment().get_template(template).render(**common, **values, width=WIDTH, height=HEIGHT)


def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,  # not the type of what is escaped already
    )
    return environment
