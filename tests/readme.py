"""Reads and writes the tables in README.md and docs/ that commands make: each between its own marker and the next end."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
END = "<!-- end -->"


def section(name: str) -> str:
    """The text between ``<!-- name -->`` and the end of that section."""
    return _home(name).read_text().split(_begin(name))[1].split(END)[0].strip("\n")


def write_section(name: str, text: str) -> None:
    """Puts the text there. The marker must stand once, in one document."""
    document = _home(name)
    before, after = document.read_text().split(_begin(name))
    document.write_text(before + _begin(name) + "\n" + text.strip("\n") + "\n" + END + after.split(END, 1)[1])


def _home(name: str) -> Path:
    """The document that has the marker."""
    [document] = [path for path in DOCUMENTS if _begin(name) in path.read_text()]
    return document


def _begin(name: str) -> str:
    return f"<!-- {name} -->"
