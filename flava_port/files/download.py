"""Fetches a checkpoint from an http(s) URL. A download that ends early never passes for a whole file."""

import os
import re
from pathlib import Path, PurePosixPath
from urllib.parse import SplitResult, unquote, urlsplit

from ..errors import InvalidInput
from ..progress import Progress

_PIECE = 1 << 20
_TIMEOUT_SECONDS = 60


def is_url(path: str | os.PathLike) -> bool:
    """Whether it is an http(s) URL. The name of a file that exists is none, whatever it looks like."""
    return isinstance(path, str) and path.lower().startswith(("http://", "https://")) and not os.path.exists(path)


def download(url: str, folder: Path, progress: Progress) -> Path:
    """Fetches the file at ``url`` into ``folder``, whole, and returns its path.

    Raises:
        InvalidInput: it cannot be fetched, or ended before the length that the server announced.
    """
    from http.client import HTTPException  # only here: it takes longer than everything that a local file needs
    from urllib.request import urlopen

    try:
        parts = urlsplit(url)
    except ValueError:
        raise InvalidInput(f"{url}: not a URL; correct it, or pass a file") from None
    path = folder / _file_name(parts)
    received = 0
    reason = ""
    try:
        with urlopen(url, timeout=_TIMEOUT_SECONDS) as response, open(path, "wb") as file:
            announced = response.headers.get("Content-Length")
            total = int(announced) if announced and announced.isdigit() else None
            with progress("fetch", total) as advance:
                while piece := response.read(_PIECE):
                    received += file.write(piece)
                    advance(len(piece))
        if total is not None and received != total:
            reason = f"only {received:,} of {total:,} bytes arrived"
    except (OSError, ValueError, HTTPException) as error:
        reason = _reason(error)
    if reason:
        path.unlink(missing_ok=True)
        raise InvalidInput(f"{_without_secrets(parts)}: cannot be fetched ({reason}); try again, or pass a file that you fetched")
    return path


def _reason(error: Exception) -> str:
    """Why a download failed: the server's status, the system's words, or what kind of failure it was."""
    from http.client import HTTPException, InvalidURL

    if status := getattr(error, "code", None):
        return f"the server answered {status}"
    cause = getattr(error, "reason", error)  # urllib wraps the system's errors
    if isinstance(cause, TimeoutError):
        return f"no answer within {_TIMEOUT_SECONDS} seconds"
    if isinstance(cause, OSError):
        return cause.strerror or "the connection failed"
    broke_off = isinstance(error, HTTPException) and not isinstance(error, InvalidURL)
    return "the answer broke off" if broke_off else "it is not the URL of a file"


def _file_name(url: SplitResult) -> str:
    """The last part of the URL's path, as a name that any file system takes."""
    name = PurePosixPath(unquote(url.path)).name
    return re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)[-100:].strip(".") or "checkpoint"


def shown_url(url: str) -> str:
    """A URL that `download` has fetched, without what may be secret: a password, a signature."""
    return _without_secrets(urlsplit(url))


def _without_secrets(url: SplitResult) -> str:
    return url._replace(netloc=url.netloc.rpartition("@")[2], query="", fragment="").geturl()
