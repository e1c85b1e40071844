"""Pieces of messages: counts, shortened lists, columns, and texts out of files made fit to print."""

from collections.abc import Iterable, Sequence


def count_of(count: int, noun: str) -> str:
    """``1 file``, ``12 keys``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def few(items: Sequence[str], most: int) -> list[str]:
    """The first ``most`` items, and if there are more, one last entry: ``... and 5 more``."""
    left_out = len(items) - most
    return [*items[:most], f"... and {left_out:,} more"] if left_out > 0 else list(items)


def labelled(lines: Iterable[tuple[str, str]]) -> str:
    """The (label, text) lines of a summary, the labels in a column of their own."""
    return "\n".join(f"{label:<8} {text}" for label, text in lines)


def printable(text: str) -> str:
    """A message with every character escaped that a terminal would act on; newlines stay."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def shown(text: object) -> str:
    """A text out of a file, fit to print: at most about 100 characters, on one line, control characters escaped."""
    text = str(text)
    text = text if len(text) <= 100 else f"{text[:60]}...{text[-30:]}"
    return text if text.isprintable() else ascii(text)[1:-1]
