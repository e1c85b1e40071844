"""Runs the commands that README.md and docs/ show. ``python -m tests.documents`` writes what they print into the documents.

A block of code whose fence says ``sh`` holds commands, one a line; ``console`` holds commands after ``$``, each with what it
prints; ``python`` is a program. A comment before a block says what it runs with (``<!-- with: faulty -->``, one of
`GIVEN`), or what it needs that a test has not (``<!-- needs: ... -->``). Other blocks are not run.
"""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flava_port import convert_flava_checkpoint, convert_to_torchmultimodal
from flava_port.cli import main
from tests.builders import write_tiny
from tests.proof.faults import FAULTS, plant
from tests.readme import DOCUMENTS, ROOT

# Where a reader runs the commands, in place of the folder that the test made.
HOME = "/home/you"
_BLOCK = re.compile(r"((?:<!-- (?:with|needs): [^\n]* -->\n)*)```(sh|console|python)\n(.*?)```\n", re.DOTALL)
# What measuring gives anew each time, and what depends on what is installed.
_VARIES = re.compile(r"\d(?:\.\d+)?e[-+]\d+|[\d,]+ times|(?<=transformers )\d[\d.]*")


@dataclass(frozen=True)
class Block:
    """A block of code: in which language, with what it is run, what it needs, and its text."""

    language: str
    given: tuple[str, ...]
    needs: str
    text: str

    def commands(self) -> Iterator[tuple[str, str]]:
        """Each command with what it is said to print; nothing is said in other blocks than ``console``."""
        if self.language == "console":
            for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
                command, _, printed = part.partition("\n")
                yield command, printed.strip("\n")
        else:
            for line in self.text.splitlines():
                yield line, ""


def blocks(text: str) -> Iterator[tuple[re.Match[str], Block]]:
    """The blocks that can be run, each with the place where it stands."""
    for match in _BLOCK.finditer(text):
        says = dict(re.findall(r"<!-- (with|needs): (.*) -->", match[1]))
        given = tuple(says["with"].split(", ")) if "with" in says else ()
        yield match, Block(match[2], given, says.get("needs", ""), match[3])


def run_block(block: Block, folder: Path) -> str:
    """Runs a block in the folder and returns its text with what was printed; an AssertionError where a command fails."""
    for name in block.given:
        if not (folder / name).exists():
            GIVEN[name](folder)
    if block.language == "python":
        _run([sys.executable, "-c", block.text], folder)
        return block.text
    ran = []
    for command, _ in block.commands():
        words = shlex.split(command)
        printed = _printed(words[1:], folder) if words[0] == "flava-port" else _run([sys.executable, "-m", *words], folder)
        ran.append(f"$ {command}\n{printed.replace(str(folder), HOME)}".rstrip())
    return "\n\n".join(ran) + "\n" if block.language == "console" else block.text


def _printed(arguments: list[str], folder: Path) -> str:
    """What the command line prints, run in this process. It may end with 1 where it refutes: what it says is compared."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(arguments)
    assert status in (0, 1) and not err.getvalue(), f"flava-port {shlex.join(arguments)}: exit status {status}\n{err.getvalue()}"
    return out.getvalue()


def _run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": "-p no:cacheprovider -p flava_port.pytest_plugin"}
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{shlex.join(command)}: exit status {ran.returncode}\n{ran.stdout}{ran.stderr}"
    return ran.stdout


def without_what_varies(text: str) -> str:
    """The text with measured numbers and releases of transformers replaced by one sign."""
    return _VARIES.sub("#", text)


def _demo(folder: Path) -> None:
    _printed(["demo", "--keep", "demo", "--quiet"], folder)


def _faulty(folder: Path) -> None:
    """A conversion in which a layer's query and key are swapped."""
    convert_flava_checkpoint(folder / "flava.pt", folder / "encoder.pkl", folder / "clean")
    plant(next(fault for fault in FAULTS if fault.name == "query and key swapped"), folder / "clean", folder / "faulty")


GIVEN: dict[str, Callable[[Path], None]] = {
    "demo": _demo,
    "faulty": _faulty,
    "flava-full": lambda folder: convert_flava_checkpoint(folder / "flava.pt", folder / "encoder.pkl", folder / "flava-full"),
    "torchmm.pt": lambda folder: convert_to_torchmultimodal(folder / "flava.pt", folder / "encoder.pkl", folder / "torchmm.pt"),
}


def run_document(text: str, folder: Path) -> str:
    """Runs every block that needs nothing more, in a folder with ``flava.pt`` and ``encoder.pkl``; returns the text as it should be."""
    write_tiny(folder)
    after, rest = "", 0
    for match, block in blocks(text):
        ran = block.text if block.needs else run_block(block, folder)
        after, rest = after + text[rest : match.start(3)] + ran, match.end(3)
    return after + text[rest:]


def write_documents() -> None:
    """Runs every document and writes what its commands print into it."""
    for document in DOCUMENTS:
        with tempfile.TemporaryDirectory() as folder:
            document.write_text(run_document(document.read_text(), Path(folder).resolve()))


if __name__ == "__main__":
    write_documents()
