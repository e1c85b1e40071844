"""Reads the pickle inside a torch checkpoint as data. No code in it is ever executed.

Python's own unpickler calls whatever the file names. This one does not call anything: it walks the
opcodes (`pickletools.genops`) and builds plain dicts, lists, tuples and scalars. A global is a
*name*; only the names in `GLOBALS` mean anything, each with a builder written here, and every
other one ends the reading with that name in the error.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any, BinaryIO

import torch

from .errors import InvalidInput


@dataclass
class Storage:
    """A run of elements in the file. ``start`` (its first byte) is set once the file tells it."""

    key: str
    dtype: torch.dtype | None  # None: an untyped storage, the tensor says
    nbytes: int
    start: int = -1


@dataclass(frozen=True)
class PickledTensor:
    """A strided view of a storage, still unread."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class UnsupportedTensor:
    """A tensor that no conversion can place: ``kind`` says what it is (sparse, quantised, ...)."""

    kind: str


@dataclass
class PickledModule:
    """A pickled `torch.nn.Module`: the name of its class, and its ``__dict__`` as data."""

    class_name: str
    state: dict = field(default_factory=dict)

    def state_dict(self, prefix: str = "") -> dict[str, Any]:
        """What ``module.state_dict()`` would have returned, tensors unread."""
        transient = self.state.get("_non_persistent_buffers_set") or ()
        entries = {}
        for group in ("_parameters", "_buffers"):
            for name, value in _items(self.state.get(group)):
                if value is not None and name not in transient:
                    entries[prefix + name] = value
        for name, child in _items(self.state.get("_modules")):
            if isinstance(child, PickledModule):
                entries.update(child.state_dict(f"{prefix}{name}."))
        return entries


@dataclass(frozen=True)
class Opaque:
    """An object beside the weights that is recognised and not rebuilt (training arguments, say)."""

    class_name: str


@dataclass(frozen=True)
class _Global:
    """A name that the pickle referred to; nothing was imported."""

    name: str


def _items(mapping: Any):
    return mapping.items() if isinstance(mapping, dict) else ()


# ---------------------------------------------------------------- what a name in the pickle means

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": None,
}

_DTYPES = {
    f"torch.{name}": getattr(torch, name)
    for name in "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 complex128".split()
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

_OPAQUE = (
    "argparse.Namespace",
    "collections.Counter",
    "collections.defaultdict",
    "torch.device",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.ndarray",
    "numpy.dtype",
    "_codecs.encode",
)


def _rebuild_tensor(storage, offset, shape, stride, *_hooks_and_flags):
    return _tensor(storage, getattr(storage, "dtype", None), offset, shape, stride)


def _rebuild_tensor_v3(storage, offset, shape, stride, _requires_grad, _hooks, dtype, *_metadata):
    return _tensor(storage, dtype, offset, shape, stride)


def _tensor(storage, dtype, offset, shape, stride) -> PickledTensor:
    """The tensor, after making sure that it lies inside its storage."""
    if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
        raise InvalidInput("a tensor in the pickle has no storage or no dtype")
    numbers = (offset, *shape, *stride)
    if len(shape) != len(stride) or not all(type(n) is int and 0 <= n < 1 << 62 for n in numbers):
        raise InvalidInput(f"a tensor in the pickle has the impossible shape {shape!r} or stride {stride!r}")
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride)) if prod(shape) else -1
    if (last + 1) * dtype.itemsize > storage.nbytes:
        raise InvalidInput(f"a tensor of shape {list(shape)} reaches past the end of its storage {storage.key!r}")
    return PickledTensor(storage, dtype, offset, tuple(shape), tuple(stride))


def _rebuild_parameter(tensor, *_flags):
    return tensor


def _rebuild_from_type(rebuild, _type, arguments, _state):
    if not isinstance(rebuild, _Global) or rebuild.name not in _TENSOR_BUILDERS:
        raise InvalidInput(f"the pickle rebuilds a tensor with {getattr(rebuild, 'name', rebuild)!r}; refused")
    return _TENSOR_BUILDERS[rebuild.name](*arguments)


