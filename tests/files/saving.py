"""Saves a state dict with torch and with safetensors, as people do."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file


def save_legacy(state: object, path: Path) -> None:
    """In the format of torch before 1.6."""
    torch.save(state, path, _use_new_zipfile_serialization=False)


def save_safetensors(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Every tensor is copied first: safetensors takes none that shares memory or is strided."""
    save_file({key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in state.items()}, path)


SAVERS = {"zip": torch.save, "legacy": save_legacy, "safetensors": save_safetensors}
