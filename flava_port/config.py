"""The model's config: FLAVA's defaults, sizes read from a checkpoint's shapes, one normal form.

The normal form is a plain dict, the content of a ``config.json`` that every transformers release
from 4.25.1 on reads the same way: every field that means something is spelled out (a default that
a release changes cannot reach it) and every number has the type that strict releases ask for.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from math import isqrt
from pathlib import Path

from .errors import InvalidInput, NotFaithful
from .parts import WHOLE, Part
from .semantics import ORIGINAL, Semantics

_ENCODER = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "qkv_bias": True,
}

# FLAVA as published (arXiv 2112.04482, section 4 and its appendix; the defaults of transformers'
# configuration_flava.py from 4.19.0 to 5.23.0).
DEFAULTS = {
    "image_config": {
        "model_type": "flava_image_model",
        **_ENCODER,
        "image_size": 224,
        "patch_size": 16,
        "num_channels": 3,
        "mask_token": True,
        "vocab_size": 8192,
    },
    "text_config": {
        "model_type": "flava_text_model",
        **_ENCODER,
        "vocab_size": 30522,
        "type_vocab_size": 2,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
    },
    "multimodal_config": {
        "model_type": "flava_multimodal_model",
        **_ENCODER,
        "num_hidden_layers": 6,
        "use_cls_token": True,
    },
    "image_codebook_config": {
        "model_type": "flava_image_codebook",
        "num_groups": 4,
        "input_channels": 3,
        "num_blocks_per_group": 2,
        "hidden_size": 256,
        "vocab_size": 8192,
        "freeze": True,
        "initializer_range": 0.02,
    },
    "hidden_size": 768,
    "layer_norm_eps": 1e-12,
    "projection_dim": 768,
    "init_codebook": True,
    "logit_scale_init_value": 2.6592,
    "initializer_range": 0.02,
    "ce_ignore_index": -100,
    "mim_weight": 1.0,
    "mlm_weight": 1.0,
    "global_contrastive_weight": 1.0,
    "itm_weight": 1.0,
    "mmm_image_weight": 1.0,
    "mmm_text_weight": 1.0,
    "global_backprop_contrastive": True,
    "skip_unmasked_multimodal_encoder": True,
    "return_loss": True,
    "tie_word_embeddings": True,
}

ENCODERS = {"image_config": "image", "text_config": "text", "multimodal_config": "multimodal"}
HEAD_WIDTH = 64
# Published FLAVAs whose heads are wider: the larger ones of torchmultimodal's scaling study (examples/flava/native).
_HEADS_BY_WIDTH = {1280: 16, 1408: 16, 1664: 16, 2048: 16}

# Fields of a config.json that say how it was made, not what the model is; ours are written anew.
_WRITTEN_ANEW = ("transformers_version", "architectures", "torch_dtype", "dtype", "model_type", "_name_or_path")


# ------------------------------------------------------------------------ sizes, from the shapes


@dataclass(frozen=True)
class Size:
    """A size of the model and the weights that show it: ``section.field`` is ``shape[axis]`` of each."""

    section: str  # "" for the top level
    field: str
    evidence: tuple[tuple[str, int], ...]

    @property
    def name(self) -> str:
        return f"{self.section}.{self.field}" if self.section else self.field


def _encoder_sizes(section: str, model: str) -> list[Size]:
    layer = f"{model}.encoder.layer.0"
    return [
        Size(
            section,
            "hidden_size",
            (
                (f"{model}.layernorm.weight", 0),
                (f"{model}.layernorm.bias", 0),
                (f"{model}.pooler.dense.weight", 0),
                (f"{model}.pooler.dense.bias", 0),
                (f"{layer}.attention.output.dense.bias", 0),
                (f"{layer}.layernorm_before.weight", 0),
            ),
        ),
        Size(
            section,
            "intermediate_size",
            (
                (f"{layer}.intermediate.dense.weight", 0),
                (f"{layer}.intermediate.dense.bias", 0),
                (f"{layer}.output.dense.weight", 1),
            ),
        ),
    ]


def _head_vocabulary(*heads: str) -> tuple[tuple[str, int], ...]:
    return tuple((f"{head}.{part}", 0) for head in heads for part in ("decoder.weight", "decoder.bias", "bias"))


_IMAGE, _TEXT, _MULTIMODAL = "flava.image_model", "flava.text_model", "flava.multimodal_model"

SIZES = (
    *_encoder_sizes("image_config", _IMAGE),
    *_encoder_sizes("text_config", _TEXT),
    *_encoder_sizes("multimodal_config", _MULTIMODAL),
    Size("image_config", "patch_size", ((f"{_IMAGE}.embeddings.patch_embeddings.projection.weight", 2),)),
    Size("image_config", "num_channels", ((f"{_IMAGE}.embeddings.patch_embeddings.projection.weight", 1),)),
    Size("image_config", "vocab_size", _head_vocabulary("mim_head", "mmm_image_head")),
    Size(
        "text_config",
        "vocab_size",
        ((f"{_TEXT}.embeddings.word_embeddings.weight", 0), *_head_vocabulary("mlm_head", "mmm_text_head")),
    ),
    Size("text_config", "type_vocab_size", ((f"{_TEXT}.embeddings.token_type_embeddings.weight", 0),)),
    Size("text_config", "max_position_embeddings", ((f"{_TEXT}.embeddings.position_embeddings.weight", 0),)),
    Size("", "hidden_size", (("itm_head.pooler.dense.weight", 0), ("itm_head.pooler.dense.bias", 0))),
    Size("", "projection_dim", tuple((f"flava.{m}_projection.{p}", 0) for m in ("text", "image") for p in ("weight", "bias"))),
    Size("image_codebook_config", "input_channels", (("image_codebook.blocks.input.weight", 1),)),
    Size("image_codebook_config", "hidden_size", (("image_codebook.blocks.input.weight", 0), ("image_codebook.blocks.input.bias", 0))),
    Size("image_codebook_config", "vocab_size", (("image_codebook.blocks.output.conv.weight", 0), ("image_codebook.blocks.output.conv.bias", 0))),
)  # fmt: skip

# Sizes that are counts of numbered modules: one more than the highest (layers) or the highest (groups, blocks).
COUNTS = (
    ("image_config", "num_hidden_layers", re.compile(r"flava\.image_model\.encoder\.layer\.(\d{1,4})\."), 1),
    ("text_config", "num_hidden_layers", re.compile(r"flava\.text_model\.encoder\.layer\.(\d{1,4})\."), 1),
    ("multimodal_config", "num_hidden_layers", re.compile(r"flava\.multimodal_model\.encoder\.layer\.(\d{1,4})\."), 1),
    ("image_codebook_config", "num_groups", re.compile(r"image_codebook\.blocks\.group_(\d{1,4})\."), 0),
    ("image_codebook_config", "num_blocks_per_group", re.compile(r"image_codebook\.blocks\.group_1\.group\.block_(\d{1,4})\."), 0),
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """A size that the checkpoint shows, and the key that shows it."""

    section: str
    field: str
    value: int
    key: str

    @property
    def name(self) -> str:
        return f"{self.section}.{self.field}" if self.section else self.field


def sizes_found(shapes: Mapping[str, tuple[int, ...]]) -> list[Found]:
    """Every size that shapes tell, by Hugging Face key. Where weights disagree, most of them decide.

    Raises:
        NotFaithful: a stray number stands so far above the others that it cannot be a count's.
    """
    found = [f for size in SIZES if (f := _by_majority(size, shapes))]
    for section, field, pattern, offset in COUNTS:
        numbered = {int(match[1]): key for key in shapes if (match := pattern.match(key))}
        if numbered and max(numbered) > 2 * len(numbered) + 8:
            key = numbered[max(numbered)]
            raise NotFaithful(
                f"{key} is number {max(numbered)} where the checkpoint has {len(numbered)} in all; leave it out, or complete it"
            )
        if numbered:
            found.append(Found(section, field, max(numbered) + offset, numbered[max(numbered)]))
    return found + _image_size(shapes)


def _by_majority(size: Size, shapes: Mapping[str, tuple[int, ...]]) -> Found | None:
    votes = [(shapes[key][axis], key) for key, axis in size.evidence if len(shapes.get(key, ())) > axis]
    if not votes:
        return None
    value, _count = Counter(vote for vote, _key in votes).most_common(1)[0]
    return Found(size.section, size.field, value, next(key for vote, key in votes if vote == value))


def _image_size(shapes: Mapping[str, tuple[int, ...]]) -> list[Found]:
    """A square image's side: the patches in a row, times the patch size."""
    key = f"{_IMAGE}.embeddings.position_embeddings"
    projection = shapes.get(f"{_IMAGE}.embeddings.patch_embeddings.projection.weight", ())
    positions = shapes.get(key, ())
    if len(positions) != 3 or len(projection) != 4 or projection[2] != projection[3]:
        return []
    row = isqrt(max(positions[1] - 1, 0))
    return [Found("image_config", "image_size", row * projection[2], key)] if row * row == positions[1] - 1 else []


