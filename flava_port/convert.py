"""A FLAVA checkpoint of any layout to a Hugging Face folder, every value proven to be the one it was.

`convert_flava_checkpoint`, `upgrade_state_dict` and `count_parameters` have the names and
signatures of the converter that transformers 4.20.0 to 4.47.1 shipped as
``convert_flava_original_pytorch_to_hf``.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import config as configs
from .download import is_url
from .errors import InvalidInput, NotFaithful
from .layout import HEADS, expected_layout
from .parts import MODEL, PARTS, WHOLE, WITHOUT_CODEBOOK, Part
from .placing import Made, Placed, Placement, Source, account, rename_all, shapes_of, stop_on
from .port import Conversion, choose_dtypes, described, has_codebook, open_sources, write_model
from .progress import Progress, silent
from .recognise import Kind, recognise
from .rules import CODEBOOK_PREFIX, FLAVA
from .semantics import ORIGINAL, Semantics, semantics_of
from .staging import check_target
from .tensors import ArrayTensor, values
from .to_checkpoint import Written, torchmultimodal_state_dict, write_checkpoints

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
    target = check_target(Path(pytorch_dump_folder_path), force=force, sources=_local(checkpoint_path, codebook_path, config_path))
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


@dataclass(frozen=True)
class Prepared:
    """Everything about a conversion that is known before a weight is written."""

    sources: list[Source]
    part: Part
    config: dict
    assumed: list[str]
    placement: Placement
    made_by: Semantics
    differs: list[str]

    def config_files(self, loading_dtype: str) -> dict[str, dict]:
        """The JSON files of the folder, for weights that load in a dtype."""
        files = {"config.json": configs.config_json(self.config, loading_dtype, self.part)}
        if self.part.section in ("", "image_config"):
            files["preprocessor_config.json"] = configs.preprocessor_json(self.config)
        return files


def prepare(
    checkpoint_path: str | Path,
    codebook_path: str | Path | None,
    config_path: str | Path | None,
    *,
    layout: str | None,
    stack: ExitStack,
    progress: Progress,
    part: str | None = None,
    no_codebook: bool | None = None,
    head_layer_norm_eps: float | None = None,
) -> Prepared:
    """Opens the sources, settles the config and accounts for every key; see `convert_flava_checkpoint`."""
    if part is not None and codebook_path is not None:
        raise InvalidInput(f"--part {part} has no codebook; leave out --codebook_path")
    if layout == "hf" and config_path is None:
        config_path = checkpoint_path
    given = configs.read_config(Path(config_path)) if config_path is not None else None
    sources = open_sources(checkpoint_path, codebook_path, layout, stack, progress)
    chosen = _choose_part(part, sources, no_codebook)
    made_by = semantics_of(sources[0].kind)
    if head_layer_norm_eps is not None:
        made_by = replace(made_by, head_layer_norm_eps=head_layer_norm_eps)
    renamed, dropped = rename_all(sources)
    config, assumed = settle_config(given, renamed, with_codebook=chosen is WHOLE and has_codebook(sources), semantics=made_by)
    try:
        placement = account(renamed, dropped, expected_layout(config, chosen).shapes, chosen, _can_be_made(chosen, config))
    except NotFaithful as error:
        raise NotFaithful(f"{error}{_hint(chosen, renamed)}") from None
    return Prepared(sources, chosen, config, assumed, placement, made_by, differences(config, placement, made_by))


def _choose_part(part: str | None, sources: list[Source], no_codebook: bool | None) -> Part:
    """What to convert: the part that was named; of encoders alone, the model; else all there is."""
    if part is not None:
        return PARTS[part]
    if sources[0].kind is Kind.TORCHMULTIMODAL_MODEL or not _has_heads(sources):
        if len(sources) > 1:
            raise InvalidInput(f"{sources[0].checkpoint.path}: encoders alone go with no codebook; leave out --codebook_path")
        return MODEL
    if no_codebook is False and not has_codebook(sources):
        raise InvalidInput("pass --codebook_path, or --no-codebook for a model without one")
    return WITHOUT_CODEBOOK if no_codebook else WHOLE


def _has_heads(sources: list[Source]) -> bool:
    """False only for a folder of transformers' `FlavaModel`; any other layout without heads is one that lacks them."""
    return sources[0].kind is not Kind.HUGGING_FACE or any(not MODEL.holds(key) for key in sources[0].checkpoint.tensors)


LOGIT_SCALE = "flava.logit_scale"


