"""Whatever view of a storage was saved, it is read as torch itself reads it."""

import pytest
import torch
from hypothesis import given
from safetensors.torch import save_file

from tests.comparing import assert_same_tensors
from tests.files.reading import read
from tests.files.strategies import Contents, Views, safetensors_contents, strided_state_dicts


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("views") / "file"


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
@given(state=strided_state_dicts())
def test_views_read_as_torch_reads_them(path, new_format, state: Views):
    """Transposed, expanded, overlapping, empty and scalar views of shared storages are read bit for bit."""
    torch.save(state.tensors(), path, _use_new_zipfile_serialization=new_format)
    theirs = torch.load(path, weights_only=True)
    assert_same_tensors(read(path), {key: tensor.contiguous() for key, tensor in theirs.items()}, in_order=True)


@given(contents=safetensors_contents())
def test_safetensors_read_as_they_were_saved(path, contents: Contents):
    """Safetensors files with any keys, dtypes and shapes are read bit for bit."""
    save_file(contents.tensors(), path)
    assert_same_tensors(dict(sorted(read(path).items())), dict(sorted(contents.tensors().items())), in_order=True)


def test_tensors_above_one_chunk_read_whole(path):
    """A tensor of more elements than one chunk is read whole, contiguous or transposed."""
    storage = torch.arange(3 * (1 << 21) + 7, dtype=torch.float32)
    views = {"long": storage[5:], "wide": storage[2 : 2 + (1 << 22)].view(2048, 2048).T}
    torch.save(views, path)
    assert_same_tensors(read(path), {key: view.contiguous() for key, view in views.items()}, in_order=True)


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
def test_what_torch_says_of_an_axis_without_steps_means_nothing(path, new_format):
    """The stride of an axis of size 1 and the offset of an empty tensor may be any number."""
    storage = torch.arange(64.0)
    views = {
        "one": torch.as_strided(storage, (1, 1, 3), (1 << 61, 1 << 61, 2)),
        "none": torch.as_strided(storage, (0, 4), (4, 1), 1 << 55),
    }
    torch.save(views, path, _use_new_zipfile_serialization=new_format)
    assert_same_tensors(read(path), {key: view.contiguous() for key, view in views.items()}, in_order=True)
