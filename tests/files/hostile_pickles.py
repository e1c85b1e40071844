"""Hostile files put together by hand: pickles from their instructions, in each of torch's two formats.

Each function gives the bytes that push one value onto the pickle's stack, so calls nest as the values do.
"""

import struct
import zipfile
from pathlib import Path

PROTOCOL, STOP = b"\x80\x02", b"."
NONE, FALSE, EMPTY_LIST, EMPTY_DICT = b"N", b"\x89", b"]", b"}"

MAGIC = 0x1950A86A20F9469CFC6C


def text(value: str) -> bytes:
    encoded = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value: int) -> bytes:
    encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def group(*parts: bytes) -> bytes:
    """A tuple."""
    return b"(" + b"".join(parts) + b"t"


def sequence(*parts: bytes) -> bytes:
    """A list."""
    return b"](" + b"".join(parts) + b"e"


def mapping(items: dict[str, bytes]) -> bytes:
    """A dict with text keys."""
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + group(*arguments) + b"R"


def put(value: bytes, index: int) -> bytes:
    return value + b"r" + struct.pack("<I", index)


def get(index: int) -> bytes:
    return b"j" + struct.pack("<I", index)


def laughs(levels: int = 100) -> bytes:
    """A tuple that holds one tuple twice, which holds one tuple twice, and so on: it has 2 to the ``levels`` leaves."""
    pickle = put(text("ha"), 0)
    for index in range(1, levels + 1):
        pickle += put(get(index - 1) + b"\x86", index)
    return pickle


def storage(key: bytes = text("0"), elements: bytes = number(4), kind: str = "FloatStorage") -> bytes:
    return group(text("storage"), name("torch", kind), key, text("cpu"), elements) + b"Q"


def tensor(stored: bytes | None = None, offset: bytes = number(0), shape: bytes | None = None, stride: bytes | None = None) -> bytes:
    """A tensor of four floats, as far as the arguments do not say otherwise."""
    parts = stored or storage(), offset, shape or group(number(4)), stride or group(number(1)), FALSE, EMPTY_DICT
    return call(name("torch._utils", "_rebuild_tensor_v2"), *parts)


FOUR_FLOATS = {"0": struct.pack("<4f", 1.5, -2.0, 0.25, 8.0)}


def write_zip(
    path: Path, pickle: bytes, storages: dict[str, bytes] | None = None, *, compression=zipfile.ZIP_STORED, **records: bytes
) -> Path:
    """A file as torch.save writes it, with further ``records``."""
    stored = FOUR_FLOATS if storages is None else storages
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", PROTOCOL + pickle + STOP)
        for key, content in stored.items():
            archive.writestr(f"archive/data/{key}", content)
        for record, content in records.items():
            archive.writestr(f"archive/{record}", content)
    return path


def write_legacy(path: Path, pickle: bytes, storages: dict[str, bytes] | None = None, *, keys: bytes | None = None, system=None) -> Path:
    """A file as torch.save wrote it before version 1.6."""
    stored = FOUR_FLOATS if storages is None else storages
    system = mapping({"protocol_version": number(1001), "little_endian": b"\x88"}) if system is None else system
    keys = sequence(*map(text, stored)) if keys is None else keys
    pickles = [number(MAGIC), number(1001), system, pickle, keys]
    bodies = [struct.pack("<Q", len(content) // 4) + content for content in stored.values()]
    path.write_bytes(b"".join(PROTOCOL + part + STOP for part in pickles) + b"".join(bodies))
    return path


def write_plain(path: Path, pickle: bytes) -> Path:
    """A pickle and nothing else."""
    path.write_bytes(PROTOCOL + pickle + STOP)
    return path


WRITERS = {"zip": write_zip, "legacy": write_legacy}
