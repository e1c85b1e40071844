"""Reads a checkpoint file back as plain tensors, and compares two state dicts bit for bit."""

from collections.abc import Mapping
from pathlib import Path

import torch

from flava_port.files.checkpoint import open_checkpoint
from flava_port.files.tensors import first_difference
from flava_port.files.torch_tensors import MemoryTensor, load


def read(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the file, loaded, by its key as the file has it."""
    checkpoint = open_checkpoint(path)
    return {checkpoint.name_in_file(key): load(tensor) for key, tensor in checkpoint.tensors.items()}


def assert_same(actual: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """The same keys, shapes, dtypes and bits."""
    __tracebackhide__ = True
    if list(actual) != list(expected):
        raise AssertionError(f"keys differ: {sorted(set(actual) ^ set(expected)) or 'in their order'}")
    for key, tensor in expected.items():
        found = actual[key]
        if (found.shape, found.dtype) != (tensor.shape, tensor.dtype):
            raise AssertionError(f"{key}: {found.dtype} {[*found.shape]}, expected {tensor.dtype} {[*tensor.shape]}")
        if difference := first_difference(MemoryTensor(found), MemoryTensor(tensor)):
            raise AssertionError(f"{key}: values differ, {difference}")
