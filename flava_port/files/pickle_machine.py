"""Reads the pickle inside a torch checkpoint as data. No code in it is ever executed.

Python's own unpickler calls whatever the file names. This one does not call anything: it walks the
opcodes (`pickletools.genops`) and builds plain dicts, lists, tuples and scalars. A global is a
*name*; only the names on the list in `flava_port.pickle_names` mean anything, and every other one
ends the reading with that name in the error. No step costs more than the bytes that ask for it:
nothing is copied, hashed or printed that a short file can make long.
"""

import pickletools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any, BinaryIO

from ..errors import InvalidInput
from ..text import shown
from .pickle_names import ARGUMENTS_MAX, BUILDERS, VALUES, Named, Opaque, PickledModule, Storage, as_key

PICKLE_BYTES_MAX = 32 << 20  # the pickle of a 10b model's state dict has about 1 MB
INSTRUCTIONS_MAX = 4_000_000  # and about 100,000 instructions

_MARK = object()

_LITERALS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_PUSH_ARGUMENT = frozenset(
    [
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
    ]
)
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": dict, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NO_OPERATION = frozenset(("PROTO", "FRAME"))


def read_pickle(text: BytesIO, storage_of: Callable[[tuple], Storage]) -> Any:
    """The object that one pickle describes, as plain data; ``text`` (see `bounded`) ends up behind it.

    ``storage_of`` turns a persistent id (the tuple that torch writes for a storage) into a `Storage`.
    Sets become dicts whose values are None.

    Raises:
        InvalidInput: the pickle is broken, or names a global that is not on the list.
    """
    try:
        with _no_advice():
            found = _Machine(storage_of).run(text)
    except _ERRORS as error:
        _check_length(text)
        reason = f"{type(error).__name__}: {shown(error)}"
        raise InvalidInput(f"the pickle is broken or truncated ({reason}); fetch or copy the file again") from None
    _check_length(text)
    return found


def is_pickle(file: BinaryIO) -> bool:
    """One whole pickle, from the first byte to the last."""
    text = bounded(file)
    try:
        with _no_advice():
            return sum(1 for _ in pickletools.genops(text)) > 0 and not text.read(1) and text.tell() <= PICKLE_BYTES_MAX
    except _ERRORS:
        return False


def bounded(file: BinaryIO) -> BytesIO:
    """What pickles may take of a file, in memory: no length in them can ask for more, and each read of a few bytes is cheap."""
    return BytesIO(file.read(PICKLE_BYTES_MAX + 1))


def _check_length(text: BytesIO) -> None:
    if text.tell() > PICKLE_BYTES_MAX:
        raise InvalidInput(f"its pickle has more than {PICKLE_BYTES_MAX:,} bytes, too many for a checkpoint")


