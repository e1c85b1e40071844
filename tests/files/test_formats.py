"""A checkpoint converts to the same values whichever format, dtype and wrapping it comes in."""

import json
from collections import OrderedDict

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from flava_port.convert import upgrade_state_dict
from tests.builders import tiny_state_dict
from tests.comparing import assert_same_tensors
from tests.files.saving import SAVERS

QUERY = "flava.text_model.encoder.layer.1.attention.attention.query.weight"

ALL_SAVERS = {
    **SAVERS,
    "zip, newest pickle": lambda state, path: torch.save(state, path, pickle_protocol=5),
    "OrderedDict": lambda state, path: torch.save(OrderedDict(state), path),
    "parameters": lambda state, path: torch.save(_as_parameters(state), path),
}


def _as_parameters(state):
    return {key: torch.nn.Parameter(tensor, requires_grad=tensor.is_floating_point()) for key, tensor in state.items()}


@pytest.fixture
def convert(run_command, tmp_path):
    """Converts ``source`` without a codebook through the command line, and gives the written weights."""

    def run(source, *options) -> dict[str, torch.Tensor]:
        out = tmp_path / "out"
        ran = run_command("convert", "--checkpoint_path", source, "--no-codebook", "--pytorch_dump_folder_path", out, *options)
        assert ran.status == 0, ran.err
        return load_file(out / "model.safetensors")

    return run


def _expected(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    upgraded = upgrade_state_dict(state, {})
    return {key: upgraded[key] for key in sorted(upgraded) if "position_ids" not in key}


@pytest.mark.parametrize("save", ALL_SAVERS.values(), ids=ALL_SAVERS)
def test_every_format_gives_the_same_values(convert, tmp_path, save):
    """A file in any format is recognised by its bytes and gives the same weights; its name says nothing."""
    save(tiny_state_dict(), tmp_path / "source")
    assert_same_tensors(dict(sorted(convert(tmp_path / "source").items())), _expected(tiny_state_dict()), in_order=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_every_float_dtype_becomes_float32(convert, tmp_path, dtype):
    """Weights of any float dtype are written in float32 with the values that they have in their dtype."""
    narrow = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in tiny_state_dict().items()}
    torch.save(narrow, tmp_path / "source")
    assert_same_tensors(dict(sorted(convert(tmp_path / "source").items())), _expected(narrow), in_order=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_dtype_keep_keeps_every_bit(convert, tmp_path, dtype):
    """With ``--dtype keep`` the bits and dtypes stay, and config.json names the dtype to load."""
    narrow = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in tiny_state_dict().items()}
    torch.save(narrow, tmp_path / "source")
    kept = convert(tmp_path / "source", "--dtype", "keep")
    assert_same_tensors(dict(sorted(kept.items())), {key: tensor.to(dtype) for key, tensor in _expected(narrow).items()}, in_order=True)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == str(dtype).removeprefix("torch.")


def test_dtypes_may_be_mixed_in_one_file(convert, tmp_path):
    """Each tensor keeps its own dtype."""
    mixed = tiny_state_dict()
    source_key = QUERY.replace("flava.text_model", "text_encoder.module")
    mixed[source_key] = mixed[source_key].half()
    torch.save(mixed, tmp_path / "source")
    kept = convert(tmp_path / "source", "--dtype", "keep")
    assert {key for key, tensor in kept.items() if tensor.dtype == torch.float16} == {QUERY}


def test_views_of_one_large_storage_convert(convert, tmp_path):
    """Weights that are strided views of larger tensors are read right, as from a fused training buffer."""
    fused = {
        key: torch.stack([torch.randn_like(tensor), tensor], dim=-1)[..., 1] if tensor.is_floating_point() else tensor
        for key, tensor in tiny_state_dict().items()
    }
    torch.save(fused, tmp_path / "source")
    assert_same_tensors(dict(sorted(convert(tmp_path / "source").items())), _expected(tiny_state_dict()), in_order=True)


def test_what_was_written_names_its_framework(convert, tmp_path):
    """The file's metadata says ``pt``: transformers up to 4.47.1 refuses a safetensors file without it."""
    torch.save(tiny_state_dict(), tmp_path / "source")
    convert(tmp_path / "source")
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
