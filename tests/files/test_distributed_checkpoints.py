"""A folder of torch.distributed.checkpoint reads as what was saved, from its shards, or is refused before a value is read."""

import pickle
import subprocess
import sys
import warnings
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flava_port.errors import InvalidInput
from flava_port.files import chunks
from flava_port.files.checkpoint import open_checkpoint, read_content
from flava_port.files.chunks import ChunkedTensor, tile
from flava_port.files.dtypes import FLOAT32
from flava_port.files.tensors import StoredTensor
from flava_port.files.torch_tensors import load
from tests.builders import tiny_state_dict
from tests.comparing import assert_converted, assert_same_tensors
from tests.files.hostile_pickles import call, name, text, write_plain, write_zip
from tests.files.reading import read

dcp = pytest.importorskip("torch.distributed.checkpoint", reason="torch without its distributed package")
pytestmark = pytest.mark.skipif(not hasattr(dcp, "save"), reason="torch.distributed.checkpoint.save came with torch 2.2")

STATE = {"model": {"w": torch.arange(12.0).reshape(4, 3), "b": torch.ones(3).half()}, "step": 3, "optim": {"w": torch.zeros(4, 3)}}


def save(folder: Path, state=STATE) -> Path:
    """Saves from this process alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no process group
        dcp.save(state, checkpoint_id=folder)
    return folder


def _saved_by_two_ranks(folder: Path, *names: str) -> Path:
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-m", "tests.files.two_ranks", str(folder), *names], check=True, cwd=root)
    return folder


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two processes saved of one model, each tensor cut along one axis; see `tests.files.two_ranks`."""
    pytest.importorskip("torch.distributed.tensor", reason="DTensor came with torch 2.5")
    return _saved_by_two_ranks(tmp_path_factory.mktemp("ranks"), "rows", "columns", "third axis", "one_rank.pt")


@pytest.mark.parametrize(("how", "at_least"), [("rows", 100), ("columns", 50), ("third axis", 5)], ids=lambda value: str(value))
def test_what_two_ranks_saved_is_put_together(ranks, how, at_least):
    """Every tensor, cut along any axis, is the one that was saved, bit for bit."""
    chunked = [tensor for tensor in open_checkpoint(ranks / how).tensors.values() if len(tensor.boxes) == 2]
    assert len(chunked) >= at_least and len(list((ranks / how).glob("*.distcp"))) == 2
    assert_same_tensors(read(ranks / how), tiny_state_dict())


def test_what_two_ranks_saved_converts(ranks, run_command, tiny, tmp_path):
    """The folder is given as any checkpoint is, and the proof reads it too."""
    files = ["--checkpoint_path", ranks / "columns", "--codebook_path", tiny.codebook]
    ran = run_command("convert", *files, "--pytorch_dump_folder_path", tmp_path / "out")
    assert ran.status == 0 and "torch.distributed.checkpoint, 2 files" in ran.out, ran.err
    ran = run_command("verify", *files, "--converted_path", tmp_path / "out", "--weights-only")
    assert ran.status == 0, ran.out + ran.err


@pytest.mark.slow
def test_what_fsdp2_saved_converts(run_command, tmp_path):
    """Of a trainer's checkpoint the model is taken, and the optimizer is ignored; the scale of one dimension is a scalar again."""
    if not hasattr(pytest.importorskip("torch.distributed.fsdp"), "fully_shard"):
        pytest.skip("FSDP2 came with torch 2.6")
    folder = _saved_by_two_ranks(tmp_path, "fsdp2") / "fsdp2"
    scale = "heads.cmd.clip_head.logit_scale"
    expected = {key: tensor[None] if key == scale else tensor for key, tensor in tiny_state_dict().items()}
    assert_same_tensors(read(folder), expected)
    ran = run_command("convert", "--checkpoint_path", folder, "--no-codebook", "--pytorch_dump_folder_path", tmp_path / "out")
    assert ran.status == 0 and "under 'model'" in ran.out and "ignored  fsdp2: optim, epoch" in ran.out, ran.err
    assert_converted(tmp_path / "out", tiny_state_dict(), {})


def test_one_ranks_own_file_is_refused_with_what_to_do(ranks, run_command, tmp_path):
    """Its tensors are DTensors, of which each rank saves its own shard."""
    ran = run_command(
        *("convert", "--checkpoint_path", ranks / "one_rank.pt", "--no-codebook"), *("--pytorch_dump_folder_path", tmp_path / "out")
    )
    assert ran.status == 2 and "DTensor" in ran.err and "full_state_dict" in ran.err


