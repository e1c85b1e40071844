"""However a pickle asks for code to run, nothing runs, nothing is imported, and the message names what it asked for."""

import io
import os
import pickle
import sys

import pytest

from flava_port.errors import InvalidInput
from flava_port.files.checkpoint import open_checkpoint
from flava_port.files.pickle_machine import is_pickle
from tests.files.hostile_pickles import (
    EMPTY_DICT,
    EMPTY_LIST,
    NONE,
    WRITERS,
    call,
    group,
    mapping,
    name,
    number,
    sequence,
    tensor,
    text,
    write_plain,
    write_zip,
)
from tests.refusal import UNREADABLE, assert_refused

COMMAND = text("touch sentinel")
SYSTEM = name("posix", "system")

# The ways in which a pickle can ask for code to run, and what the message must name.
REQUESTS = {
    "REDUCE": (call(SYSTEM, COMMAND), "posix.system"),
    "os.system": (call(name("os", "system"), COMMAND), "os.system"),
    "INST": (b"(" + COMMAND + b"iposix\nsystem\n", "posix.system"),
    "OBJ": (b"(" + SYSTEM + COMMAND + b"o", "posix.system"),
    "NEWOBJ": (SYSTEM + group(COMMAND) + b"\x81", "posix.system"),
    "NEWOBJ_EX": (SYSTEM + group(COMMAND) + EMPTY_DICT + b"\x92", "posix.system"),
    "STACK_GLOBAL": (text("posix") + text("system") + b"\x93" + group(COMMAND) + b"R", "posix.system"),
    "eval": (call(name("builtins", "eval"), text("__import__('os').system('touch sentinel')")), "builtins.eval"),
    "python 2 eval": (call(name("__builtin__", "eval"), text("1")), "__builtin__.eval"),
    "getattr": (call(name("builtins", "getattr"), NONE, text("x")), "builtins.getattr"),
    "getattr of a module": (call(name("builtins", "getattr"), name("os", "path"), text("system")), "os.path"),
    "getattr by way of another": (
        call(name("builtins", "getattr"), name("torch.serialization", "x"), text("os")),
        "torch.serialization.x.os",
    ),
    "partial": (call(name("functools", "partial"), SYSTEM), "posix.system (by way of functools.partial)"),
    "reduce": (call(name("functools", "reduce"), SYSTEM, sequence(COMMAND)), "posix.system (by way of functools.reduce)"),
    "attrgetter": (call(name("operator", "attrgetter"), text("system")), "operator.attrgetter"),
    "a module inside another": (call(name("torch.serialization", "os.system"), COMMAND), "torch.serialization.os.system"),
    "subprocess": (call(name("subprocess", "Popen"), COMMAND), "subprocess.Popen"),
    "runpy": (call(name("runpy", "run_path"), COMMAND), "runpy.run_path"),
    "importlib": (call(name("importlib", "import_module"), COMMAND), "importlib.import_module"),
    "ctypes": (call(name("ctypes", "CDLL"), COMMAND), "ctypes.CDLL"),
    "open": (call(name("io", "open"), text("sentinel"), text("w")), "io.open"),
    "torch.load": (call(name("torch", "load"), text("x")), "torch.load"),
    "torch.hub": (call(name("torch.hub", "load"), text("x")), "torch.hub.load"),
    "pickle in a pickle": (call(name("torch.storage", "_load_from_bytes"), text("x")), "torch.storage._load_from_bytes"),
    "code object": (call(name("types", "CodeType")), "types.CodeType"),
    "as a tensor's maker": (
        call(name("torch._tensor", "_rebuild_from_type_v2"), SYSTEM, name("torch", "Tensor"), group(COMMAND), NONE),
        "posix.system",
    ),
    "as a storage's type": (group(text("storage"), SYSTEM, text("0"), text("cpu"), number(4)) + b"Q", "posix.system"),
    "as the first protocol makes objects": (call(name("copyreg", "_reconstructor"), SYSTEM, NONE, NONE), "posix.system"),
    "as a dict's key": (b"}" + SYSTEM + NONE + b"s", "posix.system"),
    "as training state": (mapping({"model": mapping({"w": tensor()}), "args": call(SYSTEM, COMMAND)}), "posix.system"),
    "EXT1": (b"\x82\x01" + group(COMMAND) + b"R", "EXT1"),
    "PERSID": (b"Pposix.system\n", "PERSID"),
    "NEXT_BUFFER": (b"\x97", "NEXT_BUFFER"),
    "DUP": (EMPTY_LIST + b"2", "DUP"),
}


