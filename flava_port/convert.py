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
from .conversion.options import Options
from .conversion.plan import given_config, plan_conversion
from .conversion.record import Conversion, conversion_record
from .conversion.sources import in_memory, open_sources
from .errors import InvalidInput
from .files.checkpoint import file_sha256
from .files.owned import RECORD, check_folder, is_written, owned_in
from .files.staging import clear_leftovers, write_json
from .progress import Progress, in_background, silent
from .rules.layouts import Layout, recognise
from .rules.tables import CODEBOOK_PREFIX

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
        container: the name of the dict in the checkpoint's file that is the state dict, where several could be.
        prefix: what stands before the model's keys in that state dict, where several prefixes could be.
        drop: patterns (``classifier.*``) of keys in the file to leave out.
        dtype: ``float32``, or ``keep`` for the checkpoint's own.
        max_shard_size: bytes, or ``5GB``; above it the weights are split. Default: 5GB.
        force: replace what flava-port wrote into an existing folder; what others put there stays.
        progress: shows bars; see `flava_port.progress`.

    Raises:
        InvalidInput: an input cannot be read, is something else, or the folder exists.
        NotFaithful: the checkpoint was read, but no conversion of it would be the same model.
    """
    options = Options(
        checkpoint_path,
        codebook_path,
        config_path,
        layout=layout,
        part=part,
        no_codebook=no_codebook,
        head_layer_norm_eps=head_layer_norm_eps,
        container=container,
        prefix=prefix,
        drop=drop,
        dtype=dtype,
        max_shard_size=max_shard_size,
        force=force,
        progress=progress,
    )
    return convert_to_folder(Path(pytorch_dump_folder_path), options)


def convert_to_folder(target: Path, options: Options) -> Conversion:
    """The conversion of `convert_flava_checkpoint`, which says what it raises.

    Tensors are read, cast and written a chunk at a time, so that none has to fit in memory.
    """
    target = check_folder(target, force=options.force, sources=options.local_paths())
    given = given_config(options)

    # Open: the keys, dtypes and shapes of each file. Its keys tell its layout.
    with open_sources(options) as sources:
        digests = {path: in_background(file_sha256, path) for source in sources for path in source.files}

        # Plan: rename every key, read the model's sizes from the shapes, account for every key of both sides.
        plan = plan_conversion(sources, given, options)
        weights, warnings = choose_dtypes(plan.placement, options.dtype)
        weights = {key.removeprefix(plan.part.prefix): tensor for key, tensor in weights.items()}

        # Write and prove: into a hidden folder, which is renamed to the target when the block ends well.
        with proven_folder(target, weights, owned_in(target), options.max_shard_size, options.progress) as (folder, proven):
            files = plan.config_files(loading_dtype(weights))
            for name, content in files.items():
                write_json(folder / name, content)
            warnings += [f"{key} holds {tensor.nonfinite} NaN or infinite values" for key, tensor in proven.items() if tensor.nonfinite]
            conversion = Conversion(target, plan, files["config.json"], proven, warnings)
            write_json(folder / RECORD, conversion_record(conversion, {path: digest.result() for path, digest in digests.items()}))
    return replace(conversion, notes=clear_leftovers(target, is_written))


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
