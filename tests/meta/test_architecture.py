"""The package has the rooms that the README lists, and imports run one way between rooms and inside of them."""

import ast
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

import flava_port
from tests.readme import section

PACKAGE = Path(flava_port.__file__).parent
NO_ROOM = {"__init__", "__main__"}
ORACLE = ("config", "encoder", "heads", "flava", "codebook")  # of original/: what judges the port


def floors() -> list[list[str]]:
    """The rooms' names, a list a row of the README's table, the top first."""
    return [re.findall(r"`(\w+)(?:\.py|/)`", line) for line in section("rooms").splitlines()[2:]]


def modules() -> dict[str, Path]:
    """Every module by its name in the package: ``convert``, ``files.tensors``; a room's ``__init__`` left out."""
    paths = [path for path in PACKAGE.rglob("*.py") if path.stem not in NO_ROOM]
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in paths}


def imported(source: str, module: str) -> set[str]:
    """What a module imports, at its top or in a function: ``.rules.engine`` of ours, ``torch`` of others.

    What only type checkers read is left out.
    """
    return {name for statement in _statements(ast.parse(source)) for name in _names(statement, module)}


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from _statements(child)


def _names(statement: ast.AST, module: str) -> list[str]:
    match statement:
        case ast.Import():
            return [alias.name.partition(".")[0] for alias in statement.names]
        case ast.ImportFrom(level=0):
            return [statement.module.partition(".")[0]]
        case ast.ImportFrom(level=level, module=source):
            here = module.split(".")
            start = [*here[: len(here) - level], *([source] if source else [])]
            return ["." + ".".join(start)] if source else ["." + ".".join([*start, alias.name]) for alias in statement.names]
    return []


def ours() -> dict[str, set[str]]:
    """Each module with those of ours that it imports."""
    return {module: {name[1:] for name in imported(path.read_text(), module) if name.startswith(".")} for module, path in modules().items()}


def upward(floors: Sequence[Sequence[str]], imports: Mapping[str, set[str]]) -> list[str]:
    """Which imports lead to a room on a floor above, and which are of a circle."""
    floor_of = {room: floor for floor, rooms in enumerate(floors) for room in rooms}

    def floor(module: str) -> int:
        return floor_of.get(module.partition(".")[0], len(floors))

    up = [f"{module} imports {other}" for module in imports for other in imports[module] if floor(other) < floor(module)]
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        up += [f"{module} imports {other}" for other, module in pairwise(error.args[1])]
    return sorted(up)


def test_every_room_stands_in_the_table_once():
    """The README's table lists every room and nothing else."""
    listed = [room for floor in floors() for room in floor]
    assert sorted(listed) == sorted({module.partition(".")[0] for module in modules()})


def test_a_stranger_sees_the_architecture_from_ls():
    """It has at most 16 files and 5 to 10 folders, and each folder's docstring says what it is for."""
    entries = [path for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    folders = [path for path in entries if path.is_dir()]
    assert len(entries) - len(folders) <= 16 and 5 <= len(folders) <= 10
    assert not [folder.name for folder in folders if not ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))]


def test_imports_run_one_way():
    """They lead down the table, and form no circle within a row or a room."""
    assert upward(floors(), ours()) == []


@pytest.mark.parametrize("name", ORACLE)
def test_the_original_shares_nothing_with_what_it_judges(name):
    """It is Python's own library, torch and itself: nothing of transformers, nothing else of ours."""
    path = PACKAGE / "original" / f"{name}.py"
    own = {f".original.{other}" for other in ORACLE}
    assert imported(path.read_text(), f"original.{name}") <= sys.stdlib_module_names | {"torch"} | own


@pytest.mark.parametrize(
    ("imports", "found"),
    [
        ({"top": {"low.b", "side.c"}, "side.c": {"side.d"}, "side.d": set(), "low.b": set()}, []),
        ({"top": {"side.c"}, "side.c": set(), "low.b": {"top"}}, ["low.b imports top"]),
        (
            {"top": {"side.c"}, "side.c": {"side.d"}, "side.d": {"side.c"}, "low.b": set()},
            ["side.c imports side.d", "side.d imports side.c"],
        ),
    ],
    ids=["down", "up", "in a circle"],
)
def test_an_import_upwards_is_found(imports, found):
    """An import to a row above and a circle of imports are found; an import to a row below is not."""
    assert upward([["top", "side"], ["low"]], imports) == found


def test_an_import_is_found_wherever_it_stands():
    """Imports inside functions are found; those that only type checkers read are not."""
    source = """
import os.path, torch
from . import config as configs
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from .verify import Certificate
def later():
    try:
        from ..rules.tables import FLAVA
    except ImportError:
        import transformers.utils
"""
    assert imported(source, "target.sizes") == {"os", "torch", ".target.config", "typing", ".rules.tables", "transformers"}
