"""Our reader of safetensors takes what the library takes and refuses what the library refuses."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from flava_port.errors import InvalidInput
from flava_port.files.safetensors_format import read_safetensors
from flava_port.files.torch_tensors import dtype_of, load

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16), "c": torch.zeros(0, 2), "d": torch.tensor(7)}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A file that the library wrote."""
    path = tmp_path_factory.mktemp("safetensors") / "written.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt"})
    return path


def _parts(path) -> tuple[dict, bytes]:
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def _write(path, header, data: bytes, *, length: int | None = None):
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(encoded) if length is None else length).to_bytes(8, "little") + encoded + data)
    return path


def _library_takes(path) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():
                file.get_tensor(key)
    except (SafetensorError, OSError, ValueError, RuntimeError):
        return False
    return True


def _we_take(path) -> bool:
    try:
        read_safetensors(path)
    except InvalidInput as error:
        assert "a broken or truncated safetensors file (" in str(error) and "\n" not in str(error)
        return False
    return True


def test_every_tensor_is_read_as_the_library_reads_it(written):
    """Dtypes, shapes and values are the library's, of empty tensors and scalars too."""
    ours, theirs = read_safetensors(written), load_file(written)
    assert set(ours) == set(theirs)
    for key, value in theirs.items():
        assert torch.equal(load(ours[key]), value) and ours[key].dtype == dtype_of(value.dtype), key


BROKEN = {
    "a gap": lambda header, data: (
        header["b"].update(data_offsets=[header["b"]["data_offsets"][0] + 2, header["b"]["data_offsets"][1] + 2]),
        header,
    )[1],
    "an overlap": lambda header, data: (header["b"].update(data_offsets=[0, 8]), header)[1],
    "a larger shape": lambda header, data: (header["a"].update(shape=[2, 4]), header)[1],
    "another dtype": lambda header, data: (header["a"].update(dtype="F64"), header)[1],
    "a negative size": lambda header, data: (header["a"].update(shape=[-2, -3]), header)[1],
    "a fraction": lambda header, data: (header["a"].update(shape=[2.0, 3]), header)[1],
    "no shape": lambda header, data: (header["a"].pop("shape"), header)[1],
    "no offsets": lambda header, data: (header["a"].pop("data_offsets"), header)[1],
    "an entry that is a number": lambda header, data: header | {"e": 3},
    "a list for a header": lambda header, data: [header],
    "metadata that is no text": lambda header, data: header | {"__metadata__": {"format": 1}},
    "a tensor less": lambda header, data: {key: entry for key, entry in header.items() if key != "a"},
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_header_is_refused_by_both(name, written, tmp_path):
    """A header that does not describe the file to its last byte is refused by us and by the library."""
    header, data = _parts(written)
    path = _write(tmp_path / "broken.safetensors", BROKEN[name](header, data), data)
    assert not _library_takes(path) and not _we_take(path)


@pytest.mark.parametrize("cut", [1, 9, 40])
def test_a_cut_file_is_refused_by_both(cut, written, tmp_path):
    """A file that is cut in its data, its header or its length is refused by us and by the library."""
    content = written.read_bytes()
    for path, part in ((tmp_path / "end", content[:-cut]), (tmp_path / "begin", content[:cut])):
        path.write_bytes(part)
        assert not _library_takes(path) and not _we_take(path)


def test_a_header_longer_than_the_file_is_refused_by_both(written, tmp_path):
    """A header that announces more bytes than the file has is refused by us and by the library."""
    header, data = _parts(written)
    for length in (10**6, 10**9, 2**63):
        path = _write(tmp_path / "long.safetensors", header, data, length=length)
        assert not _library_takes(path) and not _we_take(path)


def test_a_name_that_stands_twice_is_refused(tmp_path):
    """A header that has one name twice is refused: only one of the two tensors would be seen."""
    entry = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    path = _write(tmp_path / "twice.safetensors", f'{{"a":{entry},"a":{entry}}}'.encode(), bytes(4))
    assert not _we_take(path)


@given(data=st.data())
def test_a_changed_byte_of_the_header_is_judged_as_the_library_judges_it(data, written, tmp_path_factory):
    """After a byte of the header is changed, what we take, the library takes too."""
    content = bytearray(written.read_bytes())
    end = 8 + int.from_bytes(content[:8], "little")
    content[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "changed.safetensors"
    path.write_bytes(content)
    assert _library_takes(path) or not _we_take(path)
