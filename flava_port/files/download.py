"""Fetches a checkpoint from an http(s) URL; a partial download never passes for a whole one."""

import os
import re
from pathlib import Path, PurePosixPath
from urllib.parse import SplitResult, unquote, urlsplit

from ..errors import InvalidInput
from ..progress import Progress

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
    from http.client import HTTPException  # imported here, as it takes longer than all that a local file needs
    from urllib.request import urlopen

    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidInput(f"{url}: not a URL ({error})") from None
    path = folder / _file_name(parts)
    received = 0
    try:
        with urlopen(url, timeout=_TIMEOUT_SECONDS) as response, open(path, "wb") as file:
            announced = response.headers.get("Content-Length")
            total = int(announced) if announced and announced.isdigit() else None
            with progress("fetch", total) as advance:
                while piece := response.read(_PIECE):
                    received += file.write(piece)
                    advance(len(piece))
        if total is not None and received != total:
            raise HTTPException(f"only {received:,} of {total:,} bytes arrived")
    except (OSError, ValueError, HTTPException) as error:
        path.unlink(missing_ok=True)
        raise InvalidInput(f"{_shown(parts)}: cannot be fetched ({error}); try again, or pass a file that you fetched") from None
    return path


def _file_name(url: SplitResult) -> str:
    """The last part of the URL's path, as a name that any file system takes."""
    name = PurePosixPath(unquote(url.path)).name
    return re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)[-100:].strip(".") or "checkpoint"


def _shown(url: SplitResult) -> str:
    """The URL without what may be secret: a password, a signature."""
    return url._replace(netloc=url.netloc.rpartition("@")[2], query="", fragment="").geturl()
