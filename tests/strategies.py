"""Every hypothesis strategy: keys of an original checkpoint, keys that only look like them, and state dicts.

A draw is a structure and a seed; keys and tensors are built from it when asked for, so that drawing
is fast and shrinking ends at the shortest key.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from functools import lru_cache
from itertools import product
from math import prod
from typing import NamedTuple

import torch
from hypothesis import strategies as st

# ------------------------------------------------------- the grammar, as the published files have it

MOST_LAYERS = 1000  # numbers of up to three digits
WEIGHT_BIAS = ("weight", "bias")
ENCODERS = ("image_encoder", "text_encoder", "mm_encoder")
LAYER_PARTS = (
    "attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense",
    "intermediate.dense", "output.dense", "layernorm_before", "layernorm_after",
)  # fmt: skip
ENCODER_PARTS = ("layernorm", "pooler.dense")
EMBEDDINGS = {
    "image_encoder": (
        "cls_token", "mask_token", "position_embeddings",
        "patch_embeddings.projection.weight", "patch_embeddings.projection.bias",
    ),
    "text_encoder": (
        "word_embeddings.weight", "position_embeddings.weight", "token_type_embeddings.weight",
        "LayerNorm.weight", "LayerNorm.bias", "position_ids",
    ),
}  # fmt: skip
PROJECTIONS = ("mm_image_projection", "mm_text_projection", "image_projection", "text_projection")
PREDICTION_HEADS = ("heads.cmd.mim_head", "heads.cmd.mlm_head", "heads.fairseq_mlm", "heads.imagenet.mim_head")
PREDICTION_PARTS = (
    "transform.dense.weight", "transform.dense.bias", "transform.LayerNorm.weight", "transform.LayerNorm.bias",
    "decoder.weight", "decoder.bias", "bias",
)  # fmt: skip
HEADS = {
    **{head: tuple(f"{head}.cls.predictions.{part}" for part in PREDICTION_PARTS) for head in PREDICTION_HEADS},
    "heads.cmd.itm_head": tuple(f"heads.cmd.itm_head.{p}.{w}" for p in ("pooler.dense", "cls.seq_relationship") for w in WEIGHT_BIAS),
    "heads.cmd.clip_head": ("heads.cmd.clip_head.logit_scale",),
}
CODEBOOK_GROUPS, CODEBOOK_CONVOLUTIONS = 4, 4


@lru_cache(maxsize=4096)
def layer_keys(encoder: str, number: int) -> tuple[str, ...]:
    return tuple(f"{encoder}.module.encoder.layer.{number}.{p}.{w}" for p, w in product(LAYER_PARTS, WEIGHT_BIAS))


@lru_cache(maxsize=64)
def fixed_keys(heads: tuple[str, ...] = tuple(HEADS), second_copies: bool = True) -> tuple[str, ...]:
    """Every key outside the layers."""
    keys = [f"{e}.module.{p}.{w}" for e, p, w in product(ENCODERS, ENCODER_PARTS, WEIGHT_BIAS)]
    keys += [f"{e}.module.embeddings.{part}" for e, parts in EMBEDDINGS.items() for part in parts]
    if second_copies:
        keys += [f"{e}.embeddings.{part}" for e, parts in EMBEDDINGS.items() for part in parts]
    keys += ["mm_encoder.module.encoder.cls_token"]
    keys += [f"{p}.{w}" for p, w in product(PROJECTIONS, WEIGHT_BIAS)]
    return (*keys, *(key for head in heads for key in HEADS[head]))


def original_keys(layers: Iterable[int] = (0, 1, 10, 123)) -> tuple[str, ...]:
    """The keys of a whole checkpoint whose encoders have the layers of these numbers."""
    return (*fixed_keys(), *(key for e, n in product(ENCODERS, layers) for key in layer_keys(e, n)))


def every_original_key() -> tuple[str, ...]:
    """The whole grammar: every key with every layer number of up to three digits."""
    return original_keys(range(MOST_LAYERS))


@lru_cache(maxsize=16)
def codebook_keys(groups: int = CODEBOOK_GROUPS, blocks: int = 2) -> tuple[str, ...]:
    """The keys of a DALL-E encoder; all blocks with an id path, as the first of a group may have."""
    convolutions = ["blocks.input", "blocks.output.conv"]
    for group, block in product(range(1, groups + 1), range(1, blocks + 1)):
        here = f"blocks.group_{group}.block_{block}"
        convolutions += [f"{here}.id_path", *(f"{here}.res_path.conv_{n}" for n in range(1, CODEBOOK_CONVOLUTIONS + 1))]
    return tuple(f"{name}.{part}" for name in convolutions for part in "wb")


# ------------------------------------------------------------------------------------------ keys

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


class Digits(NamedTuple):
    """Finite choices drawn as few numbers, which is several times faster than a draw each.

    A number is below 2**24, up to which hypothesis draws evenly; it shrinks to the first of every choice.
    """

    choices: tuple[Sequence, ...]

    def strategy(self, build: Callable):
        groups = [(group, st.integers(0, prod(map(len, group)) - 1)) for group in self._groups()]

        @st.composite  # and not `map`, so that a failing example is printed as what it is
        def drawn(draw):
            return build(*(digit for group, numbers in groups for digit in _read(group, draw(numbers))))

        return drawn()

    def _groups(self) -> list[list[Sequence]]:
        """The choices in their order, as many in a group as one number has room for."""
        groups: list[list[Sequence]] = [[]]
        for choice in self.choices:
            if prod(map(len, groups[-1])) * len(choice) > 1 << 24:
                groups.append([])
            groups[-1].append(choice)
        return groups


def _read(group: Sequence[Sequence], number: int) -> list:
    read = []
    for choice in group:
        number, digit = divmod(number, len(choice))
        read.append(choice[digit])
    return read


def _shortest_first(keys: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(keys, key=lambda key: (len(key), key)))


@lru_cache
def _every_original_key_shortest_first() -> tuple[str, ...]:
    return _shortest_first(every_original_key())


def source_keys():
    """mm_text_projection.bias, image_encoder.module.encoder.layer.123.output.dense.weight: any key of the grammar."""
    return Digits((_every_original_key_shortest_first(),)).strategy(str)


def codebook_source_keys():
    """blocks.input.w, blocks.group_2.block_1.res_path.conv_3.b: any key of the codebook."""
    return Digits((_shortest_first(codebook_keys()),)).strategy(str)


def decoy_keys():
    """mm_encoder.module.encoder.layer.3.text_projection.weight: a key one edit away from the grammar."""
    return Digits(_decoys()).strategy(_edited)


@lru_cache
def _decoys() -> tuple[Sequence, ...]:
    return range(100), tuple(Edit), FRAGMENTS, _shortest_first(original_keys((0, 3, 123)))


def codebook_decoy_keys():
    """blocks.group_10.block_1.w.b: a codebook key with rules' fragments in odd places."""
    keys = _shortest_first(codebook_keys())
    return Digits((range(100), tuple(Edit), CODEBOOK_FRAGMENTS, keys)).strategy(_edited)


