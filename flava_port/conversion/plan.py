"""Everything about a conversion that is settled before a weight is written: part, config, place of every key."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path

import numpy as np

from ..errors import InvalidInput, NotFaithful
from ..files.tensors import ArrayTensor, values
from ..progress import Progress
from ..rules.layouts import ORIGINAL_SEMANTICS, Layout, Semantics, semantics_of
from ..target.config import config_json, read_config
from ..target.installed import shapes_for
from ..target.keys import HEAD_NAMES, LOGIT_SCALE
from ..target.parts import MODEL, PARTS, WHOLE, WITHOUT_CODEBOOK, Part
from ..target.preprocessor import preprocessor_json
from ..target.sizes import config_from_shapes, contradictions
from .account import Made, Placed, Placement, account, rename_all, shapes_of, stop_on
from .sources import Source, has_codebook, open_sources


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
        files = {"config.json": config_json(self.config, loading_dtype, self.part)}
        if self.part.section in ("", "image_config"):
            files["preprocessor_config.json"] = preprocessor_json(self.config)
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
    given = read_config(Path(config_path)) if config_path is not None else None
    sources = open_sources(checkpoint_path, codebook_path, layout, stack, progress)
    chosen = _choose_part(part, sources, no_codebook)
    made_by = semantics_of(sources[0].kind)
    if head_layer_norm_eps is not None:
        made_by = replace(made_by, head_layer_norm_eps=head_layer_norm_eps)
    renamed, dropped = rename_all(sources)
    config, assumed = settle_config(given, renamed, with_codebook=chosen is WHOLE and has_codebook(sources), semantics=made_by)
    try:
        placement = account(renamed, dropped, shapes_for(config, chosen), chosen, _can_be_made(chosen, config))
    except NotFaithful as error:
        raise NotFaithful(f"{error}{_hint(chosen, renamed)}") from None
    return Prepared(sources, chosen, config, assumed, placement, made_by, inexpressible(config, placement, made_by))


def _choose_part(part: str | None, sources: list[Source], no_codebook: bool | None) -> Part:
    """What to convert: the part that was named; of encoders alone, the model; else all there is."""
    if part is not None:
        return PARTS[part]
    if sources[0].kind is Layout.TORCHMULTIMODAL_MODEL or not _has_heads(sources):
        if len(sources) > 1:
            raise InvalidInput(f"{sources[0].checkpoint.path}: encoders alone go with no codebook; leave out --codebook_path")
        return MODEL
    if no_codebook is False and not has_codebook(sources):
        raise InvalidInput("pass --codebook_path, or --no-codebook for a model without one")
    return WITHOUT_CODEBOOK if no_codebook else WHOLE


def _has_heads(sources: list[Source]) -> bool:
    """False only for a folder of transformers' `FlavaModel`; any other layout without heads is one that lacks them."""
    return sources[0].kind is not Layout.HUGGING_FACE or any(not MODEL.holds(key) for key in sources[0].checkpoint.tensors)


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


def inexpressible(config: dict, placement: Placement, made_by: Semantics) -> list[str]:
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


def settle_config(
    given: dict | None, renamed: Mapping[str, Placed], *, with_codebook: bool, semantics: Semantics = ORIGINAL_SEMANTICS
) -> tuple[dict, list[str]]:
    """The config to write, and what it assumes; a given one must agree with the shapes.

    Raises:
        NotFaithful: the given config contradicts a shape.
    """
    shapes = shapes_of(renamed)
    if given is None:
        config, assumed = config_from_shapes(shapes, semantics)
        return {**config, "init_codebook": with_codebook}, assumed
    stop_on(
        f"the config has {name} = {value}, but {renamed[found.key]} shows {found.value}"
        for name, value, found in contradictions(given, shapes)
    )
    return {**given, "init_codebook": with_codebook, "tie_word_embeddings": True}, []
