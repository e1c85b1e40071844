"""The files that we write are read by torch and safetensors."""

import pickletools
import zipfile
from collections import OrderedDict

import pytest
import torch
from hypothesis import given
from safetensors.torch import load_file

from flava_port.errors import InvalidInput
from flava_port.files.safetensors_format import write_safetensors
from flava_port.files.torch_format import write_torch_zip
from flava_port.files.torch_tensors import MemoryTensor
from tests.comparing import assert_same_tensors
from tests.files.reading import read
from tests.files.strategies import Contents, safetensors_contents


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("written") / "file"


def sources(tensors: dict[str, torch.Tensor]) -> dict[str, MemoryTensor]:
    return {key: MemoryTensor(tensor) for key, tensor in tensors.items()}


@given(contents=safetensors_contents())
def test_torch_reads_what_is_written_as_torch_writes_it(path, contents: Contents):
    """torch reads any keys, dtypes and shapes back from our zip file with ``weights_only``, and so do we."""
    write_torch_zip(path, sources(contents.tensors()))
    assert_same_tensors(torch.load(path, weights_only=True), contents.tensors(), in_order=True)
    assert_same_tensors(read(path), contents.tensors(), in_order=True)


@given(contents=safetensors_contents())
def test_safetensors_reads_what_is_written_for_it(path, contents: Contents):
    """The safetensors library reads any keys, dtypes and shapes back from our file."""
    write_safetensors(path, sources(contents.tensors()))
    assert_same_tensors(dict(sorted(load_file(path).items())), dict(sorted(contents.tensors().items())), in_order=True)


def test_keys_of_one_source_share_one_storage(path):
    """Keys that have one source object share memory when torch loads them, as tied weights do."""
    one, other = sources({"one": torch.randn(3), "other": torch.randn(3)}).values()
    write_torch_zip(path, {"a": one, "b": other, "c": one})
    read_back = torch.load(path, weights_only=True)
    assert read_back["a"].data_ptr() == read_back["c"].data_ptr() != read_back["b"].data_ptr()


def test_a_written_file_names_what_torchs_own_names(path):
    """Our file names the same functions and storage classes as torch's, with the same version, byte order and alignment."""
    tensors = {"half": torch.randn(2).half(), "wide": torch.randn(2, 3).double(), "scalar": torch.tensor(1.5), "ids": torch.arange(4)[None]}
    torch.save(OrderedDict(tensors), path)
    theirs = described(path)
    write_torch_zip(path, sources(tensors))
    assert described(path) == theirs


def described(path) -> tuple:
    """The names in the pickle, the protocol, the small records, and where the tensors begin within 64 bytes."""
    with zipfile.ZipFile(path) as archive:
        [pickle] = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        instructions = list(pickletools.genops(archive.read(pickle)))
        records = {name.partition("/")[2]: archive.getinfo(name) for name in archive.namelist()}
        small = [archive.read(records[name]).strip() for name in ("version", "byteorder") if name in records]
        starts = set()
        for name, record in records.items():
            if name.startswith("data/"):
                with archive.open(record) as file:
                    starts.add(file._orig_compress_start % 64)
    names = {argument for opcode, argument, _ in instructions if opcode.name == "GLOBAL"}
    return names, instructions[0][1], small, starts


@pytest.mark.parametrize("write", [write_torch_zip, write_safetensors])
def test_a_dtype_that_a_format_has_no_name_for_is_refused(path, write):
    """A tensor whose dtype the format cannot name is refused."""
    with pytest.raises(InvalidInput, match="float8_e5m2 cannot be written"):
        write(path, sources({"key": torch.zeros(1).to(torch.float8_e5m2)}))
