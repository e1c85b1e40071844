"""Reads a checkpoint file back as plain tensors."""

from pathlib import Path

import torch

from flava_port.files.checkpoint import open_checkpoint
from flava_port.files.torch_tensors import load


def read(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the file, loaded, by its key as the file has it."""
    checkpoint = open_checkpoint(path)
    return {checkpoint.name_in_file(key): load(tensor) for key, tensor in checkpoint.tensors.items()}
