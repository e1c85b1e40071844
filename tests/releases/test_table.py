"""The README's compatibility table comes from runs, and is of the releases that tox tests."""

import re

import pytest

from tests.readme import section
from tests.releases import compatibility as command
from tests.releases.in_tox import releases_in_tox
from tests.releases.inside import RIGHT, how_it_loads

SECTION = section("compatibility")


def test_it_has_every_release_that_tox_tests():
    """The releases are in tox.ini's order, with the day of the run and the command."""
    assert re.findall(r"^\| (\d\S+) \|", SECTION, re.MULTILINE) == releases_in_tox()
    assert re.search(r"Run on \d{4}-\d\d-\d\d with torch \S+ and Python \S+: `python -m tests.releases.compatibility --write`", SECTION)


def test_no_release_in_it_fails():
    """The column of failures is empty, since what fails because of a release is a known gap; and every converted folder loads."""
    assert SECTION.count(": yes. ") == 2
    for row in re.findall(r"^\| \d.*$", SECTION, re.MULTILINE):
        assert row.split("|")[6].strip() == "", row


def _loads(**wrong: str) -> dict[tuple[str, str, str], str]:
    releases = ("4.30.2", "5.0.0")
    return {
        (w, r, kind): wrong.get(kind, RIGHT) if (w, r) == releases else RIGHT for w in releases for r in releases for kind in command.KINDS
    }


def test_a_row_says_how_the_suite_ended_and_where_folders_do_not_load():
    """A row has the epoch, the counts, then how folders load that the release converted and saved."""
    suites = {"4.30.2": command.Suite(1200, 40, 90, 0), "5.0.0": command.Suite(1300, 0, 90, 2)}
    text = command.table(("4.30.2", "5.0.0"), suites, _loads(saved="4 of 9 outputs wrong, by up to 1e+00"), "about")
    assert "| 4.30.2 | 4.25.1 to 4.30.2 | 1,200 | 40 | 90 |  | loads right | **5.0.0**: 4 of 9 outputs wrong, by up to 1e+00 |" in text
    assert "| 5.0.0 | 5.0.0 | 1,300 | 0 | 90 | 2 | loads right | loads right in all |" in text
    assert "converted loads in every other with the original's logits: yes. " in text and "has rewritten it: yes. " in text
    assert "**4.30.2**: fails" in command.table(("4.30.2", "5.0.0"), suites, _loads(converted="fails"), "about")
    assert "has rewritten it: no. " in command.table(("4.30.2", "5.0.0"), suites, _loads(repaired="fails"), "about")


def test_counts_are_read_from_the_suites_own_report(tmp_path):
    """Expected failures are counted as known gaps, errors as failures."""
    kinds = {
        "passed": "",
        "gap": '<skipped type="pytest.xfail"/>',
        "skip": '<skipped type="pytest.skip"/>',
        "bad": "<failure/>",
        "error": "<error/>",
    }
    cases = "".join(f'<testcase name="{name}">{inside}</testcase>' for name, inside in kinds.items())
    (tmp_path / "suite.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    assert command.read_suite(tmp_path / "suite.xml") == command.Suite(passed=1, known_gaps=1, skipped=1, failed=2)


@pytest.mark.parametrize(("harm", "expected"), [(False, "right"), (True, r"\d+ of \d+ outputs wrong, by up to \S+")])
def test_a_folder_loads_right_where_its_logits_are_the_originals(tiny, tmp_path, harm, expected):
    """A converted folder loads right, and one whose head has lost its bias does not."""
    from safetensors.torch import load_file, save_file

    from flava_port import convert_flava_checkpoint

    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, tmp_path / "out")
    if harm:
        state = load_file(tmp_path / "out" / "model.safetensors")
        state["mlm_head.bias"].zero_()
        state["mlm_head.decoder.bias"].zero_()
        save_file(state, tmp_path / "out" / "model.safetensors", {"format": "pt"})
    assert re.fullmatch(expected, how_it_loads(tmp_path / "out"))
