"""A tensor reads only bytes of its own storage, and only if the file does not contradict itself about that storage."""

import struct
import zipfile

import pytest
import torch

from flava_port.errors import InvalidInput
from flava_port.files.checkpoint import open_checkpoint
from flava_port.files.torch_tensors import load
from tests.files.hostile_pickles import (
    FALSE,
    FOUR_FLOATS,
    WRITERS,
    call,
    group,
    mapping,
    name,
    number,
    storage,
    tensor,
    text,
    write_legacy,
    write_zip,
)

SIZES = group(number(2), number(2))

# The only tensor of a state dict, in a storage of four floats, and what the message must say.
TENSORS = {
    "offset beyond the end": (tensor(offset=number(1)), "reaches past the end"),
    "negative offset": (tensor(offset=number(-1)), "impossible"),
    "huge offset": (tensor(offset=number(1 << 80)), "impossible"),
    "shape beyond the end": (tensor(shape=group(number(5))), "reaches past the end"),
    "negative shape": (tensor(shape=group(number(-4))), "impossible"),
    "huge shape": (tensor(shape=group(number(1 << 61), number(1 << 61)), stride=SIZES), "reaches past the end"),
    "stride beyond the end": (tensor(stride=group(number(2))), "reaches past the end"),
    "negative stride": (tensor(stride=group(number(-1))), "impossible"),
    "huge stride": (tensor(stride=group(number(1 << 61))), "reaches past the end"),
    "stride that wraps around": (tensor(shape=SIZES, stride=group(number(1), number(1 << 63))), "impossible"),
    "terabytes from four floats": (tensor(shape=group(number(1 << 40)), stride=group(number(0))), "repeats"),
    "more sizes than strides": (tensor(shape=SIZES), "impossible"),
    "sizes that are no numbers": (tensor(shape=group(text("4"))), "impossible"),
    "sizes that are truth values": (tensor(shape=group(b"\x88")), "impossible"),
    "sizes that are fractions": (tensor(shape=group(b"G" + struct.pack(">d", 4.0))), "impossible"),
    "sizes in a dict": (tensor(shape=mapping({})), "impossible"),
    "two thousand dimensions": (tensor(shape=group(number(1) * 2000), stride=group(number(1) * 2000)), "impossible"),
    "no storage": (tensor(stored=text("0")), "no storage"),
    "no dtype": (tensor(storage(kind="UntypedStorage", elements=number(16))), "no storage or no dtype"),
    "a list for a storage's name": (tensor(storage(key=group(text("0")))), "no proper name"),
    "a storage of negative size": (tensor(storage(elements=number(-4))), "impossible size"),
    "a storage of 2^70": (tensor(storage(elements=number(1 << 70))), "impossible size"),
    "a storage of no type": (tensor(group(text("storage"), text("x"), text("0"), text("cpu"), number(4)) + b"Q"), "unknown type"),
    "a storage that is none": (tensor(group(text("storage")) + b"Q"), "not a tensor storage"),
    "a view of a storage": (
        tensor(group(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), number(4), group(text("1"))) + b"Q"),
        "views of storages",
    ),
    "too few arguments": (call(name("torch._utils", "_rebuild_tensor_v2"), storage()), "broken"),
}  # fmt: skip


@pytest.mark.parametrize(("pickle", "why"), TENSORS.values(), ids=TENSORS)
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_tensor_outside_its_storage_is_refused(tmp_path, write, pickle, why):
    """A tensor whose offset, shape, stride or storage is impossible or too large is refused."""
    with pytest.raises(InvalidInput, match=why):
        open_checkpoint(write(tmp_path / "lying.pt", mapping({"w": pickle})))


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_the_same_file_without_a_lie_reads(tmp_path, write):
    """The four floats are read, and so is an overlapping view of them."""
    overlapping = tensor(shape=SIZES, stride=group(number(1), number(2)))
    found = open_checkpoint(write(tmp_path / "honest.pt", mapping({"w": tensor(), "o": overlapping}))).tensors
    assert load(found["w"]).tolist() == [1.5, -2.0, 0.25, 8.0]
    assert load(found["o"]).tolist() == [[1.5, 0.25], [-2.0, 8.0]]


