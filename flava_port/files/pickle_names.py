"""What the names in a checkpoint's pickle mean: the whole list of those that are honoured.

A pickle names classes and functions and asks for them to be called. Here every name on the list
stands for a value, or for a builder that returns plain data. Nothing is imported, nothing is run,
and no builder does more work than the part of the file that asks for it is long.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

from ..errors import InvalidInput
from ..text import shown
from .dtypes import DTYPES, Dtype

KEY_CHARS_MAX = 1000
MODULE_PARTS_MAX = 20_000  # OpenAI's encoder has about 300
ARGUMENTS_MAX = 16  # of a call in the pickle; torch's own have up to 9
RANK_MAX = 32  # as many axes as any numpy has
SIZE_MAX = 1 << 62
EXPANDED_BYTES_MAX = 64 << 20  # of a tensor that shows an element of its storage several times


@dataclass
class Storage:
    """A run of elements in the file. ``start`` (its first byte) is set once the file tells it."""

    key: str
    dtype: Dtype | None  # None: an untyped storage, the tensor says
    nbytes: int
    start: int = -1


@dataclass(frozen=True)
class PickledTensor:
    """A strided view of a storage, still unread."""

    storage: Storage
    dtype: Dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class UnsupportedTensor:
    """A tensor that no conversion can place: ``kind`` says what it is (sparse, quantised, ...)."""

    kind: str


@dataclass(frozen=True)
class Opaque:
    """An object beside the weights that is recognised and not rebuilt (training arguments, say)."""

    class_name: str


@dataclass(frozen=True)
class Named:
    """A name that the pickle referred to; nothing was imported."""

    name: str


@dataclass(eq=False, slots=True)
class OtherKey:
    """A dict key that is no string. Compared by identity: hashing what a file holds can take forever."""

    text: str

    def __str__(self) -> str:
        return self.text


def as_key(key: Any) -> str | OtherKey:
    """A key under which plain dicts hold what the pickle's dicts and sets hold."""
    if isinstance(key, str):
        if len(key) > KEY_CHARS_MAX:
            raise InvalidInput(f"the pickle has a key of {len(key):,} characters; refused")
        return key
    return OtherKey(str(key) if isinstance(key, int | float | None) else type(key).__name__)


@dataclass
class PickledModule:
    """A pickled `torch.nn.Module`: the name of its class, and its ``__dict__`` as data."""

    class_name: str
    state: dict = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """What ``module.state_dict()`` would have returned, tensors unread."""
        entries: dict[str, Any] = {}
        parts = 0
        waiting = [("", self)]
        while waiting:
            prefix, module = waiting.pop()
            parameters, buffers, children, transient = map(
                module.dict_at, ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
            )
            parts += 1 + len(parameters) + len(buffers) + len(children)
            if parts > MODULE_PARTS_MAX or len(prefix) > KEY_CHARS_MAX:
                raise InvalidInput("its pickled module holds itself, or more parts than any model; refused")
            kept = {name: buffer for name, buffer in buffers.items() if name not in transient}
            entries |= {f"{prefix}{name}": value for name, value in (parameters | kept).items() if value is not None}
            inner = [(f"{prefix}{name}.", child) for name, child in children.items() if isinstance(child, PickledModule)]
            waiting += reversed(inner)
        return entries

    def dict_at(self, name: str) -> dict:
        value = self.state.get(name)
        return value if isinstance(value, dict) else {}


# --------------------------------------------------------------------- names that stand for values

_STORAGES = {dtype.storage: dtype for dtype in DTYPES.values() if dtype.storage} | {"UntypedStorage": None}

VALUES: dict[str, Any] = {
    **{f"torch.{name}": dtype for name, dtype in _STORAGES.items()},
    **{f"torch.storage.{name}": dtype for name, dtype in _STORAGES.items()},
    **{f"torch.{name}": dtype for name, dtype in DTYPES.items()},
    "torch.Tensor": None,
    "torch._tensor.Tensor": None,
    "torch.per_tensor_affine": None,
    "torch.per_channel_affine": None,
    "torch.per_channel_affine_float_qparams": None,
}


# ------------------------------------------------------------------- names that stand for builders


def _rebuild_tensor(storage, offset, shape, stride, _requires_grad=False, _hooks=(), metadata=()):
    return _checked_tensor(storage, getattr(storage, "dtype", None), offset, shape, stride, metadata)


def _rebuild_tensor_v3(storage, offset, shape, stride, _requires_grad, _hooks, dtype, metadata=()):
    return _checked_tensor(storage, dtype, offset, shape, stride, metadata)


def _checked_tensor(storage, dtype, offset, shape, stride, metadata) -> PickledTensor | UnsupportedTensor:
    """The tensor, after making sure that it lies inside its storage."""
    if not isinstance(storage, Storage) or not isinstance(dtype, Dtype):
        raise InvalidInput("a tensor in the pickle has no storage or no dtype")
    if not all(map(_are_sizes, (shape, stride, (offset,)))) or len(shape) != len(stride):
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


def _are_sizes(numbers: Any) -> bool:
    return (
        isinstance(numbers, tuple | list)
        and len(numbers) <= RANK_MAX
        and all(type(number) is int and 0 <= number < SIZE_MAX for number in numbers)
    )


def _rebuild_parameter(tensor, *_flags):
    return tensor


def _rebuild_from_type(rebuild, _type, arguments, _state):
    if not isinstance(rebuild, Named) or rebuild.name not in _TENSOR_BUILDERS:
        raise InvalidInput("the pickle rebuilds a tensor with something that is not on the list of harmless names")
    return _TENSOR_BUILDERS[rebuild.name](*arguments[:ARGUMENTS_MAX])


def _ordered_dict(pairs=()):
    return {as_key(key): value for key, value in _poured(pairs or [])}


def _set(members=()):
    return dict.fromkeys(map(as_key, _poured(members or [])))


def _poured(items: list) -> list:
    """The items, taken out of their list: a file cannot have one long list copied again and again."""
    poured = items[:]
    items.clear()
    return poured


def _returns(make: Callable[[str], Any], name: str) -> Callable:
    return lambda *_arguments: make(name)


_TENSOR_BUILDERS: dict[str, Callable] = {
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

_MODULES = (
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.pooling.MaxPool2d",
    "torch.nn.modules.linear.Identity",
    "dall_e.encoder.Encoder",
    "dall_e.encoder.EncoderBlock",
    "dall_e.utils.Conv2d",
)

# What training code leaves beside the weights.
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

# What calling each name with its pickled arguments gives. With VALUES, this is the whole list.
BUILDERS: dict[str, Callable] = {
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
