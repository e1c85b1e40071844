"""README.md and docs/ say what is so: their commands run and print what is shown, their links lead somewhere."""

import re
import shlex
from difflib import unified_diff
from pathlib import Path

import pytest

from flava_port.cli import main
from tests.documents import Block, blocks, run_block, run_document, without_what_varies
from tests.readme import DOCUMENTS, ROOT

# The documents whose commands take seconds.
LONG = {"README.md", "convert.md", "verify.md", "releases.md", "report.md"}
_TEXTS = {path.name: path.read_text() for path in DOCUMENTS}


def assert_prints_what_it_shows(text: str, folder: Path) -> None:
    """Every command of a document runs, and what it prints is what stands there, measured numbers aside."""
    __tracebackhide__ = True
    ran = run_document(text, folder)
    if (shown := without_what_varies(text)) != (printed := without_what_varies(ran)):
        difference = unified_diff(shown.splitlines(), printed.splitlines(), "shown", "printed", lineterm="", n=1)
        raise AssertionError("\n".join([*difference, "write what is printed: python -m tests.documents"]))


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in _TEXTS])
def test_every_command_of_a_document_runs_and_prints_what_is_shown(name, tmp_path):
    """In the order in which they stand, in a folder with a tiny checkpoint and its codebook."""
    assert_prints_what_it_shows(_TEXTS[name], tmp_path)


def test_a_command_that_prints_something_else_is_found(tmp_path):
    """The difference is shown, and how to write what is printed."""
    with pytest.raises(AssertionError, match=r"-  another rule\n\+  no rule touches it\n(.*\n)*write what is printed"):
        assert_prints_what_it_shows("```console\n$ flava-port rules no.key\nno.key\n  another rule\n```\n", tmp_path)


def test_a_command_that_fails_is_found(tmp_path):
    """Whatever it prints."""
    with pytest.raises(AssertionError, match=r"exit status 2\n\s*flava-port: nowhere"):
        run_block(Block("sh", (), "", "flava-port revert --converted_path nowhere --checkpoint_path back.pt\n"), tmp_path)


def test_the_readme_fits_on_a_screen_and_a_half():
    """It has at most 150 lines."""
    assert len(_TEXTS["README.md"].splitlines()) <= 150


def mentioned(text: str) -> list[str]:
    """Every ``flava-port`` command of a document, wherever it stands."""
    return re.findall(r"`(flava-port [^`\n]+)`", text) + re.findall(r"^(?:\$ )?(flava-port .*)", text, re.MULTILINE)


@pytest.mark.parametrize("name", _TEXTS)
def test_every_command_that_is_mentioned_exists_with_its_options(name, capsys):
    """In a sentence, in a table, or in a block that needs more than a test has."""
    for command in mentioned(_TEXTS[name]):
        words = shlex.split(command)[1:]
        with pytest.raises(SystemExit) as stop:
            main([words[0], "--help"])
        assert stop.value.code == 0, command
        offered = capsys.readouterr().out
        assert not [word for word in words[1:] if word.startswith("--") and not re.search(rf"{word}\b", offered)], command


@pytest.mark.parametrize("name", _TEXTS)
def test_every_link_leads_somewhere(name):
    """To a file of the repository, and to a heading where it names one."""
    home = next(path for path in DOCUMENTS if path.name == name)
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", _TEXTS[name]):
        path, _, anchor = target.partition("#")
        file = (home.parent / path).resolve() if path else home
        assert file.exists() and file.is_relative_to(ROOT), f"{name}: {target}"
        if not anchor:
            continue
        headings = [
            re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-") for line in file.read_text().splitlines() if line[:1] == "#"
        ]
        assert anchor in headings, f"{name}: {target}"


def test_blocks_are_told_by_their_fence():
    """What has no language is not run, and what a comment says of a block is read."""
    text = "```\nnot run\n```\n<!-- with: a, b -->\n```sh\none\ntwo\n```\n<!-- needs: a day -->\n```console\n$ three\nprinted\n```\n"
    found = [block for _, block in blocks(text)]
    assert [(block.given, block.needs) for block in found] == [(("a", "b"), ""), ((), "a day")]
    assert [list(block.commands()) for block in found] == [[("one", ""), ("two", "")], [("three", "printed")]]
