"""What the names in a checkpoint's pickle mean: the names of which plain data is made.

A pickle names classes and functions and asks for them to be called. Here a name on the list stands for
a plain value (`VALUES`) or for a builder of ours that returns plain data (`BUILDERS`). Any other name makes an
`Opaque`, unless only an attack has use for it (`flava_port.files.pickle_attacks`). Nothing is imported and nothing
from the file is run. The work of a builder is in proportion to the bytes of the file that ask for it.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, TypeGuard

from ..errors import InvalidInput
from ..text import shown
from .dtypes import DTYPES, Dtype
from .pickle_attacks import is_attack
from .pickle_objects import KEY_CHARS_MAX, Key, Named, Opaque, PickledTensor, Storage, as_key, class_of
from .tensors import UnsupportedTensor

ARGUMENTS_MAX = 16  # of one call of a builder; torch's own calls have up to 9
RANK_MAX = 32  # as many axes as a numpy array can have
SIZE_MAX = 1 << 62
EXPANDED_BYTES_MAX = 64 << 20  # of a tensor that repeats the elements of its storage (stride 0)


_STORAGES = {dtype.storage: dtype for dtype in DTYPES.values() if dtype.storage} | {"UntypedStorage": None}

# The value that each of these names stands for.
VALUES: dict[str, Dtype | None] = {
    **{f"torch.{name}": dtype for name, dtype in _STORAGES.items()},
    **{f"torch.storage.{name}": dtype for name, dtype in _STORAGES.items()},
    **{f"torch.{name}": dtype for name, dtype in DTYPES.items()},
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
    if not (are_sizes(shape) and are_sizes(stride) and is_size(offset)) or len(shape) != len(stride):
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


def is_size(number: object) -> TypeGuard[int]:
    """Whether it is a number that a size in a file can be."""
    return type(number) is int and 0 <= number < SIZE_MAX


def are_sizes(numbers: object) -> TypeGuard[Sequence[int]]:
    """Whether they are the sizes of a tensor, by axis."""
    return isinstance(numbers, tuple | list) and len(numbers) <= RANK_MAX and all(map(is_size, numbers))


def _rebuild_parameter(tensor: object, *_flags: object) -> object:
    return tensor


def _rebuild_from_cpu_tensor(tensor: object, dtype: object, *_device: object) -> object:
    """A tensor that lay on a device torch has no storage for; it was saved by way of the CPU."""
    return tensor if isinstance(tensor, PickledTensor) and tensor.dtype == dtype else UnsupportedTensor("recast")


def _rebuild_from_type(rebuild: object, type_: object, arguments: Any, _state: object) -> object:
    """A tensor of a subclass. What is not rebuilt as a plain tensor of torch's is, holds more than its elements."""
    if not isinstance(rebuild, Named):
        raise InvalidInput("the pickle rebuilds a tensor with something that is no name; refused")
    if rebuild.name not in _TENSOR_BUILDERS:
        return UnsupportedTensor(type_.name if isinstance(type_, Named) else class_of(type_))
    return _TENSOR_BUILDERS[rebuild.name](*arguments[:ARGUMENTS_MAX])


def _ordered_dict(pairs: Any = ()) -> dict[Key, Any]:
    return {as_key(key): value for key, value in _emptied(pairs or [])}


def _set(members: Any = ()) -> dict[Key, None]:
    return dict.fromkeys(map(as_key, _emptied(members or [])))


def _reconstructed(cls: object, *_base_and_state: object) -> Opaque:
    """What the first two protocols make of any object: its class stands among the arguments."""
    return Opaque(cls.name if isinstance(cls, Named) else class_of(cls))


def _attribute(owner: object, name: object, *_default: object) -> Named:
    """A method or a nested class; what it would be called with is known where it is called."""
    if not isinstance(owner, Named | Opaque) or not isinstance(name, str):
        raise InvalidInput("the pickle asks builtins.getattr for a part of something that has no name; refused")
    full_name = f"{owner.name if isinstance(owner, Named) else owner.class_name}.{name[:KEY_CHARS_MAX]}"
    return checked_name(full_name)


def checked_name(full_name: str, callers: str = "") -> Named:
    """The name, if honest files have use for it. ``callers`` are the names before it that call others.

    Raises:
        InvalidInput: only an attack has use for it.
    """
    if len(full_name) > 2 * KEY_CHARS_MAX:
        raise InvalidInput(f"the pickle names {shown(full_name)}, which is no name that any code has; refused")
    if full_name == "torch.storage._load_from_bytes":
        raise InvalidInput(
            f"the pickle names {full_name}: it was written by pickle.dump, which puts a pickle into the pickle; "
            "no such file is read. Whoever made it can write the state dict with torch.save, or as safetensors"
        )
    if is_attack(full_name):
        by_way = f" (by way of {callers})" if callers else ""
        raise InvalidInput(
            f"the pickle names {shown(full_name)}{by_way}, which only an attack has use for; nothing of it was run. "
            "Open it with nothing else, and ask whoever made it for the state dict as safetensors"
        )
    return Named(full_name)


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

# Tensors of these are told apart, so that a message can say what they are.
_UNSUPPORTED = {
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_sparse_csr_tensor": "sparse",
    "torch._utils._rebuild_qtensor": "quantised",
    "torch._utils._rebuild_meta_tensor_no_storage": "meta (shape without values)",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_wrapper_subclass": "subclassed",
}

# The builder that each of these names stands for. With VALUES, this is the complete list of names of which anything is made.
BUILDERS: dict[str, Callable[..., object]] = {
    **_TENSOR_BUILDERS,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch.nn.parameter.Parameter": _rebuild_parameter,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _rebuild_from_cpu_tensor,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch.Size": lambda sizes=(): sizes,
    "collections.OrderedDict": _ordered_dict,
    **{f"{module}.{name}": _set for module in ("builtins", "__builtin__") for name in ("set", "frozenset")},
    **{name: _returns(UnsupportedTensor, kind) for name, kind in _UNSUPPORTED.items()},
    **{f"{module}.getattr": _attribute for module in ("builtins", "__builtin__")},
    **{f"{module}._reconstructor": _reconstructed for module in ("copyreg", "copy_reg")},
}
