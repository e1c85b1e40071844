"""A file that is no checkpoint, or only a part of one, ends with exit status 2 and one line that says so."""

import json
import os
import pickle
import random
import struct
import zipfile

import numpy as np
import pytest
import torch

from tests.builders import tiny_state_dict
from tests.files.saving import SAVERS
from tests.refusal import UNREADABLE, assert_refused


def _missing(path):
    pass


def _folder(path):
    path.mkdir()
    torch.save(tiny_state_dict(), path / "flava.pt")


def _pipe(path):
    os.mkfifo(path)


def _loop(path):
    path.symlink_to(path)


NO_FILES = {
    "missing": (_missing, "no such file"),
    "folder": (_folder, "is a folder; pass the checkpoint file inside it"),
    "empty": (lambda path: path.touch(), "the file is empty"),
    "pipe": (_pipe, "is a pipe or a device"),
    "link to itself": (_loop, "cannot be read"),
}


@pytest.mark.parametrize(("make", "why"), NO_FILES.values(), ids=NO_FILES)
@pytest.mark.parametrize("as_codebook", [False, True], ids=["checkpoint", "codebook"])
def test_what_is_no_file_is_named(run_command, tiny, tmp_path, make, why, as_codebook):
    """A path that leads to no file is named with the reason, as the checkpoint and as the codebook."""
    path = tmp_path / "given.pt"
    make(path)
    files = (tiny.checkpoint, path) if as_codebook else (path, tiny.codebook)
    assert f"{path}: {why}" in assert_refused(run_command, tmp_path, UNREADABLE, files[0], codebook=files[1])


@pytest.mark.parametrize("name", ["x" * 300, "checkpoint.pt/inside", ""])
def test_names_that_no_file_can_have_are_refused(run_command, tiny, tmp_path, name):
    """A name that is too long, below a file or empty is refused."""
    path = tiny.checkpoint / "inside" if "inside" in name else name
    assert_refused(run_command, tmp_path, UNREADABLE, path)


JUNK = {
    "text": b"Not found\n",
    "long text": b"The quick brown fox\n" * 10_000,
    "text that begins like a pickle": b"cos\nsystem\nis not a pickle\n",
    "a dot": b".",
    "web page": b"<!DOCTYPE html>\n<html><body>404</body></html>\n",
    "json": json.dumps({"model": {"weight": [1.0, 2.0]}}).encode(),
    "png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01",
    "jpeg": b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(100),
    "gzip": b"\x1f\x8b\x08\x00" + bytes(100),
    "elf": b"\x7fELF" + bytes(100),
    "zeros": bytes(100_000),
    "one byte": b"\x80",
    "random": random.Random(0).randbytes(100_000),
    "numpy": b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'}",
    "plain pickle of numbers": pickle.dumps({"epoch": 3}),
    "plain pickle of arrays": pickle.dumps({"text_projection.weight": np.ones((2, 2))}),
    "plain pickle of tensors": pickle.dumps({"text_projection.weight": torch.ones(2, 2)}),
    "empty zip": b"PK\x05\x06" + bytes(18),
    "git lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
}


@pytest.mark.parametrize("content", JUNK.values(), ids=JUNK)
def test_what_is_no_checkpoint_is_refused(run_command, tmp_path, content):
    """A file of any other kind is refused, and the message names it."""
    path = tmp_path / "junk.pt"
    path.write_bytes(content)
    assert str(path) in assert_refused(run_command, tmp_path, UNREADABLE, path)


def test_an_archive_that_torch_did_not_write_is_refused(run_command, tmp_path):
    """A zip file without a pickle, with two pickles or with code is refused, and the message says what it is."""
    for n, names in enumerate((["readme.txt"], ["a/data.pkl", "b/data.pkl"], ["a/data.pkl", "a/constants.pkl"])):
        (tmp_path / str(n)).mkdir()
        with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
            for name in names:
                archive.writestr(name, b"\x80\x02}.")
        assert (
            "archive holds code" in (m := assert_refused(run_command, tmp_path / str(n), UNREADABLE, tmp_path / "some.zip")) or "zip" in m
        )


CONTENTS = {
    "nothing": None,
    "number": 3,
    "one tensor": torch.ones(3),
    "list of tensors": [torch.ones(3)],
    "list of state dicts": [{"model": {"w": torch.ones(3)}}],
    "empty dict": {},
    "empty state dict": {"model": {}, "epoch": 3},
    "too deep": {"model": {"model": {"model": {"model": {"model": {"w": torch.ones(1)}}}}}},
    "under another name": {"net": {"text_projection.weight": torch.ones(2, 2)}},
    "numbered": {0: torch.ones(2), 1: torch.ones(2)},
    "text where a dict belongs": {"model": "flava", "state_dict": [1, 2]},
    "arrays": {"text_projection.weight": np.ones((2, 2))},
    "a module that is no codebook": torch.nn.Sequential(torch.nn.ReLU()),
    "another model": torch.nn.Linear(2, 2).state_dict(),
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_a_file_that_holds_something_else_is_refused(run_command, tmp_path, content):
    """A whole file of torch.save's that holds no FLAVA is refused, and the message names it."""
    torch.save(content, tmp_path / "other.pt")
    assert "other.pt: " in assert_refused(run_command, tmp_path, UNREADABLE, tmp_path / "other.pt")


@pytest.mark.parametrize("part", [0.00001, 0.001, 0.01, 0.3, 0.9, 0.99, 0.99999], ids=lambda part: f"{part:%}")
@pytest.mark.parametrize("save", SAVERS.values(), ids=SAVERS)
def test_a_file_that_ends_early_is_refused(run_command, tmp_path, save, part):
    """A file that was cut anywhere, even by its last byte only, is refused, and the message names it."""
    path = tmp_path / "cut.pt"
    save(tiny_state_dict(), path)
    size = path.stat().st_size
    os.truncate(path, min(max(1, int(part * size)), size - 1))
    assert str(path) in assert_refused(run_command, tmp_path, UNREADABLE, path)


HEADERS = {
    "longer than the file": (1 << 40, b'{"w":{}}'),
    "longer than any": ((1 << 64) - 1, b'{"w":{}}'),
    "shorter than it is": (5, b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'),
    "not JSON": (None, b"{nonsense}"),
    "no dict": (None, b'{"w":3}'),
    "no text": (None, b'{"\xff\xfe":3}'),
    "offsets past the end": (None, b'{"w":{"dtype":"F32","shape":[100],"data_offsets":[0,400]}}'),
    "offsets backwards": (None, b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}'),
    "negative offsets": (None, b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}'),
    "overlapping": (None, b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"v":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'),
    "shape that wraps around": (None, b'{"w":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'),
    "shape of another size": (None, b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}'),
    "unknown dtype": (None, b'{"w":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}}'),
    "nested deeply": (None, b'{"w":' + b"[" * 100_000),
    "bytes that nobody owns": (None, b'{"w":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}'),
    "one name twice": (
        None,
        b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}}',
    ),
    "no tensors": (None, b'{"__metadata__":{"format":"pt"}}'),
}


@pytest.mark.parametrize(("announced", "header"), HEADERS.values(), ids=HEADERS)
def test_a_header_that_lies_is_refused(run_command, tmp_path, announced, header):
    """A safetensors header that lies about its length, offsets, shapes, dtypes or names is refused, and the message names the file."""
    path = tmp_path / "lying.safetensors"
    path.write_bytes(struct.pack("<Q", len(header) if announced is None else announced) + header + bytes(4))
    assert str(path) in assert_refused(run_command, tmp_path, UNREADABLE, path)