_TENSOR_BUILDERS = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
}


def _unsupported(kind: str) -> Callable:
    return lambda *_arguments: UnsupportedTensor(kind)


def _opaque(name: str) -> Callable:
    return lambda *_arguments: Opaque(name)


# What calling each name with its pickled arguments gives. This is the whole list.
GLOBALS: dict[str, Callable] = {
    **_TENSOR_BUILDERS,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch.nn.parameter.Parameter": _rebuild_parameter,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch._utils._rebuild_sparse_tensor": _unsupported("sparse"),
    "torch._utils._rebuild_sparse_csr_tensor": _unsupported("sparse"),
    "torch._utils._rebuild_qtensor": _unsupported("quantised"),
    "torch._utils._rebuild_meta_tensor_no_storage": _unsupported("meta (shape without values)"),
    "torch._utils._rebuild_nested_tensor": _unsupported("nested"),
    "collections.OrderedDict": lambda items=(): dict(items),
    "torch.Size": lambda items=(): tuple(items),
    "builtins.set": lambda items=(): list(items),
    "__builtin__.set": lambda items=(): list(items),
    **{name: (lambda name: lambda *_arguments: PickledModule(name))(name) for name in _MODULES},
    **{name: _opaque(name) for name in _OPAQUE},
}

# Names that stand as arguments to those calls and are never called themselves.
_VALUES = {
    **{f"torch.{name}": dtype for name, dtype in _STORAGES.items()},
    **{f"torch.storage.{name}": dtype for name, dtype in _STORAGES.items()},
    **_DTYPES,
    "torch.Tensor": None,
    "torch._tensor.Tensor": None,
    "torch.per_tensor_affine": None,
    "torch.per_channel_affine": None,
    "torch.sparse_coo": None,
    "torch.sparse_csr": None,
    "torch.strided": None,
}


# ---------------------------------------------------------------------------- the opcode machine

_MARK = object()

_LITERALS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_PUSH_ARGUMENT = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8".split()
)
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NO_OPERATION = frozenset(("PROTO", "FRAME"))


