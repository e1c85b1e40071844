"""Fetches a checkpoint from an http(s) URL; a partial download never passes for a whole one."""

import os
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from .errors import InvalidInput
from .progress import Progress

_PIECE = 1 << 20
_TIMEOUT_SECONDS = 60


def is_url(path: str | os.PathLike) -> bool:
    """An http(s) URL. A local file of any name is not one."""
    return isinstance(path, str) and path.lower().startswith(("http://", "https://")) and not os.path.exists(path)


def download(url: str, folder: Path, progress: Progress) -> Path:
    """The file at ``url``, whole, in ``folder``.

    Raises:
        InvalidInput: it cannot be fetched, or ended before the length that the server announced.
    """
    shown = urlsplit(url)._replace(query="", fragment="").geturl()
    path = folder / (PurePosixPath(unquote(urlsplit(url).path)).name or "checkpoint")
    partial = path.with_name(path.name + ".partial")
    received = 0
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response, open(partial, "wb") as file:
            announced = response.headers.get("Content-Length")
            total = int(announced) if announced and announced.isdigit() else None
            with progress("fetch", total) as advance:
                while piece := response.read(_PIECE):
                    received += file.write(piece)
                    advance(len(piece))
    except (OSError, ValueError, HTTPException) as error:
        raise InvalidInput(f"{shown}: cannot be fetched ({error}); download it by hand and pass the file") from None
    if total is not None and received != total:
        raise InvalidInput(f"{shown}: only {received:,} of {total:,} bytes arrived; try again")
    return partial.rename(path)
