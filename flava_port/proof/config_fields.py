"""Which of FLAVA's own fields of a config change what is computed, and in which of them two configs differ."""

from copy import deepcopy

from ..target.config import DEFAULTS
from ..target.parts import CODEBOOK_PART, MODEL, WHOLE, Part
from ..target.sizes import COUNTS, SIZES

# Fields that mean nothing once weights are loaded.
INERT = frozenset(("initializer_range", "logit_scale_init_value"))
_INERT_AT_TOP = INERT | {"layer_norm_eps"}


# What only the pretraining heads and their losses read.
_OF_HEADS = frozenset((
    "init_codebook", "ce_ignore_index", "mim_weight", "mlm_weight", "global_contrastive_weight", "itm_weight", "mmm_image_weight",
    "mmm_text_weight", "global_backprop_contrastive", "skip_unmasked_multimodal_encoder", "return_loss", "hidden_size",
    "tie_word_embeddings",
))  # fmt: skip


def unused_fields(part: Part, *, has_codebook: bool) -> frozenset[str]:
    """The fields and sections of a whole config that a part's class does not read."""
    if part.section:
        return frozenset(DEFAULTS) - {part.section}
    if part is MODEL:
        return _OF_HEADS | {CODEBOOK_PART.section}
    return frozenset() if has_codebook else frozenset((CODEBOOK_PART.section,))


def merged(from_shapes: dict, declared: dict | None) -> dict:
    """The config that shapes tell; fields that no shape tells take the declared value, if a config was declared."""
    if declared is None:
        return from_shapes
    sizes = (
        {(size.section, size.field) for size in SIZES}
        | {(section, field) for section, field, _, _ in COUNTS}
        | {("image_config", "image_size")}
    )
    config = deepcopy(from_shapes)
    for section, default in DEFAULTS.items():
        if isinstance(default, dict):
            config[section] |= {f: declared[section][f] for f in default if (section, f) not in sizes}
        elif ("", section) not in sizes and section != "init_codebook":
            config[section] = declared[section]
    return config


def config_differences(actual: dict, expected: dict, part: Part = WHOLE) -> list[tuple[str, object, object]]:
    """FLAVA's own fields that differ and change what a part's class computes: name, actual value, expected value."""
    found = []
    unused = unused_fields(part, has_codebook=bool(expected["init_codebook"] or actual["init_codebook"]))
    for section, default in DEFAULTS.items():
        if section in unused:
            continue
        if not isinstance(default, dict):
            if section not in _INERT_AT_TOP and actual[section] != expected[section]:
                found.append((section, actual[section], expected[section]))
            continue
        for field in default:
            if field not in INERT and actual[section][field] != expected[section][field]:
                found.append((f"{section}.{field}", actual[section][field], expected[section][field]))
    return found


def unusual(declared: dict) -> list[str]:
    """The declared fields that no shape tells and that are not FLAVA's own, as ``field = value``."""
    return [f"{name} = {value!r}" for name, value, _ in config_differences(declared, merged(declared, DEFAULTS)) if name != "init_codebook"]