def test_nested_dicts_come_back_as_they_were(tmp_path):
    """What is no tensor is listed, and nothing of it is read."""
    found = open_checkpoint(save(tmp_path / "saved"))
    assert (found.container, set(found.ignored)) == ("model", {"step", "optim"})
    assert_same_tensors(read(tmp_path / "saved"), STATE["model"])


def test_flat_keys_are_read_where_no_dicts_are_known(tmp_path):
    """Older releases leave out where each tensor stood."""
    save(tmp_path / "saved", STATE["model"])
    edit(tmp_path / "saved", lambda metadata: setattr(metadata, "planner_data", None))
    assert_same_tensors(read(tmp_path / "saved"), STATE["model"])


def test_a_save_that_was_not_finished_is_called_so(tmp_path):
    """The metadata is written last, and its name is hidden."""
    (save(tmp_path / "saved") / ".metadata").unlink()
    with pytest.raises(InvalidInput, match=r"no \.metadata, which is written last"):
        read_content(tmp_path / "saved")


def edit(folder: Path, change) -> None:
    """Changes the metadata as Python has it."""
    path = folder / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    change(metadata)
    path.write_bytes(pickle.dumps(metadata))


def _place(metadata, key="model.w"):
    return next(info for index, info in metadata.storage_data.items() if index.fqn == key)


def _chunks(metadata, key="model.w"):
    return metadata.state_dict_metadata[key].chunks


def _moved(**changes):
    """The place of a chunk, changed."""
    return lambda metadata: [setattr(_place(metadata), name, value) for name, value in changes.items()]


def _sized(offsets, sizes):
    def change(metadata):
        _chunks(metadata)[0].sizes = torch.Size(sizes)
        _chunks(metadata)[0].offsets = torch.Size(offsets)

    return change


def _share_bytes(metadata):
    ours, theirs = _place(metadata), _place(metadata, "optim.w")
    theirs.offset, theirs.length, theirs.relative_path = ours.offset, ours.length, ours.relative_path


def _twice(metadata):
    _chunks(metadata).append(_chunks(metadata)[0])


def _another_dtype(metadata):
    metadata.state_dict_metadata["model.w"].properties.dtype = torch.float16


def _another_shape(metadata):
    metadata.state_dict_metadata["model.w"].size = torch.Size([4, 4])
    _sized([0, 0], [4, 4])(metadata)


def _huge(metadata):
    metadata.state_dict_metadata["model.w"].size = torch.Size([1 << 40, 3])


LIES = {
    "a file above": (_moved(relative_path="../secret"), "does not lie in the folder"),
    "a file elsewhere": (_moved(relative_path="/etc/hostname"), "does not lie in the folder"),
    "a file with a control character": (_moved(relative_path="__0_0\x1b.distcp"), "does not lie in the folder"),
    "no file": (_moved(relative_path=""), "does not lie in the folder"),
    "a file that is not there": (_moved(relative_path="__7_0.distcp"), "__7_0.distcp is missing"),
    "the folder itself": (_moved(relative_path="."), "does not lie in the folder"),
    "bytes past the end": (_moved(offset=1 << 40), "past the end"),
    "a negative position": (_moved(offset=-5), "not what torch.distributed.checkpoint writes"),
    "too few bytes": (_moved(length=10), "a broken or truncated zip file"),
    "bytes of another chunk": (_share_bytes, "for two chunks"),
    "compressed chunks": (_moved(transform_descriptors=["zstd"]), "compressed or encrypted"),
    "one chunk twice": (_twice, "for two chunks"),
    "a hole": (_sized([0, 0], [3, 3]), "overlap, or leave a part of it out"),
    "a chunk outside": (_sized([1, 0], [4, 3]), "has no place for a chunk|overlap, or leave a part of it out"),
    "another shape": (_another_shape, r"is float32 \[4, 3\], where the metadata says float32 \[4, 4\]"),
    "another dtype": (_another_dtype, r"is float32 \[4, 3\], where the metadata says float16 \[4, 3\]"),
    "a huge shape": (_huge, "overlap, or leave a part of it out"),
    "no storage data": (lambda metadata: setattr(metadata, "storage_data", None), "not what torch.distributed.checkpoint writes"),
    "no tensors": (lambda metadata: metadata.state_dict_metadata.clear(), "it is empty"),
    "a tensor that is a number": (lambda m: m.state_dict_metadata.update({"model.w": 3}), "not what torch.distributed.checkpoint writes"),
    "two tensors of one name": (
        lambda m: m.planner_data.update({"model.b": ("model", "w")}),
        "not what torch.distributed.checkpoint writes",
    ),
}


