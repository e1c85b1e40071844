"""Reads the pickle inside a torch checkpoint as data. No code in it is ever executed.

Python's own unpickler imports and calls whatever a file names. This reader imports and calls nothing of
the file's choice. It walks the instructions (`pickletools.genops`) and builds plain dicts, lists, tuples
and scalars. A name (of a class or function) makes something only if it is on the list in
`flava_port.files.pickle_names`. An object of any other class stays opaque: its class's name, and the plain data
that the pickle sets on it. A name that only an attack has use for ends the reading with an error that says it.

The cost of a step is in proportion to the bytes of the file that ask for it: no value that a short file
can make long, or that holds one part many times, is copied, hashed, compared or printed.
"""

import pickletools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any, BinaryIO, TypeAlias

from ..errors import InvalidInput
from ..text import shown
from .pickle_attacks import CALLERS
from .pickle_names import ARGUMENTS_MAX, BUILDERS, VALUES, checked_name
from .pickle_objects import KEY_CHARS_MAX, Named, Opaque, Storage, as_key

PICKLE_BYTES_MAX = 32 << 20  # the pickle of a state dict of 10 billion parameters has about 1 MB
INSTRUCTIONS_MAX = 4_000_000  # and about 100,000 instructions


def read_pickle(text: BytesIO, storage_of: Callable[[tuple], Storage], scale: int = 1) -> Any:
    """The object that one pickle describes, as plain data. Sets become dicts whose values are None.

    Args:
        text: the bytes, from `bounded`; afterwards its position is behind the pickle.
        storage_of: gives the `Storage` for a persistent id, the tuple that torch writes for a storage.
        scale: how many times as long as a checkpoint's pickle it may be.

    Raises:
        InvalidInput: the pickle is broken, too long, or names something that only an attack has use for.
    """
    try:
        with _no_escape_warnings():
            found = _Machine(storage_of).run(text, scale * INSTRUCTIONS_MAX)
    except _NONSENSE:
        _check_length(text, scale)
        raise InvalidInput("the pickle is broken or truncated; fetch or copy the file again") from None
    _check_length(text, scale)
    return found


def is_pickle(file: BinaryIO) -> bool:
    """Whether the file is one whole pickle from its first byte to its last."""
    text = bounded(file)
    try:
        with _no_escape_warnings():
            return sum(1 for _ in pickletools.genops(text)) > 0 and not text.read(1) and text.tell() <= PICKLE_BYTES_MAX
    except _NONSENSE:
        return False


def bounded(file: BinaryIO, scale: int = 1) -> BytesIO:
    """The next bytes of a file, in memory, one more than a pickle may have.

    A length inside the pickle cannot make anyone read more than these.
    """
    return BytesIO(file.read(scale * PICKLE_BYTES_MAX + 1))


def _check_length(text: BytesIO, scale: int) -> None:
    if text.tell() > scale * PICKLE_BYTES_MAX:
        raise InvalidInput(f"its pickle has more than {scale * PICKLE_BYTES_MAX:,} bytes, too many for a checkpoint")


