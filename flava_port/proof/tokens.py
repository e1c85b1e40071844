"""The claim about texts: the folder's tokenizer makes the numbers that the original's makes."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InvalidInput
from ..files.vocabulary import TOKENIZER, Vocabulary, differing_words, read_vocabulary
from ..original.wordpiece import MASK, PAD, PAIR_LENGTH, SEPARATOR, START, TEXT_LENGTH, UNKNOWN, Encoded, WordPiece
from ..target.config import DEFAULTS
from ..text import count_of, few
from .certificate import Claim, Finding, NothingToJudge
from .examples import pairs_of_texts, texts
from .processors import TEXT_INPUTS, tokenizers


class TextEvidence:
    """A folder's tokenizers, and the vocabulary that they should have.

    Raises:
        NothingToJudge: there is no tokenizer in the folder.
        InvalidInput: the vocabulary that was given cannot be read.
    """

    def __init__(self, folder: Path, config: Mapping, given: str | Path | None) -> None:
        self.tokenizers = tokenizers(folder)
        self.folder = folder
        self.given = read_vocabulary(given) if given is not None else None
        own = next(iter(self.tokenizers.values())).get_vocab()
        self.own = Vocabulary(tuple(sorted(own, key=lambda word: own[word])), "the folder")
        self.length = min(TEXT_LENGTH, config["text_config"]["max_position_embeddings"])
        self.rows = config["text_config"]["vocab_size"]

    @property
    def original(self) -> WordPiece:
        """The original's tokenizer: with the vocabulary that was given, or the folder's, about which `judge_tokens` has its say."""
        return WordPiece((self.given or self.own).words)


# What the original's tokenizer is set to, by transformers' names.
_SETTINGS = {
    "padding_side": "right",
    "truncation_side": "right",
    "unk_token": UNKNOWN,
    "sep_token": SEPARATOR,
    "pad_token": PAD,
    "cls_token": START,
    "mask_token": MASK,
}


def judge_tokens(evidence: TextEvidence, claim: Claim) -> None:
    """The words are the original's, and every text becomes their numbers: alone, in pairs, padded, cut."""
    claim.findings = [*_word_findings(evidence)]
    if not claim.findings:
        for name, tokenizer in evidence.tokenizers.items():
            claim.findings += _text_findings(name, tokenizer, evidence)
    count = len(texts(evidence.own.words)) + len(pairs_of_texts(evidence.own.words))
    claim.settle(f"{count_of(count, 'text')} by {' and '.join(evidence.tokenizers)}, {_whose(evidence)}")
    if not claim.findings and evidence.given is None and not evidence.own.is_berts:
        raise NothingToJudge(
            f"{count_of(count, 'text')} become numbers as the original makes them, with {_whose(evidence)}; nothing outside of the folder "
            "says whose words they are: pass --tokenizer"
        )


def _whose(evidence: TextEvidence) -> str:
    count = f"{len(evidence.own.words):,} words"
    if evidence.own.is_berts:
        return f"bert-base-uncased's {count}"
    return f"the {count} of {evidence.given.origin}" if evidence.given else f"the folder's {count}"


def _word_findings(evidence: TextEvidence) -> Iterator[Finding]:
    own = evidence.own.words
    try:
        read_vocabulary(evidence.folder)  # its files must agree, since each release reads another
    except InvalidInput as error:
        yield Finding("tokenizer", "", str(error))
    for name, tokenizer in evidence.tokenizers.items():
        if tokenizer.get_vocab() != {word: number for number, word in enumerate(own)}:
            yield Finding(f"{name}: vocabulary", "", "its words or their numbers are not those of the folder's other files")
    if len(own) != evidence.rows:
        yield Finding("vocabulary", "", f"{len(own):,} words, and the text encoder has embeddings for {evidence.rows:,}")
    elif evidence.given is not None and evidence.given.words != own:
        yield Finding("vocabulary", evidence.given.origin, _apart(own, evidence.given.words))
    elif evidence.given is None and len(own) == DEFAULTS["text_config"]["vocab_size"] and not evidence.own.is_berts:
        yield Finding(
            "vocabulary", "", f"{len(own):,} words, as FLAVA has, but not bert-base-uncased's; if the original has these, pass --tokenizer"
        )


def _apart(ours: Sequence[str], theirs: Sequence[str]) -> str:
    if len(ours) != len(theirs):
        return f"{len(ours):,} words, where {len(theirs):,} belong"
    return "; ".join(map(str, few(differing_words(ours, theirs), 3)))


def _text_findings(name: str, tokenizer: Any, evidence: TextEvidence) -> Iterator[Finding]:
    """One finding for each text that becomes other numbers, in one of the ways to ask for them."""
    original, length = evidence.original, evidence.length
    settings = {} if name == TOKENIZER else _SETTINGS  # which stand in other files
    for field, value in {"model_max_length": length, **settings}.items():
        if (found := getattr(tokenizer, field)) != value:
            yield Finding(f"{name}: {field}", "", f"{found}, where the original has {value}")
    alone: list[tuple[str, str | None]] = [(text, None) for text in texts(evidence.own.words)]
    for first, second in [*alone, *pairs_of_texts(evidence.own.words)]:
        for limit in dict.fromkeys((length, min(length, PAIR_LENGTH))):
            expected = original.encode(first, second, limit)
            padded = tokenizer(first, second, padding="max_length", truncation=True, max_length=limit)
            bare = tokenizer(first, second, truncation=True, max_length=limit)
            if _differs(padded, expected) or _differs(bare, _unpadded(expected)):
                text = first if second is None else f"{first} + {second}"
                yield Finding(f"{name}: {text[:60]!r}", "", _first_difference(padded, expected))
                break


def _differs(found: Mapping, expected: Encoded) -> bool:
    return any(list(found[name]) != getattr(expected, name) for name in TEXT_INPUTS)


def _unpadded(encoded: Encoded) -> Encoded:
    count = sum(encoded.attention_mask)
    return Encoded(*(getattr(encoded, name)[:count] for name in TEXT_INPUTS))


def _first_difference(found: Mapping, expected: Encoded) -> str:
    for name in TEXT_INPUTS:
        ours, theirs = list(found[name]), getattr(expected, name)
        if ours != theirs:
            place = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
            return f"{name} at {place}: {ours[place : place + 4]}, the original's {theirs[place : place + 4]}"
    return "without padding, other numbers than with it"
