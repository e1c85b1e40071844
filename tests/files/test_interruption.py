"""Whatever interrupts the staging, the target is the old one or the whole new one, and nothing else is left."""

import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from flava_port.errors import InvalidInput
from flava_port.files import staging
from flava_port.files.staging import check_target, staged, staged_files
from tests.refusal import listing

OLD, NEW = {"weights": b"old", "extra": b"old"}, {"weights": b"new"}


@contextmanager
def signal_at_line(count: int, number: int):
    """Sends this process a signal when the given line of staging.py is about to run; gives a list that is empty if none was sent."""
    lines = iter(range(count))
    sent = []

    def trace(frame, event, _argument):
        if frame.f_code.co_filename != staging.__file__:
            return None
        if event == "line" and next(lines, None) is None and not sent:
            sent.append(True)
            signal.raise_signal(number)
        return trace

    def stop(*_):
        raise KeyboardInterrupt

    before = signal.signal(number, stop)
    tracing = sys.gettrace()
    sys.settrace(trace)
    try:
        yield sent
    finally:
        sys.settrace(tracing)
        signal.signal(number, before)


def make_folder(parent: Path) -> None:
    with staged(parent / "out") as folder:
        for name, content in NEW.items():
            (folder / name).write_bytes(content)


def make_files(parent: Path) -> None:
    with staged_files([parent / name for name in OLD]) as paths:
        for path in paths:
            path.write_bytes(b"new")


WHOLE = {
    "folder": (
        make_folder,
        {f"out/{name}": content for name, content in OLD.items()},
        {f"out/{name}": content for name, content in NEW.items()},
    ),
    "two files": (make_files, OLD, dict.fromkeys(OLD, b"new")),
}


def files(folder: Path) -> dict[str, bytes | None]:
    return {name: content for name, content in listing(folder).items() if content is not None} if folder.exists() else {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("replacing", [False, True], ids=["nothing there", "replacing"])
@pytest.mark.parametrize("kind", WHOLE)
def test_a_signal_before_any_line_leaves_old_or_new_whole(tmp_path, kind, replacing, number):
    """The signal is sent before the first line of staging that runs, then before the second, and so on to the last."""
    make, old, new = WHOLE[kind]
    outcomes = []
    for line in range(1000):
        place = tmp_path / str(line) / "below"
        if replacing:
            for name, content in old.items():
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                (place / name).write_bytes(content)
        interrupted = False
        with signal_at_line(line, number) as sent:
            try:
                make(place)
            except KeyboardInterrupt:
                interrupted = True
        assert interrupted == bool(sent), f"line {line}: the signal was lost"
        left = files(place)
        assert left in (new, old if replacing else {}), f"line {line}: left {list(listing(place))}"
        assert left or not place.parent.exists(), f"line {line}: left {list(listing(tmp_path / str(line)))}"
        outcomes.append(left == new)
        if not sent:
            break
    assert outcomes == sorted(outcomes) and outcomes[-1] and not outcomes[0] and len(outcomes) > 50


class Failure(Exception):
    """Stands for any error in the block that writes."""


@pytest.mark.parametrize("failure", [Failure, KeyboardInterrupt, SystemExit, MemoryError])
@pytest.mark.parametrize("replacing", [False, True], ids=["nothing there", "replacing"])
def test_a_block_that_fails_changes_nothing(tmp_path, replacing, failure):
    """Any exception passes through and leaves the place as it was."""
    place = tmp_path / "place"
    if replacing:
        (place / "out").mkdir(parents=True)
        (place / "out" / "weights").write_bytes(b"old")
    before = listing(tmp_path)
    with pytest.raises(failure), staged(place / "out") as folder:
        (folder / "weights").write_bytes(b"half")
        raise failure
    assert listing(tmp_path) == before


def test_what_appears_meanwhile_is_not_replaced(tmp_path):
    """Of two conversions to one place, the first that finishes stays and the second is refused."""
    with pytest.raises(InvalidInput, match="appeared while it was being made"), staged(tmp_path / "out") as folder:
        (folder / "weights").write_bytes(b"second")
        make_folder(tmp_path)
    assert files(tmp_path) == {"out/weights": b"new"}


@pytest.mark.parametrize("failing", ["mkdir", "rename"])
@pytest.mark.parametrize("kind", WHOLE)
def test_a_system_call_that_fails_changes_nothing(tmp_path, monkeypatch, kind, failing):
    """If the first call fails, or the second, or any other, the place stays as it was and the message names it."""
    make, old, new = WHOLE[kind]
    for name, content in old.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    real = getattr(Path, failing)
    for count in range(10):
        calls = iter([*[None] * count, OSError(28, "No space left on device")])
        with monkeypatch.context() as patched:

            def call(path, *arguments, calls=calls, **options):
                if error := next(calls, None):
                    raise error
                return real(path, *arguments, **options)

            patched.setattr(Path, failing, call)
            try:
                make(tmp_path)
            except InvalidInput as error:
                assert "No space left on device" in str(error) and str(tmp_path) in str(error)
                assert files(tmp_path) == old and len(listing(tmp_path)) == len(old) + (kind == "folder")
            else:
                assert files(tmp_path) == new
                break
    else:
        raise AssertionError("never went well")


@pytest.mark.parametrize("made", ["folder", "file", "link to a folder", "link to nothing"])
def test_force_replaces_what_is_there_whatever_it_is(tmp_path, made):
    """A folder, a file or the target of a link is replaced; a link stays a link."""
    target = tmp_path / "out"
    real = tmp_path / "real"
    if made == "folder":
        target.mkdir()
        (target / "old").write_bytes(b"old")
    elif made == "file":
        target.write_bytes(b"old")
    else:
        target.symlink_to(real)
        if made == "link to a folder":
            real.mkdir()
            (real / "old").write_bytes(b"old")
    with staged(check_target(target, force=True)) as folder:
        (folder / "weights").write_bytes(b"new")
    assert target.is_symlink() == made.startswith("link")
    assert {path.name for path in target.iterdir()} == {"weights"} and {p.name for p in tmp_path.iterdir()} <= {"out", "real"}


def test_the_folder_has_the_permissions_that_new_folders_have(tmp_path):
    """The new folder has the permissions of any new folder, not those of a private temporary one."""
    (tmp_path / "usual").mkdir()
    make_folder(tmp_path)
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "usual").stat().st_mode