@contextmanager
def _no_escape_warnings() -> Iterator[None]:
    """Without the warnings of Python 3.12 and later about escapes in a pickle's strings: they are meant for source code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


# What `genops`, a builder or the machine raises for instructions that make no sense.
_NONSENSE = (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError)

_MARK = object()


class _Machine:
    """The stack machine of the pickle format, on plain data.

    A method ``do_X`` carries out the instruction X; its parameter is the instruction's argument.
    `_OPERATIONS` lists all instructions that a checkpoint needs, and any other is refused.
    """

    def __init__(self, storage_of: Callable[[tuple], Storage]):
        self.storage_of = storage_of
        self.stack: list[Any] = []
        self.memo: list[Any] = []
        self.callers: dict[str, None] = {}  # names that call others, in the order in which the pickle has them

    def run(self, file: BinaryIO, instructions_max: int) -> Any:
        for count, (opcode, argument, _position) in enumerate(pickletools.genops(file)):
            if count == instructions_max:
                raise InvalidInput(f"its pickle has more than {count:,} instructions, too many for a checkpoint")
            if opcode.name == "STOP":
                return self.stack.pop()
            operation = _OPERATIONS.get(opcode.name)
            if operation is None:
                raise InvalidInput(f"the pickle holds the instruction {opcode.name}, which no checkpoint needs; refused")
            operation(self, argument)
        raise InvalidInput("the pickle has no end")

    def push(self, value: object) -> None:
        self.stack.append(value)

    def take(self, count: int) -> list[Any]:
        taken = self.stack[-count:]
        if len(taken) < count or _MARK in taken:
            raise InvalidInput("the pickle takes more from its stack than it put there")
        del self.stack[-count:]
        return taken

    def take_to_mark(self) -> list[Any]:
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                taken = self.stack[at + 1 :]
                del self.stack[at:]
                return taken
        raise InvalidInput("the pickle closes a group that it never opened")

    # The stack and the memo.

    def do_MARK(self, _: None) -> None:
        self.stack.append(_MARK)

    def do_POP(self, _: None) -> None:
        self.stack.pop()

    def do_POP_MARK(self, _: None) -> None:
        self.take_to_mark()

    def do_BINGET(self, index: int) -> None:
        self.stack.append(self.memo[index])

    do_GET = do_LONG_BINGET = do_BINGET

    def do_BINPUT(self, index: int) -> None:
        """Every pickler counts its memo up, from 0 or (Python 2) from 1; an index further ahead is an error."""
        if index == len(self.memo) + 1:
            self.memo.append(None)
        if index == len(self.memo):
            self.memo.append(None)
        self.memo[index] = self.stack[-1]

    do_PUT = do_LONG_BINPUT = do_BINPUT

    def do_MEMOIZE(self, _: None) -> None:
        self.memo.append(self.stack[-1])

    # Containers. An opaque object keeps the items that are set on it, for it may be a kind of dict; what is appended is left out.

    def do_TUPLE(self, _: None) -> None:
        self.stack.append(tuple(self.take_to_mark()))

    def do_LIST(self, _: None) -> None:
        self.stack.append(self.take_to_mark())

    def do_FROZENSET(self, _: None) -> None:
        self.stack.append(dict.fromkeys(map(as_key, self.take_to_mark())))

    def do_DICT(self, _: None) -> None:
        items = self.take_to_mark()
        self.stack.append({})
        self.set_items(items)

    def do_SETITEM(self, _: None) -> None:
        self.set_items(self.take(2))

    def do_SETITEMS(self, _: None) -> None:
        self.set_items(self.take_to_mark())

    def set_items(self, flat: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Opaque):
            target.items = target.items or {}
            target = target.items
        if not isinstance(target, dict) or len(flat) % 2:
            raise InvalidInput("the pickle sets items on something that is no dict")
        for key, value in zip(flat[::2], flat[1::2]):
            target[as_key(key)] = value

    def do_ADDITEMS(self, _: None) -> None:
        members = self.take_to_mark()
        self.set_items([part for member in members for part in (member, None)])

    def do_APPEND(self, _: None) -> None:
        self.extend(self.take(1))

    def do_APPENDS(self, _: None) -> None:
        self.extend(self.take_to_mark())

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Opaque):
            return
        if not isinstance(target, list):
            raise InvalidInput("the pickle appends to something that is no list")
        target.extend(values)

    # Names, and what is made with them.

    def do_GLOBAL(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.push_global(module, name)

    def do_STACK_GLOBAL(self, _: None) -> None:
        self.push_global(*self.take(2))

    def push_global(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise InvalidInput("the pickle refers to a name that is no text; refused")
        if len(module) + len(name) > KEY_CHARS_MAX or not (module.isprintable() and name.isprintable()):
            raise InvalidInput(f"the pickle names {shown(module)}.{shown(name)}, which is no name that any code has; refused")
        full_name = f"{module}.{name}"
        if full_name in CALLERS:
            self.callers[full_name] = None
        if full_name in VALUES:
            self.stack.append(VALUES[full_name])
        else:
            self.stack.append(Named(full_name) if full_name in BUILDERS else checked_name(full_name, ", ".join(self.callers)))

    def do_INST(self, argument: str) -> None:
        self.do_GLOBAL(argument)
        *arguments, function = self.take_to_mark()
        self.stack.append(self.call(function, tuple(arguments)))

    def do_REDUCE(self, _: None) -> None:
        self.stack.append(self.call(*self.take(2)))

    do_NEWOBJ = do_REDUCE

    def do_NEWOBJ_EX(self, _: None) -> None:
        function, arguments, _keywords = self.take(3)
        self.stack.append(self.call(function, arguments))

    def do_OBJ(self, _: None) -> None:
        function, *arguments = self.take_to_mark()
        self.stack.append(self.call(function, tuple(arguments)))

    def call(self, function: object, arguments: object) -> Any:
        """What the builder of ours makes that the name stands for, or an opaque object; what the file names is never called itself."""
        if not isinstance(function, Named | Opaque) or not isinstance(arguments, tuple):
            raise InvalidInput("the pickle calls something that has no name; refused")
        if isinstance(function, Opaque):
            return Opaque(function.class_name)
        if (builder := BUILDERS.get(function.name)) is None:
            return Opaque(function.name)
        if len(arguments) > ARGUMENTS_MAX:
            raise InvalidInput(f"the pickle calls {function.name} with {len(arguments):,} arguments; refused")
        return builder(*arguments)

    def do_BUILD(self, _: None) -> None:
        """Keeps the state of an opaque object. No other state (an OrderedDict's _metadata, a tensor's hooks) holds weights."""
        (state,) = self.take(1)
        if isinstance(target := self.stack[-1], Opaque):
            target.state = state

    def do_BINPERSID(self, _: None) -> None:
        """A persistent id stands for a storage; in the legacy format also for a module's class, with its source code."""
        (reference,) = self.take(1)
        if not isinstance(reference, tuple) or not reference:
            raise InvalidInput("the pickle refers to a storage in an unknown way")
        if reference[0] == "module" and len(reference) == 4 and isinstance(reference[1], Named):
            self.stack.append(reference[1])
        else:
            self.stack.append(self.storage_of(reference))