class _Machine:
    """The stack machine of the pickle format, over plain data.

    One method for each opcode that a checkpoint needs; an opcode without one is refused.
    """

    def __init__(self, storage_of: Callable[[tuple], Storage]):
        self.storage_of = storage_of
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, file: BinaryIO) -> Any:
        for opcode, argument, _position in pickletools.genops(file):
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            if name in _PUSH_ARGUMENT:
                self.stack.append(argument)
            elif name in _LITERALS:
                self.stack.append(_LITERALS[name])
            elif name in _EMPTY:
                self.stack.append(_EMPTY[name]())
            elif name in _TUPLES:
                self.stack.append(tuple(self.take(_TUPLES[name])))
            elif name not in _NO_OPERATION:
                operation = getattr(self, f"do_{name}", None)
                if operation is None:
                    raise InvalidInput(f"the pickle holds the instruction {name}, which no checkpoint needs; refused")
                operation(argument)
        raise InvalidInput("the pickle has no end")

    def take(self, count: int) -> list:
        taken = self.stack[-count:]
        if len(taken) < count or _MARK in taken:
            raise InvalidInput("the pickle takes more from its stack than it put there")
        del self.stack[-count:]
        return taken

    def take_to_mark(self) -> list:
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                taken = self.stack[at + 1 :]
                del self.stack[at:]
                return taken
        raise InvalidInput("the pickle closes a group that it never opened")

    # stack and memo
    def do_MARK(self, _):
        self.stack.append(_MARK)

    def do_POP(self, _):
        self.stack.pop()

    def do_POP_MARK(self, _):
        self.take_to_mark()

    def do_BINGET(self, index):
        self.stack.append(self.memo[index])

    do_GET = do_LONG_BINGET = do_BINGET

    def do_BINPUT(self, index):
        self.memo[index] = self.stack[-1]

    do_PUT = do_LONG_BINPUT = do_BINPUT

    def do_MEMOIZE(self, _):
        self.memo[len(self.memo)] = self.stack[-1]

    # containers
    def do_TUPLE(self, _):
        self.stack.append(tuple(self.take_to_mark()))

    def do_LIST(self, _):
        self.stack.append(self.take_to_mark())

    do_FROZENSET = do_LIST

    def do_DICT(self, _):
        self.set_items(self.take_to_mark(), onto={})

    def do_SETITEM(self, _):
        self.set_items(self.take(2))

    def do_SETITEMS(self, _):
        self.set_items(self.take_to_mark())

    def set_items(self, flat: list, onto: dict | None = None):
        target = onto if onto is not None else self.stack[-1]
        if onto is not None:
            self.stack.append(onto)
        if isinstance(target, Opaque):
            return
        if not isinstance(target, dict) or len(flat) % 2:
            raise InvalidInput("the pickle sets items on something that is no dict")
        for key, value in zip(flat[::2], flat[1::2]):
            target[_dict_key(key)] = value

    def do_APPEND(self, _):
        self.extend(self.take(1))

    def do_APPENDS(self, _):
        self.extend(self.take_to_mark())

    do_ADDITEMS = do_APPENDS

    def extend(self, values: list):
        target = self.stack[-1]
        if isinstance(target, Opaque):
            return
        if not isinstance(target, list):
            raise InvalidInput("the pickle appends to something that is no list")
        target.extend(values)

    # names, and what is made with them
    def do_GLOBAL(self, argument):
        self.push_global(".".join(argument.split(" ", 1)))

    def do_STACK_GLOBAL(self, _):
        module, name = self.take(2)
        self.push_global(f"{module}.{name}")

    def push_global(self, name: str):
        if name not in GLOBALS and name not in _VALUES:
            raise InvalidInput(
                f"the pickle names {name}, which is not on the list of harmless names; nothing of it was run. "
                "Save the state dict alone (torch.save(model.state_dict(), ...)) where you trust the file"
            )
        self.stack.append(_Global(name))

    def do_REDUCE(self, _):
        function, arguments = self.take(2)
        self.stack.append(self.call(function, arguments))

    do_NEWOBJ = do_REDUCE

    def call(self, function, arguments):
        if not isinstance(function, _Global) or function.name not in GLOBALS or not isinstance(arguments, tuple):
            raise InvalidInput("the pickle calls something that is not on the list of harmless names; refused")
        resolved = (_VALUES.get(a.name, a) if isinstance(a, _Global) else a for a in arguments)
        return GLOBALS[function.name](*resolved)

    def do_BUILD(self, _):
        (state,) = self.take(1)
        if isinstance(target := self.stack[-1], PickledModule) and isinstance(state, dict):
            target.state.update(state)
        # The state of anything else (an OrderedDict's _metadata, a tensor's hooks) carries no weights.

    def do_BINPERSID(self, _):
        (reference,) = self.take(1)
        if not isinstance(reference, tuple):
            raise InvalidInput("the pickle refers to a storage in an unknown way")
        self.stack.append(self.storage_of(tuple(_storage_type(part) for part in reference)))


def _storage_type(part):
    return _VALUES.get(part.name, part) if isinstance(part, _Global) else part


def _dict_key(key):
    """Scalars and flat tuples of scalars; a deeply nested key would take forever to hash."""
    scalars = (str, int, float, bytes, type(None))
    if isinstance(key, scalars) or isinstance(key, tuple) and all(isinstance(part, scalars) for part in key):
        return key
    raise InvalidInput(f"the pickle uses a {type(key).__name__} as a dict key; refused")


def read_pickle(file: BinaryIO, storage_of: Callable[[tuple], Storage]) -> Any:
    """The object that one pickle in ``file`` describes, as plain data; ``file`` ends up behind it.

    ``storage_of`` turns a persistent id (the tuple that torch writes for a storage) into a `Storage`.

    Raises:
        InvalidInput: the pickle is broken, or names a global that is not on the list.
    """
    try:
        return _Machine(storage_of).run(file)
    except InvalidInput:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise InvalidInput(f"the pickle is broken ({type(error).__name__}: {error})") from None
