"""Runs the suite under each release, has each load what every other wrote, and writes the README's table.

python -m tests.releases.compatibility                       # prints it; an hour on two cores
python -m tests.releases.compatibility --write               # into the README
python -m tests.releases.compatibility --no-suite --releases 4.30.2 5.0.0
"""

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from flava_port.releases.environments import make
from flava_port.target.epochs import epoch_of
from tests.readme import write_section
from tests.releases.in_tox import ROOT, releases_in_tox
from tests.releases.inside import RIGHT

SUITE = ("pytest>=8", "hypothesis>=6.100", "pytest-xdist>=3.5", "pillow")


# What each release makes of the tiny checkpoint; see `inside.make`.
KINDS = ("converted", "saved", "repaired")


class Suite(NamedTuple):
    """How the tests ended in one environment."""

    passed: int
    known_gaps: int
    skipped: int
    failed: int

    def __str__(self) -> str:
        return f"{self.passed:,} | {self.known_gaps} | {self.skipped} | {self.failed or ''}"


def _run(python: Path, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    ran = subprocess.run([python, *map(str, arguments)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if check and ran.returncode:
        sys.exit(f"{' '.join(map(str, arguments))}\n{ran.stdout[-2000:]}\n{ran.stderr[-2000:]}")
    return ran


def run_suite(python: Path, scratch: Path) -> Suite:
    """Runs the default suite on two processes, without the tests of the table that is being made."""
    report = scratch / "suite.xml"
    report.unlink(missing_ok=True)
    options = ("-q", "-n", "2", "-p", "no:cacheprovider", "--ignore=tests/releases/test_table.py")
    _run(python, "-m", "pytest", *options, f"--junitxml={report}", check=False)
    return read_suite(report)


def read_suite(report: Path) -> Suite:
    """The counts in a junit file, where an expected failure is a known gap."""
    cases = ElementTree.parse(report).getroot().iter("testcase")
    kinds = [next((_kind(child) for child in case if child.tag in ("skipped", "failure", "error")), "passed") for case in cases]
    return Suite(*(kinds.count(kind) for kind in ("passed", "known gap", "skipped", "failed")))


def _kind(outcome: ElementTree.Element) -> str:
    if outcome.tag != "skipped":
        return "failed"
    return "known gap" if outcome.get("type") == "pytest.xfail" else "skipped"


def between_releases(pythons: Mapping[str, Path], scratch: Path) -> dict[tuple[str, str, str], str]:
    """How a folder that one release wrote loads in another, by the two and which of `KINDS` the folder is."""
    folders = [(release, kind) for release in pythons for kind in KINDS]
    for release, python in pythons.items():
        _run(python, "-m", "tests.releases.inside", "make", scratch / release)
    found = {}
    for reader, python in pythons.items():
        file = scratch / f"{reader}.json"
        _run(python, "-m", "tests.releases.inside", "load", file, *(scratch / writer / kind for writer, kind in folders))
        found.update({(writer, reader, kind): how for (writer, kind), how in zip(folders, json.loads(file.read_text()), strict=True)})
    return found


def table(releases: Sequence[str], suites: Mapping[str, Suite], loads: Mapping[tuple[str, str, str], str], about: str) -> str:
    """The text of the README's section."""
    lines = [
        "| transformers | schema of | passed | known gaps | skipped | failed | a converted folder, from any of these | what it saves itself |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for release in releases:
        epoch = epoch_of(release)
        converted = _in_short({writer: loads[writer, release, "converted"] for writer in releases}, "loads right")
        saved = _in_short({reader: loads[release, reader, "saved"] for reader in releases}, "loads right in all")
        lines.append(f"| {release} | {epoch or 'none'} | {suites.get(release, '| | |')} | {converted} | {saved} |")
    wrong = [kind for (_, _, kind), how in loads.items() if how != RIGHT]
    verdict = (
        f"Every folder that any of these releases converted loads in every other with the original's logits: {'no' if 'converted' in wrong else 'yes'}. "
        f"Every folder that one saved, once `flava-port repair` has rewritten it: {'no' if 'repaired' in wrong else 'yes'}. "
        "What other saved folders lose are the biases of the heads."
    )
    return "\n".join([about, "", *lines, "", verdict])


def _in_short(outcomes: Mapping[str, str], right: str) -> str:
    """What all releases have in common, or those in which a folder does not load right, and how."""
    by_outcome: dict[str, list[str]] = {}
    for release, how in outcomes.items():
        if how != RIGHT:
            by_outcome.setdefault(how, []).append(release)
    return "; ".join(f"**{', '.join(found)}**: {how}" for how, found in by_outcome.items()) or right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--releases", nargs="+", default=releases_in_tox(), help="of transformers (default: those of tox.ini)")
    parser.add_argument("--torch", default=re.match(r"[\d.]+", version("torch"))[0].rstrip("."), help="its release (default: %(default)s)")
    parser.add_argument("--no-suite", action="store_true", help="leave the suite out")
    parser.add_argument("--write", action="store_true", help="write the table into the README")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flava_port-") as folder:
        scratch = Path(folder)
        pythons, suites = {}, {}
        for release in options.releases:
            pythons[release] = make(scratch / "environments" / release, {"torch": options.torch, "transformers": release}, SUITE)
            if not options.no_suite:
                suites[release] = run_suite(pythons[release], scratch)
            print(f"{release}: {suites.get(release, 'ready')}", file=sys.stderr)
        loads = between_releases(pythons, scratch)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    about = (
        f"Run on {datetime.date.today()} with torch {options.torch} and Python {python}: `python -m tests.releases.compatibility --write`."
    )
    text = table(options.releases, suites, loads, about)
    print(text)
    if options.write:
        write_section("compatibility", text)
    if any(suite.failed for suite in suites.values()) or any(how != RIGHT for (_, _, kind), how in loads.items() if kind != "saved"):
        sys.exit(1)


if __name__ == "__main__":
    main()
