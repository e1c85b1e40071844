"""A checkpoint converts to the same values whichever format, dtype and wrapping it comes in."""

import json
from collections import OrderedDict

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from flava_port.convert import upgrade_state_dict
from tests.builders import tiny_state_dict
from tests.comparing import assert_same_tensors

QUERY = "flava.text_model.encoder.layer.1.attention.attention.query.weight"

WRITERS = {
    "zip": lambda state, path: torch.save(state, path),
    "zip, newest pickle": lambda state, path: torch.save(state, path, pickle_protocol=5),
    "legacy": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "OrderedDict": lambda state, path: torch.save(OrderedDict(state), path),
    "parameters": lambda state, path: torch.save(_as_parameters(state), path),
    "safetensors": lambda state, path: save_file({key: tensor.clone() for key, tensor in state.items()}, path),
}


def _as_parameters(state):
    return {key: torch.nn.Parameter(tensor, requires_grad=tensor.is_floating_point()) for key, tensor in state.items()}


@pytest.fixture
def convert(run_command, tmp_path):
    """Converts ``source`` without a codebook through the command line; the weights that were written."""

    def run(source, *options) -> dict[str, torch.Tensor]:
        out = tmp_path / "out"
        ran = run_command("convert", "--checkpoint_path", source, "--no-codebook", "--pytorch_dump_folder_path", out, *options)
        assert ran.status == 0, ran.err
        return load_file(out / "model.safetensors")

    return run


def _expected(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    upgraded = upgrade_state_dict(state, {})
    return {key: upgraded[key] for key in sorted(upgraded) if "position_ids" not in key}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_every_format_gives_the_same_values(convert, tmp_path, write):
    """Recognised by its bytes: the name of the file says nothing."""
    write(tiny_state_dict(), tmp_path / "source")
    assert_same_tensors(dict(sorted(convert(tmp_path / "source").items())), _expected(tiny_state_dict()), in_order=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_every_float_dtype_becomes_float32(convert, tmp_path, dtype):
    """The value of each number as that dtype has it."""
    narrow = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in tiny_state_dict().items()}
    torch.save(narrow, tmp_path / "source")
    assert_same_tensors(dict(sorted(convert(tmp_path / "source").items())), _expected(narrow), in_order=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_dtype_keep_keeps_every_bit(convert, tmp_path, dtype):
    """And config.json says which dtype to load in."""
    narrow = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in tiny_state_dict().items()}
    torch.save(narrow, tmp_path / "source")
    kept = convert(tmp_path / "source", "--dtype", "keep")
    assert_same_tensors(dict(sorted(kept.items())), {key: tensor.to(dtype) for key, tensor in _expected(narrow).items()}, in_order=True)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == str(dtype).removeprefix("torch.")


def test_dtypes_may_be_mixed_in_one_file(convert, tmp_path):
    """Each tensor keeps its own."""
    mixed = tiny_state_dict()
    source_key = QUERY.replace("flava.text_model", "text_encoder.module")
    mixed[source_key] = mixed[source_key].half()
    torch.save(mixed, tmp_path / "source")
    kept = convert(tmp_path / "source", "--dtype", "keep")
    assert {key for key, tensor in kept.items() if tensor.dtype == torch.float16} == {QUERY}


def test_views_of_one_large_storage_convert(convert, tmp_path):
    """As a checkpoint is that was cut out of a fused, transposed training buffer."""
    fused = {
        key: torch.stack([torch.randn_like(tensor), tensor], dim=-1)[..., 1] if tensor.is_floating_point() else tensor
        for key, tensor in tiny_state_dict().items()
    }
    torch.save(fused, tmp_path / "source")
    assert_same_tensors(dict(sorted(convert(tmp_path / "source").items())), _expected(tiny_state_dict()), in_order=True)


def test_what_was_written_names_its_framework(convert, tmp_path):
    """Releases up to 4.47.1 refuse a safetensors file without it."""
    torch.save(tiny_state_dict(), tmp_path / "source")
    convert(tmp_path / "source")
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
