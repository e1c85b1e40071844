"""Pieces and numbers are those of the tokenizers that BERT's users run: transformers' in Python, and `tokenizers` in Rust.

The Python one, which Meta's examples use and transformers 5 no longer has, agrees at every code point. The Rust one has
older tables of Unicode, and cuts pairs at an odd place; what is known to differ is held here too.
"""

import sys
import unicodedata
from functools import cache
from pathlib import Path

import pytest
import transformers
from hypothesis import example, given
from hypothesis import strategies as st
from packaging.version import Version
from tokenizers import BertWordPieceTokenizer

from flava_port.original.wordpiece import SPECIAL_TOKENS, WordPiece
from tests.original.pictures import SMALL_VOCABULARY, real_vocabulary, words_of


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("small") / "vocab.txt"
    path.write_text("\n".join(SMALL_VOCABULARY) + "\n", encoding="utf-8")
    return path


@cache
def ours(vocabulary: Path) -> WordPiece:
    return WordPiece(words_of(vocabulary))


@cache
def in_rust(vocabulary: Path) -> BertWordPieceTokenizer:
    return BertWordPieceTokenizer({word: number for number, word in enumerate(words_of(vocabulary))}, lowercase=True)


@cache
def in_python(vocabulary: Path):
    if Version(transformers.__version__) >= Version("5"):
        pytest.skip("transformers 5 has no tokenizer in Python any more; tox -e py311-transformers457-torch213 runs this")
    return transformers.BertTokenizer.from_pretrained(vocabulary.parent)  # which knows special tokens that are written out


# What both have known since Unicode 8: letters with and without accents, Greek, Cyrillic, Hebrew, Han, Hangul, signs.
BLOCKS = ((0x20, 0x2FF), (0x300, 0x36F), (0x391, 0x3A1), (0x3A3, 0x3CE), (0x400, 0x481), (0x5D0, 0x5EA), (0x4E00, 0x4E80), (0xAC00, 0xAC80))
SIGNS = "\t\n\r\x00\x7f\u200b\u200d\ufeff\ufffd\u2003\u3000–—“”…€←😀"


def texts() -> st.SearchStrategy[str]:
    """``"Café’s [MASK] 中 ΣΣ\\u200b"``: words, special tokens and characters of many kinds in any order."""
    characters = st.one_of(*(st.characters(min_codepoint=low, max_codepoint=high) for low, high in BLOCKS), st.sampled_from(SIGNS))
    parts = st.one_of(st.text(characters, max_size=12), st.sampled_from(SMALL_VOCABULARY), st.just(" "))
    return st.lists(parts, max_size=10).map("".join)


@given(texts())
@example("ΟΔΟΣ")
@example("[MASK][CLS]x[mask]")
def test_every_text_falls_into_the_same_pieces(small, text):
    """As in Rust, with the small vocabulary."""
    assert ours(small).pieces(text) == in_rust(small).encode(text, add_special_tokens=False).tokens


@given(text=texts())
def test_every_text_falls_into_the_same_pieces_in_python(small, text):
    """As in Python."""
    assert ours(small).pieces(text) == in_python(small).tokenize(text)


@given(text=texts(), words=st.lists(st.integers(1000, 30521), max_size=20))
def test_every_text_falls_into_the_same_pieces_of_the_real_vocabulary(text, words):
    """With bert-base-uncased's 30,522 words, in Rust."""
    vocabulary = real_vocabulary()
    text = " ".join([text, *(words_of(vocabulary)[word].removeprefix("##") for word in words)])
    assert ours(vocabulary).pieces(text) == in_rust(vocabulary).encode(text, add_special_tokens=False).tokens


@given(first=texts(), second=texts() | st.none(), length=st.sampled_from((8, 9, 20, 77, 512)))
def test_every_pair_is_framed_and_cut_as_in_python(small, first, second, length):
    """Numbers, types and mask, padded to any length."""
    theirs = in_python(small)
    given = (first,) if second is None else (first, second)
    expected = theirs(*given, max_length=length, padding="max_length", truncation=True)
    actual = ours(small).encode(first, second, length)
    assert actual.input_ids == expected["input_ids"]
    assert actual.token_type_ids == expected["token_type_ids"]
    assert actual.attention_mask == expected["attention_mask"]


def every_character() -> list[str]:
    return [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]


@pytest.mark.slow
def test_every_character_is_treated_as_in_python():
    """All 1,112,064 code points of Unicode, each between two letters."""
    vocabulary = real_vocabulary()
    theirs = in_python(vocabulary)
    apart = [hex(ord(c)) for c in every_character() if ours(vocabulary).pieces(f"a{c}b") != theirs.tokenize(f"a{c}b")]
    assert apart == []


@pytest.mark.slow
def test_characters_apart_in_rust_are_unassigned_or_younger_than_its_tables():
    """Of what Unicode has assigned, under a thousand: newer marks, punctuation and format characters, and one block of Han."""
    vocabulary = real_vocabulary()
    theirs = in_rust(vocabulary)
    texts = [f"a{c}b" for c in every_character() if unicodedata.category(c) != "Cn"]
    encodings = theirs.encode_batch(texts, add_special_tokens=False)
    apart = [text[1] for text, found in zip(texts, encodings, strict=True) if ours(vocabulary).pieces(text) != found.tokens]
    assert 0 < len(apart) < 1000
    assert all(ord(c) > 0x5FF for c in apart)


@pytest.mark.parametrize(
    ("first", "second", "length", "rust"),
    [
        ("a photo of cat", "dog dog dog", 8, "[CLS] a photo of [SEP] dog dog [SEP]"),
        ("dog dog dog", "a photo of cat", 8, "[CLS] dog dog [SEP] a photo of [SEP]"),
    ],
    ids=["a longer first text", "a longer second text"],
)
def test_where_an_odd_number_of_pieces_is_left_rust_gives_the_odd_one_to_the_longer_text(small, first, second, length, rust):
    """Python always gives it to the first: a known difference of tokenizers, which no config can take away."""
    theirs = in_rust(small)
    theirs.enable_truncation(length)
    expected = theirs.encode(first, second).tokens
    theirs.no_truncation()
    assert expected == rust.split()
    pieces = [SMALL_VOCABULARY[number] for number in ours(small).encode(first, second, length).input_ids]
    assert (pieces == rust.split()) is (len(first) > len(second))


def test_the_special_tokens_are_berts():
    """Five of them, each in the small vocabulary too."""
    assert set(SPECIAL_TOKENS) == {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"} <= set(SMALL_VOCABULARY)
