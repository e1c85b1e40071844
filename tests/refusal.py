"""Checks of a refusal: its exit status, one short message, and nothing left behind."""

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNREADABLE, UNFAITHFUL = 2, 1

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def listing(folder: Path) -> dict[str, bytes | None]:
    """The path of everything below a folder, hidden things too, with the content of files."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def assert_refused(run_command, folder: Path, status: int, checkpoint: Path | str, *options, codebook: Path | None = None) -> str:
    """`flava-port convert` refuses these files with ``status`` and leaves nothing below ``folder``. Returns the message."""
    __tracebackhide__ = True
    place = folder / "place"
    place.mkdir()
    with_codebook = ["--codebook_path", codebook] if codebook else ["--no-codebook"]
    target = place / "new" / "out"
    with time_limit(20):
        ran = run_command("convert", "--checkpoint_path", checkpoint, *with_codebook, "--pytorch_dump_folder_path", target, *options)
    if ran.status != status:
        raise AssertionError(f"exit status {ran.status}, expected {status}: {ran.err or ran.out}")
    assert_one_short_message(ran.err, lines=1 if status == UNREADABLE else 8)
    if ran.out:
        raise AssertionError(f"a refused conversion printed: {ran.out}")
    if left := listing(place):
        raise AssertionError(f"left behind: {list(left)}")
    return ran.err


def assert_one_short_message(err: str, lines: int = 1) -> None:
    """The message is flava-port's, short, of at most ``lines`` lines, and without control characters."""
    __tracebackhide__ = True
    complaints = {
        "does not begin with flava-port:": not err.startswith("flava-port: ") or "\nflava-port: " in err,
        "is a traceback": "Traceback" in err or 'File "' in err,
        f"has more than {lines} lines": len(err.splitlines()) > lines,
        "is long": len(err) > 500 * lines,
        "has control characters": bool(CONTROL.search(err)),
    }
    if wrong := [what for what, holds in complaints.items() if holds]:
        raise AssertionError(f"the message {' and '.join(wrong)}:\n{err[:3000]!r}")


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Fails if the block takes longer."""

    def out_of_time(*_):
        raise AssertionError(f"took longer than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
