"""The files that a report is written to: checked before the work begins, written when it is done."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ..errors import InvalidInput
from ..files.staging import staged_files, write_text


def check_report_files(paths: Sequence[str | None], *, page: str | None = None) -> None:
    """Stops before minutes of work whose result could not be written. ``page`` is the path of a page of HTML.

    Raises:
        InvalidInput: a path is a folder, or jinja2, which makes pages, is not installed.
    """
    for path in filter(None, (*paths, page)):
        if Path(path).is_dir():
            raise InvalidInput(f"{path}: is a folder; name a file")
    if page and find_spec("jinja2") is None:
        raise InvalidInput("--html needs jinja2; install it with: pip install 'flava-port[report]'")


def write_report(path: str, text: str) -> None:
    """Writes a report, whole or not at all. It replaces an old one; to the summary of a GitHub job it is added, as others write there.

    Raises:
        InvalidInput: the place cannot be written to.
    """
    target = Path(path).absolute()
    before = target.read_text("utf-8") if path == os.environ.get("GITHUB_STEP_SUMMARY") and target.is_file() else ""
    with staged_files([target]) as [partial]:
        write_text(partial, before + text)
