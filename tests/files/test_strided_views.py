"""Whatever view of whatever storage was saved is read as torch itself reads it."""

import pytest
import torch
from hypothesis import given
from safetensors.torch import save_file

from flava_port.files.tensors import count_nonfinite
from flava_port.files.torch_tensors import as_array, dtype_of
from tests.comparing import assert_same_tensors
from tests.files.reading import read
from tests.files.strategies import Contents, Views, safetensors_contents, strided_state_dicts


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("views") / "file"


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
@given(state=strided_state_dicts())
def test_views_read_as_torch_reads_them(path, new_format, state: Views):
    """Transposed, expanded, overlapping, empty and scalar views of shared storages, with offsets."""
    torch.save(state.tensors(), path, _use_new_zipfile_serialization=new_format)
    theirs = torch.load(path, weights_only=True)
    assert_same_tensors(read(path), {key: tensor.contiguous() for key, tensor in theirs.items()}, in_order=True)


@given(contents=safetensors_contents())
def test_safetensors_read_as_they_were_saved(path, contents: Contents):
    """Any keys, dtypes and shapes."""
    save_file(contents.tensors(), path)
    assert_same_tensors(dict(sorted(read(path).items())), dict(sorted(contents.tensors().items())), in_order=True)


def test_tensors_above_one_chunk_read_whole(path):
    """More elements than one read takes, contiguous and transposed, from the middle of their storage."""
    storage = torch.arange(3 * (1 << 21) + 7, dtype=torch.float32)
    views = {"long": storage[5:], "wide": storage[2 : 2 + (1 << 22)].view(2048, 2048).T}
    torch.save(views, path)
    assert_same_tensors(read(path), {key: view.contiguous() for key, view in views.items()}, in_order=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_what_is_not_finite_is_counted(dtype):
    """In any precision, and in nothing at all."""

    def count(*values: float) -> int:
        return count_nonfinite(as_array(torch.tensor(values, dtype=dtype)), dtype_of(dtype))

    assert (count(), count(*[1.0] * 7), count(1, float("nan"), float("-inf"), 2)) == (0, 0, 2)


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
def test_what_torch_says_of_an_axis_without_steps_means_nothing(path, new_format):
    """The step along an axis of one element, and where a tensor without elements begins, may be any number."""
    storage = torch.arange(64.0)
    views = {
        "one": torch.as_strided(storage, (1, 1, 3), (1 << 61, 1 << 61, 2)),
        "none": torch.as_strided(storage, (0, 4), (4, 1), 1 << 55),
    }
    torch.save(views, path, _use_new_zipfile_serialization=new_format)
    assert_same_tensors(read(path), {key: view.contiguous() for key, view in views.items()}, in_order=True)
