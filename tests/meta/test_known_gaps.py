"""The known gaps name tests that exist, and hold under the releases that they name and no others."""

import re
from pathlib import Path

import pytest

from flava_port.target.epochs import EPOCHS
from tests.known_gaps import GAPS, Gap, Why, gaps_of

ROOT = Path(__file__).parents[2]
ENTRIES = [(gap, test) for gap in GAPS for test in gap.tests]


@pytest.mark.parametrize(("gap", "test"), ENTRIES, ids=[test for _, test in ENTRIES])
def test_an_entry_is_of_a_test_that_exists(gap, test):
    """Its file, its name and its parameter are in the tree."""
    file, name, parameter = re.fullmatch(r"([^:]+)::(\w+)(?:\[(.*)\])?", test).groups()
    text = (ROOT / file).read_text()
    assert f"def {name}(" in text
    assert parameter is None or parameter == "cpu" or f'"{parameter}"' in text + (ROOT / "flava_port/releases/circumstances.py").read_text()


def test_no_test_stands_twice():
    """A test has one reason."""
    tests = [test for _, test in ENTRIES]
    assert len(tests) == len(set(tests))


def test_the_newest_release_has_none():
    """Under the newest release no test may be expected to fail."""
    assert not [test for _, test in ENTRIES if list(gaps_of(test, EPOCHS[-1].releases[-1]))]


def test_an_entry_holds_for_its_releases_and_its_tests_alone():
    """It is for a file, a test or one parameter; a pre-release of the release that mends it counts as mended."""
    gap = Gap("<4.39", Why.PADDING, ("tests/a.py::test_one", "tests/b.py", "tests/c.py::test_two[x, y]"))
    assert gap.covers("tests/a.py::test_one", "4.38.2") and gap.covers("tests/a.py::test_one[p]", "4.38.0rc1")
    assert gap.covers("tests/b.py::test_any", "4.25.1") and gap.covers("tests/c.py::test_two[x, y]", "4.25.1")
    assert not gap.covers("tests/a.py::test_one", "4.39.0") and not gap.covers("tests/a.py::test_one", "4.39.0.dev0")
    assert not gap.covers("tests/a.py::test_one", "4.40.0") and not gap.covers("tests/a.py::test_one_more", "4.38.2")
    assert not gap.covers("tests/c.py::test_two[x]", "4.25.1")
