"""Whatever happens to the bytes of a file, it is soon either read or refused in one short message."""

import os
import shutil
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flava_port.convert import convert_flava_checkpoint
from flava_port.errors import FlavaPortError
from flava_port.files.checkpoint import open_checkpoint
from flava_port.files.tensors import count_nonfinite
from tests.builders import tiny_state_dict
from tests.files.hostile_pickles import write_zip
from tests.files.saving import SAVERS, save_safetensors
from tests.refusal import time_limit

SMALL = {"image_projection.weight": torch.randn(2, 3).T, "heads.cmd.clip_head.logit_scale": torch.tensor(2.5)}


class Damage(NamedTuple):
    """Changes to a file, each at a position that counts from its start or, negative, from its end."""

    bytes_set: list[tuple[int, int]]
    removed: tuple[int, int] | None
    inserted: tuple[int, bytes] | None
    kept: int | None

    def to(self, content: bytes) -> bytes:
        damaged = bytearray(content)
        for at, value in self.bytes_set:
            damaged[at % len(damaged)] = value
        if self.removed:
            start = self.removed[0] % len(damaged)
            del damaged[start : start + self.removed[1]]
        if self.inserted:
            at = self.inserted[0] % (len(damaged) + 1)
            damaged[at:at] = self.inserted[1]
        return bytes(damaged[: self.kept])


def damages() -> st.SearchStrategy[Damage]:
    """``Damage(bytes_set=[(-200, 255)], removed=None, inserted=(60, b".."), kept=None)``."""
    positions = st.integers(-1500, 1500)
    return st.builds(
        Damage,
        st.lists(st.tuples(positions, st.integers(0, 255)), max_size=4),
        st.none() | st.tuples(positions, st.integers(1, 200)),
        st.none() | st.tuples(positions, st.binary(min_size=1, max_size=20)),
        st.none() | st.integers(1, 4000),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def _read_or_refuse(path) -> None:
    """Opens the file and reads every value, or sees it refused with a short message in our own words."""
    with time_limit(10):
        try:
            for tensor in open_checkpoint(path).tensors.values():
                if hasattr(tensor, "chunks"):
                    any(count_nonfinite(chunk, tensor.dtype) for chunk in tensor.chunks())
        except FlavaPortError as error:
            assert 0 < len(str(error)) < 1000 and "\n" not in str(error) and "Error" not in str(error)


@pytest.mark.parametrize("save", SAVERS.values(), ids=SAVERS)
@given(damage=damages())
def test_a_damaged_file_is_read_or_refused(folder, save, damage: Damage):
    """Bytes are changed, removed, inserted or cut off near the start and the end, where a file has its structure."""
    save(SMALL if save is save_safetensors else {"model": SMALL}, folder / "whole")
    (folder / "damaged").write_bytes(damage.to((folder / "whole").read_bytes()) or b"\0")
    _read_or_refuse(folder / "damaged")


@given(damage=damages())
def test_a_damaged_codebook_is_read_or_refused(tiny, folder, damage: Damage):
    """The same holds for a pickled codebook, whose pickle has every construct that a checkpoint can have."""
    (folder / "damaged").write_bytes(damage.to(tiny.codebook.read_bytes()) or b"\0")
    _read_or_refuse(folder / "damaged")


@given(pickle=st.binary(max_size=60), protocol=st.booleans())
def test_any_bytes_are_read_or_refused(folder, pickle, protocol):
    """Arbitrary bytes, also behind the first bytes of a pickle, are read or refused."""
    (folder / "any").write_bytes((b"\x80\x02" if protocol else b"") + pickle or b"\0")
    _read_or_refuse(folder / "any")


OPCODES = b"(.0NIJKMLGTUSXV)]}aesudtlqrjhpg\x81\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8f\x90\x91\x92\x93\x94\x95\x97cibRQPo2"


@given(opcodes=st.lists(st.sampled_from(OPCODES), max_size=40), operands=st.binary(max_size=10))
def test_any_opcodes_are_read_or_refused(folder, opcodes, operands):
    """Pickle instructions in any order, with sensible operands or not, are read or refused."""
    pickle = b"".join(bytes([opcode]) + operands[: index % 3] for index, opcode in enumerate(opcodes))
    _read_or_refuse(write_zip(folder / "any.zip", pickle))


@pytest.mark.slow
@pytest.mark.parametrize("save", SAVERS.values(), ids=SAVERS)
@given(damage=damages())
def test_a_damaged_checkpoint_is_converted_or_refused(folder, save, damage: Damage):
    """The folder is there exactly if there was no error, and nothing else is."""
    save(tiny_state_dict(), folder / "whole")
    (folder / "damaged").write_bytes(damage.to((folder / "whole").read_bytes()) or b"\0")
    target = folder / "place" / "out"
    with time_limit(60):
        try:
            convert_flava_checkpoint(folder / "damaged", None, target)
        except FlavaPortError:
            assert not target.parent.exists()
        else:
            assert os.listdir(target.parent) == ["out"]
            shutil.rmtree(target.parent)
