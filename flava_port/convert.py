"""A FLAVA checkpoint of any layout to a Hugging Face folder, every value proven to be the one it was.

`convert_flava_checkpoint`, `upgrade_state_dict` and `count_parameters` have the names and
signatures of the converter that transformers 4.20.0 to 4.47.1 shipped as
``convert_flava_original_pytorch_to_hf``.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from .conversion.account import stop_on
from .conversion.checkpoints import Written, torchmultimodal_layout, write_checkpoints
from .conversion.folder import choose_dtypes, write_model
from .conversion.plan import prepare
from .conversion.record import Conversion, described
from .conversion.sources import local_paths
from .errors import InvalidInput
from .files.staging import check_target
from .progress import Progress, silent
from .rules.layouts import Layout, recognise
from .rules.tables import CODEBOOK_PREFIX, FLAVA
from .target.parts import MODEL

if TYPE_CHECKING:
    import torch

__all__ = ["convert_flava_checkpoint", "convert_to_torchmultimodal", "count_parameters", "upgrade_state_dict"]


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
    dtype: str = "float32",
    max_shard_size: str | int | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Conversion:
    """Converts a checkpoint and its codebook into a folder for `FlavaForPreTraining.from_pretrained`, or for a part's class.

    Args:
        checkpoint_path: the checkpoint, the original's or torchmultimodal's; a local file or an http(s) URL.
        codebook_path: OpenAI's DALL-E encoder, pickled or as a state dict; None for a model without a codebook,
            or one that holds its own, as torchmultimodal's does.
        pytorch_dump_folder_path: the folder to make. It appears whole or not at all.
        config_path: a config.json or its folder; without it, sizes come from the checkpoint's shapes.
        layout: ``original``, ``torchmultimodal`` or ``hf`` (a folder); None to tell the first two by the keys.
        part: ``image``, ``text``, ``multimodal`` or ``model``, for the class of that part alone; None for all there is.
        no_codebook: True leaves a codebook out, False insists on one, None takes what there is.
        head_layer_norm_eps: of a torchmultimodal model's heads, where it was not its default.
        dtype: ``float32``, or ``keep`` for the checkpoint's own.
        max_shard_size: bytes, or ``5GB``; above it the weights are split. Default: 5GB.
        force: replace an existing folder.
        progress: shows bars; see `flava_port.progress`.

    Raises:
        InvalidInput: an input cannot be read, is something else, or the folder exists.
        NotFaithful: the checkpoint was read, but no conversion of it would be the same model.
    """
    target = check_target(Path(pytorch_dump_folder_path), force=force, sources=local_paths(checkpoint_path, codebook_path, config_path))
    with ExitStack() as downloads:
        prepared = prepare(
            checkpoint_path,
            codebook_path,
            config_path,
            layout=layout,
            part=part,
            no_codebook=no_codebook,
            head_layer_norm_eps=head_layer_norm_eps,
            stack=downloads,
            progress=progress,
        )
        return write_model(
            target,
            prepared.sources,
            prepared.placement,
            prepared.config_files,
            dtype=dtype,
            max_shard_size=max_shard_size,
            assumed=prepared.assumed,
            progress=progress,
            key_prefix=prepared.part.prefix,
            differs=prepared.differs,
            made_by=prepared.made_by,
        )


def convert_to_torchmultimodal(
    checkpoint_path: str | Path,
    codebook_path: str | Path | None,
    target_path: str | Path,
    config_path: str | Path | None = None,
    *,
    layout: str | None = None,
    part: str | None = None,
    no_codebook: bool | None = None,
    dtype: str = "float32",
    force: bool = False,
    progress: Progress = silent,
) -> Written:
    """Converts a checkpoint into a file for `load_state_dict` of torchmultimodal's `FLAVAForPreTraining`, codebook included.

    With ``part="model"``, and of encoders alone, the file is for its `FLAVAModel`. See `convert_flava_checkpoint`.

    Raises:
        InvalidInput: an input cannot be read, is something else, or the file exists.
        NotFaithful: the checkpoint was read, but no conversion of it would be the same model.
    """
    if part not in (None, MODEL.name):
        raise InvalidInput(f"--part {part}: torchmultimodal's checkpoints hold the whole model, or --part {MODEL.name}")
    target = check_target(Path(target_path), force=force, sources=local_paths(checkpoint_path, codebook_path, config_path))
    with ExitStack() as downloads:
        prepared = prepare(
            checkpoint_path,
            codebook_path,
            config_path,
            layout=layout,
            part=part,
            no_codebook=no_codebook,
            stack=downloads,
            progress=progress,
        )
        weights, warnings = choose_dtypes(prepared.placement.filled, dtype)
        content = torchmultimodal_layout(weights)
        written = write_checkpoints([target], [content], progress)
        written.described = [*described(prepared.sources, prepared.placement), *(("warning", line) for line in warnings)]
        if prepared.made_by.head_layer_norm_eps is None and prepared.part is not MODEL:
            eps = prepared.config["text_config"]["layer_norm_eps"]
            ours = f"layer_norm_eps={eps}, ignore_index={prepared.config['ce_ignore_index']}"
            written.described.append(
                ("note", f"it computes the same in FLAVAPretrainingLoss({ours}); that class's own defaults are 1e-5 and -1")
            )
        return written


# ------------------------------------------------------------- state dicts in memory, as upstream


_CONVERTED = (Layout.HUGGING_FACE, Layout.HUGGING_FACE_CODEBOOK)


def upgrade_state_dict(
    state_dict: Mapping[str, "torch.Tensor"], codebook_state_dict: Mapping[str, "torch.Tensor"]
) -> dict[str, "torch.Tensor"]:
    """An original state dict under Hugging Face's keys, in float32, with a converted codebook's added.

    Raises:
        InvalidInput: a key is already converted.
        NotFaithful: two keys meet in one, or a key that is dropped differs from the copy that is kept.
    """
    if converted := next((key for key in state_dict if recognise([key]) in _CONVERTED), None):
        raise InvalidInput(f"{converted} is already converted; the rules are for {Layout.ORIGINAL.value}")
    upgraded: dict[str, torch.Tensor] = {}
    origin: dict[str, str] = {}
    problems = []
    for key, value in state_dict.items():
        trace = FLAVA.trace(key)
        if trace.dropped:
            problems += _lost_by_dropping(key, trace.dropped.kept_key(key), state_dict)
        elif trace.target in origin:
            problems.append(f"{key} and {origin[trace.target]} both become {trace.target}")
        else:
            origin[trace.target] = key
            upgraded[trace.target] = value.float()
    stop_on(problems)
    return upgraded | {CODEBOOK_PREFIX + key: value for key, value in codebook_state_dict.items()}


def _lost_by_dropping(key: str, kept_key: str, state_dict: Mapping[str, "torch.Tensor"]) -> list[str]:
    kept = state_dict.get(kept_key)
    if kept is None:
        return [f"{key} would be dropped as a second copy, but there is no {kept_key}"]
    if kept is not state_dict[key] and not kept.equal(state_dict[key]):
        return [f"two copies that should be one differ: {key} and {kept_key}"]
    return []


def count_parameters(state_dict: Mapping[str, "torch.Tensor"]) -> "torch.Tensor | int":
    """The sum of all values, second copies of embeddings left out. It proves little; see `flava_port.output`."""
    return sum(value.float().sum() for key, value in state_dict.items() if "encoder.embeddings" not in key)