def _edited(place: int, edit: Edit, fragment: str, key: str) -> str:
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


# ----------------------------------------------------------------------------------- state dicts

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
PREFIXES = ("", "model.", "module.", "model.module.")
NESTINGS = (None, "model", "state_dict", "model_state_dict", "module")


class Original(NamedTuple):
    """The structure of a synthetic original state dict; its keys and tensors follow from it."""

    layers: tuple[tuple[int, ...], ...]
    heads: tuple[str, ...]
    second_copies: bool
    seed: int
    decoys: tuple[str, ...] = ()

    @property
    def keys(self) -> list[str]:
        """Shuffled by the seed, seed 0 in the files' order."""
        keys = [*fixed_keys(self.heads, self.second_copies), *self.decoys]
        keys += [key for encoder, numbers in zip(ENCODERS, self.layers) for n in numbers for key in layer_keys(encoder, n)]
        keys = list(dict.fromkeys(keys))
        if self.seed:
            random.Random(self.seed).shuffle(keys)
        return keys

    @property
    def state_dict(self) -> dict[str, torch.Tensor]:
        """No two tensors alike, but second copies and tied biases one tensor with their twins."""
        return {key: _tensor(twin_of(key), self.seed) for key in self.keys}


class Wrapped(NamedTuple):
    """An original state dict as a file may hold it: under a common prefix, nested under a key."""

    original: Original
    prefix: str
    nesting: str | None

    @property
    def content(self) -> dict:
        prefixed = {self.prefix + key: value for key, value in self.original.state_dict.items()}
        return {self.nesting: prefixed} if self.nesting else prefixed


def twin_of(key: str) -> str:
    """The key whose tensor this one shares: second copies share the kept copy's, a decoder's bias its head's."""
    for encoder in EMBEDDINGS:
        key = key.replace(f"{encoder}.embeddings.", f"{encoder}.module.embeddings.")
    return key.replace("predictions.decoder.bias", "predictions.bias")


@lru_cache(maxsize=1 << 16)
def _tensor(key: str, seed: int) -> torch.Tensor:
    """Two or three numbers that no other key has, in a dtype of its own."""
    dice = random.Random(f"{seed} {key}")
    return torch.tensor([dice.gauss(0, 1) for _ in range(2 + len(key) % 2)], dtype=DTYPES[dice.randrange(len(DTYPES))])


_LAYERS = ((), (0,), (0, 1), (1, 0), (9, 10), (3, 33, 333), (999,), (0, 1, 2))
_HEADS = sorted((tuple(h for h, there in zip(HEADS, bits) if there) for bits in product((0, 1), repeat=len(HEADS))), key=len)
_STRUCTURES = ((True, False), _HEADS, _LAYERS, _LAYERS, _LAYERS)


def _original(seed: int, second_copies: bool, heads: tuple[str, ...], *layers: tuple[int, ...]) -> Original:
    return Original(layers, heads, second_copies, seed)


def _with_decoy(*parts) -> Original:
    *original, place, edit, fragment, key = parts
    return _original(*original)._replace(decoys=(_edited(place, edit, fragment, key),))


def _wrapped(*parts) -> Wrapped:
    *original, prefix, nesting = parts
    return Wrapped(_original(*original), prefix, nesting)


def original_state_dicts():
    """Original(layers=((), (0,), (9, 10)), heads=('heads.fairseq_mlm',), second_copies=True, seed=3)."""
    return Digits((range(256), *_STRUCTURES)).strategy(_original)


def adversarial_state_dicts():
    """Original state dicts with a decoy among their keys."""
    return Digits((range(256), *_STRUCTURES, *_decoys())).strategy(_with_decoy)


def wrapped_state_dicts():
    """Original state dicts under a prefix, nested or flat; of as many shuffles as leave room for it in one number."""
    return Digits((range(12), *_STRUCTURES, PREFIXES, NESTINGS)).strategy(_wrapped)
