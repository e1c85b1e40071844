"""Each public name has one meaning, and files, functions and signatures are of a size that a reader can hold."""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import flava_port

PACKAGE = Path(flava_port.__file__).parent
ROOT = PACKAGE.parent

# Public names that two modules may define, and why. Three at most.
DEFINED_TWICE = {
    "upgrade_state_dict": "upstream has one in each of its two converters, and ours stand under the same names",
}
LINES_OF_A_FILE, LINES_OF_A_FUNCTION, PARAMETERS = 350, 45, 8
# Longer functions of the package, and why. Two at most.
LONG_FUNCTIONS: dict[str, str] = {}
# Longer signatures, and why.
LONG_SIGNATURES = {
    "flava_port/convert.py: convert_flava_checkpoint": "upstream's parameters, and our options by name",
    "flava_port/original/flava.py: Flava.forward": "one for each input that FLAVA has",
}
LINES_OF_THE_CONVERSION = 1_000


def sources(*places: str) -> dict[str, str]:
    """The text of each Python file below these places of the repository, by its path."""
    paths = (path for place in places for path in ((ROOT / place).rglob("*.py") if (ROOT / place).is_dir() else [ROOT / place]))
    return {str(path.relative_to(ROOT)): path.read_text() for path in paths}


def defined_twice(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """Public names that several modules define at their top, with these modules. An import defines nothing."""
    homes = defaultdict(list)
    for path, text in sources.items():
        for name in sorted({name for statement in ast.parse(text).body for name in _defined(statement) if not name.startswith("_")}):
            homes[name].append(path)
    return {name: paths for name, paths in homes.items() if len(paths) > 1}


def _defined(statement: ast.AST) -> list[str]:
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Assign() | ast.AnnAssign():
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
        case ast.If() | ast.Try() | ast.With():
            return [name for inner in ast.iter_child_nodes(statement) for name in _defined(inner)]
        case ast.ExceptHandler():
            return [name for inner in statement.body for name in _defined(inner)]
    return []


def long_files(sources: Mapping[str, str]) -> dict[str, int]:
    """Files over the limit, with their lines."""
    return {path: lines for path, text in sources.items() if (lines := len(text.splitlines())) > LINES_OF_A_FILE}


def long_functions(sources: Mapping[str, str]) -> dict[str, int]:
    """Functions over the limit, with their lines, the docstring's among them."""
    return {
        name: lines for name, function in _functions(sources) if (lines := function.end_lineno - function.lineno + 1) > LINES_OF_A_FUNCTION
    }


def long_signatures(sources: Mapping[str, str]) -> dict[str, int]:
    """Functions with more parameters than the limit, and how many; ``self`` is not counted."""
    return {name: count for name, function in _functions(sources) if (count := _parameters(function.args)) > PARAMETERS}


def _parameters(arguments: ast.arguments) -> int:
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return sum(argument is not None and argument.arg not in ("self", "cls") for argument in named)


def _functions(sources: Mapping[str, str]) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function and method, as ``path: Class.method``."""
    for path, text in sources.items():
        for names, function in _functions_below(ast.parse(text), ()):
            yield f"{path}: {'.'.join(names)}", function


def _functions_below(node: ast.AST, names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in ast.iter_child_nodes(node):
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        here = (*names, child.name) if is_function or isinstance(child, ast.ClassDef) else names
        if is_function:
            yield here, child
        yield from _functions_below(child, here)


OURS = sources("flava_port")
EVERYTHING = sources("flava_port", "tests", "benchmarks", "conftest.py")


def assert_only(found: Mapping[str, object], exceptions: Mapping[str, str]) -> None:
    """Nothing is found but what the table of exceptions has, and nothing stands in the table that is not found."""
    __tracebackhide__ = True
    if more := [f"{name}: {what}" for name, what in found.items() if name not in exceptions]:
        raise AssertionError("\n".join(["not in the table of exceptions:", *more]))
    if idle := exceptions.keys() - found.keys():
        raise AssertionError(f"in the table of exceptions for nothing: {sorted(idle)}")


def test_a_public_name_is_defined_in_one_module():
    """One word has one meaning in the whole package."""
    assert_only(defined_twice(OURS), DEFINED_TWICE)
    assert len(DEFINED_TWICE) <= 3


def test_no_file_is_longer_than_a_reader_can_hold():
    """Of the package, its tests and its benchmarks."""
    assert_only(long_files(EVERYTHING), {})


def test_no_function_is_longer_than_a_screen():
    """In the package, its tests and its benchmarks."""
    assert_only(long_functions(EVERYTHING), LONG_FUNCTIONS)
    assert len(LONG_FUNCTIONS) <= 2


def test_no_function_takes_more_than_eight_parameters():
    """In the package, its tests and its benchmarks."""
    assert_only(long_signatures(EVERYTHING), LONG_SIGNATURES)


def test_the_conversion_is_thin():
    """Its own file and its room together stay under the limit."""
    lines = {path: len(text.splitlines()) for path, text in OURS.items()}
    conversion = sum(count for path, count in lines.items() if path == "flava_port/convert.py" or path.startswith("flava_port/conversion/"))
    assert conversion < LINES_OF_THE_CONVERSION


@pytest.mark.parametrize(
    "definition",
    [
        "def name(): ...",
        "class name: ...",
        "name = 1",
        "name: int = 1",
        "(name, other) = 1, 2",
        "if True:\n    name = 1",
    ],
    ids=["function", "class", "constant", "annotated", "of several", "under a condition"],
)
def test_a_name_defined_twice_is_found(definition):
    """However it is defined; with the modules that define it."""
    assert defined_twice({"a.py": "def name(): ...", "b.py": definition}) == {"name": ["a.py", "b.py"]}


@pytest.mark.parametrize(
    "text",
    ["from a import name", "from a import name as name", "def _name(): ...", "class B:\n    name = 1", "def b():\n    name = 1"],
    ids=["imported", "imported under its name", "private", "of a class", "local"],
)
def test_what_is_no_second_definition_is_not_found(text):
    """Imports, private names, and what is inside of a class or a function."""
    assert defined_twice({"a.py": "def name(): ...\ndef _name(): ...", "b.py": text}) == {}


def test_a_long_file_is_found():
    """One line more than the limit."""
    assert long_files({"a.py": "\n" * LINES_OF_A_FILE, "b.py": "\n" * (LINES_OF_A_FILE + 1)}) == {"b.py": LINES_OF_A_FILE + 1}


@pytest.mark.parametrize(
    ("before", "names"),
    [("", ["f"]), ("class C:\n ", ["C.f"]), ("if True:\n async ", ["f"]), ("def g():\n 0\n ", ["g", "g.f"])],
    ids=["function", "method", "async, under a condition", "inner function, and so the outer"],
)
def test_a_long_function_is_found(before, names):
    """One line more than the limit, wherever it stands."""
    function = "def f():" + "\n  0" * (LINES_OF_A_FUNCTION - 1)
    assert list(long_functions({"a.py": f"class C:\n {function}", "b.py": f"{before}{function}\n  0"})) == [
        f"b.py: {name}" for name in names
    ]


@pytest.mark.parametrize(
    "parameters",
    ["a, b, c, d, e, f, g, h, i", "a, b, c, d, e=1, *, f, g, h, i", "a, b, /, c, d, e, f, g, *h, i", "a, b, c, d, e, f, g, h, **i"],
    ids=["positional", "by name", "all that follow", "any others"],
)
def test_a_long_signature_is_found(parameters):
    """One parameter more than the limit, of whatever kind; ``self`` is none."""
    short = parameters.removesuffix("i").rstrip("* ").rstrip(",")
    assert long_signatures({"a.py": f"def f({short}): ...", "b.py": f"def f({parameters}): ..."}) == {"b.py: f": 9}
    assert long_signatures({"c.py": f"class C:\n  def f(self, {short}): ..."}) == {}


@pytest.mark.parametrize(
    ("exceptions", "message"),
    [({}, "not in the table of exceptions:\na: 46"), ({"a": "why", "b": "why"}, r"for nothing: \['b'\]")],
    ids=["new", "idle"],
)
def test_an_exception_is_neither_missing_nor_idle(exceptions, message):
    """The tables of exceptions say what is so."""
    assert_only({"a": 46}, {"a": "why"})
    with pytest.raises(AssertionError, match=message):
        assert_only({"a": 46}, exceptions)
