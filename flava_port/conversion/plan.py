"""Everything about a conversion that is settled before a weight is written: the part, the config, the place of every key."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from math import sqrt
from pathlib import Path
from shlex import quote

import numpy as np

from ..errors import InvalidInput, NotFaithful
from ..files.tensors import ArrayTensor, values
from ..reading.options import Options
from ..reading.sources import Source, has_codebook
from ..rules.layouts import Layout, Semantics, semantics_of
from ..target.allowed import without_questionable
from ..target.config import read_codebook_config, read_config, read_part_config
from ..target.keys import HEAD_NAMES, LOGIT_SCALE, TIED_KEYS, is_key_of_flava
from ..target.known import shapes_for
from ..target.parts import CODEBOOK_PART, MODEL, PARTS, WHOLE, WITHOUT_CODEBOOK, Part
from ..target.sizes import config_from_shapes, contradictions
from ..text import few
from .account import Made, Placement, Renamed, account, rename_all, shapes_of, stop_on


@dataclass(frozen=True)
class Plan:
    """What is converted and to what, with the place of every key."""

    sources: Sequence[Source]
    part: Part
    config: dict
    assumed: list[str]  # what no shape tells
    placement: Placement
    made_by: Semantics  # how the code behind the checkpoint reads the weights
    left_out: list[str]  # fields of the given config that are not written
    differs: list[str]  # what the converted model computes differently, because transformers has no config for it


def given_config(options: Options) -> dict | None:
    """The config at ``config_path``; None where sizes come from the shapes.

    Raises:
        InvalidInput: it cannot be read, or is another model's.
    """
    if options.config_path is None:
        return None
    path = Path(options.config_path)
    if options.checkpoint_path is None:
        return read_codebook_config(path)
    return read_part_config(path, PARTS[options.part]) if options.part is not None else read_config(path)


def config_beside(source: Source, options: Options) -> dict | None:
    """The config that stands in a folder of transformers' beside its weights, where such a folder is converted."""
    folder = Path(options.checkpoint_path) if options.checkpoint_path is not None else None
    if folder is None or source.layout is not Layout.HUGGING_FACE or not folder.is_dir():
        return None
    return read_part_config(folder, source.part) if options.layout == "hf" or (folder / "config.json").exists() else None


def plan_conversion(sources: Sequence[Source], given: Mapping | None, options: Options) -> Plan:
    """Chooses the part, settles the config, and accounts for every key. ``given`` is a config, where there is one.

    Raises:
        InvalidInput: the options do not go with what the sources hold.
        NotFaithful: a key is missing, extra, duplicate or misshapen, or the given config contradicts a shape.
    """
    part = _choose_part(sources, options)
    made_by = semantics_of(sources[0].layout, options.head_layer_norm_eps)
    renamed = rename_all(sources)
    given = given if given is not None else config_beside(sources[0], options)
    given, left_out = (None, []) if given is None else without_questionable(given)
    config, assumed = _settle_config(given, renamed, made_by)
    config["init_codebook"] = part is CODEBOOK_PART or (part is WHOLE and has_codebook(sources))
    try:
        placement = account(renamed, shapes_for(config, part), part, fillable(part, config))
    except NotFaithful as error:
        raise NotFaithful(f"{error}{_hint(part, renamed, config, options)}") from None
    differs = [*_heads_that_differ(config, placement, made_by), *_scale_that_differs(placement, made_by)]
    return Plan(sources, part, config, [] if part is CODEBOOK_PART else assumed, placement, made_by, left_out, differs)


def _choose_part(sources: Sequence[Source], options: Options) -> Part:
    """The part that was named, or the one that the checkpoint holds; a whole model's codebook can be left out."""
    if options.part is not None:
        return PARTS[options.part]
    if (held := sources[0].part) is MODEL and len(sources) > 1:
        raise InvalidInput(f"{sources[0].checkpoint.path}: encoders alone go with no codebook; leave out --codebook_path")
    if held is not WHOLE:
        return held
    targets = [target for source in sources for key in source.tensors if (target := source.way.to(key).target)]
    if options.no_codebook is False and _has_heads(targets) and not has_codebook(sources):
        raise InvalidInput("pass --codebook_path, or --no-codebook for a model without one")
    return WITHOUT_CODEBOOK if options.no_codebook else WHOLE


def _settle_config(given: Mapping | None, renamed: Renamed, made_by: Semantics) -> tuple[dict, list[str]]:
    """The config to write, and what it assumes; a given one must agree with the shapes."""
    shapes = shapes_of(renamed.targets)
    if given is None:
        return config_from_shapes(shapes, made_by)
    found = contradictions(dict(given), shapes)
    stop_on(f"the config has {name} = {value}, but {renamed.targets[size.key]} shows {size.value}" for name, value, size in found)
    return {**given, "tie_word_embeddings": True}, []


def fillable(part: Part, config: Mapping) -> dict[str, Made]:
    """The logit scale of a `FlavaModel`, whose checkpoint may lack it. No output of that class depends on it."""
    if part is not MODEL:
        return {}
    value = config["logit_scale_init_value"]
    because = f"{value}, transformers' initial value: the checkpoint has none, and no output of FlavaModel shows it"
    return {LOGIT_SCALE: Made(ArrayTensor(np.array(value, np.float32)), because)}


def _hint(part: Part, renamed: Renamed, config: Mapping, options: Options) -> str:
    """Advice for a checkpoint without heads, where a whole model was expected, and for a whole one with more in it."""
    if part.prefix:
        return ""
    if not _has_heads(renamed.targets):
        without = ", without --codebook_path," if options.codebook_path is not None else ""
        return f"\n  there are no pretraining heads in it; --part model{without} converts the encoders alone"
    strange = [placed.name_in_file for target, placed in renamed.targets.items() if not is_key_of_flava(target)]
    missing = shapes_for(config).keys() - renamed.targets.keys() - TIED_KEYS
    if missing or not strange:
        return ""
    beginnings = Counter(name.rpartition(".")[0] for name in strange)
    together = {beginning for beginning, count in beginnings.items() if beginning and count > 1}
    globs = dict.fromkeys(
        f"{escape(beginning)}.*" if (beginning := name.rpartition(".")[0]) in together else escape(name) for name in strange
    )
    return f"\n  leave out what is no part of the model: {' '.join(few([f'--drop {quote(glob)}' for glob in globs], 3))}"


def _has_heads(targets: Iterable[str]) -> bool:
    """Whether a key of the model is one of a pretraining head's."""
    return any(key.partition(".")[0] in HEAD_NAMES for key in targets)


def _heads_that_differ(config: Mapping, placement: Placement, made_by: Semantics) -> list[str]:
    """The heads whose layer norms had another epsilon than transformers gives them, with the size of the difference."""
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
    return found


def _scale_that_differs(placement: Placement, made_by: Semantics) -> list[str]:
    """The scale of the contrastive logits, where the code behind the checkpoint would clamp it and transformers does not."""
    tensor = placement.tensors().get(LOGIT_SCALE)
    if tensor is None or made_by.logit_scale_range is None:
        return []
    (low, high), value = made_by.logit_scale_range, float(values(tensor))
    return (
        []
        if low <= value <= high
        else [
            f"{LOGIT_SCALE} is {value:.6g}: {made_by.name} clamps it to [{low}, {high}] in every forward pass, transformers 5 in training only; "
            "the value is kept, and the contrastive logits differ where it is not clamped"
        ]
    )
