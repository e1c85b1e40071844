"""Original state dicts with any layers, heads, order, prefix and nesting, with and without a decoy among their keys.

A draw is the structure and a seed; keys and tensors are built from it when asked for, so that drawing is fast.
"""

import random
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import torch
from hypothesis import strategies as st

from tests.strategies.keys import decoy_keys
from tests.strategies.original_keys import EMBEDDINGS, ENCODERS, HEADS, fixed_keys, layer_keys

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
        """The keys, shuffled by the seed; with seed 0 in the order of the published files."""
        keys = [*fixed_keys(self.heads, self.second_copies), *self.decoys]
        keys += [key for encoder, numbers in zip(ENCODERS, self.layers) for n in numbers for key in layer_keys(encoder, n)]
        keys = list(dict.fromkeys(keys))
        if self.seed:
            random.Random(self.seed).shuffle(keys)
        return keys

    @property
    def state_dict(self) -> dict[str, torch.Tensor]:
        """The tensors, no two of them equal, except that second copies and tied biases share the tensor of their twin."""
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
    """The key whose tensor this one shares: a second copy shares the kept copy's, a decoder's bias its head's."""
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


def original_state_dicts() -> st.SearchStrategy[Original]:
    """Original(layers=((), (0,), (9, 10)), heads=('heads.fairseq_mlm',), second_copies=True, seed=3)."""
    layers = st.sampled_from(_LAYERS)
    return st.builds(
        Original,
        layers=st.tuples(layers, layers, layers),
        heads=st.sampled_from(_HEADS),
        second_copies=st.sampled_from((True, False)),
        seed=st.integers(0, 255),
        decoys=st.just(()),
    )


def adversarial_state_dicts() -> st.SearchStrategy[Original]:
    """Original state dicts with a decoy among their keys."""
    return st.builds(lambda original, decoy: original._replace(decoys=(decoy,)), original_state_dicts(), decoy_keys())


def wrapped_state_dicts() -> st.SearchStrategy[Wrapped]:
    """Original state dicts under a prefix, nested or flat."""
    return st.builds(Wrapped, original_state_dicts(), st.sampled_from(PREFIXES), st.sampled_from(NESTINGS))
