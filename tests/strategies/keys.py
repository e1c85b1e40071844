"""Keys of an original checkpoint or codebook, and keys that only look like them.

Every draw shrinks to the shortest key that fails.
"""

from collections.abc import Iterable
from enum import Enum
from functools import lru_cache

from hypothesis import strategies as st

from tests.strategies.original_keys import ENCODERS, PREDICTION_HEADS, PROJECTIONS, codebook_keys, every_original_key, original_keys

# What the rules look for, and what they write, in the words of the published files.
FRAGMENTS = (
    *PROJECTIONS, *(f"{e}.module" for e in ENCODERS), "mm_encoder.module.encoder.cls_token",
    "text_encoder.embeddings", "image_encoder.embeddings",
    *(f"{head}.cls.predictions" for head in PREDICTION_HEADS),
    "heads.cmd.itm_head.cls", "heads.cmd.itm_head.pooler", "heads.cmd.clip_head.logit_scale",
    "mmm_image_head", "mim_head", "itm_head", "flava.text_projection", "flava.logit_scale",
)  # fmt: skip
CODEBOOK_FRAGMENTS = ("group_1.", "group_2.", "group_4.", "group_10.", "res_path.", ".w", ".b", ".weight", ".bias")


class Edit(Enum):
    """How a decoy differs from a key of the grammar."""

    FRAGMENT_INSIDE = "a fragment of a rule as one more name"
    FRAGMENT_BEFORE = "a fragment in front"
    FRAGMENT_AFTER = "a fragment behind"
    CHARACTER_CHANGED = "one character is another"
    CHARACTER_LEFT_OUT = "one character is missing"
    GLUED = "a fragment with no dot between"


def source_keys() -> st.SearchStrategy[str]:
    """mm_text_projection.bias, image_encoder.module.encoder.layer.123.output.dense.weight: any key of the grammar."""
    return st.sampled_from(_every_original_key_shortest_first())


def codebook_source_keys() -> st.SearchStrategy[str]:
    """blocks.input.w, blocks.group_2.block_1.res_path.conv_3.b: any key of the codebook."""
    return st.sampled_from(_shortest_first(codebook_keys()))


def decoy_keys() -> st.SearchStrategy[str]:
    """mm_encoder.module.encoder.layer.3.text_projection.weight: a key one edit away from the grammar."""
    return _edits(FRAGMENTS, _some_original_keys_shortest_first())


def codebook_decoy_keys() -> st.SearchStrategy[str]:
    """blocks.group_10.block_1.w.b: a codebook key with rules' fragments in odd places."""
    return _edits(CODEBOOK_FRAGMENTS, _shortest_first(codebook_keys()))


def _edits(fragments: tuple[str, ...], keys: tuple[str, ...]) -> st.SearchStrategy[str]:
    return st.builds(edited, st.integers(0, 99), st.sampled_from(Edit), st.sampled_from(fragments), st.sampled_from(keys))


@lru_cache
def _every_original_key_shortest_first() -> tuple[str, ...]:
    return _shortest_first(every_original_key())


@lru_cache
def _some_original_keys_shortest_first() -> tuple[str, ...]:
    return _shortest_first(original_keys((0, 3, 123)))


def _shortest_first(keys: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(keys, key=lambda key: (len(key), key)))


def edited(place: int, edit: Edit, fragment: str, key: str) -> str:
    """The key with one edit; where in it, ``place`` says, wrapped around its length."""
    names, at = key.split("."), place % len(key)
    match edit:
        case Edit.FRAGMENT_INSIDE:
            names.insert(place % len(names), fragment)
            return ".".join(names)
        case Edit.FRAGMENT_BEFORE:
            return f"{fragment}.{key}"
        case Edit.FRAGMENT_AFTER:
            return f"{key}.{fragment}"
        case Edit.CHARACTER_CHANGED:
            return key[:at] + ("x" if key[at] != "x" else "y") + key[at + 1 :]
        case Edit.CHARACTER_LEFT_OUT:
            return key[:at] + key[at + 1 :]
        case Edit.GLUED:
            return key[:at] + fragment + key[at:]