@pytest.mark.parametrize(("change", "why"), LIES.values(), ids=LIES)
def test_metadata_that_lies_is_refused(tmp_path, change, why):
    """Places outside the folder or the file, chunks that overlap or leave holes, sizes that lie."""
    (tmp_path / "secret").write_bytes(b"secret")
    edit(save(tmp_path / "saved"), change)
    with pytest.raises(InvalidInput, match=why) as refusal:
        open_checkpoint(tmp_path / "saved")
    assert str(refusal.value).startswith(f"{tmp_path / 'saved'}: ") and "\n" not in str(refusal.value)


def test_an_honest_folder_edited_to_itself_reads(tmp_path):
    """So it is the lies that are refused."""
    edit(save(tmp_path / "saved"), lambda metadata: None)
    assert_same_tensors(read(tmp_path / "saved"), STATE["model"])


@pytest.mark.parametrize("file", [".metadata", "chunk"])
def test_nothing_in_a_folder_is_run(tmp_path, monkeypatch, file):
    """A name that only an attack has use for is refused, in the metadata and in a chunk."""
    monkeypatch.chdir(tmp_path)
    hostile = call(name("posix", "system"), text("touch sentinel"))
    folder = save(tmp_path / "saved")
    if file == ".metadata":
        write_plain(folder / file, hostile)
    else:
        size = write_zip(folder / "hostile.distcp", hostile).stat().st_size
        edit(folder, _moved(relative_path="hostile.distcp", offset=0, length=size))
    with pytest.raises(InvalidInput, match=r"posix\.system"):
        open_checkpoint(tmp_path / "saved")
    assert not (tmp_path / "sentinel").exists()


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.999])
def test_a_data_file_that_is_cut_is_refused(tmp_path, kept):
    """As one that was copied while it was written."""
    data = next(save(tmp_path / "saved").glob("*.distcp"))
    content = data.read_bytes()
    data.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InvalidInput, match="past the end|truncated"):
        open_checkpoint(tmp_path / "saved")


@st.composite
def cuts(draw):
    """A shape, and the boxes that cuts through it along its axes one after another make of it."""
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    edges = [sorted({0, size, *draw(st.lists(st.integers(0, size), max_size=2))}) for size in shape]
    spans = [[(start, end - start) for start, end in zip(axis, axis[1:])] for axis in edges]
    boxes = [tuple(zip(*box)) for box in product(*spans)]
    return tuple(shape), draw(st.permutations(boxes)), draw(st.integers(1, 9))


@given(cuts())
def test_any_grid_of_chunks_is_put_together_in_order(tmp_path_factory, cut):
    """Whatever the size of the pieces that are read at a time, each piece but the last has that size."""
    shape, boxes, piece = cut
    whole = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)
    path = tmp_path_factory.mktemp("cut") / "chunks"
    starts, content = [], b""
    for offsets, sizes in boxes:
        starts.append(len(content))
        part = whole[tuple(slice(offset, offset + size) for offset, size in zip(offsets, sizes))]
        content += part.contiguous().numpy().tobytes()
    path.write_bytes(content)
    tensor = ChunkedTensor("w", FLOAT32, shape, tuple(boxes), lambda at: StoredTensor(path, starts[at], FLOAT32, boxes[at][1]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK_ELEMENTS", piece)
        sizes = [len(found) for found in tensor.chunks()]
        found = torch.tensor([float(value) for found in tensor.chunks() for value in found]).reshape(shape)
    assert torch.equal(found, whole)
    assert all(size == piece for size in sizes[:-1]) and sum(sizes) == whole.numel()


@given(cuts(), st.data())
def test_chunks_that_overlap_or_leave_a_hole_never_pass(cut, data):
    """One box is moved, shrunk, doubled or left out."""
    shape, boxes, _ = cut
    assert tile(boxes, shape)
    at = data.draw(st.integers(0, len(boxes) - 1))
    offsets, sizes = boxes[at]
    axis = data.draw(st.integers(0, len(shape) - 1))

    def changed(values, by):
        return tuple(value + by * (n == axis) for n, value in enumerate(values))

    others = [*boxes[:at], *boxes[at + 1 :]]
    for spoilt in (
        others,
        [*boxes, boxes[at]],
        [*others, (changed(offsets, 1), sizes)],
        [*others, (offsets, changed(sizes, 1))],
        [*others, (offsets, changed(sizes, -1))],
    ):
        assert not tile(spoilt, shape)


def test_the_values_that_are_loaded_are_those_of_the_chunks(tmp_path):
    """A chunk that was saved transposed is read by its strides."""
    save(tmp_path / "saved", {"w": torch.arange(12.0).reshape(3, 4).T})
    assert torch.equal(load(open_checkpoint(tmp_path / "saved").tensors["w"]), torch.arange(12.0).reshape(3, 4).T)
