"""Comparisons that name the key at fault."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file

from flava_port.rules.tables import CODEBOOK, CODEBOOK_PREFIX, source_name


def assert_same_tensors(actual: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """The same keys, shapes, dtypes and bits."""
    __tracebackhide__ = True
    assert not (lost := sorted(set(expected) - set(actual))), f"missing {lost[:5]}"
    assert not (extra := sorted(set(actual) - set(expected))), f"unexpected {extra[:5]}"
    for key, value in expected.items():
        ours = actual[key]
        described = f"{key}: {ours.dtype} {list(ours.shape)} where {value.dtype} {list(value.shape)} belongs"
        assert (ours.dtype, ours.shape) == (value.dtype, value.shape), described
        assert torch.equal(_bits(ours), _bits(value)), f"{key}: values differ"


def assert_converted(folder: Path, state_dict: Mapping[str, torch.Tensor], codebook: Mapping[str, torch.Tensor]) -> None:
    """The folder's file holds, under each Hugging Face key, the bits of the original's key."""
    __tracebackhide__ = True
    everything = dict(state_dict) | {f"codebook {key}": value for key, value in codebook.items()}
    for key, value in load_file(folder / "model.safetensors").items():
        is_codebook = key.startswith(CODEBOOK_PREFIX)
        source = f"codebook {CODEBOOK.source_of(key.removeprefix(CODEBOOK_PREFIX))}" if is_codebook else source_name(key)
        assert source in everything, f"{key} came from {source}, which the original does not have"
        assert torch.equal(_bits(value), _bits(everything[source].float())), f"{key}: not the values of {source}"


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)
