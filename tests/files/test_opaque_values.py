"""A name that nobody knows becomes an opaque value: neither imported nor called, and no dearer than its bytes in the file."""

import struct
import sys

import pytest

from flava_port.errors import InvalidInput
from flava_port.files.checkpoint import open_checkpoint
from flava_port.files.pickle_attacks import is_attack
from tests.files.hostile_pickles import (
    EMPTY_DICT,
    NONE,
    WRITERS,
    call,
    get,
    group,
    mapping,
    name,
    number,
    put,
    sequence,
    tensor,
    text,
    write_zip,
)
from tests.refusal import time_limit

COMMAND = text("touch sentinel")


@pytest.fixture(autouse=True)
def nothing_ran(tmp_path, monkeypatch):
    """After each test: no command has made its sentinel file, and no module of the file's choice was imported."""
    (tmp_path / "sentinel_module.py").write_text("import os\nos.system('touch sentinel')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "sentinel").exists() and "sentinel_module" not in sys.modules


# Names that honest files may have and that nobody knows: each with what it would do where it was imported or called.
UNKNOWN = {
    "module that runs on import": name("sentinel_module", "x"),
    "called": call(name("sentinel_module", "x"), COMMAND),
    "made": name("sentinel_module", "X") + group() + b"\x81",
    "made with keywords": name("sentinel_module", "X") + group() + EMPTY_DICT + b"\x92",
    "made of an old class": b"(" + name("sentinel_module", "X") + COMMAND + b"o",
    "INST": b"(" + COMMAND + b"isentinel_module\nx\n",
    "attribute of a harmless name": call(name("collections", "OrderedDict.fromkeys"), NONE),
    "its attribute": call(name("builtins", "getattr"), name("sentinel_module", "X"), text("y")),
    "its result called": call(call(name("sentinel_module", "x")), COMMAND),
    "with a state": name("sentinel_module", "X") + group() + b"\x81" + mapping({"a": number(1)}) + b"b",
    "with a state that is no dict": name("sentinel_module", "X") + group() + b"\x81" + NONE + b"b",
    "with items": name("sentinel_module", "X") + group() + b"\x81" + text("a") + number(1) + b"s",
    "as a list": name("sentinel_module", "X") + group() + b"\x81" + number(1) + b"a",
    "as a set": name("sentinel_module", "X") + group() + b"\x81(" + number(1) + b"\x90",
    "as a dict's key": EMPTY_DICT + name("sentinel_module", "X") + group() + b"\x81" + NONE + b"s",
    "as a set's member": call(name("builtins", "set"), sequence(name("sentinel_module", "X") + group() + b"\x81")),
    "partial": call(name("functools", "partial"), name("sentinel_module", "x"), COMMAND),
    "a class with a type": call(name("torch._tensor", "_rebuild_from_type_v2"), name("sentinel_module", "x"), NONE, group(), NONE),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("unknown", UNKNOWN.values(), ids=UNKNOWN)
def test_a_name_that_nobody_knows_is_neither_imported_nor_called(tmp_path, unknown, write):
    """Beside the weights it stops nothing: the weights are read, and its own name is listed."""
    found = open_checkpoint(write(tmp_path / "unknown.pt", mapping({"model": mapping({"w": tensor()}), "args": unknown})))
    assert (list(found.tensors), found.ignored) in [(["w"], ("args",)), (["w"], ("model.args",))]


def test_names_as_long_as_the_file_are_not_put_together(tmp_path):
    """Two long texts that make a name again and again take no memory each time."""
    long = put(text("x" * 900_000), 0) + put(text("y" * 900_000), 1)
    with time_limit(5), pytest.raises(InvalidInput, match="no name that any code has"):
        open_checkpoint(write_zip(tmp_path / "long.pt", long + (get(0) + get(1) + b"\x93") * 20_000))
    grown = put(name("a", "b"), 0) + put(text("y" * 900), 1)
    for _ in range(4):
        grown += name("builtins", "getattr") + get(0) + get(1) + b"\x86R" + b"r" + struct.pack("<I", 0)
    with pytest.raises(InvalidInput, match="no name that any code has"):
        open_checkpoint(write_zip(tmp_path / "grown.pt", grown))


def test_a_long_state_is_not_copied_for_each_object(tmp_path):
    """Objects that share one long state, one long list of arguments or one long dict of items share it."""
    state = put(mapping({f"{n}": NONE for n in range(50_000)}), 0)
    arguments = put(group(NONE * 50_000), 1)
    objects = (name("a", "B") + get(1) + b"R" + get(0) + b"b0") * 20_000
    with time_limit(5), pytest.raises(InvalidInput, match="it holds a NoneType"):
        open_checkpoint(write_zip(tmp_path / "long.pt", state + b"0" + arguments + b"0" + objects + NONE))


@pytest.mark.parametrize(
    "full_name",
    [
        "torch._C._nn.gelu",
        "omegaconf.dictconfig.DictConfig",
        "builtins.print",
        "numpy.random._pickle.x",
        "myproject.code.models.Args",
        "code.models.Args",
        "project.os_tools.Settings",
        "torch.optim.adam.Adam",
        "re._compile",
        "uuid.UUID",
        "functools.partial",
        "transformers.training_args.TrainingArguments",
        "torch._dynamo.eval_frame.OptimizedModule",
        "random.Random",
    ],
)
def test_names_of_honest_files_are_no_attack(full_name):
    """What configs, optimizers, random generators and compiled modules name is let through."""
    assert not is_attack(full_name)
