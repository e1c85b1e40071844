"""A zip file that somebody unpacked and zipped again, or that torch wrote without checksums, holds the same values."""

import json
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from flava_port.errors import InvalidInput
from flava_port.files.checkpoint import open_checkpoint
from flava_port.files.tensors import CHUNK_ELEMENTS
from tests.comparing import assert_same_tensors
from tests.files.reading import read

GENERATOR = torch.Generator().manual_seed(0)
SHARED = torch.randn(5, 7, generator=GENERATOR)
TENSORS = {
    "long": torch.randn(2 * CHUNK_ELEMENTS + 3, generator=GENERATOR),
    "a part of it": SHARED[2:, 3],
    "transposed": SHARED.T,
    "the end": SHARED[4],
    "half": torch.randn(9, generator=GENERATOR).half(),
    "scalar": torch.tensor(1.5),
    "empty": torch.zeros(0, 3),
}


@pytest.fixture
def saved(tmp_path) -> Path:
    torch.save(TENSORS, tmp_path / "saved.pt")
    return tmp_path / "saved.pt"


def zipped_again(path: Path, compression: int, **options) -> Path:
    """The same records in the same order, compressed."""
    again = path.with_name("again.pt")
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(again, "w", compression, **options) as new:
        for name in archive.namelist():
            new.writestr(name, archive.read(name))
    return again


def without_checksums(path: Path) -> Path:
    """Each record's checksum is 0 in its local header and in the directory."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    at = content.index(b"PK\x01\x02")
    for record in records:
        content[record.header_offset + 14 : record.header_offset + 18] = bytes(4)
        assert content[at : at + 4] == b"PK\x01\x02"
        content[at + 16 : at + 20] = bytes(4)
        at += 46 + sum(struct.unpack_from("<HHH", content, at + 28))
    path.write_bytes(content)
    return path


def test_a_deflated_file_reads_the_same(saved):
    """Whole storages, the parts and strides of shared ones, and what is longer than one piece."""
    again = zipped_again(saved, zipfile.ZIP_DEFLATED)
    assert again.stat().st_size < saved.stat().st_size
    assert_same_tensors(read(again), TENSORS)


def test_a_file_without_checksums_reads_the_same(saved):
    """A checksum of 0 is none; Python's own zipfile refuses such a file."""
    path = without_checksums(saved)
    with zipfile.ZipFile(path) as archive, pytest.raises(zipfile.BadZipFile, match="CRC"):
        archive.read("saved/data.pkl")
    assert_same_tensors(read(path), TENSORS)


@pytest.mark.skipif(not hasattr(torch.serialization, "set_crc32_options"), reason="torch before 2.6 always writes checksums")
def test_a_file_that_torch_wrote_without_checksums_reads_the_same(tmp_path):
    """As `torch.serialization.set_crc32_options(False)` has it."""
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(TENSORS, tmp_path / "saved.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert_same_tensors(read(tmp_path / "saved.pt"), TENSORS)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["bzip2", "lzma"])
def test_another_compression_is_refused_by_the_record(saved, compression):
    """The message says what to do."""
    with pytest.raises(InvalidInput, match="compressed in another way than deflated; unpack it and zip it again"):
        open_checkpoint(zipped_again(saved, compression))


def test_a_pickle_with_a_wrong_checksum_is_refused(saved):
    """One changed byte of the pickle that would read as well."""
    content = saved.read_bytes()
    saved.write_bytes(content.replace(b"transposed", b"transformed"[:10], 1))
    with pytest.raises(InvalidInput, match=r"data.pkl is damaged \(length or checksum\)"):
        open_checkpoint(saved)


def test_a_deflated_storage_that_is_broken_ends_the_reading(saved):
    """Bytes of it are overwritten; nothing is read beyond, and nobody waits for more."""
    again = zipped_again(saved, zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(again) as archive:
        record = archive.getinfo("saved/data/0")
    content = bytearray(again.read_bytes())
    middle = record.header_offset + record.compress_size // 2
    content[middle : middle + 4096] = b"\xff" * 4096
    again.write_bytes(content)
    tensor = open_checkpoint(again).tensors["long"]
    with pytest.raises(InvalidInput, match="the file ends inside a tensor"):
        for _ in tensor.chunks():
            pass


@pytest.mark.parametrize("key", ["long", "a part of it", "transposed", "half", "scalar"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_storage_with_a_wrong_checksum_is_refused_while_it_is_read(saved, key, compression):
    """One bit of it is flipped: whether a tensor fills its storage or is a part of it, in order or not."""
    path = zipped_again(saved, compression)
    tensor = open_checkpoint(path).tensors[key]
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        record = next(info for info in archive.infolist() if tensor.checksum.crc == info.CRC)
        at = content.index(struct.pack("<I", record.CRC), content.index(b"PK\x01\x02"))
    # What the directory says is changed, and not the bytes: a deflated run may not inflate with a bit flipped.
    content[at] ^= 1
    path.write_bytes(content)
    damaged = open_checkpoint(path).tensors
    with pytest.raises(InvalidInput, match="damaged, a tensor's bytes do not have the checksum that the file gives"):
        list(damaged[key].chunks())
    assert all(
        list(tensor.chunks()) for name, tensor in damaged.items() if name not in (key, "empty") and tensor.checksum != damaged[key].checksum
    )


@pytest.mark.parametrize("key", ["long", "a part of it", "transposed"])
def test_a_storage_that_is_damaged_after_it_was_read_is_refused_too(saved, key):
    """A checksum that was right is computed anew once the file has changed."""
    tensor = open_checkpoint(saved).tensors[key]
    assert list(tensor.chunks()) and list(tensor.chunks())
    content = bytearray(saved.read_bytes())
    content[tensor.start] ^= 1
    saved.write_bytes(content)
    with pytest.raises(InvalidInput, match="damaged, a tensor's bytes do not have the checksum that the file gives"):
        list(tensor.chunks())


def test_a_damaged_checkpoint_is_neither_converted_nor_proven(run_command, tiny, tmp_path):
    """One bit of a weight is flipped on the disk, and the file's own checksum tells."""
    flags = ["--codebook_path", tiny.codebook, "--pytorch_dump_folder_path", tmp_path / "out"]
    assert run_command("convert", "--checkpoint_path", tiny.checkpoint, *flags).status == 0
    content = bytearray(tiny.checkpoint.read_bytes())
    tensor = open_checkpoint(tiny.checkpoint).tensors["text_encoder.module.encoder.layer.0.output.dense.weight"]
    content[tensor.start + 5] ^= 1
    (tmp_path / "damaged.pt").write_bytes(content)
    ran = run_command(
        "verify", "--checkpoint_path", tmp_path / "damaged.pt", *flags[:2], "--converted_path", tmp_path / "out", "--weights-only"
    )
    assert ran.status == 1 and "damaged.pt: damaged" in ran.out, ran.out
    ran = run_command("convert", "--checkpoint_path", tmp_path / "damaged.pt", *flags, "--force")
    assert ran.status == 2 and "damaged.pt: damaged" in ran.err


def test_safetensors_whose_metadata_is_null_read_the_same(tmp_path):
    """As some writers have it; the library takes it too."""
    header = json.dumps({"__metadata__": None, "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    path = tmp_path / "null.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<2f", 1.5, -2.0))
    assert_same_tensors(read(path), {"w": torch.tensor([1.5, -2.0])})
