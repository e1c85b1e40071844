"""A place that cannot be written to is named, and what was begun there is gone."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from flava_port.files import safetensors_format, staging
from tests.refusal import UNREADABLE, assert_one_short_message, listing

KILOBYTES = 512  # of the small disk; the tiny model has more


def _convert(run_command, tiny, target, *options):
    sources = "--checkpoint_path", tiny.checkpoint, "--codebook_path", tiny.codebook
    return run_command("convert", *sources, "--pytorch_dump_folder_path", target, *options)


def assert_refused_at(ran, target: Path, *words: str) -> None:
    """The exit status is 2, and the message is one line with the target and the words."""
    __tracebackhide__ = True
    assert_one_short_message(ran.err)
    if ran.status != UNREADABLE or str(target) not in ran.err or not all(word in ran.err for word in words):
        raise AssertionError(f"exit status {ran.status}, expected one line with {target} and {words}: {ran.err}")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own that is smaller than the model, unmounted afterwards."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={KILOBYTES}k", "tmpfs", place]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs: run as root on Linux")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_is_too_small_is_refused_before_any_work(run_command, tiny, small_disk):
    """The message has the bytes that are needed and those that are free."""
    assert_refused_at(_convert(run_command, tiny, small_disk / "out"), small_disk / "out", "needs", "free")
    assert not listing(small_disk)


def test_a_disk_that_fills_up_is_left_as_it_was(run_command, tiny, small_disk, monkeypatch):
    """Where somebody else takes the space meanwhile, the old folder stays whole."""
    monkeypatch.setattr("flava_port.conversion.folder.check_space", lambda *_: None)
    (small_disk / "out").mkdir()
    (small_disk / "out" / "config.json").write_bytes(b"old")
    (small_disk / "out" / "conversion.json").write_text('{"tensors": {}}')
    before = listing(small_disk)
    assert_refused_at(_convert(run_command, tiny, small_disk / "out", "--force"), small_disk / "out", "No space left on device")
    assert listing(small_disk) == before


def test_revert_on_a_disk_that_fills_up_leaves_neither_file(run_command, tiny, small_disk, tmp_path, monkeypatch):
    """Checkpoint and codebook appear together or not at all."""
    monkeypatch.setattr("flava_port.conversion.checkpoints.check_space", lambda *_: None)
    assert _convert(run_command, tiny, tmp_path / "out").status == 0
    targets = "--checkpoint_path", small_disk / "flava.pt", "--codebook_path", small_disk / "encoder.pkl"
    ran = run_command("revert", "--converted_path", tmp_path / "out", *targets)
    assert_refused_at(ran, small_disk / "flava.pt", "No space left on device")
    assert not listing(small_disk)


@pytest.mark.parametrize("below", [".", "out", "some/folder/out"])
def test_a_target_under_a_file_is_refused(run_command, tiny, tmp_path, below):
    """The file stays, and no folder appears beside it."""
    (tmp_path / "file").write_bytes(b"mine")
    target = tmp_path / "file" / below
    assert_refused_at(_convert(run_command, tiny, target), target)
    assert listing(tmp_path) == {"file": b"mine"}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc: run on Linux")
def test_a_place_where_nothing_can_be_made_is_refused(run_command, tiny):
    """/proc refuses even root."""
    assert_refused_at(_convert(run_command, tiny, "/proc/flava/out"), Path("/proc/flava/out"), "cannot be written")


@pytest.mark.skipif(os.getuid() == 0, reason="needs a user whom permissions bind: run as another than root")
def test_a_folder_without_permission_is_refused_to_users(run_command, tiny, tmp_path):
    """The message has the system's own words."""
    (tmp_path / "locked").mkdir(mode=0o555)
    assert_refused_at(_convert(run_command, tiny, tmp_path / "locked" / "out"), tmp_path / "locked" / "out", "Permission denied")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EDQUOT], ids=errno.errorcode.get)
