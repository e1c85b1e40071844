"""No small file takes long or much memory: a refusal costs about as much as the file is long."""

import re
import struct
import tracemalloc
import zipfile

import pytest

from flava_port.errors import InvalidInput
from flava_port.files import pickle_machine, torch_format
from flava_port.files.checkpoint import open_checkpoint
from tests.files.hostile_pickles import (
    EMPTY_DICT,
    EMPTY_LIST,
    NONE,
    PROTOCOL,
    STOP,
    WRITERS,
    call,
    get,
    group,
    laughs,
    mapping,
    name,
    number,
    put,
    sequence,
    storage,
    tensor,
    text,
    write_legacy,
    write_zip,
)
from tests.refusal import UNREADABLE, assert_refused, time_limit

SECONDS = 5
BYTES_AT_MOST = 40 << 20  # while reading the files here, none of which has more than one megabyte


def assert_refused_in_time(path) -> str:
    __tracebackhide__ = True
    with time_limit(SECONDS), pytest.raises(InvalidInput) as refusal:
        open_checkpoint(path)
    return str(refusal.value)


def assert_refused_cheaply(path) -> str:
    """In time and without much memory. Watching the memory is slow, so not every test does it."""
    __tracebackhide__ = True
    tracemalloc.start()
    try:
        message = assert_refused_in_time(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    if peak > BYTES_AT_MOST:
        raise AssertionError(f"{peak:,} bytes of memory for a file of {path.stat().st_size:,}")
    return message


MODULE = name("torch.nn.modules.container", "Sequential") + group() + b"\x81"

# A tuple with 2^100 leaves, in each place where something might hash, print, compare or walk it.
LAUGHS = {
    "dict key": EMPTY_DICT + laughs() + NONE + b"s",
    "OrderedDict key": call(name("collections", "OrderedDict"), sequence(laughs() + NONE + b"\x86")),
    "set member": call(name("builtins", "set"), sequence(laughs())),
    "ADDITEMS": b"\x8f(" + laughs() + b"\x90",
    "FROZENSET": b"(" + laughs() + b"\x91",
    "shape": tensor(shape=laughs()),
    "size in a shape": tensor(shape=group(laughs()), stride=group(number(1))),
    "stride": tensor(stride=laughs()),
    "offset": tensor(offset=laughs()),
    "storage": tensor(stored=laughs()),
    "storage key": tensor(storage(key=laughs())),
    "storage size": tensor(storage(elements=laughs())),
    "persistent id": laughs() + b"Q",
    "STACK_GLOBAL": text("os") + laughs() + b"\x93",
    "called": laughs() + group() + b"R",
    "rebuilt with": call(name("torch._tensor", "_rebuild_from_type_v2"), laughs(), NONE, group(), NONE),
    "the whole content": laughs(),
    "container": mapping({"model": laughs()}),
    "training state": mapping({"args": laughs()}),
    "module state": MODULE + EMPTY_DICT + laughs() + NONE + b"s" + b"b",
}


@pytest.mark.parametrize("pickle", LAUGHS.values(), ids=LAUGHS)
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_value_with_exponentially_many_parts_is_never_walked(tmp_path, write, pickle):
    """A value whose shared parts make it small in the file and huge in a walk is refused cheaply."""
    assert_refused_cheaply(write(tmp_path / "bomb.pt", pickle))


def test_nor_is_it_in_the_list_of_legacy_storages(tmp_path):
    """The same value in place of a legacy file's list of storages is refused cheaply."""
    assert_refused_cheaply(write_legacy(tmp_path / "bomb.pt", mapping({"w": tensor()}), keys=sequence(laughs())))


LONG, COUNT = 200_000, 20_000


def _again_and_again(made_once: bytes, use: bytes) -> bytes:
    """A pickle with a long value in its memo, and then a use of that value, repeated `COUNT` times."""
    return put(made_once, 0) + b"0" + (use + b"0") * COUNT + NONE


LONG_LIST = sequence(NONE * LONG)
LONG_TUPLE = group(NONE * LONG)
PAIRS = sequence(*[text(str(n)) + NONE + b"\x86" for n in range(COUNT)])
TWINS = put(text("w" * 900_000), 0) + put(text("w" * 900_000), 1)
REPEATED = {
    "set": _again_and_again(LONG_LIST, call(name("builtins", "set"), get(0))),
    "OrderedDict": _again_and_again(PAIRS, call(name("collections", "OrderedDict"), get(0))),
    "Size": _again_and_again(LONG_TUPLE, call(name("torch", "Size"), get(0))),
    "arguments": _again_and_again(LONG_TUPLE, name("torch", "device") + get(0) + b"R"),
    "persistent id": _again_and_again(LONG_TUPLE, get(0) + b"Q"),
    "shape": _again_and_again(LONG_TUPLE, tensor(shape=get(0), stride=get(0))),
    "module state": _again_and_again(mapping({str(n): NONE for n in range(COUNT)}), MODULE + get(0) + b"b"),
    "equal keys": EMPTY_DICT + TWINS + (EMPTY_DICT + get(0) + NONE + b"s" + get(1) + NONE + b"s0") * COUNT,
    "huge integer as key": _again_and_again(b"\x8b" + struct.pack("<I", 900_000) + b"\x7f" * 900_000, EMPTY_DICT + get(0) + NONE + b"s"),
    "colliding keys": EMPTY_DICT + b"(" + b"".join(number(n * (2**61 - 1)) + NONE for n in range(LONG)) + b"u",
    "colliding memo": b"".join(NONE + b"r" + struct.pack("<I", n << 18) for n in range(1 << 14)),
}  # fmt: skip


@pytest.mark.parametrize("pickle", REPEATED.values(), ids=REPEATED)
def test_a_long_value_is_not_worked_through_again_and_again(tmp_path, pickle):
    """A long value that the memo repeats in a few bytes is not hashed, compared or copied each time."""
    assert_refused_in_time(write_zip(tmp_path / "bomb.pt", pickle))


HUGE_64, HUGE_32 = struct.pack("<Q", 1 << 60), struct.pack("<I", (1 << 31) - 1)
LENGTHS = {
    "BINUNICODE8": b"\x8d" + HUGE_64,
    "BINBYTES8": b"\x8e" + HUGE_64,
    "BYTEARRAY8": b"\x96" + HUGE_64,
    "FRAME": b"\x95" + HUGE_64,
    "BINUNICODE": b"X" + HUGE_32,
    "BINBYTES": b"B" + HUGE_32,
    "LONG4": b"\x8b" + HUGE_32,
    "LONG4, negative": b"\x8b\xff\xff\xff\xff",
    "BINSTRING, negative": b"T\xff\xff\xff\xff",
    "LONG": b"L" + b"9" * 100_000 + b"L\n",
    "INT": b"I" + b"9" * 100_000 + b"\n",
    "GLOBAL without an end": b"c" + b"x" * 100_000,
    "memo index": NONE + b"r" + HUGE_32,
    "memo index in text": NONE + b"p99999999999999999999\n",
}


@pytest.mark.parametrize("pickle", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_length_that_lies_allocates_nothing(tmp_path, write, pickle):
    """No memory is taken for bytes that an instruction announces and the file does not have."""
    assert_refused_cheaply(write(tmp_path / "bomb.pt", pickle))


@pytest.mark.parametrize("opened", ["list", "tuple", "dict", "mark"])
def test_nesting_without_end_is_refused(tmp_path, opened):
    """Values nested 50,000 deep are refused in time: nothing here recurses into them."""
    levels = {
        "list": EMPTY_LIST * 50_000 + b"a" * 49_999,
        "tuple": NONE + b"\x85" * 50_000,
        "dict": NONE
        + (b"0" + EMPTY_DICT + text("model") + EMPTY_DICT + b"s")
        + (EMPTY_DICT + text("model")) * 50_000
        + NONE
        + b"s" * 50_000,
        "mark": b"(" * 50_000,
    }
    assert_refused_in_time(write_zip(tmp_path / "bomb.pt", levels[opened]))


ITSELF = {
    "list": put(EMPTY_LIST, 0) + get(0) + b"a",
    "dict": put(EMPTY_DICT, 0) + text("model") + get(0) + b"s" + text("state_dict") + get(0) + b"s",
    "module": put(MODULE, 0) + mapping({"_modules": mapping({"": get(0), "w": get(0)})}) + b"b",
    "module's state": put(MODULE, 0) + mapping({"_modules": put(mapping({"a": get(0)}), 1), "_parameters": get(1)}) + b"b",
}


@pytest.mark.parametrize("pickle", ITSELF.values(), ids=ITSELF)
def test_what_holds_itself_is_refused(tmp_path, pickle):
    """A value that contains itself, which a pickle can describe, is refused cheaply."""
    assert_refused_cheaply(write_zip(tmp_path / "bomb.pt", pickle))


def test_a_module_with_exponentially_many_parts_is_refused(run_command, tmp_path):
    """Modules that each hold the one before twice are refused cheaply, and the message says why."""
    pickle = put(MODULE, 0) + mapping({"_parameters": mapping({"w": tensor()})}) + b"b"
    for index in range(1, 60):
        below = get(index - 1)
        pickle += put(MODULE, index) + mapping({"_modules": mapping({"a": below, "b": below})}) + b"b"
    path = write_zip(tmp_path / "bomb.pt", pickle)
    assert "more parts than any model" in assert_refused_cheaply(path)
    assert_refused(run_command, tmp_path, UNREADABLE, path)


def test_more_instructions_than_any_checkpoint_needs_are_refused(tmp_path, monkeypatch):
    """A pickle with too many instructions is refused, and one with fewer is read."""
    monkeypatch.setattr(pickle_machine, "INSTRUCTIONS_MAX", 1000)
    assert "more than 1,000 instructions" in assert_refused_cheaply(write_zip(tmp_path / "bomb.pt", EMPTY_LIST * 1001))
    monkeypatch.setattr(pickle_machine, "INSTRUCTIONS_MAX", 10_000)
    assert "it holds a list" in assert_refused_cheaply(write_zip(tmp_path / "bomb.pt", EMPTY_LIST * 1001))


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_pickle_of_more_bytes_than_any_checkpoint_s_is_refused(tmp_path, monkeypatch, write):
    """A pickle that is too long is refused in both formats; in the legacy format it would run on into the storages."""
    for module in (pickle_machine, torch_format):
        monkeypatch.setattr(module, "PICKLE_BYTES_MAX", 1000)
    assert "too many for a checkpoint" in assert_refused_cheaply(write(tmp_path / "bomb.pt", text("x" * 1001)))


BOMBS = {
    "data.pkl": (100 << 20, "has 104,857,\\d+ bytes, too many for a checkpoint"),
    "byteorder": (100 << 20, "has 104,857,\\d+ bytes, too many for a checkpoint"),
    "data/0": (100 << 20, "has 104,857,616 bytes where the pickle says 16"),
}


@pytest.mark.parametrize(("bomb", "size", "why"), [(bomb, *rest) for bomb, rest in BOMBS.items()], ids=BOMBS)
def test_a_deflated_record_is_not_inflated_to_more_than_it_may_have(tmp_path, bomb, size, why):
    """A small record can hold a thousand times its size; what it says it has is refused before it is unpacked."""
    records = {
        "data.pkl": PROTOCOL + mapping({"w": tensor(storage(elements=number(4)))}) + STOP,
        "byteorder": b"little",
        "data/0": bytes(16),
    }
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w") as archive:
        for record, content in records.items():
            if record == bomb:
                archive.writestr(f"archive/{record}", content + bytes(size), zipfile.ZIP_DEFLATED)
            else:
                archive.writestr(f"archive/{record}", content)
    assert re.search(why, assert_refused_cheaply(tmp_path / "bomb.pt"))


def test_storages_that_inflate_to_far_more_than_weights_do_are_refused(tmp_path):
    """A hundred megabytes of zeros in a hundred kilobytes, as the pickle says too, are refused unread."""
    elements = 25 << 20
    one = mapping({"w": tensor(storage(elements=number(elements)), shape=group(number(elements)))})
    path = write_zip(tmp_path / "bomb.pt", one, {"0": bytes(4 * elements)}, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    assert "inflates to more than weights do" in assert_refused_cheaply(path)


@pytest.mark.parametrize("claimed", [7, 5000], ids=["less", "more"])
def test_a_deflated_record_of_another_length_than_it_says_is_refused(tmp_path, claimed):
    """A pickle whose record holds less or more than it says."""
    path = write_zip(tmp_path / "lying.pt", mapping({"w": tensor()}), compression=zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    for signature, field in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = content.index(signature) + field
        content[at : at + 4] = struct.pack("<I", claimed)
    path.write_bytes(content)
    assert "damaged (length or checksum)" in assert_refused_cheaply(path)


def test_a_byte_order_of_a_gigabyte_is_refused_unread(tmp_path):
    """A record of the byte order that is longer than the word is refused before it is read."""
    path = write_zip(tmp_path / "bomb.pt", mapping({"w": tensor()}), byteorder=b"x" * 20)
    assert "byteorder has 20 bytes" in assert_refused_cheaply(path)
