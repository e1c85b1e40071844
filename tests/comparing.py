"""Compares state dicts bit for bit. A failure names the first key at fault, and where in its tensor."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file

from flava_port.rules.tables import CODEBOOK, CODEBOOK_PREFIX, source_name
from flava_port.text import few


def assert_same_tensors(actual: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], *, in_order: bool = False) -> None:
    """The same keys, shapes, dtypes and bits; with ``in_order`` the same order of keys too."""
    __tracebackhide__ = True
    missing, extra = sorted(expected.keys() - actual.keys()), sorted(actual.keys() - expected.keys())
    if missing or extra:
        raise AssertionError(
            "; ".join(f"{what}: {', '.join(few(keys, 5))}" for what, keys in (("missing", missing), ("extra", extra)) if keys)
        )
    if in_order and list(actual) != list(expected):
        key, other = next((one, other) for one, other in zip(actual, expected) if one != other)
        raise AssertionError(f"{key}: stands where {other} should")
    for key, value in expected.items():
        assert_same_tensor(key, actual[key], value)


def assert_same_tensor(key: str, actual: torch.Tensor, expected: torch.Tensor) -> None:
    """The same shape, dtype and bits, NaN and the sign of zero included."""
    __tracebackhide__ = True
    if (actual.dtype, actual.shape) != (expected.dtype, expected.shape):
        raise AssertionError(f"{key}: {actual.dtype} {[*actual.shape]}, expected {expected.dtype} {[*expected.shape]}")
    if torch.equal(_bits(actual), _bits(expected)):
        return
    width = expected.element_size()
    differs = (_bits(actual) != _bits(expected)).view(-1, width).any(dim=1)
    first = int(differs.nonzero()[0])
    place = (torch.arange(expected.numel()).reshape(expected.shape) == first).nonzero()[0].tolist()
    values = f"actual {actual.reshape(-1)[first].item()}, expected {expected.reshape(-1)[first].item()}"
    raise AssertionError(f"{key}: values differ, first at {place}: {values}; {int(differs.sum())} of {differs.numel()} differ")


def assert_converted(folder: Path, state_dict: Mapping[str, torch.Tensor], codebook: Mapping[str, torch.Tensor]) -> None:
    """The folder's file holds, under each Hugging Face key, the values of the original's key, in float32."""
    __tracebackhide__ = True
    everything = dict(state_dict) | {f"codebook {key}": value for key, value in codebook.items()}
    for key, value in load_file(folder / "model.safetensors").items():
        is_codebook = key.startswith(CODEBOOK_PREFIX)
        source = f"codebook {CODEBOOK.source_of(key.removeprefix(CODEBOOK_PREFIX))}" if is_codebook else source_name(key)
        assert source in everything, f"{key} came from {source}, which the original does not have"
        assert_same_tensor(f"{key}, from {source}", value, everything[source].float())


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    # cloned, as a stride of 0 may stay where `contiguous` finds nothing to do
    return tensor.detach().clone(memory_format=torch.contiguous_format).view(-1).view(torch.uint8)
