"""Converts a FLAVA checkpoint of any layout into a folder of transformers', and proves every value to be the one it was.

`convert_to_folder` is the whole conversion, step by step. `convert_flava_checkpoint`, `upgrade_state_dict` and
`count_parameters` have the names and signatures of the converter that transformers 4.20.0 to 4.47.1 shipped as
``convert_flava_original_pytorch_to_hf``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .conversion.account import account, rename_all
from .conversion.folder import choose_dtypes, loading_dtype, proven_folder
from .conversion.plan import given_config, plan_conversion
from .conversion.record import Conversion, conversion_record
from .errors import InvalidInput
from .files.checkpoint import file_sha256
from .files.owned import RECORD, check_folder, owned_in, written_in
from .files.staging import clear_leftovers, write_files
from .files.vocabulary import read_vocabulary
from .progress import Progress, in_background, silent
from .reading.options import Options
from .reading.sources import in_memory, open_sources
from .rules.layouts import Layout, recognise
from .rules.tables import CODEBOOK_PREFIX
from .target.card import own_card_in, write_card
from .target.config import config_json
from .target.processor import processor_files
from .target.tokenizer import choose_tokenizer

if TYPE_CHECKING:
    import torch

__all__ = ["convert_flava_checkpoint", "count_parameters", "upgrade_state_dict"]


def convert_flava_checkpoint(
    checkpoint_path: str | Path,
    codebook_path: str | Path | None,
    pytorch_dump_folder_path: str | Path,
    config_path: str | Path | None = None,
    *,
    layout: str | None = None,
    part: str | None = None,
    no_codebook: bool | None = None,
    head_layer_norm_eps: float | None = None,
    container: str | None = None,
    prefix: str | None = None,
    drop: Sequence[str] = (),
    dtype: str = "float32",
    max_shard_size: str | int | None = None,
    force: bool = False,
    tokenizer: str | Path | None = None,
    progress: Progress = silent,
) -> Conversion:
    """Converts a checkpoint and its codebook into a folder for `FlavaForPreTraining.from_pretrained`, or for a part's class.

    Args:
        checkpoint_path: the checkpoint, of any layout; a local file or folder, or an http(s) URL.
        codebook_path: OpenAI's DALL-E encoder, pickled or as a state dict, or what was converted from it; None for a
            model without a codebook, or one that holds its own, as torchmultimodal's does.
        pytorch_dump_folder_path: the folder to make. It appears whole or not at all.
        config_path: a config.json or its folder; without it, sizes come from the checkpoint's shapes.
        layout: ``original``, ``torchmultimodal`` or ``hf``; None to tell it by the keys.
        part: ``image``, ``text``, ``multimodal`` or ``model``, for the class of that part alone; None for all there is.
        no_codebook: True leaves a codebook out, False insists on one, None takes what there is.
        head_layer_norm_eps: of a torchmultimodal model's heads, where it was not its default.
        container, prefix: the dict in the file that is the state dict, and what stands before its keys, where several could be.
        drop: patterns (``classifier.*``) of keys in the file to leave out.
        dtype, max_shard_size: ``float32``, or ``keep`` for the checkpoint's own; bytes, or ``5GB``, above which weights are split.
        force: replace what flava-port wrote into an existing folder; what others put there stays.
        tokenizer: a folder, vocab.txt, tokenizer.json or name on the hub; None for FLAVA's, if the hub's local cache has it.
        progress: shows bars; see `flava_port.progress`.

    Raises:
        InvalidInput: an input cannot be read, is something else, or the folder exists.
        NotFaithful: the checkpoint was read, but no conversion of it would be the same model.
    """
    asked = container, prefix, drop, dtype, max_shard_size, force, tokenizer, progress
    options = Options(checkpoint_path, codebook_path, config_path, layout, part, no_codebook, head_layer_norm_eps, *asked)
    return convert_to_folder(Path(pytorch_dump_folder_path), options)


def convert_to_folder(target: Path, options: Options) -> Conversion:
    """The conversion of `convert_flava_checkpoint`, which says what it raises.

    Tensors are read, cast and written a chunk at a time, so that none has to fit in memory.
    """
    target = check_folder(target, force=options.force, sources=options.local_paths())
    given = given_config(options)
    vocabulary = read_vocabulary(options.tokenizer) if options.tokenizer is not None else None

    # Open: the keys, dtypes and shapes of each file. Its keys tell its layout.
    with open_sources(options) as sources:
        digests = {path: in_background(file_sha256, path) for source in sources for path in source.files}

        # Plan: rename every key, read the model's sizes from the shapes, account for every key of both sides.
        plan = plan_conversion(sources, given, options)
        tokenizer = choose_tokenizer(vocabulary, options.folder(), plan.part, plan.config)
        weights, warnings = choose_dtypes(plan.placement, options.dtype)
        weights = {key.removeprefix(plan.part.prefix): tensor for key, tensor in weights.items()}

        # Write and prove: into a hidden folder, which is renamed to the target when the block ends well.
        owned = {*owned_in(target), *own_card_in(target)}
        with proven_folder(target, weights, owned, options.max_shard_size, options.progress) as (folder, proven):
            config = config_json(plan.config, loading_dtype(weights), plan.part)
            warnings += [f"{key} holds {tensor.nonfinite} NaN or infinite values" for key, tensor in proven.items() if tensor.nonfinite]
            conversion = Conversion(target, plan, config, proven, warnings, tokenizer)
            record = conversion_record(conversion, {path: digest.result() for path, digest in digests.items()})
            write_files(folder, {"config.json": config, **processor_files(plan.config, plan.part, tokenizer), RECORD: record})
            write_card(folder, target, record, plan.part)
    return replace(conversion, notes=clear_leftovers(target, lambda folder: written_in(folder) | own_card_in(folder)))


def upgrade_state_dict(
    state_dict: Mapping[str, "torch.Tensor"], codebook_state_dict: Mapping[str, "torch.Tensor"]
) -> dict[str, "torch.Tensor"]:
    """An original state dict under Hugging Face's keys, in float32, with a converted codebook's added as it is.

    Raises:
        InvalidInput: a key is already converted.
        NotFaithful: two keys meet in one, or a key that is dropped differs from the copy that is kept.
    """
    converted = (Layout.HUGGING_FACE, Layout.HUGGING_FACE_CODEBOOK)
    if found := next((key for key in state_dict if recognise([key]) in converted), None):
        raise InvalidInput(f"{found} is already converted; the rules are for {Layout.ORIGINAL.value}")
    filled = account(rename_all([in_memory(state_dict, Layout.ORIGINAL)])).filled
    upgraded = {target: state_dict[placed.key].float() for target, placed in filled.items()}
    return upgraded | {CODEBOOK_PREFIX + key: value for key, value in codebook_state_dict.items()}


def count_parameters(state_dict: Mapping[str, "torch.Tensor"]) -> "torch.Tensor | int":
    """The sum of all values, as upstream's function of this name has it; second copies of embeddings are left out."""
    return sum(value.float().sum() for key, value in state_dict.items() if "encoder.embeddings" not in key)
