"""A terminal gets colours and lines of its width, a pipe plain text; the cause is said, and what follows from it is short."""

import io

import pytest

from flava_port.proof.certificate import claim_texts
from flava_port.report.terminal import as_on, coloured, fitted
from tests.report.certificates import HOSTILE, QUERY, a_certificate, differing, left_open, proven


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """A terminal of 80 columns, and nothing said of colours."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    return monkeypatch


TABLE = a_certificate(proven("original"), differing("values", 2), left_open("tokens")).table()


def test_a_pipe_gets_the_text_as_it_is():
    """No colour, no break."""
    assert as_on(io.StringIO(), TABLE) == TABLE


def test_a_terminal_gets_its_verdicts_in_colour():
    """Of claims and of the whole; the rest of a line has none."""
    shown = as_on(Terminal(), TABLE)
    assert "\033[32mproven\033[0m      original" in shown and "\033[33mnot proven\033[0m  tokens" in shown
    assert "verdict: \033[1;31mdiffers\033[0m" in shown and "\n\033[1;31mcause:\033[0m values:\n" in shown


@pytest.mark.parametrize(
    ("name", "value", "stream", "has_colour"),
    [
        ("NO_COLOR", "1", Terminal, False),
        ("NO_COLOR", "", Terminal, True),
        ("TERM", "dumb", Terminal, False),
        ("FORCE_COLOR", "1", io.StringIO, True),
        ("FORCE_COLOR", "", io.StringIO, False),
    ],
)
def test_the_environment_decides_about_colour(environment, name, value, stream, has_colour):
    """As other programs take these variables: an empty one counts as none."""
    environment.setenv(name, value)
    assert ("\033[" in as_on(stream(), TABLE)) is has_colour


def test_no_colour_wins(environment):
    """Where both are set."""
    environment.setenv("NO_COLOR", "1")
    environment.setenv("FORCE_COLOR", "1")
    assert "\033[" not in as_on(Terminal(), TABLE)


def test_a_word_within_a_line_has_no_colour():
    """Only the verdict at its beginning."""
    assert coloured("  proven\nnot shown: proven\nprovenance\n") == "  proven\nnot shown: proven\nprovenance\n"


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_lines_are_fitted_and_lose_nothing(width):
    """No line is longer, but for a name that is; the words are the same."""
    text = fitted(TABLE, width)
    assert text.split() == TABLE.split()
    assert all(len(line) <= width or len(line.split()) == 1 for line in text.splitlines())


def test_what_is_left_of_a_line_stands_below_its_last_column():
    """So that the columns of labels stay free; where they are wide, below its beginning."""
    line = "proven      config             as declared: heads = 1"
    assert fitted(line, 70) == line
    assert fitted("proven   config   one two three four five", 38) == "proven   config   one two three four\n" + " " * 18 + "five"
    assert fitted("    a line of words that is long", 20) == "    a line of words\n      that is long"


def test_the_first_claim_that_differs_shows_more_than_those_that_follow_from_it():
    """Five findings, then one each."""
    texts = [*claim_texts([proven("keys"), differing("values", 7), differing("forward", 142)])]
    assert [text.count("values differ") for text in texts] == [0, 5, 1]
    assert "... and 2 more" in texts[1] and "... and 141 more" in texts[2]


def test_the_cause_is_one_line_whatever_the_key():
    """A line break in a key could look like a verdict."""
    assert len(a_certificate(differing("values", 1, HOSTILE)).conclusion().splitlines()) == 2


def test_the_conclusion_names_the_cause():
    """The first claim that differs, before one that could not be checked; none where all is proven."""
    unproven = proven("keys")
    unproven.verdict = type(unproven.verdict)("not proven")
    certificate = a_certificate(left_open("tokens"), unproven, differing("values", 3))
    assert certificate.conclusion().splitlines()[1] == f"cause: values: {QUERY}: looks like another's; and 2 more"
    assert a_certificate(left_open("tokens"), unproven).conclusion().splitlines()[1] == "cause: keys: all equal"
    assert "cause" not in a_certificate(proven("keys"), left_open("tokens")).conclusion()