def config_from_shapes(shapes: Mapping[str, tuple[int, ...]], semantics: Semantics = ORIGINAL) -> tuple[dict, list[str]]:
    """The config that the shapes tell, defaults for the rest, and a line for each assumption.

    The defaults are FLAVA's, and where ``semantics`` says otherwise those of the code behind the checkpoint.

    Raises:
        NotFaithful: the image positions are no square of patches, so no image size can be read.
    """
    config = deepcopy(DEFAULTS)
    found = sizes_found(shapes)
    for size in found:
        _section(config, size.section)[size.field] = size.value
    positions = shapes.get(f"{_IMAGE}.embeddings.position_embeddings", ())
    if len(positions) == 3 and not any(size.field == "image_size" for size in found):
        raise NotFaithful(
            f"the image encoder has {positions[1]} positions: less one for the CLS token they are no square of "
            "square patches, so the image size cannot be read from them; pass --config_path"
        )
    if not any(key.startswith("itm_head.") for key in shapes):
        config["hidden_size"] = config["multimodal_config"]["hidden_size"]
    if semantics.mask_token_is_optional:
        config["image_config"]["mask_token"] = f"{_IMAGE}.embeddings.mask_token" in shapes
    config["ce_ignore_index"] = semantics.ignore_index
    for section in ENCODERS:
        encoder = config[section]
        encoder["num_attention_heads"] = _heads(encoder["hidden_size"])
    heads = ", ".join(
        f"{config[section]['num_attention_heads']} ({name}, {_head_width(config[section])} wide)" for section, name in ENCODERS.items()
    )
    return config, [
        f"attention heads: {heads}",
        f"activation: {_ENCODER['hidden_act']}",
        f"layer norm epsilon: {_ENCODER['layer_norm_eps']}",
        *([f"labels to ignore: {semantics.ignore_index}"] if semantics.ignore_index != DEFAULTS["ce_ignore_index"] else []),
    ]


