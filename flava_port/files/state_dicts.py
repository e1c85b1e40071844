"""The state dicts in what a file holds: dicts of tensors, wherever they lie in containers, objects and lists."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidInput
from ..text import shown
from .chunks import ChunkedTensor
from .pickle_objects import MODULE_PARTS_MAX, Key, Opaque, PickledTensor, module_state_dict
from .tensors import StoredTensor, UnsupportedTensor

# The names under which training code puts a model's state dict into a larger dict. Of several, the first counts.
CONTAINERS = ("model", "state_dict", "model_state_dict", "module", "net", "network", "weights", "params")

NESTING_MAX = 5  # how many containers may lie in each other


@dataclass(frozen=True)
class _Inside:
    """Where a container lies: under a name, in another container."""

    container: Mapping[Key, Any]
    key: Key
    around: "_Inside | None"


@dataclass(frozen=True)
class StateDictInFile:
    """A dict with tensors in it, found somewhere in what a file holds.

    ``entries`` has everything in it by its key: tensors that are not read yet, and other things. ``module_class`` is
    its class, if it is a pickled module's state dict.
    """

    entries: Mapping[Key, Any]
    module_class: str = ""
    inside: _Inside | None = None

    def names(self) -> list[str]:
        """The names of the containers around it, the outermost first."""
        return _names(self.inside)

    @property
    def container(self) -> str:
        """The names of the containers around it in one."""
        return ".".join(self.names())

    def tensors(self) -> dict[str, Any]:
        """Its tensors, each under its key; of a key that is no text, the name says so."""
        return {name_of(key): value for key, value in self.entries.items() if is_tensor(value)}

    def beside(self) -> list[str]:
        """The names of everything in the file that is none of its tensors, the outermost first."""
        found = [".".join([*self.names(), shown(key)]) for key, value in self.entries.items() if not is_tensor(value)]
        at = self.inside
        while at:
            names = _names(at.around)
            found[:0] = [".".join([*names, shown(key)]) for key in at.container if key != at.key]
            at = at.around
        return found


def _names(inside: _Inside | None) -> list[str]:
    names: list[str] = []
    while inside:
        names.insert(0, shown(inside.key))
        inside = inside.around
    return names


def name_of(key: Key) -> str:
    """The key itself, if it is a text; otherwise a text that says what it is."""
    return key if isinstance(key, str) else f"{shown(key)} (a key that is no text)"


def is_tensor(value: object) -> bool:
    """Whether it is a tensor in a file, also one that no conversion can take."""
    return isinstance(value, PickledTensor | StoredTensor | ChunkedTensor | UnsupportedTensor)


def state_dicts_in(content: object) -> list[StateDictInFile]:
    """All state dicts in it, the outer ones first. What several names lead to is found once.

    Raises:
        InvalidInput: a pickled module contains itself, or the modules have more parts than any model.
    """
    found: list[StateDictInFile] = []
    seen: set[int] = set()
    parts = 0
    waiting: list[tuple[Any, _Inside | None, int]] = [(content, None, 0)]
    for value, inside, depth in waiting:  # it grows meanwhile
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Opaque) and value.is_module:
            entries = module_state_dict(value)
            parts += len(entries)
            if parts > 4 * MODULE_PARTS_MAX:
                raise InvalidInput("its pickled modules have more parts than any model; refused")
            found.append(StateDictInFile(entries, value.class_name, inside))
            continue
        container = _held_by(value)
        if any(map(is_tensor, container.values())):
            found.append(StateDictInFile(container, "", inside))
        if depth < NESTING_MAX:
            waiting += [(part, _Inside(container, key, inside), depth + 1) for key, part in container.items() if _is_container(part)]
    return found


def _is_container(value: object) -> bool:
    return isinstance(value, dict | list | tuple) or (isinstance(value, Opaque) and bool(value.state or value.items))


def _held_by(value: object) -> Mapping[Key, Any]:
    """What a container holds by its names: a dict's items, an object's items or attributes, a list's places."""
    if isinstance(value, Opaque):
        return value.items or (value.state if isinstance(value.state, dict) else {})
    if isinstance(value, list | tuple):
        return {str(at): part for at, part in enumerate(value) if _is_container(part)}
    return value if isinstance(value, dict) else {}


def conventional(state_dicts: list[StateDictInFile]) -> Iterator[StateDictInFile]:
    """Those whose containers have the names that training code uses, the one that such a name means first."""
    order = {name: at for at, name in enumerate(CONTAINERS)}
    usual = [found for found in state_dicts if all(name in order for name in found.names())]
    yield from sorted(usual, key=lambda found: [*(order[name] for name in found.names()), len(order)])
