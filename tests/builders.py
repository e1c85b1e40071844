"""Builds what tests need: tiny checkpoints on disk and in memory, and models loaded from a folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from flava_port.demo import DEMO_SIZES
from flava_port.files.torch_format import write_torch_zip
from flava_port.files.torch_tensors import load
from flava_port.original.config import CodebookConfig, FlavaConfig
from flava_port.original.seeded import made_up_words, seeded_codebook, seeded_state_dict, write_pickled_codebook
from flava_port.target.keys import POSITION_IDS


class Ran(NamedTuple):
    """A command's exit status and output."""

    status: int
    out: str
    err: str


# The demo's: every size differs from every other where the architecture allows it, so that a mix-up shows.
TINY, TINY_CODEBOOK = DEMO_SIZES["tiny"]


@dataclass(frozen=True)
class TinyFiles:
    """A tiny checkpoint (`checkpoint`), its pickled codebook (`codebook`), a `vocabulary` of its size, and their config."""

    checkpoint: Path
    codebook: Path
    vocabulary: Path
    config: FlavaConfig = TINY
    codebook_config: CodebookConfig = TINY_CODEBOOK


def write_tiny(folder: Path, seed: int = 0, config: FlavaConfig = TINY) -> TinyFiles:
    """Writes the files into the folder."""
    files = TinyFiles(folder / "flava.pt", folder / "encoder.pkl", folder / "vocab.txt", config)
    files.vocabulary.write_text("\n".join(made_up_words(config.text_config.vocab_size)) + "\n")
    write_torch_zip(files.checkpoint, seeded_state_dict(config, seed))
    write_pickled_codebook(files.codebook, TINY_CODEBOOK, seed)
    return files


def tiny_state_dict(seed: int = 0) -> dict[str, torch.Tensor]:
    """The tiny checkpoint's tensors in memory, tied ones shared."""
    loaded: dict[int, torch.Tensor] = {}
    sources = seeded_state_dict(TINY, seed)
    return {key: loaded.setdefault(id(source), load(source)) for key, source in sources.items()}


def tiny_codebook(seed: int = 0) -> dict[str, torch.Tensor]:
    """The tiny codebook's tensors in memory, under DALL-E's keys."""
    return {key: load(source) for key, source in seeded_codebook(TINY_CODEBOOK, seed).items()}


def from_pretrained(folder: Path, name: str = "FlavaForPreTraining"):
    """The model in a folder as the installed transformers loads it, in evaluation mode; its keys must all match."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model, info = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        left = [key for key in info.get(kind, ()) if not str(key).endswith("position_ids")]
        assert not left, f"{name}.from_pretrained({folder}): {kind} {left}"
    return model.eval()


def loaded_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights that the installed transformers ends up with, without the buffer that releases up to 4.30.2 add by themselves."""
    state_dict = from_pretrained(folder).state_dict()
    state_dict.pop(POSITION_IDS, None)
    return state_dict
