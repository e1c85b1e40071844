"""What files can hold: strided views of shared storages, tensors of any dtype and shape, training state."""

from typing import NamedTuple

import torch
from hypothesis import strategies as st

from flava_port.files.state_dicts import CONTAINERS

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.uint8, torch.bool)


def seeded_tensor(seed: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A tensor of random bits, so with NaN and infinity too; of booleans, random truth values."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    count = torch.Size(shape).numel() * dtype.itemsize
    return torch.randint(0, 256, (count,), generator=generator, dtype=torch.uint8).view(dtype).reshape(shape)


def dtypes() -> st.SearchStrategy[torch.dtype]:
    """``torch.bfloat16``."""
    return st.sampled_from(DTYPES)


class View(NamedTuple):
    """A strided view of one of several storages."""

    storage: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    def of(self, storages: list[torch.Tensor]) -> torch.Tensor:
        return torch.as_strided(storages[self.storage], self.shape, self.stride, self.offset)


STORAGE_ELEMENTS = 60


@st.composite
def views(draw, storages: int) -> View:
    """``View(storage=1, shape=(2, 3), stride=(0, 5), offset=7)``: transposed, expanded, overlapping, empty, scalar."""
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    stride, last = [], 0
    for size in shape:
        step = draw(st.integers(0, (STORAGE_ELEMENTS - 1 - last) // max(size - 1, 1)))
        stride.append(step)
        last += step * max(size - 1, 0)
    return View(draw(st.integers(0, storages - 1)), tuple(shape), tuple(stride), draw(st.integers(0, STORAGE_ELEMENTS - 1 - last)))


class Views(NamedTuple):
    """Some storages, each given by its dtype, and the views of them by key; one seed for all values."""

    dtypes: list[torch.dtype]
    views: dict[str, View]
    seed: int

    def tensors(self) -> dict[str, torch.Tensor]:
        storages = [seeded_tensor(self.seed + n, (STORAGE_ELEMENTS,), dtype) for n, dtype in enumerate(self.dtypes)]
        return {key: view.of(storages) for key, view in self.views.items()}


@st.composite
def strided_state_dicts(draw) -> Views:
    """``Views([torch.int8], {"a.b": View(0, (2,), (1,), 3)}, seed=5)``: one to three storages, each with any number of views."""
    storage_dtypes = draw(st.lists(dtypes(), min_size=1, max_size=3))
    keys = st.text("abc.", min_size=1, max_size=6)
    seen = draw(st.dictionaries(keys, views(len(storage_dtypes)), min_size=1, max_size=6))
    return Views(storage_dtypes, seen, draw(st.integers(0, 2**30)))


class Contents(NamedTuple):
    """Contiguous tensors, given by dtype and shape; one seed for all values."""

    described: dict[str, tuple[torch.dtype, tuple[int, ...]]]
    seed: int

    def tensors(self) -> dict[str, torch.Tensor]:
        return {key: seeded_tensor(self.seed + n, shape, dtype) for n, (key, (dtype, shape)) in enumerate(self.described.items())}


def safetensors_contents() -> st.SearchStrategy[Contents]:
    """``Contents({"ä b": (torch.float16, (2, 0))}, seed=3)``."""
    keys = st.text(min_size=1, max_size=8).filter(str.isprintable)
    shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
    return st.builds(Contents, st.dictionaries(keys, st.tuples(dtypes(), shapes), min_size=1, max_size=6), st.integers(0, 2**30))


def containers() -> st.SearchStrategy[list[str]]:
    """``["state_dict", "module"]``, the outermost first: where a state dict lies in a file."""
    return st.lists(st.sampled_from(CONTAINERS), max_size=3)


def training_states() -> st.SearchStrategy[dict]:
    """``{"epoch": 3, "args": {"lr": [0.1, None]}}``: plain data under names that hold no weights."""
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5)
    keys = st.text(max_size=5) | st.integers() | st.tuples(st.integers())
    data = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=6)
    names = st.text("abcxyz_", min_size=1, max_size=6).filter(lambda name: name not in CONTAINERS)
    return st.dictionaries(names, data, max_size=4)