@contextmanager
def _no_advice() -> Iterator[None]:
    """Python 3.12 and later warn of escapes in a pickle's strings as if they were in somebody's code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


# What a builder or `genops` raises for operands that make no sense.
_ERRORS = (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError)


class _Machine:
    """The stack machine of the pickle format, over plain data.

    `_OPERATIONS` has what each opcode does that a checkpoint needs; an opcode that is not there is refused.
    """

    def __init__(self, storage_of: Callable[[tuple], Storage]):
        self.storage_of = storage_of
        self.stack: list[Any] = []
        self.memo: list[Any] = []

    def run(self, file: BinaryIO) -> Any:
        for count, (opcode, argument, _position) in enumerate(pickletools.genops(file)):
            if count == INSTRUCTIONS_MAX:
                raise InvalidInput(f"its pickle has more than {count:,} instructions, too many for a checkpoint")
            if opcode.name == "STOP":
                return self.stack.pop()
            operation = _OPERATIONS.get(opcode.name)
            if operation is None:
                raise InvalidInput(f"the pickle holds the instruction {opcode.name}, which no checkpoint needs; refused")
            operation(self, argument)
        raise InvalidInput("the pickle has no end")

    def push(self, value):
        self.stack.append(value)

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
        """Every writer counts its memo up, from 0 or (Python 2) from 1."""
        if index == len(self.memo) + 1:
            self.memo.append(None)
        if index == len(self.memo):
            self.memo.append(None)
        self.memo[index] = self.stack[-1]

    do_PUT = do_LONG_BINPUT = do_BINPUT

    def do_MEMOIZE(self, _):
        self.memo.append(self.stack[-1])

    # containers
    def do_TUPLE(self, _):
        self.stack.append(tuple(self.take_to_mark()))

    def do_LIST(self, _):
        self.stack.append(self.take_to_mark())

    def do_FROZENSET(self, _):
        self.stack.append(dict.fromkeys(map(as_key, self.take_to_mark())))

    def do_DICT(self, _):
        items = self.take_to_mark()
        self.stack.append({})
        self.set_items(items)

    def do_SETITEM(self, _):
        self.set_items(self.take(2))

    def do_SETITEMS(self, _):
        self.set_items(self.take_to_mark())

    def set_items(self, flat: list):
        target = self.stack[-1]
        if isinstance(target, Opaque):
            return
        if not isinstance(target, dict) or len(flat) % 2:
            raise InvalidInput("the pickle sets items on something that is no dict")
        for key, value in zip(flat[::2], flat[1::2]):
            target[as_key(key)] = value

    def do_ADDITEMS(self, _):
        members = self.take_to_mark()
        self.set_items([part for member in members for part in (member, None)])

    def do_APPEND(self, _):
        self.extend(self.take(1))

    def do_APPENDS(self, _):
        self.extend(self.take_to_mark())

    def extend(self, values: list):
        target = self.stack[-1]
        if isinstance(target, Opaque):
            return
        if not isinstance(target, list):
            raise InvalidInput("the pickle appends to something that is no list")
        target.extend(values)

    # names, and what is made with them
    def do_GLOBAL(self, argument):
        module, _, name = argument.partition(" ")
        self.push_global(module, name)

    def do_STACK_GLOBAL(self, _):
        self.push_global(*self.take(2))

    def push_global(self, module, name):
        if not isinstance(module, str) or not isinstance(name, str):
            raise InvalidInput("the pickle refers to a name that is no text; refused")
        full_name = f"{module}.{name}"
        if full_name not in BUILDERS and full_name not in VALUES:
            raise InvalidInput(
                f"the pickle names {shown(full_name)}, which is not on the list of harmless names; nothing of it was "
                "run. Where you trust the file, save its state dict alone (torch.save(model.state_dict(), ...))"
            )
        self.stack.append(Named(full_name) if full_name in BUILDERS else VALUES[full_name])

    def do_INST(self, argument):
        self.do_GLOBAL(argument)
        *arguments, function = self.take_to_mark()
        self.stack.append(self.call(function, tuple(arguments)))

    def do_REDUCE(self, _):
        self.stack.append(self.call(*self.take(2)))

    do_NEWOBJ = do_REDUCE

    def call(self, function, arguments):
        if not isinstance(function, Named) or not isinstance(arguments, tuple) or len(arguments) > ARGUMENTS_MAX:
            raise InvalidInput("the pickle calls something that is not on the list of harmless names; refused")
        return BUILDERS[function.name](*arguments)

    def do_BUILD(self, _):
        (state,) = self.take(1)
        if isinstance(target := self.stack[-1], PickledModule) and isinstance(state, dict):
            target.state = state
        # The state of anything else (an OrderedDict's _metadata, a tensor's hooks) carries no weights.

    def do_BINPERSID(self, _):
        (reference,) = self.take(1)
        if not isinstance(reference, tuple) or not reference:
            raise InvalidInput("the pickle refers to a storage in an unknown way")
        if reference[0] == "module" and len(reference) == 4 and isinstance(reference[1], Named):
            self.stack.append(reference[1])  # how the legacy format names a module's class: with its source code
        else:
            self.stack.append(self.storage_of(reference))


# What each instruction does, as a function of the machine and the instruction's argument.
_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(_PUSH_ARGUMENT, _Machine.push),
    **{name: lambda machine, _, value=value: machine.push(value) for name, value in _LITERALS.items()},
    **{name: lambda machine, _, make=make: machine.push(make()) for name, make in _EMPTY.items()},
    **{name: lambda machine, _, count=count: machine.push(tuple(machine.take(count))) for name, count in _TUPLES.items()},
    **dict.fromkeys(_NO_OPERATION, lambda _machine, _: None),
    **{name.removeprefix("do_"): operation for name, operation in vars(_Machine).items() if name.startswith("do_")},
}
