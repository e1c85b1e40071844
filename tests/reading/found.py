"""What is found in a file that torch saved: the model's keys, the names in the file, what is left out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from flava_port.files.checkpoint import read_content
from flava_port.files.torch_tensors import load
from flava_port.reading.finding import Found, Wish, find_model
from flava_port.rules.layouts import Layout
from tests.builders import tiny_codebook, tiny_state_dict
from tests.rules.grammar import first_release, tiny_torchmultimodal

CHECKPOINTS = [layout for layout in Layout if layout not in (Layout.DALLE, Layout.HUGGING_FACE_CODEBOOK, Layout.UNKNOWN)]
CODEBOOKS = [Layout.DALLE, Layout.HUGGING_FACE_CODEBOOK]


def hugging_face(state: Mapping[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """The tiny model under transformers' keys, with its codebook."""
    from flava_port.codebook import upgrade_state_dict as upgrade_codebook
    from flava_port.convert import upgrade_state_dict

    converted = upgrade_state_dict(state or tiny_state_dict(), upgrade_codebook(tiny_codebook()))
    return {key: tensor for key, tensor in converted.items() if "position_ids" not in key}


# The tiny model in each layout, by name, with the layout in which it is found.
MODELS = {
    "original": (tiny_state_dict, Layout.ORIGINAL),
    "torchmultimodal": (tiny_torchmultimodal, Layout.TORCHMULTIMODAL),
    "torchmultimodal of 2022": (lambda: tiny_torchmultimodal(first_release), Layout.TORCHMULTIMODAL),
    "torchmultimodal, bare": (lambda: tiny_torchmultimodal(bare=True), Layout.TORCHMULTIMODAL_MODEL),
    "Hugging Face": (hugging_face, Layout.HUGGING_FACE),
    "Hugging Face, bare": (
        lambda: {key.removeprefix("flava."): value for key, value in hugging_face().items() if key.startswith("flava.")},
        Layout.HUGGING_FACE,
    ),
}


def find(path: Path, content: Any = None, wanted=CHECKPOINTS, **wish: Any) -> Found:
    """The model in a file; ``content`` is saved there first, if it is given."""
    if content is not None:
        torch.save(content, path)
    return find_model(read_content(path), wanted, Wish(**wish))


def by_name(found: Found) -> dict[str, torch.Tensor]:
    """Every tensor that was found, loaded, by its name in the file."""
    checkpoint = found.checkpoint
    return {checkpoint.name_in_file(key): load(tensor) for key, tensor in checkpoint.tensors.items()}
