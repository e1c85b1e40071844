"""Which fields a config.json may have besides FLAVA's own. It is an allowlist: what is neither FLAVA's nor known to be harmless is named."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .config import DEFAULTS
from .parts import WHOLE, Part

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

    A section may state no dtype but ``dtype``, in which the weights are loaded. `declared_dtypes` checks the one at the top.
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


def without_questionable(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A whole config in normal form without such fields, and their names."""
    names = [field.name for field in questionable_fields(config, "")]
    kept = {name: {k: v for k, v in value.items() if f"{name}.{k}" not in names} if name in DEFAULTS and isinstance(value, dict) else value
            for name, value in config.items() if name not in names}  # fmt: skip
    return kept, names