_Operation: TypeAlias = Callable[[_Machine, Any], None]


def _pushes(value: object) -> _Operation:
    return lambda machine, _: machine.push(value)


def _pushes_new(make: Callable[[], object]) -> _Operation:
    return lambda machine, _: machine.push(make())


def _pushes_tuple_of(count: int) -> _Operation:
    return lambda machine, _: machine.push(tuple(machine.take(count)))


_PUSHED_AS_THEY_ARE = (
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
)  # fmt: skip

# What each instruction does, as a function of the machine and the instruction's argument: the complete list.
_OPERATIONS: dict[str, _Operation] = {
    "PROTO": lambda _machine, _: None,
    "FRAME": lambda _machine, _: None,
    "NONE": _pushes(None),
    "NEWTRUE": _pushes(True),
    "NEWFALSE": _pushes(False),
    "EMPTY_DICT": _pushes_new(dict),
    "EMPTY_LIST": _pushes_new(list),
    "EMPTY_SET": _pushes_new(dict),
    "EMPTY_TUPLE": _pushes(()),
    "TUPLE1": _pushes_tuple_of(1),
    "TUPLE2": _pushes_tuple_of(2),
    "TUPLE3": _pushes_tuple_of(3),
    **dict.fromkeys(_PUSHED_AS_THEY_ARE, _Machine.push),
    **{name.removeprefix("do_"): operation for name, operation in vars(_Machine).items() if name.startswith("do_")},
}