def _can_be_made(part: Part, config: dict) -> dict[str, Made]:
    """The scale of the contrastive loss, which `FlavaModel` holds and does not use, and encoders alone do not have."""
    if part is not MODEL:
        return {}
    value = config["logit_scale_init_value"]
    because = f"{value}, transformers' initial value: the checkpoint has none, and no output of FlavaModel shows it"
    return {LOGIT_SCALE: Made(ArrayTensor(np.array(value, np.float32)), because)}


def _hint(part: Part, renamed: Mapping[str, Placed]) -> str:
    """What would help where a whole model is wanted of a checkpoint that has no heads."""
    has_heads = any(key.split(".")[0] in HEAD_NAMES for key in renamed)
    return "" if part.prefix or has_heads else "\n  there are no pretraining heads in it; --part model converts the encoders alone"


HEAD_NAMES = {*HEADS, "itm_head"}


def differences(config: dict, placement: Placement, made_by: Semantics) -> list[str]:
    """What transformers cannot be told by any config, so that the converted model computes something else: by how much, and why."""
    found = []
    head_eps = made_by.head_layer_norm_eps
    for section, heads in (("image_config", "mim_head and mmm_image_head"), ("text_config", "mlm_head and mmm_text_head")):
        eps = config[section]["layer_norm_eps"]
        if head_eps is not None and head_eps != eps and f"{heads.split()[0]}.bias" in placement.filled:
            size = abs(sqrt((0.1 + head_eps) / (0.1 + eps)) - 1)
            found.append(
                f"{heads}: their layer norms had epsilon {head_eps}; transformers gives them their encoder's, {eps}. What they normalise comes "
                f"out larger by sqrt((v + {head_eps}) / (v + {eps})), v its variance: by {size:.1e} of itself for v = 0.1; verify measures it"
            )
    if made_by.logit_scale_range and LOGIT_SCALE in placement.filled:
        low, high = made_by.logit_scale_range
        value = float(values(placement.filled[LOGIT_SCALE].tensor))
        if not low <= value <= high:
            found.append(
                f"{LOGIT_SCALE} is {value:.6g}: {made_by.name} clamps it to [{low}, {high}] in every forward pass, transformers 5 in training only; "
                "the value is kept, and the contrastive logits differ where it is not clamped"
            )
    return found


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
    target = check_target(Path(target_path), force=force, sources=_local(checkpoint_path, codebook_path, config_path))
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
        content = torchmultimodal_state_dict(weights)
        written = write_checkpoints([target], [content], progress)
        written.described = [*described(prepared.sources, prepared.placement), *(("warning", line) for line in warnings)]
        if prepared.made_by.head_layer_norm_eps is None and prepared.part is not MODEL:
            eps = prepared.config["text_config"]["layer_norm_eps"]
            ours = f"layer_norm_eps={eps}, ignore_index={prepared.config['ce_ignore_index']}"
            written.described.append(
                ("note", f"it computes the same in FLAVAPretrainingLoss({ours}); that class's own defaults are 1e-5 and -1")
            )
        return written


def _local(*paths: str | Path | None) -> tuple[Path, ...]:
    return tuple(Path(path) for path in paths if path is not None and not is_url(path))


def settle_config(
    given: dict | None, renamed: Mapping[str, Placed], *, with_codebook: bool, semantics: Semantics = ORIGINAL
) -> tuple[dict, list[str]]:
    """The config to write, and what it assumes; a given one must agree with the shapes.

    Raises:
        NotFaithful: the given config contradicts a shape.
    """
    shapes = shapes_of(renamed)
    if given is None:
        config, assumed = configs.config_from_shapes(shapes, semantics)
        return {**config, "init_codebook": with_codebook}, assumed
    stop_on(
        f"the config has {name} = {value}, but {renamed[found.key]} shows {found.value}"
        for name, value, found in configs.contradictions(given, shapes)
    )
    return {**given, "init_codebook": with_codebook, "tie_word_embeddings": True}, []


# ------------------------------------------------------------- state dicts in memory, as upstream


_CONVERTED = (Kind.HUGGING_FACE, Kind.HUGGING_FACE_CODEBOOK)


def upgrade_state_dict(
    state_dict: Mapping[str, "torch.Tensor"], codebook_state_dict: Mapping[str, "torch.Tensor"]
) -> dict[str, "torch.Tensor"]:
    """An original state dict under Hugging Face's keys, in float32, with a converted codebook's added.

    Raises:
        InvalidInput: a key is already converted.
        NotFaithful: two keys meet in one, or a key that is dropped differs from the copy that is kept.
    """
    if converted := next((key for key in state_dict if recognise([key]) in _CONVERTED), None):
        raise InvalidInput(f"{converted} is already converted; the rules are for {Kind.ORIGINAL.value}")
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
