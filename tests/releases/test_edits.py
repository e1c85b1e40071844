"""Each edit of transformers' FLAVA is named by `drift`, in the differences of its kind; the catalogue is `edits`."""

import re

import pytest

from flava_port.releases.comparison import compare
from flava_port.releases.observation import read
from tests.releases.edits import EDITS
from tests.releases.futures import installed_text, make_future, run_under

IN_THIS_RELEASE = [name for name, named in EDITS.items() if re.search(named.edit.pattern, installed_text(named.edit.file), re.MULTILINE)]


@pytest.fixture(scope="session")
def unchanged(tmp_path_factory):
    """What the command observes of the installed release under another number."""
    return _observed(tmp_path_factory.mktemp("unchanged"))


def _observed(folder, *edits):
    ran = run_under(make_future(folder, *edits), "flava_port", "observe", folder / "observation")
    assert ran.returncode == 0, ran.stdout
    return read(folder / "observation")


def test_the_newest_sources_can_be_edited():
    """Under other releases than the catalogue was written for, some edits have nothing to change."""
    assert len(IN_THIS_RELEASE) >= len(EDITS) * 0.6


@pytest.mark.slow
def test_nothing_is_named_where_nothing_was_edited(unchanged, tmp_path):
    """Two observations of one release in processes of their own differ in nothing."""
    again = _observed(tmp_path)
    assert compare(unchanged, again).text().startswith("verdict: safe to upgrade\n") and compare(unchanged, again).changes == ()
    assert {run.kind for run in again.runs.values()} >= {"two processes"}


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_THIS_RELEASE)
def test_an_edit_is_named(name, unchanged, tmp_path):
    """A difference of its kind says it, and the report fits on a screen."""
    named = EDITS[name]
    report = compare(unchanged, _observed(tmp_path, named.edit))
    assert any(change.kind == named.kind and change.holds(named.says) for change in report.changes), report.text(everything=True)
    assert len(report.text().splitlines()) <= 40
