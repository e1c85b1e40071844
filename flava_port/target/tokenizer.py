"""FLAVA's tokenizer, as the files of a folder say it: bert-base-uncased's, with the words of any vocabulary."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InvalidInput, NotFaithful
from ..files.vocabulary import HUB_NAMES, TOKENIZER, TOKENIZER_CONFIG, VOCABULARY, Vocabulary, cached_vocabulary, read_vocabulary
from .parts import MODEL, PARTS, WHOLE, WITHOUT_CODEBOOK, Part

SPECIAL_TOKENS_MAP = "special_tokens_map.json"
TOKENIZER_FILES = (VOCABULARY, TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP)
PROCESSOR = "FlavaProcessor"  # images and texts together

LENGTH = 512  # the most pieces of a text, where the text encoder has as many positions

_ROLES = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}


def takes_texts(part: Part) -> bool:
    """Whether a part's class is called with texts."""
    return part in (WHOLE, WITHOUT_CODEBOOK, MODEL, PARTS["text"])


@dataclass(frozen=True)
class ChosenTokenizer:
    """The vocabulary that a folder gets, or None, and the line of the summary that says so."""

    vocabulary: Vocabulary | None
    label: str
    said: str


NO_TOKENIZER = (
    "THERE IS NO TOKENIZER IN THIS FOLDER: transformers would make one that knows no word, so that all sentences are alike. "
    f"Convert again with --tokenizer {HUB_NAMES[0]} ({HUB_NAMES[1]}, a folder, a {VOCABULARY} or a {TOKENIZER} will do)"
)


def choose_tokenizer(given: Vocabulary | None, source: Path | None, part: Part, config: Mapping) -> ChosenTokenizer | None:
    """The tokenizer for a part's folder: the one that was given, the source folder's own, or FLAVA's in the hub's local cache.

    None where the part takes no texts.

    Raises:
        InvalidInput: one was given, and the part takes no texts.
        NotFaithful: the one that was given has another number of words than the text encoder has embeddings.
    """
    if not takes_texts(part):
        if given is not None:
            raise InvalidInput(f"{part} takes no texts; leave out --tokenizer")
        return None
    rows = config["text_config"]["vocab_size"]
    if given is not None and len(given.words) != rows:
        raise NotFaithful(
            f"{given.origin}: {len(given.words):,} words, and the text encoder has embeddings for {rows:,}; pass the model's own vocabulary"
        )
    found = given or _own(source) or cached_vocabulary()
    if found is not None and len(found.words) == rows:
        whose = "bert-base-uncased's" if found.is_berts else "not bert-base-uncased's"
        return ChosenTokenizer(found, "tokens", f"{len(found.words):,} words, {whose}, from {found.origin}")
    passed_over = f" ({found.origin}: not taken, it has {len(found.words):,} words and the text encoder {rows:,})" if found else ""
    return ChosenTokenizer(None, "warning", NO_TOKENIZER + passed_over)


def _own(source: Path | None) -> Vocabulary | None:
    """The tokenizer of the folder that is converted, if it has one."""
    has_one = source is not None and any((source / name).exists() for name in (VOCABULARY, TOKENIZER))
    return read_vocabulary(source) if source is not None and has_one else None


def tokenizer_files(vocabulary: Vocabulary, config: Mapping, part: Part) -> dict[str, str | dict[str, Any]]:
    """The files that make the tokenizer, by name; a JSON file's content as a dict.

    Every release loads the same tokenizer from them: the ones in Python read vocab.txt, the others tokenizer.json.
    """
    return {
        VOCABULARY: vocabulary.as_text(),
        TOKENIZER: tokenizer_json(vocabulary.words),
        TOKENIZER_CONFIG: tokenizer_config_json(config["text_config"]["max_position_embeddings"], part),
        SPECIAL_TOKENS_MAP: dict(_ROLES),
    }


def tokenizer_config_json(positions: int, part: Part = WHOLE) -> dict[str, Any]:
    """The content of ``tokenizer_config.json``, for a text encoder with so many positions."""
    processor = {"processor_class": PROCESSOR} if not part.section else {}
    return {
        "tokenizer_class": "BertTokenizer",
        **processor,
        "do_lower_case": True,
        "do_basic_tokenize": True,
        "never_split": None,
        "tokenize_chinese_chars": True,
        "strip_accents": None,  # as lower-casing does: they are taken off
        "model_max_length": min(LENGTH, positions),
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": True,
        **_ROLES,
    }


def tokenizer_json(words: Sequence[str]) -> dict[str, Any]:
    """The content of ``tokenizer.json``, the format of the library `tokenizers`."""
    numbers = {word: number for number, word in enumerate(words)}
    start, end = ({"SpecialToken": {"id": word, "type_id": 0}} for word in ("[CLS]", "[SEP]"))
    first, second = ({"Sequence": {"id": name, "type_id": number}} for number, name in enumerate("AB"))
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": word, **added} for number, word in sorted((numbers[word], word) for word in _ROLES.values())
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, first, end],
            "pair": [start, first, end, second, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
            "special_tokens": {word: {"id": word, "ids": [numbers[word]], "tokens": [word]} for word in ("[CLS]", "[SEP]")},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": numbers,
        },
    }
