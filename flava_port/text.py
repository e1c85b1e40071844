"""What is said in words: counts, lists cut short, columns, and texts out of files made fit to print."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

_Item = TypeVar("_Item")

# What every command says that writes weights, of the check that ends it.
READ_BACK = "every value was read back from the disk and equals its source in the dtype written, bit for bit"


def count_of(count: int, noun: str) -> str:
    """``1 file``, ``12 keys``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def few(items: Sequence[_Item], most: int) -> list[_Item | str]:
    """The first ``most`` items, and where there are others one more entry: ``... and 5 more``."""
    left_out = len(items) - most
    return [*items[:most], f"... and {left_out:,} more"] if left_out > 0 else list(items)


def labelled(lines: Iterable[tuple[str, str]]) -> str:
    """The lines of a summary, their labels in a column."""
    return "\n".join(f"{label:<8} {text}" for label, text in lines)


def printable(text: str) -> str:
    """A message with what a terminal would act on escaped: names out of files may hold anything."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def shown(text: object) -> str:
    """A text out of a file, fit to be printed: short, on one line, without control characters."""
    text = str(text)
    text = text if len(text) <= 100 else f"{text[:60]}...{text[-30:]}"
    return text if text.isprintable() else ascii(text)[1:-1]
