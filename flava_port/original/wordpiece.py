"""What the original makes of a sentence: numbers of word pieces, as BERT's uncased tokenizer has them.

Rebuilt from the facts of BERT (clean, lower-case, take accents off, split at spaces and punctuation, then the longest
pieces that the vocabulary has), by Python's standard library alone.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

PAD, UNKNOWN, START, SEPARATOR, MASK = SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TEXT_LENGTH = 512  # of a text alone; 77 beside an image
PAIR_LENGTH = 77
LONGEST_WORD = 100  # characters; a longer word is unknown

_CHINESE = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
_SYMBOLS = "$+<=>^`|~"  # ASCII that counts as punctuation though Unicode calls it symbols


@dataclass(frozen=True)
class Encoded:
    """One sequence, padded: numbers of pieces, 0 for the first text and 1 for the second, 1 where it is no padding."""

    input_ids: list[int]
    token_type_ids: list[int]
    attention_mask: list[int]


class WordPiece:
    """BERT's uncased tokenizer with a vocabulary: its words in the order of their numbers."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self.numbers = {word: number for number, word in enumerate(vocabulary)}
        self._specials = re.compile("(" + "|".join(map(re.escape, SPECIAL_TOKENS)) + ")")

    def encode(self, text: str, second: str | None = None, length: int = TEXT_LENGTH) -> Encoded:
        """A text, or two: [CLS] first [SEP] second [SEP], cut to ``length`` and padded to it."""
        first, other = self.ids(text), self.ids(second) if second is not None else []
        frame = 2 if second is None else 3
        while len(first) + len(other) > max(0, length - frame):
            (first if len(first) > len(other) else other).pop()
        start, separator = self.numbers[START], self.numbers[SEPARATOR]
        one = [start, *first, separator]
        two = [*other, separator] if second is not None else []
        padding = [0] * (length - len(one) - len(two))
        return Encoded(
            one + two + [self.numbers[PAD]] * len(padding),
            [0] * len(one) + [1] * len(two) + padding,
            [1] * (len(one) + len(two)) + padding,
        )

    def ids(self, text: str) -> list[int]:
        """The numbers of a text's pieces, nothing added, nothing cut off."""
        return [self.numbers[piece] for piece in self.pieces(text)]

    def pieces(self, text: str) -> list[str]:
        """The pieces of a text; a special token that is written out in it stays one."""
        found: list[str] = []
        for part in self._specials.split(text):
            found += [part] if part in SPECIAL_TOKENS else [piece for word in words(part) for piece in self._split(word)]
        return found

    def _split(self, word: str) -> list[str]:
        """The longest pieces from the left; the whole word is unknown where one is missing."""
        if len(word) > LONGEST_WORD:
            return [UNKNOWN]
        pieces: list[str] = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            end = next((end for end in range(len(word), start, -1) if prefix + word[start:end] in self.numbers), None)
            if end is None:
                return [UNKNOWN]
            pieces.append(prefix + word[start:end])
            start = end
        return pieces


def words(text: str) -> Iterator[str]:
    """A text's words in lower case and without accents; each mark of punctuation and each Chinese character is a word.

    Letters become small one by one, so that a capital sigma is a σ at the end of a word too.
    """
    for word in "".join(map(_clean, unicodedata.normalize("NFC", text))).split():
        small = "".join(map(str.lower, word))
        bare = (c for c in unicodedata.normalize("NFD", small) if unicodedata.category(c) != "Mn")
        yield from "".join(f" {c} " if _is_punctuation(c) else c for c in bare).split()


def _clean(character: str) -> str:
    """A character as it goes on: white space becomes a space, control characters vanish, Chinese ones stand alone."""
    category = unicodedata.category(character)
    if character in " \t\n\r" or category == "Zs":
        return " "
    if category.startswith("C") or character == "\N{REPLACEMENT CHARACTER}":
        return ""
    is_chinese = any(low <= ord(character) <= high for low, high in _CHINESE)
    return f" {character} " if is_chinese else character


def _is_punctuation(character: str) -> bool:
    return character in _SYMBOLS or unicodedata.category(character).startswith("P")
