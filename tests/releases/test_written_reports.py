"""`drift` writes what changed as Markdown and as a page: the verdict, its reasons, the differences by kind."""

from dataclasses import replace

import pytest

from flava_port.releases.bisect import Transition
from flava_port.releases.drift import changes, verdict
from flava_port.releases.observation import OURS, write
from flava_port.report.markdown import drift_in_markdown


@pytest.fixture(scope="session")
def worse(observed):
    """What a release would look like that loads a converted folder wrong, and stops in a use."""
    name, run = next(iter(observed.runs.items()))
    runs = {**observed.runs, name: replace(run, error="ValueError: <b>no</b>", answers={}, gradients={}, modules=())}
    versions = {**observed.versions, "transformers": "9.9.9"}
    return replace(observed, versions=versions, runs=runs, loaded={**observed.loaded, OURS: "1 wrong: <b>&|`"})


@pytest.fixture
def step(observed, worse):
    """The two releases, and what changed between them."""
    return Transition(observed, worse, changes(observed, worse))


def test_markdown_says_the_verdict_then_its_reasons(observed, step):
    """Differences are folded; texts are escaped."""
    text = drift_in_markdown([step])
    assert text.startswith("### FLAVA: do not upgrade\n\nFrom transformers ")
    assert "<details><summary>loading: 1 difference</summary>" in text and "<b>" not in text
    assert "<details>" not in drift_in_markdown([Transition(observed, observed, [])])


def test_a_page_shows_the_releases_in_a_row_and_what_changed_where(step):
    """The gravest of several verdicts stands first; texts are escaped."""
    pytest.importorskip("jinja2")
    from flava_port.report.page import GRAVITY, drift_page

    page = drift_page([Transition(step.old, step.old, []), step])
    assert "<title>FLAVA: do not upgrade</title>" in page and page.count('<li class="release">') == 3
    assert 'href="#loading-2">1 changed</a>' in page and '<details class="claim" id="loading-2" open>' in page
    assert "stops: ValueError: &lt;b&gt;" in page and "<b>" not in page
    assert verdict(step.old, step.new).advice == GRAVITY[-1]


def test_the_command_writes_both(run_command, file, worse, tmp_path):
    """Its exit status stays that of the verdict."""
    pytest.importorskip("jinja2")
    write(worse, tmp_path / "worse")
    ran = run_command("drift", "--from", file, "--to", tmp_path / "worse", "--markdown", tmp_path / "d.md", "--html", tmp_path / "d.html")
    assert ran.status == 1 and (tmp_path / "d.md").read_text().startswith("### FLAVA: do not upgrade\n")
    assert "Do not upgrade" in (tmp_path / "d.html").read_text()
