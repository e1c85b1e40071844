"""OpenAI's DALL-E encoder to a folder for `FlavaImageCodebook.from_pretrained`.

The functions have the names and signatures of the converter that transformers 4.20.0 to 4.47.1
shipped as ``convert_dalle_to_flava_codebook``.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from .conversion.account import account, rename_all, stop_on
from .conversion.folder import write_model
from .conversion.plan import settle_config
from .conversion.record import Conversion
from .conversion.sources import open_source
from .convert import count_parameters
from .errors import InvalidInput
from .files.staging import check_target
from .progress import Progress, silent
from .rules.layouts import Layout, recognise
from .rules.tables import CODEBOOK, CODEBOOK_PREFIX
from .target.config import config_json, read_codebook_config
from .target.installed import shapes_for
from .target.parts import CODEBOOK_PART

if TYPE_CHECKING:
    import torch

__all__ = ["convert_dalle_checkpoint", "count_parameters", "upgrade_state_dict"]


def convert_dalle_checkpoint(
    checkpoint_path: str | Path,
    pytorch_dump_folder_path: str | Path | None,
    config_path: str | Path | None = None,
    save_checkpoint: bool = True,
    *,
    force: bool = False,
    progress: Progress = silent,
) -> Conversion | dict[str, "torch.Tensor"]:
    """Converts a DALL-E encoder, pickled (nothing in it is run) or as a state dict.

    Writes a folder and returns what it did; with ``save_checkpoint=False`` it writes nothing and
    returns the converted state dict, in float32.

    Raises:
        InvalidInput: an input cannot be read, is something else, or the folder exists.
        NotFaithful: a key, shape or dtype does not come out even.
    """
    given = read_codebook_config(Path(config_path)) if config_path is not None else None
    if save_checkpoint:
        target = check_target(Path(pytorch_dump_folder_path), force=force, sources=(Path(checkpoint_path),))
    with ExitStack() as downloads:
        sources = [open_source("codebook", checkpoint_path, (Layout.DALLE,), downloads, progress)]
        renamed, dropped = rename_all(sources)
        config, _ = settle_config(given, renamed, with_codebook=True)
        placement = account(renamed, dropped, shapes_for(config, CODEBOOK_PART))
        if not save_checkpoint:
            from .files.torch_tensors import load

            return {key.removeprefix(CODEBOOK_PREFIX): load(p.tensor).float() for key, p in placement.filled.items()}
        return write_model(
            target,
            sources,
            placement,
            lambda dtype: {"config.json": config_json(config, dtype, CODEBOOK_PART)},
            dtype="float32",
            max_shard_size=None,
            assumed=[],
            progress=progress,
            key_prefix=CODEBOOK_PREFIX,
        )


def upgrade_state_dict(state_dict: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    """A DALL-E encoder's state dict under Hugging Face's keys, in float32.

    Raises:
        InvalidInput: the state dict is already converted.
        NotFaithful: two keys meet in one.
    """
    if (kind := recognise(state_dict)) is Layout.HUGGING_FACE_CODEBOOK:
        raise InvalidInput(f"this is {kind.value}; the rules are for {Layout.DALLE.value}")
    upgraded: dict[str, torch.Tensor] = {}
    origin: dict[str, str] = {}
    problems = []
    for key, value in state_dict.items():
        target = CODEBOOK.rename(key)
        if target in origin:
            problems.append(f"{key} and {origin[target]} both become {target}")
        origin[target] = key
        upgraded[target] = value.float()
    stop_on(problems)
    return upgraded
