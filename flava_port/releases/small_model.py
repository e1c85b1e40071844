"""The small seeded model that observations run: its config, its weights, the ways to build it, and folders of it."""

import json
import zlib
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InvalidInput
from ..files.safetensors_format import write_safetensors
from ..files.torch_tensors import MemoryTensor, load
from ..original.config import CodebookConfig, FlavaConfig, ImageConfig, MultimodalConfig, TextConfig
from ..original.seeded import seeded_codebook, seeded_state_dict
from ..rules.tables import CODEBOOK, CODEBOOK_PREFIX, FLAVA
from ..target.config import DEFAULTS, config_json
from ..target.keys import POSITION_IDS

if TYPE_CHECKING:
    from transformers import FlavaForPreTraining

# Two heads in every encoder, other sizes wherever they may differ, so that a mix-up shows.
SMALL_MODEL = FlavaConfig(
    ImageConfig(32, 2, 2, 40, image_size=12, patch_size=4, vocab_size=30),
    TextConfig(32, 2, 2, 36, vocab_size=50, max_position_embeddings=14, type_vocab_size=3),
    MultimodalConfig(32, 1, 2, 44),
    projection_dim=24,
)
SMALL_CODEBOOK = CodebookConfig(hidden_size=8, vocab_size=30)


@dataclass(frozen=True)
class Variant:
    """How the small model is built: in which precision, and with which fields of its config changed, as ``section.field``."""

    dtype: str = "float64"
    fields: tuple[tuple[str, Any], ...] = ()
    checkpointing: bool = False


AS_IT_IS = Variant()


def small_config(fields: tuple[tuple[str, Any], ...] = ()) -> dict[str, Any]:
    """The small model's config, in normal form but for the fields that are changed."""
    whole = deepcopy(DEFAULTS)
    for section in ("image_config", "text_config", "multimodal_config"):
        whole[section] |= asdict(getattr(SMALL_MODEL, section))
    whole["image_codebook_config"] |= asdict(SMALL_CODEBOOK)
    whole |= {"hidden_size": 32, "projection_dim": SMALL_MODEL.projection_dim}
    for name, value in fields:
        section, _, field = name.rpartition(".")
        (whole[section] if section else whole)[field] = list(value) if isinstance(value, tuple) else value
    return whole


@cache
def _weights() -> dict[str, Tensor]:
    found = {target: load(tensor) for key, tensor in seeded_state_dict(SMALL_MODEL).items() if (target := FLAVA.rename(key)) is not None}
    del found[POSITION_IDS]
    return found | {f"{CODEBOOK_PREFIX}{CODEBOOK.rename(key)}": load(tensor) for key, tensor in seeded_codebook(SMALL_CODEBOOK).items()}


def small_weights() -> dict[str, Tensor]:
    """The small model's weights in float32 under transformers' keys, tied ones under both of theirs."""
    return {key: value.clone() for key, value in _weights().items()}


def new_model(fields: tuple[tuple[str, Any], ...] = ()) -> "FlavaForPreTraining":
    """A new model of the installed transformers, in evaluation mode."""
    import transformers

    return transformers.FlavaForPreTraining(transformers.FlavaConfig.from_dict(small_config(fields))).eval()


def build_model(variant: Variant) -> "FlavaForPreTraining":
    """The small model with its weights, all of which require gradients. What only a changed config has is seeded.

    Raises:
        InvalidInput: the installed transformers has other keys than the rules lead to.
    """
    model = new_model(variant.fields)
    own, found = model.state_dict(), _weights()
    if not variant.fields:
        missing = [key for key in own if key not in found and key != POSITION_IDS]
        unexpected = [key for key in found if key not in own]
        if missing or unexpected:
            amiss = [*(f"missing {key}" for key in missing[:2]), *(f"unexpected {key}" for key in unexpected[:2])]
            raise InvalidInput(f"its keys are not those that the rules lead to: {', '.join(amiss)}")
    state = {key: found[key] if key in found and found[key].shape == value.shape else _seeded(key, value) for key, value in own.items()}
    model.load_state_dict(state)
    if variant.checkpointing:
        model.gradient_checkpointing_enable()
    return model.to(getattr(torch, variant.dtype)).requires_grad_(True)


def _seeded(key: str, like: Tensor) -> Tensor:
    if not like.is_floating_point():
        return like
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    return torch.randn(like.shape, generator=generator) * 0.2


def write_folder(folder: Path, state: Mapping[str, Tensor], *, says_tied: bool = True, dtype: str | None = "float32") -> None:
    """Makes a folder of the small model with these weights, as `convert` does, but that the config need not speak of ties.

    ``dtype`` is what the config says of theirs.
    """
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", {key: MemoryTensor(value) for key, value in state.items()})
    said = config_json(small_config(), dtype or "float32")
    if dtype is None:
        said = {name: value for name, value in said.items() if name not in ("torch_dtype", "dtype")}
    if not says_tied:
        del said["tie_word_embeddings"]
    (folder / "config.json").write_text(json.dumps(said))
