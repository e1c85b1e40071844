"""The records of a zip file: where each one's bytes lie, and reading them, deflated or not, in constant memory."""

import io
import os
import struct
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ..errors import InvalidInput
from ..text import shown

_PIECE = 1 << 18
_ENCRYPTED = 1  # a flag of a record

# What zipfile raises in one place or another for bytes that are no proper zip file.
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    RuntimeError,
    EOFError,
    ValueError,
    OverflowError,
    OSError,
)


class Slice(io.RawIOBase):
    """Some of a file's bytes as a file of their own, to read from; ``first`` is where they begin."""

    def __init__(self, file: BinaryIO, first: int, length: int):
        self.file, self.first, self.length, self.position = file, first, length, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.position = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.length}[whence])
        return self.position

    def tell(self) -> int:
        return self.position

    def read(self, count: int = -1) -> bytes:
        left = max(0, self.length - self.position)
        self.file.seek(self.first + self.position)
        found = self.file.read(left if count is None or count < 0 else min(count, left))
        self.position += len(found)
        return found


class Place(NamedTuple):
    """Where a record's bytes are, counted from the beginning of the zip file; deflated or as they are."""

    start: int
    nbytes: int
    is_deflated: bool


class Checksum(NamedTuple):
    """How many bytes a storage has, and their CRC-32."""

    nbytes: int
    crc: int


def checksum_of(record: zipfile.ZipInfo) -> Checksum | None:
    """What the record's bytes, once inflated, must sum up to. A sum of 0 is none: torch writes it where it is told to save the time."""
    return Checksum(record.file_size, record.CRC) if record.CRC else None


def place_of(file: Slice, record: zipfile.ZipInfo) -> Place:
    """Where the record's bytes are, by its local header, once it is sure that they lie inside the file."""
    name = shown(record.filename)
    if record.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or record.flag_bits & _ENCRYPTED:
        raise InvalidInput(f"its record {name} is encrypted, or compressed in another way than deflated; unpack it and zip it again")
    is_deflated = record.compress_type == zipfile.ZIP_DEFLATED
    if not is_deflated and record.file_size != record.compress_size:
        raise InvalidInput(f"its record {name} has {record.compress_size:,} bytes and says {record.file_size:,}")
    file.seek(record.header_offset)
    header = file.read(30)  # a name and an extra field follow, their lengths are in it
    if header[:4] != b"PK\x03\x04":
        raise InvalidInput(f"its record {name} is not where the archive says")
    start = record.header_offset + 30 + sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    if start + record.compress_size > file.length:
        raise InvalidInput(f"its record {name} reaches past the end of the file; it is truncated")
    return Place(start, record.compress_size, is_deflated)


def read_small_record(file: Slice, record: zipfile.ZipInfo, bytes_max: int) -> bytes:
    """A small record's bytes, not more than ``bytes_max`` of them.

    Its checksum must be right. One of 0 is none: torch writes it where it is told to save the time.
    """
    if record.file_size > bytes_max:
        raise InvalidInput(f"its record {shown(record.filename)} has {record.file_size:,} bytes, too many for a checkpoint")
    place = place_of(file, record)
    file.seek(place.start)
    content = file.read(place.nbytes)
    if place.is_deflated:
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, record.file_size + 1)
    if len(content) != record.file_size or record.CRC not in (0, zlib.crc32(content)):
        raise InvalidInput(f"its record {shown(record.filename)} is damaged (length or checksum); fetch or copy the file again")
    return content


class Inflating:
    """The bytes that a deflated run of a file's bytes stands for, read from first to last in constant memory."""

    def __init__(self, file: io.FileIO, start: int, deflated: int):
        file.seek(start)
        self.file, self.left = file, deflated
        self.inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self.waiting = b""

    def seek(self, position: int) -> None:
        """Skips that many bytes. It is called once, before anything is read."""
        skipped = memoryview(bytearray(min(position, _PIECE)))
        while position and (read := self.readinto(skipped[:position])):
            position -= read

    def readinto(self, view: memoryview) -> int:
        """Fills some of the view, and returns how many bytes of it; 0 at the end, or where the file is broken."""
        try:
            while not self.inflater.eof:
                if not self.waiting:
                    self.waiting = self.file.read(min(self.left, _PIECE))
                    self.left = self.left - len(self.waiting) if self.waiting else 0
                inflated = self.inflater.decompress(self.waiting, len(view))
                self.waiting = self.inflater.unconsumed_tail
                if inflated:
                    view[: len(inflated)] = inflated
                    return len(inflated)
                if not self.waiting and not self.left:
                    break
        except zlib.error:
            pass
        return 0


@lru_cache(maxsize=4096)
def check_storage(file: Path, _changed: int, start: int, deflated: int | None, checksum: Checksum) -> None:
    """Reads a storage that several tensors lie in, or one tensor in another order, and raises InvalidInput if it is damaged.

    Once, as long as the file has the same time of its last change.
    """
    crc = 0
    with open(file, "rb", buffering=0) as raw:
        stream = raw if deflated is None else Inflating(raw, start, deflated)
        stream.seek(start if stream is raw else 0)
        view, left = memoryview(bytearray(1 << 20)), checksum.nbytes
        while left and (read := stream.readinto(view[: min(left, len(view))])):
            crc, left = zlib.crc32(view[:read], crc), left - read
    if left or crc != checksum.crc:
        raise damaged(file)


def damaged(file: Path) -> InvalidInput:
    return InvalidInput(f"{file}: damaged, a tensor's bytes do not have the checksum that the file gives; fetch or copy it again")