def _heads(hidden_size: int) -> int:
    """As published for this size; else heads of 64, or of the greatest width below that divides the hidden size."""
    if hidden_size in _HEADS_BY_WIDTH:
        return _HEADS_BY_WIDTH[hidden_size]
    width = next((w for w in range(min(HEAD_WIDTH, hidden_size), 0, -1) if hidden_size % w == 0), 1)
    return hidden_size // width


def _head_width(encoder: dict) -> int:
    return encoder["hidden_size"] // encoder["num_attention_heads"]


def contradictions(config: dict, shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[str, object, Found]]:
    """Fields whose value is not what the shapes show: name, the config's value, what was found."""
    wrong = []
    for size in sizes_found(shapes):
        value = _section(config, size.section)[size.field]
        if value != size.value and not (isinstance(value, list) and size.value in value):
            wrong.append((size.name, value, size))
    return wrong


# Fields that play no part once weights are loaded.
INERT = frozenset(("initializer_range", "logit_scale_init_value"))
_INERT_AT_TOP = INERT | {"layer_norm_eps"}

# Fields that FLAVA's configs do not have and that would change what is computed, with the value that does not.
_HAZARDS = {
    "is_decoder": False,
    "add_cross_attention": False,
    "pruned_heads": {},
    "quantization_config": None,
    "chunk_size_feed_forward": 0,
    "position_embedding_type": "absolute",
    "return_dict": True,
    "torchscript": False,
    "tie_word_embeddings": True,
}


def merged(from_shapes: dict, declared: dict | None) -> dict:
    """The config that shapes tell, with what was declared of the rest."""
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