def test_a_read_only_place_is_refused(run_command, tiny, tmp_path, monkeypatch, number):
    """No permission, a read-only disk and a quota are reported in the system's words."""

    def refuse(path, *_, **__):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert_refused_at(_convert(run_command, tiny, tmp_path / "out"), tmp_path / "out", os.strerror(number), "nothing was changed")
    assert not listing(tmp_path)


@pytest.mark.parametrize("failing", range(6))
def test_a_disk_error_at_any_file_leaves_nothing(run_command, tiny, tmp_path, monkeypatch, failing):
    """Nothing is left whichever file cannot be brought to the disk: weights, config or record."""
    synced = []

    def sync(file):
        synced.append(file.name)
        if len(synced) > failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(staging, "sync", sync)
    ran = _convert(run_command, tiny, tmp_path / "out")
    if len(synced) > failing:
        assert_refused_at(ran, tmp_path / "out", os.strerror(errno.EIO))
        assert not listing(tmp_path)
    else:
        assert ran.status == 0 and failing >= 4, f"only {synced} were synced"


@pytest.mark.parametrize("worth_a_thread", [0, 1 << 60], ids=["on two threads", "on one"])
def test_a_disk_that_lies_about_what_it_wrote_is_caught(run_command, tiny, tmp_path, monkeypatch, worth_a_thread):
    """What was written is read back and compared with its source, so that one flipped bit in 200,000 values stops it."""
    monkeypatch.setattr("flava_port.files.tensors.WORTH_A_THREAD", worth_a_thread)

    def sync(file):
        if file.name.endswith(".safetensors"):
            with open(file.name, "rb+") as again:
                again.seek(-7, os.SEEK_END)
                (value,) = again.read(1)
                again.seek(-7, os.SEEK_END)
                again.write(bytes([value ^ 1]))

    monkeypatch.setattr(staging, "sync", sync)
    file_was_flushed = safetensors_format.write_safetensors

    def unbuffered(path, *arguments):
        file_was_flushed(path, *arguments)
        with open(path, "rb+") as file:
            sync(file)

    monkeypatch.setattr(staging, "sync", lambda file: file.flush())
    monkeypatch.setattr("flava_port.files.model_folder.write_safetensors", unbuffered)
    ran = _convert(run_command, tiny, tmp_path / "out")
    assert ran.status == 1 and "read back is not what was written" in ran.err and not listing(tmp_path)


def test_a_source_that_vanishes_meanwhile_is_named(run_command, tiny, tmp_path, monkeypatch):
    """The message is about the source, and no target appears."""
    source = tmp_path / "sources" / "flava.pt"
    source.parent.mkdir()
    shutil.copy(tiny.checkpoint, source)
    monkeypatch.setattr("flava_port.conversion.folder.check_space", lambda *_: source.unlink())
    ran = run_command("convert", "--checkpoint_path", source, "--no-codebook", "--pytorch_dump_folder_path", tmp_path / "place" / "out")
    assert_refused_at(ran, source, "No such file")
    assert not (tmp_path / "place").exists()


def test_a_source_that_is_cut_meanwhile_is_named(run_command, tiny, tmp_path, monkeypatch):
    """A tensor that cannot be read whole stops the conversion."""
    source = tmp_path / "sources" / "flava.pt"
    source.parent.mkdir()
    shutil.copy(tiny.checkpoint, source)
    monkeypatch.setattr("flava_port.conversion.folder.check_space", lambda *_: os.truncate(source, 5000))
    ran = run_command("convert", "--checkpoint_path", source, "--no-codebook", "--pytorch_dump_folder_path", tmp_path / "place" / "out")
    assert_refused_at(ran, source, "cut while being read")
    assert not (tmp_path / "place").exists()


def test_a_disk_that_cannot_sync_folders_will_do(tmp_path, monkeypatch):
    """Some shares refuse to sync a folder; the files are still made."""
    real = os.open

    def refuse(path, flags, *arguments, **options):
        if Path(path).is_dir():
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    with staging.staged(tmp_path / "out") as folder:
        (folder / "weights").write_bytes(b"new")
    assert (tmp_path / "out" / "weights").read_bytes() == b"new"
