"""What the names in a checkpoint's pickle mean: the complete list of names that have a meaning.

A pickle names classes and functions and asks for them to be called. Here a name on the list stands for
a plain value (`VALUES`) or for a builder of ours that returns plain data (`BUILDERS`). Nothing is
imported and nothing from the file is run. The work of a builder is in proportion to the bytes of the file
that ask for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, TypeGuard

from ..errors import InvalidInput
from ..text import shown
from .dtypes import DTYPES, Dtype
from .tensors import UnsupportedTensor

KEY_CHARS_MAX = 1000
MODULE_PARTS_MAX = 20_000  # OpenAI's encoder has about 300
ARGUMENTS_MAX = 16  # of one call in the pickle; torch's own calls have up to 9
RANK_MAX = 32  # as many axes as a numpy array can have
SIZE_MAX = 1 << 62
EXPANDED_BYTES_MAX = 64 << 20  # of a tensor that repeats the elements of its storage (stride 0)


@dataclass
class Storage:
    """A run of elements in the file. ``start``, the position of its first byte, is set once it is known."""

    key: str
    dtype: Dtype | None  # None: the storage is untyped, and each tensor in it says its own dtype
    nbytes: int
    start: int = -1


@dataclass(frozen=True)
class PickledTensor:
    """A tensor as the pickle describes it: a strided view of a storage, not read yet."""

    storage: Storage
    dtype: Dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Opaque:
    """An object beside the weights, such as training arguments: its class is known and it is not rebuilt."""

    class_name: str


@dataclass(frozen=True)
class Named:
    """A name on the list that stands for a builder; nothing was imported."""

    name: str


@dataclass(eq=False, slots=True)
class OtherKey:
    """Stands in a dict for a key that is not a string.

    Two of them are equal only if they are one object, so that no value from the file is hashed or compared: a
    short file can describe a value for which that takes forever.
    """

    text: str

    def __str__(self) -> str:
        return self.text


def as_key(key: object) -> str | OtherKey:
    """The key for our own dicts that stands for a key of the pickle's dicts or a member of its sets."""
    if isinstance(key, str):
        if len(key) > KEY_CHARS_MAX:
            raise InvalidInput(f"the pickle has a key of {len(key):,} characters; refused")
        return key
    return OtherKey(str(key) if isinstance(key, int | float | None) else type(key).__name__)


@dataclass
class PickledModule:
    """A pickled `torch.nn.Module`: the name of its class, and its ``__dict__`` as plain data."""

    class_name: str
    state: dict = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """What ``module.state_dict()`` would have returned, with tensors that are not read yet.

        Raises:
            InvalidInput: the module contains itself, or has more parts than any real model.
        """
        entries: dict[str, Any] = {}
        parts = 0
        waiting = [("", self)]
        while waiting:
            prefix, module = waiting.pop()
            parameters, buffers, children, transient = map(
                module._dict_at, ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
            )
            parts += 1 + len(parameters) + len(buffers) + len(children)
            if parts > MODULE_PARTS_MAX or len(prefix) > KEY_CHARS_MAX:
                raise InvalidInput("its pickled module contains itself, or has more parts than any model; refused")
            kept = {name: buffer for name, buffer in buffers.items() if name not in transient}
            entries |= {f"{prefix}{name}": value for name, value in (parameters | kept).items() if value is not None}
            inner = [(f"{prefix}{name}.", child) for name, child in children.items() if isinstance(child, PickledModule)]
            waiting += reversed(inner)
        return entries

    def _dict_at(self, name: str) -> dict:
        value = self.state.get(name)
        return value if isinstance(value, dict) else {}


_STORAGES = {dtype.storage: dtype for dtype in DTYPES.values() if dtype.storage} | {"UntypedStorage": None}

# The value that each of these names stands for.
VALUES: dict[str, Dtype | None] = {
    **{f"torch.{name}": dtype for name, dtype in _STORAGES.items()},
    **{f"torch.storage.{name}": dtype for name, dtype in _STORAGES.items()},
    **{f"torch.{name}": dtype for name, dtype in DTYPES.items()},
    "torch.Tensor": None,
    "torch._tensor.Tensor": None,
    "torch.per_tensor_affine": None,
    "torch.per_channel_affine": None,
    "torch.per_channel_affine_float_qparams": None,
}

# The builders have the parameters of the functions that they stand for. Their arguments come from the file and may
# be any plain data; a builder that gets too few or too many raises TypeError, which the pickle machine expects.


def _rebuild_tensor(
    storage: object, offset: object, shape: object, stride: object, _grad: object = False, _hooks: object = (), metadata: object = ()
) -> PickledTensor | UnsupportedTensor:
    return _checked_tensor(storage, getattr(storage, "dtype", None), offset, shape, stride, metadata)


def _rebuild_tensor_v3(
    storage: object, offset: object, shape: object, stride: object, _grad: object, _hooks: object, dtype: object, metadata: object = ()
) -> PickledTensor | UnsupportedTensor:
    return _checked_tensor(storage, dtype, offset, shape, stride, metadata)