def differences(actual: dict, expected: dict) -> list[tuple[str, object, object]]:
    """Fields that change the computation and differ: name, actual, expected."""
    found = []
    for section, default in DEFAULTS.items():
        if not isinstance(default, dict):
            if section not in _INERT_AT_TOP and actual[section] != expected[section]:
                found.append((section, actual[section], expected[section]))
            continue
        for field in default:
            if field not in INERT and actual[section][field] != expected[section][field]:
                found.append((f"{section}.{field}", actual[section][field], expected[section][field]))
    for section in ("", *ENCODERS):
        fields = actual[section] if section else actual
        found += [
            (f"{section}.{name}".lstrip("."), fields[name], harmless)
            for name, harmless in _HAZARDS.items()
            if (section or name not in DEFAULTS) and fields.get(name, harmless) not in (harmless, None)
        ]
    return found


def unusual(declared: dict) -> list[str]:
    """What was declared of the computation, that no shape tells, and that is not FLAVA's own: ``field = value``."""
    return [f"{name} = {value!r}" for name, value, _ in differences(declared, merged(declared, DEFAULTS)) if name != "init_codebook"]


def _section(config: dict, name: str) -> dict:
    return config[name] if name else config


# ------------------------------------------------------------------------------ config.json, read


def read_config(path: Path) -> dict:
    """The normal form of the ``config.json`` in ``path`` (the file, or the folder that holds it).

    Raises:
        InvalidInput: there is none, it is not JSON, not FLAVA's, or a field has the wrong type.
    """
    content, path = _read_json(path)
    if content.get("model_type", "flava") != "flava":
        raise InvalidInput(f"{path}: the config of a {content['model_type']!r} model, not of 'flava'")
    try:
        return normal_form(content)
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from None


def read_codebook_config(path: Path) -> dict:
    """The normal form around a codebook's config: that of `FlavaImageCodebook`, or a whole model's.

    Raises:
        InvalidInput: as `read_config`.
    """
    content, path = _read_json(path)
    if content.get("model_type") == "flava":
        return read_config(path)
    if content.get("model_type", "flava_image_codebook") != "flava_image_codebook":
        raise InvalidInput(f"{path}: the config of a {content['model_type']!r} model, not of a codebook")
    try:
        return normal_form({"image_codebook_config": content})
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from None


CONFIG_BYTES_MAX = 16 << 20  # FLAVA's have 5 kB


def _read_json(path: Path) -> tuple[dict, Path]:
    path = Path(path)
    if path.is_dir():
        path = path / "config.json"
    try:
        if not path.exists():
            raise InvalidInput(f"{path}: no such file")
        if not path.is_file() or path.stat().st_size > CONFIG_BYTES_MAX:
            raise InvalidInput(f"{path}: not a config: no file, or too large for one")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise InvalidInput(f"{path}: not a config: it holds a {type(content).__name__}")
    return content, path


def normal_form(content: Mapping) -> dict:
    """Every field spelled out and of its right type; fields we do not know are kept as they are."""
    content = dict(content)
    config = {}
    for name, default in DEFAULTS.items():
        if isinstance(default, dict):
            config[name] = _normal_section(name, default, content)
        else:
            config[name] = _of_type(name, content.get(name, default), default)
    unknown = {k: v for k, v in content.items() if k not in config and k not in _WRITTEN_ANEW and not k.endswith("_config_dict")}
    return {**config, **unknown}


def _normal_section(name: str, defaults: Mapping, content: Mapping) -> dict:
    """A sub-config. Releases before 4.25 wrote it as ``image_config_dict``, which still overrides ``image_config``."""
    given: dict = {}
    for key in (name, f"{name}_dict"):
        value = content.get(key)
        if not isinstance(value, dict | None):
            raise InvalidInput(f"{key} is a {type(value).__name__}, not a dict")
        given.update(value or {})
    known = {k: _of_type(f"{name}.{k}", given.get(k, default), default) for k, default in defaults.items()}
    known["model_type"] = defaults["model_type"]
    return {**known, **{k: v for k, v in given.items() if k not in known and k not in _WRITTEN_ANEW}}


