"""Which fields of a config change what is computed, in which of them two configs differ, and which fields nobody knows.

It is an allowlist: a field is FLAVA's own and compared, or it is known to be harmless, or it is named as unknown.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from ..target.config import DEFAULTS
from ..target.parts import WHOLE, Part
from ..target.sizes import COUNTS, SIZES

# Fields that mean nothing once weights are loaded.
INERT = frozenset(("initializer_range", "logit_scale_init_value"))
_INERT_AT_TOP = INERT | {"layer_norm_eps"}

# Fields that configs of all of transformers' models may have, in some release, and that no FLAVA reads: what generates text,
# labels of a classification, names, TensorFlow's and JAX's, and what says how the file came about.
MEANINGLESS = frozenset((
    "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "temperature",
    "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
    "bad_words_ids", "num_return_sequences", "output_scores", "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id",
    "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens", "use_cache",
    "bos_token_id", "eos_token_id", "sep_token_id", "pad_token_id", "decoder_start_token_id", "cross_attention_hidden_size",
    "id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "task_specific_params", "tokenizer_class", "prefix",
    "tf_legacy_loss", "use_bfloat16", "initializer_factor", "tie_encoder_decoder", "_attn_implementation_autoset",
    "architectures", "model_type", "transformers_version", "_name_or_path", "name_or_path", "_commit_hash",
))  # fmt: skip

# Fields of the same kind that change what a model returns, how it is loaded or how it computes, with their harmless values.
HARMLESS: Mapping[str, tuple[object, ...]] = {
    "is_decoder": (False,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "chunk_size_feed_forward": (0,),
    "position_embedding_type": ("absolute",),
    "return_dict": (True,),
    "output_attentions": (False, None),
    "output_hidden_states": (False,),
    "torchscript": (False,),
    "gradient_checkpointing": (False,),
    "tie_word_embeddings": (True,),
    "_attn_implementation": (None, "eager", "sdpa"),  # two ways to compute the same
    "attn_implementation": (None, "eager", "sdpa"),
}
DTYPE_FIELDS = ("dtype", "torch_dtype")


@dataclass(frozen=True)
class Field:
    """A field of a config.json, as ``section.name``, and its value; ``harmless`` are the values that change nothing."""

    name: str
    value: object
    harmless: tuple[object, ...] | None = None  # None: nobody knows the field

    @property
    def what(self) -> str:
        return (
            f"{self.value!r}, where {self.harmless[0]!r} belongs"
            if self.harmless
            else f"{self.value!r}: neither FLAVA's nor known to be harmless"
        )


def questionable_fields(content: Mapping[str, Any], dtype: str, part: Part = WHOLE) -> Iterator[Field]:
    """The fields of a config.json that are not FLAVA's own, and are not harmless or not known.

    A section that states a dtype must state ``dtype``, the one that the weights are loaded in. That at the top is left
    to `declared_dtypes`.
    """
    own = part.config_of(DEFAULTS)
    for name, value in content.items():
        section = own.get(name.removesuffix("_dict"))
        if isinstance(section, dict) and isinstance(value, dict):
            yield from _questionable(f"{name}.", value, section, {d: (dtype, None) for d in DTYPE_FIELDS})
        elif not isinstance(section, dict) or value is not None:
            yield from _questionable("", {name: value}, own, {d: (value,) for d in DTYPE_FIELDS})


def _questionable(
    before: str, fields: Mapping[str, Any], own: Mapping[str, Any], dtypes: Mapping[str, tuple[object, ...]]
) -> Iterator[Field]:
    for name, value in fields.items():
        if name in own or name in MEANINGLESS:
            continue
        allowed = dtypes.get(name) or HARMLESS.get(name)
        if allowed is None:
            yield Field(before + name, value)
        elif not any(type(value) is type(harmless) and value == harmless for harmless in allowed):
            yield Field(before + name, value, allowed)


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
