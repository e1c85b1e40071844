"""Converts OpenAI's DALL-E encoder into a folder for `FlavaImageCodebook.from_pretrained`.

The functions have the names and signatures of the converter that transformers 4.20.0 to 4.47.1
shipped as ``convert_dalle_to_flava_codebook``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .conversion.account import account, rename_all
from .conversion.plan import given_config, plan_conversion
from .conversion.record import Conversion
from .convert import convert_to_folder, count_parameters
from .errors import InvalidInput
from .progress import Progress, silent
from .reading.options import Options
from .reading.sources import in_memory, open_sources
from .rules.layouts import Layout, recognise
from .rules.tables import CODEBOOK_PREFIX

if TYPE_CHECKING:
    import torch

__all__ = ["convert_dalle_checkpoint", "count_parameters", "upgrade_state_dict"]


def convert_dalle_checkpoint(
    checkpoint_path: str | Path,
    pytorch_dump_folder_path: str | Path | None,
    config_path: str | Path | None = None,
    save_checkpoint: bool = True,
    *,
    container: str | None = None,
    prefix: str | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Conversion | dict[str, "torch.Tensor"]:
    """Converts a DALL-E encoder, pickled (nothing in it is run) or as a state dict.

    Writes a folder and returns what it did; with ``save_checkpoint=False`` only returns the state dict, in float32.

    Raises:
        InvalidInput: an input cannot be read, is something else, or the folder exists or is not named.
        NotFaithful: a key is missing, extra, duplicate or misshapen.
    """
    options = Options(None, checkpoint_path, config_path, container=container, prefix=prefix, force=force, progress=progress)
    if save_checkpoint:
        if pytorch_dump_folder_path is None:
            raise InvalidInput("name the folder to make, or pass save_checkpoint=False for the state dict alone")
        return convert_to_folder(Path(pytorch_dump_folder_path), options)
    from .files.torch_tensors import load

    given = given_config(options)
    with open_sources(options) as sources:
        tensors = plan_conversion(sources, given, options).placement.tensors()
        return {key.removeprefix(CODEBOOK_PREFIX): load(tensor).float() for key, tensor in tensors.items()}


def upgrade_state_dict(state_dict: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    """A DALL-E encoder's state dict under Hugging Face's keys, in float32.

    Raises:
        InvalidInput: the state dict is already converted.
        NotFaithful: two keys meet in one.
    """
    if (layout := recognise(state_dict)) is Layout.HUGGING_FACE_CODEBOOK:
        raise InvalidInput(f"this is {layout.value}; the rules are for {Layout.DALLE.value}")
    filled = account(rename_all([in_memory(state_dict, Layout.DALLE)])).filled
    return {target.removeprefix(CODEBOOK_PREFIX): state_dict[placed.key].float() for target, placed in filled.items()}
