"""The model's config: FLAVA's defaults, and the normal form in which a config is read and written.

In normal form every release of transformers from 4.25.1 on reads a ``config.json`` the same way. Every field that means
something is spelled out, so that another default changes nothing; every number has the type that strict releases ask for.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InvalidInput
from ..files.shards import no_such_file
from .parts import CODEBOOK_PART, WHOLE, Part

ENCODER_DEFAULTS = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.02, "layer_norm_eps": 1e-12, "qkv_bias": True,
}  # fmt: skip

# FLAVA as published: arXiv 2112.04482, section 4 and its appendix. These are also the defaults of transformers'
# configuration_flava.py from 4.19.0 to 5.24.0.
DEFAULTS: dict[str, Any] = {
    "image_config": {
        "model_type": "flava_image_model", **ENCODER_DEFAULTS,
        "image_size": 224, "patch_size": 16, "num_channels": 3, "mask_token": True, "vocab_size": 8192,
    },
    "text_config": {
        "model_type": "flava_text_model", **ENCODER_DEFAULTS,
        "vocab_size": 30522, "type_vocab_size": 2, "max_position_embeddings": 512, "pad_token_id": 0,
    },
    "multimodal_config": {"model_type": "flava_multimodal_model", **ENCODER_DEFAULTS, "num_hidden_layers": 6, "use_cls_token": True},
    "image_codebook_config": {
        "model_type": "flava_image_codebook", "num_groups": 4, "input_channels": 3, "num_blocks_per_group": 2,
        "hidden_size": 256, "vocab_size": 8192, "freeze": True, "initializer_range": 0.02,
    },
    "hidden_size": 768, "layer_norm_eps": 1e-12, "projection_dim": 768, "init_codebook": True,
    "logit_scale_init_value": 2.6592, "initializer_range": 0.02, "ce_ignore_index": -100,
    "mim_weight": 1.0, "mlm_weight": 1.0, "global_contrastive_weight": 1.0, "itm_weight": 1.0,
    "mmm_image_weight": 1.0, "mmm_text_weight": 1.0, "global_backprop_contrastive": True,
    "skip_unmasked_multimodal_encoder": True, "return_loss": True, "tie_word_embeddings": True,
}  # fmt: skip

ENCODERS = {"image_config": "image", "text_config": "text", "multimodal_config": "multimodal"}

# Fields of a config.json that say how it was made and not what the model is. They are left out of the normal form;
# `config_json` writes its own.
_WRITTEN_ANEW = ("transformers_version", "architectures", "torch_dtype", "dtype", "model_type", "_name_or_path")


def section_of(config: dict, name: str) -> dict:
    """The sub-config of that name; the config itself where the name is empty."""
    return config[name] if name else config


def with_defaults(config: Mapping, defaults: Mapping[str, Any] = DEFAULTS) -> dict[str, Any]:
    """The config, and the default of every field that it leaves out; sub-configs likewise."""
    sections = {name: {**value, **config.get(name, {})} for name, value in defaults.items() if isinstance(value, dict)}
    return {**defaults, **config, **sections}


def both_sides(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of an ``image_size`` or ``patch_size``, which is one number where they are equal."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def read_config(path: Path) -> dict[str, Any]:
    """The normal form of the ``config.json`` in ``path`` (the file, or the folder that holds it).

    Raises:
        InvalidInput: there is no such file, it is not JSON, it is another model's config, or a field has the wrong type.
    """
    return _read_normal_form(path, "'flava'")


def read_part_config(path: Path, part: Part) -> dict[str, Any]:
    """The normal form of a whole config, read from a part's own config or from a whole model's; raises as `read_config`."""
    return _read_normal_form(path, part.name if part.section else "'flava'", part.section)


def read_codebook_config(path: Path) -> dict[str, Any]:
    """The same of a codebook."""
    return _read_normal_form(path, "a codebook", CODEBOOK_PART.section)


def _read_normal_form(path: Path, wanted: str, section: str = "") -> dict[str, Any]:
    content, path = read_json(path)
    own = DEFAULTS[section]["model_type"] if section else "flava"
    is_whole = any(isinstance(default, dict) and name in content for name, default in DEFAULTS.items())
    model_type = content.get("model_type", "flava" if is_whole else own)
    if model_type not in ("flava", own):
        raise InvalidInput(f"{path}: the config of a {model_type!r} model, not of {wanted}")
    try:
        return normal_form(content if model_type == "flava" else {section: content})
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from None


CONFIG_BYTES_MAX = 16 << 20  # FLAVA's has 5 kB


def read_json(path: Path) -> tuple[dict[str, Any], Path]:
    """The JSON object in ``path``, or in the ``config.json`` of the folder ``path``; and the path of the file.

    Raises:
        InvalidInput: there is no such file, it cannot be read, it is too large, or it holds no JSON object.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "config.json"
    try:
        if not path.exists():
            raise no_such_file(path)
        if not path.is_file() or path.stat().st_size > CONFIG_BYTES_MAX:
            raise InvalidInput(f"{path}: not a config: it is no regular file, or larger than {CONFIG_BYTES_MAX >> 20} MiB")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise InvalidInput(f"{path}: not a config: it holds a {type(content).__name__}")
    return content, path


