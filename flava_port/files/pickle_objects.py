"""What a pickle becomes when it is read as data: tensors that are not read yet, names, and objects that are not rebuilt."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import InvalidInput
from ..text import shown
from .dtypes import Dtype
from .tensors import StoredTensor
from .zip_records import Checksum

KEY_CHARS_MAX = 1000
MODULE_PARTS_MAX = 20_000  # OpenAI's encoder has about 300, a FLAVA of 10 billion parameters about 8,000


@dataclass
class Storage:
    """A run of elements in the file.

    ``start``, the position of its first byte, is set once it is known. If its bytes are deflated, ``deflated`` is
    how many they are; otherwise it is None. ``checksum`` is what the file says of its bytes.
    """

    key: str
    dtype: Dtype | None  # None: the storage is untyped, and each tensor in it says its own dtype
    nbytes: int
    start: int = -1
    deflated: int | None = None
    checksum: Checksum | None = None


@dataclass(frozen=True)
class PickledTensor:
    """A tensor as the pickle describes it: a strided view of a storage, not read yet."""

    storage: Storage
    dtype: Dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def stored_in(self, path: Path) -> StoredTensor:
        """The same tensor as it lies in its file."""
        storage = self.storage
        return StoredTensor(path, storage.start, self.dtype, self.shape, self.offset, self.stride, storage.deflated, storage.checksum)


@dataclass(frozen=True)
class Named:
    """A class or function that the pickle names. It is a name and no more: nothing was imported."""

    name: str


@dataclass(eq=False, slots=True)
class Opaque:
    """An object that is not rebuilt: the name of its class, and what the pickle sets on it, as plain data.

    ``state`` is its ``__dict__`` (or whatever its class would have been given instead), ``items`` what it holds if
    it is a kind of dict. Two of them are equal only if they are one object, as for `OtherKey`.
    """

    class_name: str
    state: Any = None
    items: "dict[Key, Any] | None" = None

    @property
    def is_module(self) -> bool:
        """Whether it is a `torch.nn.Module`, whatever its class: it has a module's parameters or children."""
        return isinstance(self.state, dict) and any(isinstance(self.state.get(name), dict) for name in ("_parameters", "_modules"))


@dataclass(eq=False, slots=True)
class OtherKey:
    """Stands in a dict for a key that is no short string; ``value`` is that key.

    Two of them are equal only if they are one object, so that no value from the file is hashed or compared: a
    short file can describe a value for which that takes forever.
    """

    text: str
    value: Any = field(repr=False, default=None)

    def __str__(self) -> str:
        return self.text


Key: TypeAlias = str | OtherKey


def as_key(key: object) -> Key:
    """The key for our own dicts that stands for a key of the pickle's dicts or a member of its sets."""
    if isinstance(key, str):
        return key if len(key) <= KEY_CHARS_MAX else OtherKey(shown(key), key)
    if isinstance(key, int) and key.bit_length() > 64:
        return OtherKey("int", key)
    if isinstance(key, int | float | None):
        return OtherKey(str(key), key)
    return OtherKey(class_of(key), key)


def class_of(value: object) -> str:
    """The name of the class that a value had where it was pickled; of a class, its own name."""
    if isinstance(value, Named):
        return value.name
    return value.class_name if isinstance(value, Opaque) else type(value).__name__


def module_state_dict(module: Opaque) -> dict[Key, Any]:
    """What ``module.state_dict()`` would have returned, with tensors that are not read yet.

    Raises:
        InvalidInput: the module contains itself, or has more parts than any real model.
    """
    entries: dict[Key, Any] = {}
    parts = 0
    waiting = [("", module)]
    while waiting:
        prefix, part = waiting.pop()
        parameters, buffers, children, transient = (
            _dict_at(part.state, name) for name in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
        )
        parts += 1 + len(parameters) + len(buffers) + len(children)
        if parts > MODULE_PARTS_MAX or len(prefix) > KEY_CHARS_MAX:
            raise InvalidInput("its pickled module contains itself, or has more parts than any model; refused")
        kept = {name: buffer for name, buffer in buffers.items() if name not in transient}
        entries |= {f"{prefix}{name}": value for name, value in (parameters | kept).items() if value is not None}
        inner = [(f"{prefix}{name}.", child) for name, child in children.items() if isinstance(child, Opaque) and child.is_module]
        waiting += reversed(inner)
    return entries


def _dict_at(state: Mapping, name: str) -> dict:
    value = state.get(name)
    return value if isinstance(value, dict) else {}
