"""Which of FLAVA's own fields of a config change what is computed, and in which of them two configs differ."""

from copy import deepcopy

from ..target.config import DEFAULTS
from ..target.parts import WHOLE, Part
from ..target.sizes import COUNTS, SIZES

# Fields that mean nothing once weights are loaded.
INERT = frozenset(("initializer_range", "logit_scale_init_value"))
_INERT_AT_TOP = INERT | {"layer_norm_eps"}


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
    for section, default in DEFAULTS.items():
        if part.section and section != part.section:
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
