"""A real command that is interrupted or killed while it works leaves the old folder, the whole new one, or none."""

import os
import shutil
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser

import pytest

from flava_port import commands
from tests.commands.forked import forks
from tests.refusal import assert_one_short_message, listing

INTERRUPTED = 130


@pytest.fixture(scope="module")
def run():
    with forks() as run:
        yield run


@pytest.fixture(scope="module")
def finished(run, tiny, tmp_path_factory):
    """The files that an undisturbed conversion leaves, and how long it takes."""
    place = tmp_path_factory.mktemp("finished")
    run(_convert(tiny, place / "first"))
    ended = run(_convert(tiny, place / "out"))
    assert ended.status == 0, ended.err
    return listing(place / "out"), ended.seconds


def _convert(tiny, target):
    sources = "--checkpoint_path", tiny.checkpoint, "--codebook_path", tiny.codebook
    return ["convert", *sources, "--pytorch_dump_folder_path", target, "--force"]


OLD = {
    "config.json": b"{}",
    "model.safetensors": b"old",
    "conversion.json": b'{"tensors": {"w": {"file": "model.safetensors"}}}',
}


OTHERS = {".git/HEAD": b"ref: refs/heads/main", ".git/objects/ab/cdef": b"blob", "README.md": b"mine", "tokenizer.json": b"{}"}


def _interrupt(run, tiny, place, number, delay, *, replacing, others=None):
    """Signals a conversion that makes ``place/new/out`` or replaces ``place/out``. Returns how it ended and what is left."""
    shutil.rmtree(place, ignore_errors=True)
    target = place / "out" if replacing else place / "new" / "out"
    place.mkdir()
    if replacing:
        for name, content in (OLD | (others or {})).items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(content)
    ended = run(_convert(tiny, target), number, delay)
    return ended, listing(target) if target.exists() else None, listing(place)


def _moments(seconds: float, count: int) -> list[float]:
    """Delays from the beginning of the command's work to a little after its usual end."""
    return [1.2 * seconds * n / count for n in range(count)]


def _assert_tidy(run, tiny, finished, place, number, count, *, replacing):
    whole, seconds = finished
    statuses = set()
    for delay in _moments(seconds, count):
        ended, left, everything = _interrupt(run, tiny, place, number, delay, replacing=replacing)
        statuses.add(ended.status)
        at = f"{signal.Signals(number).name} after {delay:.3f} s"
        assert ended.status in (0, INTERRUPTED), f"{at}: exit status {ended.status}\n{ended.err}"
        assert left in ((whole,) if ended.status == 0 else (whole, OLD if replacing else None)), f"{at}: half a folder, {list(left)}"
        assert len(everything) == (len(left) + (1 if replacing else 2) if left else 0), f"{at}: left {list(everything)}"
        if ended.status == INTERRUPTED and ended.err:
            assert_one_short_message(ended.err)
    assert INTERRUPTED in statuses


@pytest.mark.slow
def test_ctrl_c_leaves_no_litter(run, tiny, finished, tmp_path):
    """Interrupted at a dozen moments, a conversion leaves the whole folder or nothing."""
    _assert_tidy(run, tiny, finished, tmp_path / "place", signal.SIGINT, 12, replacing=False)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("replacing", [False, True], ids=["nothing there", "replacing"])
def test_a_request_to_stop_leaves_no_litter(run, tiny, finished, tmp_path, number, replacing):
    """Stopped at a hundred moments, a conversion leaves the old folder or the new one, and exits with 130 and one message."""
    _assert_tidy(run, tiny, finished, tmp_path / "place", number, 100, replacing=replacing)


@pytest.mark.slow
@pytest.mark.parametrize("replacing", [False, True], ids=["nothing there", "replacing"])
def test_a_kill_leaves_the_target_whole_or_absent(run, tiny, finished, tmp_path, replacing):
    """Killed at a hundred moments, a conversion leaves nothing else but under hidden names."""
    whole, seconds = finished
    for delay in _moments(seconds, 100):
        _, left, everything = _interrupt(run, tiny, tmp_path / "place", signal.SIGKILL, delay, replacing=replacing)
        assert left in (whole, OLD if replacing else None, None), f"after {delay:.3f} s: half a folder, {list(left)}"
        tops = {name.split("/")[0 if replacing else min(1, name.count("/"))] for name in everything}
        assert all(name.startswith(".") or name in ("out", "new") for name in tops), tops


@pytest.mark.slow
def test_a_kill_leaves_what_others_have_in_the_folder(run, tiny, finished, tmp_path):
    """A cloned repository's own files stay at any moment, beside the whole old model or the whole new one."""
    whole, seconds = finished
    for delay in _moments(seconds, 100):
        _, left, _ = _interrupt(run, tiny, tmp_path / "place", signal.SIGKILL, delay, replacing=True, others=OTHERS)
        files = {name: content for name, content in left.items() if content is not None}
        assert {name: files.get(name) for name in OTHERS} == OTHERS, f"after {delay:.3f} s"
        assert {name: content for name, content in files.items() if name not in OTHERS} in (whole, OLD), f"after {delay:.3f} s"


def _interrupted(*_):
    raise KeyboardInterrupt


def _interrupted_and_renamed(*_):
    """Raises what an import makes of an interrupt: transformers and Python itself catch it and raise something else."""
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt as error:
        raise ModuleNotFoundError("Could not import module 'FlavaForPreTraining'") from error


@pytest.mark.parametrize(
    ("place", "name", "interrupted"),
    [(ArgumentParser, "parse_args", _interrupted), (commands, "rules", _interrupted_and_renamed)],
    ids=["arguments", "imports"],
)
def test_ctrl_c_ends_tidily_whatever_becomes_of_it(run_command, monkeypatch, place, name, interrupted):
    """It exits with 130 where arguments are read, and where an import turns the interrupt into another error."""
    monkeypatch.setattr(place, name, interrupted)
    try:
        status = run_command("rules").status
    except (KeyboardInterrupt, ModuleNotFoundError) as error:
        pytest.fail(f"{type(error).__name__} got through: Python prints a traceback for it")
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    assert status == INTERRUPTED


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.3 * n for n in range(1, 25)])
def test_ctrl_c_while_libraries_are_imported_is_tidy_too(tiny, tmp_path, delay):
    """A fresh program that is interrupted in its first seconds prints no traceback and leaves nothing half-made."""
    arguments = [*map(str, _convert(tiny, tmp_path / "new" / "out"))]
    with subprocess.Popen([sys.executable, "-m", "flava_port", *arguments], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        time.sleep(delay)
        os.kill(process.pid, signal.SIGINT)
        err = process.communicate()[1].decode()
    # Python ends itself with the signal where it came in an import's `exec`, or in its own last moments; shells say 130.
    assert process.returncode in (0, INTERRUPTED, -signal.SIGINT), err
    assert "Traceback" not in err or process.returncode != INTERRUPTED
    assert (tmp_path / "new" / "out").exists() == bool(list(tmp_path.iterdir()))