def normal_form(content: Mapping) -> dict[str, Any]:
    """The config with every field of FLAVA's spelled out and of the right type; unknown fields are kept as they are.

    Raises:
        InvalidInput: a field has the wrong type, or counts more modules than any model has.
    """
    config = {
        name: _normal_section(name, default, content) if isinstance(default, dict) else _of_type(name, content.get(name, default), default)
        for name, default in DEFAULTS.items()
    }
    unknown = {k: v for k, v in content.items() if k not in config and k not in _WRITTEN_ANEW and not k.endswith("_config_dict")}
    return {**config, **unknown}


def _normal_section(name: str, defaults: Mapping, content: Mapping) -> dict[str, Any]:
    """A sub-config's normal form. Releases before 4.25 wrote ``image_config_dict``, which still overrides ``image_config``."""
    given: dict = {}
    for key in (name, f"{name}_dict"):
        value = content.get(key)
        if not isinstance(value, dict | None):
            raise InvalidInput(f"{key} is a {type(value).__name__}, not a dict")
        # transformers fills what the second leaves out with defaults, and not from the first.
        given.update({**defaults, **value} if value is not None and key != name else value or {})
    known = {k: _of_type(f"{name}.{k}", given.get(k, default), default) for k, default in defaults.items()}
    known["model_type"] = defaults["model_type"]
    return {**known, **{k: v for k, v in given.items() if k not in known and k not in _WRITTEN_ANEW}}


_COUNTS = ("num_hidden_layers", "num_groups", "num_blocks_per_group")
MODULES_MAX = 10_000


def _of_type(name: str, value: object, default: object) -> object:
    """``value`` as the type of its default: 1 becomes 1.0 where a float belongs. An InvalidInput names the field that has another."""
    if name == "text_config.pad_token_id" and value is None:
        return None
    if name in ("image_config.image_size", "image_config.patch_size") and isinstance(value, list) and [*map(type, value)] == [int, int]:
        return value[0] if value[0] == value[1] else value
    if isinstance(default, float) and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if type(default) is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is not type(default):
        raise InvalidInput(f"{name} is {value!r}, where a {type(default).__name__} belongs")
    if name.rpartition(".")[2] in _COUNTS and isinstance(value, int) and not 0 <= value <= MODULES_MAX:
        raise InvalidInput(f"{name} is {value}; no model has so many")
    return value


def declared_fields(folder: Path) -> set[str]:
    """The fields that stand in the folder's ``config.json``, whatever their values."""
    return set(read_json(folder)[0])


def declared_dtypes(folder: Path) -> list[tuple[str, object]]:
    """Each field in which the folder's ``config.json`` states the dtype to load in, with its value."""
    content, _ = read_json(folder)
    return [(name, content[name]) for name in ("dtype", "torch_dtype") if content.get(name) is not None]


def config_json(config: dict, dtype: str, part: Part = WHOLE) -> dict[str, Any]:
    """The content of the ``config.json`` to write for a part whose weights are of ``dtype``, such as ``float32``."""
    own = part.config_of(config) if part.section else {"model_type": "flava", **config}
    return {"architectures": [part.model_class], **own, "torch_dtype": dtype}
