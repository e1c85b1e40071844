"""The README's table of modules is the architecture: every module stands in it, and imports from its own row or below."""

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

import flava_port
from tests.readme import section

PACKAGE = Path(flava_port.__file__).parent
NOT_LISTED = {"__init__", "__main__"}


def rows() -> list[list[str]]:
    """The modules' names, a list a row, the top first."""
    return [re.findall(r"`(\w+)\.py`", line) for line in section("modules").splitlines()[2:]]


def imported(source: str) -> set[str]:
    """What a module imports, at its top or in a function: ``.rules`` of ours, ``torch`` of others; not what only type checkers read."""
    return {name for statement in _statements(ast.parse(source)) for name in _names(statement)}


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from _statements(child)


def _names(statement: ast.AST) -> list[str]:
    match statement:
        case ast.Import():
            return [alias.name.partition(".")[0] for alias in statement.names]
        case ast.ImportFrom(level=0):
            return [statement.module.partition(".")[0]]
        case ast.ImportFrom(module=None):
            return ["." + alias.name for alias in statement.names]
        case ast.ImportFrom():
            return ["." + statement.module]
    return []


def upward(rows: list[list[str]], imports: dict[str, set[str]]) -> list[str]:
    """Which imports lead to a row above, and which are of a circle."""
    row_of = {module: row for row, modules in enumerate(rows) for module in modules}
    up = [f"{module} imports {other}" for module in row_of for other in imports[module] if row_of.get(other, len(rows)) < row_of[module]]
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        up += [f"{module} imports {other}" for other, module in pairwise(error.args[1])]
    return sorted(up)


def test_every_module_stands_in_the_table_once():
    """And nothing else does."""
    listed = [module for row in rows() for module in row]
    assert sorted(listed) == sorted({path.stem for path in PACKAGE.glob("*.py")} - NOT_LISTED)


def test_imports_run_one_way():
    """Down the table; within a row in no circle."""
    sources = {path.stem: path.read_text() for path in PACKAGE.glob("*.py")}
    imports = {module: {name[1:] for name in imported(source) if name.startswith(".")} for module, source in sources.items()}
    assert upward(rows(), imports) == []


def test_the_original_shares_nothing_with_what_it_judges():
    """It is Python's own library and torch: nothing of transformers, nothing of ours."""
    assert imported((PACKAGE / "original.py").read_text()) <= sys.stdlib_module_names | {"torch"}


@pytest.mark.parametrize(
    ("imports", "found"),
    [
        ({"top": {"low", "side"}, "side": set(), "low": set()}, []),
        ({"top": {"side"}, "side": set(), "low": {"top"}}, ["low imports top"]),
        (
            {"top": {"side"}, "side": {"third"}, "third": {"top"}, "low": set()},
            ["side imports third", "third imports top", "top imports side"],
        ),
    ],
    ids=["down", "up", "in a circle"],
)
def test_an_import_upwards_is_found(imports, found):
    """In two rows; what leads down is none."""
    assert upward([["top", "side", "third"], ["low"]], {"third": set()} | imports) == found


def test_an_import_is_found_wherever_it_stands():
    """But for those that only type checkers read."""
    source = """
import os.path, torch
from . import config as configs
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from .verify import Certificate
def later():
    try:
        from .rules import FLAVA
    except ImportError:
        import transformers.utils
"""
    assert imported(source) == {"os", "torch", ".config", "typing", ".rules", "transformers"}
