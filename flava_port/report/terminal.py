"""What a terminal makes of plain text: lines fitted to its width, verdicts in colour. A pipe or a file gets the text as it is."""

import os
import re
import shutil
import textwrap
from typing import TextIO

_GREEN, _YELLOW, _RED = "32", "33", "1;31"
# What a line may begin with, and its colour.
_COLOURS = {
    "proven": _GREEN,
    "safe to upgrade": _GREEN,
    "not proven": _YELLOW,
    "look before you upgrade": _YELLOW,
    "reconvert": _YELLOW,
    "warning": _YELLOW,
    "differs": _RED,
    "do not upgrade": _RED,
    "cause:": _RED,
    "flava-port:": _RED,
}
_COLOURED = re.compile(rf"^(verdict: )?({'|'.join(_COLOURS)})(?!\w)", re.MULTILINE)
_COLUMNS = re.compile(r" *(?:\S+(?: \S+)* {2,})*")
_LEAST_WIDTH = 40


def as_on(stream: TextIO, text: str) -> str:
    """The text as the stream should get it.

    ``NO_COLOR`` keeps colours from a terminal, and ``FORCE_COLOR`` gives them to whatever there is (https://no-color.org).
    """
    terminal = stream.isatty()
    if terminal:
        text = fitted(text, max(_LEAST_WIDTH, shutil.get_terminal_size().columns))
    wanted = (terminal and os.environ.get("TERM") != "dumb") or bool(os.environ.get("FORCE_COLOR"))
    return coloured(text) if wanted and not os.environ.get("NO_COLOR") else text


def coloured(text: str) -> str:
    """The text with its verdicts and causes in colour."""
    return _COLOURED.sub(lambda found: f"{found[1] or ''}\033[{_COLOURS[found[2]]}m{found[2]}\033[0m", text)


def fitted(text: str, width: int) -> str:
    """The text in lines of this width at most. What is left of a line stands below its last column; names are not broken."""
    return "\n".join(part for line in text.split("\n") for part in _fitted(line, width))


def _fitted(line: str, width: int) -> list[str]:
    if len(line) <= width:
        return [line]
    columns = _COLUMNS.match(line)
    assert columns is not None  # it matches nothing too
    indent = len(line) - len(line.lstrip())
    below = columns.end() if indent < columns.end() <= width // 2 else indent + 2
    return textwrap.wrap(
        line, width, subsequent_indent=" " * below, break_long_words=False, break_on_hyphens=False, replace_whitespace=False
    )
