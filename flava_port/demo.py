"""``flava-port demo``: makes a checkpoint of the published form, converts it, and proves the result."""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from .convert import convert_flava_checkpoint
from .errors import NotFaithful
from .files.checkpoint import file_sha256
from .files.model_folder import WEIGHTS
from .files.staging import check_target, write_text
from .files.tensors import StoredTensor, first_difference
from .files.torch_format import write_torch_zip
from .files.torch_tensors import MemoryTensor
from .original.config import CodebookConfig, FlavaConfig, ImageConfig, MultimodalConfig, TextConfig
from .original.seeded import made_up_words, seeded_state_dict, write_pickled_codebook
from .progress import Progress, silent
from .reading.sources import open_folder
from .revert import revert_flava_checkpoint
from .target.installed import load_model

# `tiny` is what most tests use too. Every size differs from every other where the architecture allows it, so that a
# mix-up shows; heads are 64 wide, as a conversion takes them to be.
DEMO_SIZES = {
    "tiny": (
        FlavaConfig(
            ImageConfig(64, 2, 1, 80, image_size=24, patch_size=8, vocab_size=40),
            TextConfig(64, 3, 1, 72, vocab_size=60, max_position_embeddings=20, type_vocab_size=3),
            MultimodalConfig(64, 1, 1, 88),
            projection_dim=16,
        ),
        CodebookConfig(hidden_size=8, vocab_size=40),
    ),
    "full": (FlavaConfig(), CodebookConfig()),
}


def run(size: str, keep: str | Path | None, *, progress: Progress = silent, say: Callable[[str], object] = print) -> None:
    """Makes a seeded checkpoint, converts it, loads the result, and reverts it. ``say`` gets each line of the report.

    ``size`` is a key of `DEMO_SIZES`; ``keep`` the folder that keeps the files, or None for a temporary one.

    Raises:
        InvalidInput: ``keep`` is a folder that exists and is not empty.
        NotFaithful: a value changed, which would be a bug here or in transformers.
    """
    with ExitStack() as stack:
        if keep is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flava_port-demo-")))
        else:
            folder = check_target(Path(keep), force=False)
            folder.mkdir(parents=True, exist_ok=True)
        config, codebook_config = DEMO_SIZES[size]
        checkpoint, codebook, converted = folder / "flava_original.pt", folder / "encoder.pkl", folder / "flava"
        write_torch_zip(checkpoint, seeded_state_dict(config))
        write_pickled_codebook(codebook, codebook_config)
        vocabulary = folder / "vocab.txt"
        write_text(vocabulary, "\n".join(made_up_words(config.text_config.vocab_size)))
        say(f"made     {checkpoint.name} and {codebook.name}: seeded weights, laid out as published; {vocabulary.name}: letters\n")
        say(convert_flava_checkpoint(checkpoint, codebook, converted, tokenizer=vocabulary, progress=progress).summary())
        say(_loads_exactly(converted))
        reverted = folder / "reverted.pt", folder / "reverted_codebook.pt"
        revert_flava_checkpoint(converted, *reverted, progress=progress)
        again = folder / "flava_again"
        convert_flava_checkpoint(*reverted, again, tokenizer=vocabulary, progress=progress)
        if file_sha256(converted / WEIGHTS) != file_sha256(again / WEIGHTS):
            raise NotFaithful("convert, revert, convert did not give the same bytes; please report this")
        say("reverted and converted again: the same bytes")
        if keep is not None:
            say(f"\nkept in  {folder}")


def _loads_exactly(folder: Path) -> str:
    """Compares what `from_pretrained` loads with the folder's file, bit for bit. Returns the line that says so."""
    model, version = load_model(folder)
    loaded = model.state_dict()
    for key, stored in open_folder(folder).tensors.items():
        assert isinstance(stored, StoredTensor)  # an unsupported tensor cannot be in a file that we wrote
        if difference := first_difference(stored, MemoryTensor(loaded[key])):
            raise NotFaithful(f"transformers {version} loads {key} wrong, {difference}; please report this")
    return f"loaded   by FlavaForPreTraining.from_pretrained (transformers {version}): every value equal, bit for bit"
