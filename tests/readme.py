"""Reads and writes the README's tables that commands make: each between its own marker and the next end."""

from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
END = "<!-- end -->"


def section(name: str) -> str:
    """The text between ``<!-- name -->`` and the end of that section."""
    return README.read_text().split(_begin(name))[1].split(END)[0].strip("\n")


def write_section(name: str, text: str) -> None:
    """Puts the text there. The marker must be in the README once."""
    before, after = README.read_text().split(_begin(name))
    README.write_text(before + _begin(name) + "\n" + text.strip("\n") + "\n" + END + after.split(END, 1)[1])


def _begin(name: str) -> str:
    return f"<!-- {name} -->"