def _of_type(name: str, value: object, default: object) -> object:
    """``value`` as the type of its default (1 becomes 1.0 where a float belongs), or an error naming it."""
    if name == "text_config.pad_token_id" and value is None:
        return None
    is_size = name in ("image_config.image_size", "image_config.patch_size") and isinstance(value, list) and len(value) == 2
    if is_size and all(type(side) is int for side in value):
        return value[0] if value[0] == value[1] else value
    if isinstance(default, float) and type(value) in (int, float):
        return float(value)
    if type(default) is int and type(value) is float and value.is_integer():
        return int(value)
    if type(value) is not type(default):
        raise InvalidInput(f"{name} is {value!r}, where a {type(default).__name__} belongs")
    if name.rpartition(".")[2] in _COUNTS and not 0 <= value <= MODULES_MAX:
        raise InvalidInput(f"{name} is {value}; no model has so many")
    return value


_COUNTS = ("num_hidden_layers", "num_groups", "num_blocks_per_group")
MODULES_MAX = 10_000


def declared_class(folder: Path) -> str:
    """The class of transformers that the folder's ``config.json`` names; nothing where it names none."""
    content, _ = _read_json(folder)
    architectures = content.get("architectures")
    return str(architectures[0]) if isinstance(architectures, list) and architectures else ""


def declared_fields(folder: Path) -> set[str]:
    """What the folder's ``config.json`` says anything of."""
    return set(_read_json(folder)[0])


def declared_dtypes(folder: Path) -> list[tuple[str, object]]:
    """The dtype that the folder's ``config.json`` tells transformers to load in, under each name that it has it."""
    content, _ = _read_json(folder)
    return [(name, content[name]) for name in ("dtype", "torch_dtype") if content.get(name) is not None]


def config_json(config: dict, dtype: str, part: Part = WHOLE) -> dict:
    """The content of the ``config.json`` to write, for weights of ``dtype`` (``float32``)."""
    own = part.config_of(config) if part.section else {"model_type": "flava", **config}
    return {"architectures": [part.model_class], **own, "torch_dtype": dtype}


# ------------------------------------------------------------------------------ image processing


def preprocessor_json(config: dict) -> dict:
    """The content of ``preprocessor_config.json``: FLAVA's image processing for this image size.

    CLIP's mean and deviation for the encoder; pixels between 0 and 1 for the codebook, at 8 pixels a
    code (DALL-E pools three times), so that the codes lie on the encoder's patches.
    """
    image = config["image_config"]
    height, width = _pair(image["image_size"])
    patch_height, _ = _pair(image["patch_size"])
    patches = height // patch_height
    size, codebook_size = {"height": height, "width": width}, {"height": 8 * patches, "width": 8 * patches}
    return {
        "image_processor_type": "FlavaImageProcessor",
        "feature_extractor_type": "FlavaFeatureExtractor",
        "do_resize": True,
        "size": size,
        "resample": 3,
        "do_center_crop": True,
        "crop_size": size,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "return_image_mask": False,
        "input_size_patches": patches,
        "total_mask_patches": 75 * patches * patches // (14 * 14),
        "mask_group_min_patches": 16,
        "mask_group_max_patches": None,
        "mask_group_min_aspect_ratio": 0.3,
        "mask_group_max_aspect_ratio": None,
        "return_codebook_pixels": False,
        "codebook_do_resize": True,
        "codebook_size": codebook_size,
        "codebook_resample": 1,
        "codebook_do_center_crop": True,
        "codebook_crop_size": codebook_size,
        "codebook_do_rescale": True,
        "codebook_rescale_factor": 1 / 255,
        "codebook_do_map_pixels": True,
        "codebook_do_normalize": True,
        "codebook_image_mean": [0.0, 0.0, 0.0],
        "codebook_image_std": [1.0, 1.0, 1.0],
    }


def preprocessor_differences(folder: Path, config: dict) -> list[tuple[str, object, object]]:
    """Fields of the folder's ``preprocessor_config.json``, if it has one, that are not FLAVA's: name, actual, expected."""
    path = folder / "preprocessor_config.json"
    if not path.exists():
        return []
    content, _ = _read_json(path)
    return [
        (f"{path.name}: {name}", content.get(name), wanted)
        for name, wanted in preprocessor_json(config).items()
        if content.get(name) != wanted
    ]


def _pair(size: int | list[int]) -> tuple[int, int]:
    return (size[0], size[1]) if isinstance(size, list) else (size, size)
