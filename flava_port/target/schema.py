"""The schema of a release: what its `FlavaForPreTraining` is made of, under one config, the probe, whose sizes all differ.

A schema is observed on the meta device. That of a known epoch is stated by `expected_shapes` and the epoch's row.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import NotFaithful
from .config import with_defaults
from .epochs import Epoch
from .installed import empty_model, quiet, source_digest
from .keys import POSITION_IDS
from .parts import CODEBOOK_PART, PARTS
from .shapes import Shapes, expected_shapes

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

PROBE = with_defaults({
    "text_config": {
        "hidden_size": 31, "intermediate_size": 37, "vocab_size": 41, "max_position_embeddings": 43, "type_vocab_size": 47,
        "num_hidden_layers": 2, "num_attention_heads": 1, "layer_norm_eps": 0.001,
    },
    "image_config": {
        "hidden_size": 53, "intermediate_size": 59, "vocab_size": 61, "num_channels": 67, "patch_size": [71, 73], "image_size": [213, 365],
        "num_hidden_layers": 3, "num_attention_heads": 1, "layer_norm_eps": 0.002,
    },
    "multimodal_config": {
        "hidden_size": 79, "intermediate_size": 83,
        "num_hidden_layers": 4, "num_attention_heads": 1, "layer_norm_eps": 0.003,
    },
    "image_codebook_config": {"hidden_size": 101, "input_channels": 103, "vocab_size": 107},
    "hidden_size": 89, "projection_dim": 97, "layer_norm_eps": 0.004,
})  # fmt: skip

_SUB_CONFIGS = {part.section: part.config_class for part in (*PARTS.values(), CODEBOOK_PART) if part.section}


@dataclass(frozen=True)
class Schema:
    """What the model has by key of its state dict, but for epsilons, which are by name of the layer norm."""

    shapes: Mapping[str, tuple[int, ...]]
    switched: tuple[str, ...]  # keys that are gone where every switch of the config is off
    dtypes: Mapping[str, str]  # of what is not float32
    buffers: tuple[str, ...]  # persistent ones
    ties: tuple[str, ...]  # keys that are one parameter: ``a = b``
    epsilons: Mapping[str, str]  # the field that the epsilon comes from, or the number where it comes from none
    defaults: Mapping[str, Any]  # of the config and, by their names, of its sub-configs


def known_schema(epoch: Epoch) -> Schema:
    """The schema of a known epoch."""
    shapes, without = expected_shapes(PROBE), expected_shapes(_without_switches(PROBE))
    switched = tuple(key for key in shapes if key not in without)
    ids: Shapes = {POSITION_IDS: (1, PROBE["text_config"]["max_position_embeddings"])} if epoch.saves_position_ids else {}
    ties = tuple(f"{bias} = {decoder}" for bias, decoder in epoch.tied)
    return Schema(shapes | ids, switched, dict.fromkeys(ids, "int64"), tuple(ids), ties, dict(_epsilons(shapes)), epoch.defaults)


def _epsilons(shapes: Shapes) -> Iterator[tuple[str, str]]:
    """Each layer norm and the field that its epsilon comes from; a head's is that of the encoder whose tokens it predicts."""
    text = ("flava.text_model.", "mlm_head.", "mmm_text_head.")
    image = ("flava.image_model.", "mim_head.", "mmm_image_head.")
    for key in shapes:
        if norm := re.fullmatch(r"(.*\.(layernorm|layernorm_before|layernorm_after|LayerNorm))\.weight", key):
            section = "text" if key.startswith(text) else "image" if key.startswith(image) else "multimodal"
            yield norm[1], f"{section}_config.layer_norm_eps"


def observe_schema() -> Schema:
    """The schema of the installed transformers; takes a second.

    Raises:
        NotFaithful: it builds no FLAVA.
    """
    import transformers

    if source_digest() is None:
        raise NotFaithful(f"transformers {transformers.__version__} no longer has FLAVA: there is no models/flava in it")
    try:
        with quiet():
            return _schema_of(empty_model(PROBE), empty_model(_without_switches(PROBE)), _observed_defaults())
    except Exception as error:  # whatever a release that changed FLAVA raises
        raise NotFaithful(f"transformers {transformers.__version__} no longer builds FLAVA: {type(error).__name__}: {error}") from None


def _without_switches(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with every switch off but ``tie_word_embeddings``, which says nothing of keys."""
    off = {name: False for name, value in config.items() if value is True and name != "tie_word_embeddings"}
    return {**config, **off, **{name: _without_switches(value) for name, value in config.items() if isinstance(value, dict)}}


def _schema_of(model: "nn.Module", without_switches: "nn.Module", defaults: Mapping[str, Any]) -> Schema:
    state, without = model.state_dict(), without_switches.state_dict()
    names = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    fields = {value: field for field, value in flat(PROBE).items() if field.endswith("layer_norm_eps")}
    epsilons = {name: module.eps for name, module in model.named_modules() if isinstance(getattr(module, "eps", None), float)}
    return Schema(
        shapes={key: tuple(value.shape) for key, value in state.items()},
        switched=tuple(key for key in state if key not in without),
        dtypes={key: name for key, value in state.items() if (name := str(value.dtype).removeprefix("torch.")) != "float32"},
        buffers=tuple(name for name, _ in model.named_buffers() if name in state),
        ties=tuple(sorted(" = ".join(sorted(same)) for same in names.values() if len(same) > 1)),
        epsilons={name: fields.get(value, str(value)) for name, value in epsilons.items()},
        defaults=defaults,
    )


def _observed_defaults() -> dict[str, Any]:
    """The defaults of FLAVA's own fields; of those that every model's config has, only ``tie_word_embeddings``."""
    import transformers

    top = transformers.FlavaConfig()
    return {
        **_own_fields(top),
        "tie_word_embeddings": getattr(top, "tie_word_embeddings", True),
        **{name: _own_fields(getattr(transformers, config_class)()) for name, config_class in _SUB_CONFIGS.items()},
    }


def _own_fields(config: "PretrainedConfig") -> dict[str, Any]:
    from transformers import PretrainedConfig

    common, left_out = PretrainedConfig().to_dict(), {"transformers_version", "model_type", *_SUB_CONFIGS}
    fields = {name: value for name, value in config.to_dict().items() if name not in left_out and not name.startswith("_")}
    return {name: value for name, value in fields.items() if name not in common or common[name] != value}


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Every field of a config and its value, those of sub-configs as ``section.field``."""
    sections = {name: value for name, value in config.items() if isinstance(value, Mapping)}
    top = {name: value for name, value in config.items() if name not in sections}
    return top | {f"{name}.{field}": value for name, section in sections.items() for field, value in section.items()}