@pytest.mark.parametrize("elements", [3, 5, 0, 1 << 40])
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_storage_of_another_size_than_the_pickle_says_is_refused(tmp_path, write, elements):
    """A storage that is smaller, larger or emptier than its pickle says is refused, or one larger than the file."""
    one = tensor(storage(elements=number(elements)), shape=group(number(0)))
    with pytest.raises(InvalidInput, match=r"where the pickle says|another size|past the end"):
        open_checkpoint(write(tmp_path / "lying.pt", mapping({"w": one})))


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_storage_described_in_two_ways_is_refused(tmp_path, write):
    """Two tensors that give one storage two types are refused."""
    both = {"w": tensor(), "v": tensor(storage(kind="IntStorage"))}
    with pytest.raises(InvalidInput, match="described in two ways"):
        open_checkpoint(write(tmp_path / "lying.pt", mapping(both)))


@pytest.mark.parametrize("key", ["../../secret", "/etc/hostname", "..\\secret", "1", "", "0\x00"])
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_storage_s_name_leads_nowhere(tmp_path, write, key):
    """The name is looked up in the archive or in the file's own list, and never used as a path."""
    (tmp_path / "secret").write_bytes(FOUR_FLOATS["0"])
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidInput, match=r"missing from the archive|does not match|no proper name"):
        open_checkpoint(write(tmp_path / "folder" / "lying.pt", mapping({"w": tensor(storage(key=text(key)))})))


def test_files_of_big_endian_machines_are_refused(tmp_path):
    """A file that says big-endian is refused: its numbers would be read backwards."""
    content = mapping({"w": tensor()})
    files = (
        write_zip(tmp_path / "zip.pt", content, byteorder=b"big"),
        write_legacy(tmp_path / "old.pt", content, system=mapping({"little_endian": FALSE})),
    )
    for path in files:
        with pytest.raises(InvalidInput, match="big-endian"):
            open_checkpoint(path)


def test_a_zip_that_holds_a_storage_twice_is_refused(tmp_path):
    """A name that stands twice in a zip file is refused: readers differ in which one they take."""
    path = write_zip(tmp_path / "twice.pt", mapping({"w": tensor()}))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("archive/data/0", struct.pack("<4f", 9, 9, 9, 9))
    with pytest.raises(InvalidInput, match="one name twice"):
        open_checkpoint(path)


def test_a_zip_whose_directory_points_elsewhere_is_refused(tmp_path):
    """A zip file whose directory gives a wrong position for a storage is refused."""
    path = write_zip(tmp_path / "moved.pt", mapping({"w": tensor()}))
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"archive/data/0") - 46
    content[entry + 42 : entry + 46] = struct.pack("<I", 5)
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"not where the archive says|broken or truncated zip file"):
        open_checkpoint(path)


@pytest.mark.parametrize("keys", [[], ["0", "0"], ["1"], [0], "0"], ids=repr)
def test_a_legacy_list_of_storages_must_match_the_pickle(tmp_path, keys):
    """A list that is not exactly the pickle's storages is refused: it alone says in which order they follow."""
    pushed = text(keys) if isinstance(keys, str) else b"](" + b"".join(text(k) if isinstance(k, str) else number(k) for k in keys) + b"e"
    with pytest.raises(InvalidInput, match="list of storages does not match"):
        open_checkpoint(write_legacy(tmp_path / "lying.pt", mapping({"w": tensor()}), keys=pushed))


def test_an_expanded_tensor_reads_where_it_is_small(tmp_path):
    """A small view that repeats its elements is read: training code saves such views."""
    torch.save({"w": torch.tensor([2.5]).expand(768)}, tmp_path / "expanded.pt")
    assert torch.equal(load(open_checkpoint(tmp_path / "expanded.pt").tensors["w"]), torch.full((768,), 2.5))