@pytest.fixture(autouse=True)
def nothing_ran(tmp_path, monkeypatch):
    """After each test: no command has made its sentinel file, and no module of the file's choice was imported."""
    (tmp_path / "sentinel_module.py").write_text("import os\nos.system('touch sentinel')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "sentinel").exists() and "sentinel_module" not in sys.modules


@pytest.mark.parametrize("write", [*WRITERS.values(), write_plain], ids=[*WRITERS, "plain"])
@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_nothing_runs_and_what_was_asked_for_is_named(tmp_path, request_, write):
    """In each format, each instruction that calls, makes or looks up something is refused, and the message names it."""
    asked, named = request_
    with pytest.raises(InvalidInput) as refusal:
        open_checkpoint(write(tmp_path / "hostile.pt", asked))
    assert named in str(refusal.value)


class _Command:
    def __reduce__(self):
        return os.system, ("touch sentinel",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_of_every_protocol_are_refused_by_name(run_command, tmp_path, protocol):
    """A pickle that torch did not write is refused by name too; the oldest protocols look like text."""
    (tmp_path / "hostile.pt").write_bytes(pickle.dumps({"model": _Command()}, protocol))
    assert "the pickle names posix.system" in assert_refused(run_command, tmp_path, UNREADABLE, tmp_path / "hostile.pt")


@pytest.mark.parametrize("as_codebook", [False, True], ids=["checkpoint", "codebook"])
def test_the_command_refuses_it_for_either_file(run_command, tiny, tmp_path, as_codebook):
    """Given as checkpoint or as codebook, the file is refused with a message that says that nothing ran, and what to do."""
    hostile = write_zip(tmp_path / "hostile.pt", call(name("os", "system"), COMMAND))
    files = (tiny.checkpoint, hostile) if as_codebook else (hostile, tiny.codebook)
    message = assert_refused(run_command, tmp_path, UNREADABLE, files[0], codebook=files[1])
    assert "os.system" in message and "nothing of it was run" in message and "state dict" in message and str(hostile) in message


def test_the_payload_would_have_run(tmp_path):
    """Python's own unpickler does run the same bytes, so these tests would notice."""
    hostile = write_plain(tmp_path / "hostile.pkl", REQUESTS["REDUCE"][0])
    pickle.loads(hostile.read_bytes())
    assert (tmp_path / "sentinel").exists()
    (tmp_path / "sentinel").unlink()


@pytest.mark.parametrize("called", ["a tensor", "a list", "a text", "a value", "a storage type"])
def test_what_has_no_name_is_never_called(tmp_path, called):
    """A plain value is never called, not even one that a name on the list stands for."""
    values = {
        "a tensor": tensor(),
        "a list": sequence(SYSTEM[:0]),
        "a text": text("posix.system"),
        "a value": name("torch", "float32"),
        "a storage type": name("torch", "FloatStorage"),
    }
    with pytest.raises(InvalidInput, match="calls something that has no name"):
        open_checkpoint(write_zip(tmp_path / "hostile.pt", call(values[called], COMMAND)))


@pytest.mark.parametrize("shown", ["\x1b[2J\x1b]0;title\x07", "\r\nflava-port: all is well", "x" * 100_000, "\ud800", "\u202e"])
def test_a_name_cannot_play_with_the_terminal(run_command, tmp_path, shown):
    """A name from a file is printed short, on one line and without control characters."""
    named = text(shown) + text("system") + b"\x93"
    message = assert_refused(run_command, tmp_path, UNREADABLE, write_zip(tmp_path / "hostile.pt", named))
    assert shown not in message and "the pickle names" in message


@pytest.mark.parametrize("key", ["\x1b[2Jblocks.input.w", "w\nflava-port: all is well", "w" * 5000, "\ud800.weight"])
def test_a_key_cannot_either(run_command, tmp_path, key):
    """A weight's key that is not a printable name of reasonable length is refused."""
    keyed = write_zip(tmp_path / "hostile.pt", mapping({"model": mapping({key: tensor()})}))
    assert_refused(run_command, tmp_path, UNREADABLE, keyed)


def test_a_training_state_s_names_cannot_either(run_command, tiny, tmp_path):
    """The names of ignored training state are printed without control characters."""
    import torch

    from tests.builders import tiny_state_dict

    torch.save({"model": tiny_state_dict(), "\x1b[2J": 1, ("\x1b",): 2}, tmp_path / "odd.pt")
    ran = run_command("convert", "--checkpoint_path", tmp_path / "odd.pt", "--no-codebook", "--pytorch_dump_folder_path", tmp_path / "out")
    assert ran.status == 0 and "\x1b" not in ran.out and r"ignored  odd.pt: \x1b[2J, tuple" in ran.out


def test_an_escape_that_python_does_not_know_is_read_without_a_word():
    """No warning is shown for an escape in a pickle's string, although Python 3.12 and later has one."""
    assert is_pickle(io.BytesIO(b"S'a\\K'\n."))
