"""A sentence's pieces and numbers: each rule of BERT's uncased tokenizer by an example, with a vocabulary of 33 words."""

import pytest

from flava_port.original.wordpiece import WordPiece
from tests.original.pictures import SMALL_VOCABULARY

OURS = WordPiece(SMALL_VOCABULARY)

PIECES = {
    "small letters": ("A PHOTO of Cats", "a photo of cat ##s"),
    "the longest pieces first": ("unwanted", "un ##want ##ed"),
    "a word is unknown as a whole": ("unwantedly cat", "[UNK] cat"),
    "accents": ("Café CAFE\u0301 naïve é", "cafe cafe naive e"),
    "punctuation stands alone": ("don't, cat!?", "don ' t , cat ! ?"),
    "so do ASCII's symbols": ("cat$dog+", "cat $ dog +"),
    "so do Chinese characters": ("cat中文dog", "cat 中 文 dog"),
    "any white space": ("a\tphoto\n\r\u00a0\u2003of  cat ", "a photo of cat"),
    "control characters vanish": ("c\x00a\x07t\u200b \ufffddog", "cat dog"),
    "letters become small one by one": ("ΣΣ", "σ ##σ"),
    "special tokens that are written out": ("cat [MASK]dog[SEP] [mask]", "cat [MASK] dog [SEP] [UNK] [UNK] [UNK]"),
    "nothing": (" \t", ""),
    "a word of 100 letters": ("b" * 100, "b" + " ##b" * 99),
    "a word of 101 letters": ("b" * 101, "[UNK]"),
}


@pytest.mark.parametrize(("text", "pieces"), PIECES.values(), ids=PIECES)
def test_a_text_falls_into_its_pieces(text, pieces):
    """As the field's examples say."""
    assert OURS.pieces(text) == pieces.split()


def numbers(pieces: str) -> list[int]:
    return [SMALL_VOCABULARY.index(piece) for piece in pieces.split()]


ENCODED = {
    "padded": (("a cat", None, 6), "[CLS] a cat [SEP] [PAD] [PAD]", [0] * 6, [1, 1, 1, 1, 0, 0]),
    "cut off": (("a photo of cats", None, 5), "[CLS] a photo of [SEP]", [0] * 5, [1] * 5),
    "empty": (("", None, 3), "[CLS] [SEP] [PAD]", [0] * 3, [1, 1, 0]),
    "a pair": (("a cat", "dog", 7), "[CLS] a cat [SEP] dog [SEP] [PAD]", [0, 0, 0, 0, 1, 1, 0], [1] * 6 + [0]),
    "the longer of a pair is cut": (("a photo of cat", "dog", 6), "[CLS] a photo [SEP] dog [SEP]", [0, 0, 0, 0, 1, 1], [1] * 6),
    "the second of equals is cut": (("a photo", "dog cat", 6), "[CLS] a photo [SEP] dog [SEP]", [0, 0, 0, 0, 1, 1], [1] * 6),
    "a pair with nothing second": (("a", "", 5), "[CLS] a [SEP] [SEP] [PAD]", [0, 0, 0, 1, 0], [1, 1, 1, 1, 0]),
}


@pytest.mark.parametrize(("given", "pieces", "types", "mask"), ENCODED.values(), ids=ENCODED)
def test_a_text_is_framed_cut_and_padded(given, pieces, types, mask):
    """To exactly the length that was asked for."""
    actual = OURS.encode(*given)
    assert (actual.input_ids, actual.token_type_ids, actual.attention_mask) == (numbers(pieces), types, mask)