def _checked_tensor(
    storage: object, dtype: object, offset: object, shape: object, stride: object, metadata: object
) -> PickledTensor | UnsupportedTensor:
    """The tensor, once it is sure that all of it lies inside its storage."""
    if not isinstance(storage, Storage) or not isinstance(dtype, Dtype):
        raise InvalidInput("a tensor in the pickle has no storage or no dtype")
    if not (_are_sizes(shape) and _are_sizes(stride) and _is_size(offset)) or len(shape) != len(stride):
        raise InvalidInput(f"a tensor in storage {shown(storage.key)!r} has an impossible shape, stride or offset")
    elements = prod(shape)
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride)) if elements else -1
    if (last + 1) * dtype.itemsize > storage.nbytes:
        raise InvalidInput(f"a tensor of shape {list(shape)} reaches past the end of its storage {shown(storage.key)!r}")
    if elements * dtype.itemsize > max(storage.nbytes, EXPANDED_BYTES_MAX):
        raise InvalidInput(f"a tensor of shape {list(shape)} repeats the few elements of its storage; refused")
    if metadata:
        return UnsupportedTensor("conjugated or negated")
    return PickledTensor(storage, dtype, offset, tuple(shape), tuple(stride))


def _is_size(number: object) -> TypeGuard[int]:
    return type(number) is int and 0 <= number < SIZE_MAX


def _are_sizes(numbers: object) -> TypeGuard[Sequence[int]]:
    return isinstance(numbers, tuple | list) and len(numbers) <= RANK_MAX and all(map(_is_size, numbers))


def _rebuild_parameter(tensor: object, *_flags: object) -> object:
    return tensor


def _rebuild_from_type(rebuild: object, _type: object, arguments: Any, _state: object) -> object:
    if not isinstance(rebuild, Named) or rebuild.name not in _TENSOR_BUILDERS:
        raise InvalidInput("the pickle rebuilds a tensor with something that is not on the list of harmless names")
    return _TENSOR_BUILDERS[rebuild.name](*arguments[:ARGUMENTS_MAX])


def _ordered_dict(pairs: Any = ()) -> dict[str | OtherKey, Any]:
    return {as_key(key): value for key, value in _emptied(pairs or [])}


def _set(members: Any = ()) -> dict[str | OtherKey, None]:
    return dict.fromkeys(map(as_key, _emptied(members or [])))


def _emptied(items: list) -> list:
    """The items, taken out of their list. A file that names one long list again and again has it copied only once."""
    taken = items[:]
    items.clear()
    return taken


def _returns(make: Callable[[str], object], name: str) -> Callable[..., object]:
    """A builder that ignores its arguments and returns ``make(name)``."""
    return lambda *_arguments: make(name)


_TENSOR_BUILDERS: dict[str, Callable[..., object]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
}

_UNSUPPORTED = {
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_sparse_csr_tensor": "sparse",
    "torch._utils._rebuild_qtensor": "quantised",
    "torch._utils._rebuild_meta_tensor_no_storage": "meta (shape without values)",
    "torch._utils._rebuild_nested_tensor": "nested",
}

# The classes of OpenAI's encoder, which was published as a pickled module.
_MODULES = (
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.pooling.MaxPool2d",
    "torch.nn.modules.linear.Identity",
    "dall_e.encoder.Encoder",
    "dall_e.encoder.EncoderBlock",
    "dall_e.utils.Conv2d",
)

# The classes of objects that training code saves beside the weights.
_BUILTINS = ["bool", "bytearray", "bytes", "complex", "dict", "float", "int", "list", "object", "range", "slice", "str", "tuple", "xrange"]
_OPAQUE = (
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in _BUILTINS),
    "argparse.Namespace",
    "types.SimpleNamespace",
    "collections.Counter",
    "collections.defaultdict",
    "collections.deque",
    "datetime.date",
    "datetime.datetime",
    "datetime.timedelta",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
    "torch.device",
    "torch.serialization._get_layout",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.core.numeric._frombuffer",
    "numpy._core.numeric._frombuffer",
    "numpy.ndarray",
    "numpy.dtype",
    "_codecs.encode",
)

# The builder that each of these names stands for. With VALUES, this is the complete list.
BUILDERS: dict[str, Callable[..., object]] = {
    **_TENSOR_BUILDERS,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch.nn.parameter.Parameter": _rebuild_parameter,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch.Size": lambda sizes=(): sizes,
    "collections.OrderedDict": _ordered_dict,
    **{f"{module}.{name}": _set for module in ("builtins", "__builtin__") for name in ("set", "frozenset")},
    **{name: _returns(UnsupportedTensor, kind) for name, kind in _UNSUPPORTED.items()},
    **{name: _returns(PickledModule, name) for name in _MODULES},
    **{name: _returns(Opaque, name) for name in _OPAQUE},
}
