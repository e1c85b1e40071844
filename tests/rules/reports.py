"""Assertions about what a table does to keys. They return nothing, and fail with the shortest guilty key first."""

from collections.abc import Iterable, Mapping

from flava_port.rules.describe import describe
from flava_port.rules.engine import RuleTable
from flava_port.rules.machines import TooManyStates, distinguishing_key

SHOWN = 5


def assert_targets(table: RuleTable, expected: Mapping[str, str | None]) -> None:
    """Asserts that every key becomes what ``expected`` says; None stands for dropped."""
    __tracebackhide__ = True
    wrong = sorted((key for key in expected if table.rename(key) != expected[key]), key=lambda key: (len(key), key))
    if wrong:
        raise AssertionError(f"{wrong[0]}: wrong target\n" + _explain(table, wrong[0], expected[wrong[0]]) + _others(wrong[1:]))


def assert_all(table: RuleTable, keys: Iterable[str], claim: str, holds) -> None:
    """Asserts ``holds(key)`` for every key. The report shows the shortest key for which it fails, rule by rule."""
    __tracebackhide__ = True
    wrong = sorted((key for key in keys if not holds(key)), key=lambda key: (len(key), key))
    if wrong:
        way = _indented(describe(table.trace(wrong[0])))
        raise AssertionError(f"{wrong[0]}: not {claim}\n  its way through {table.name}:\n{way}{_others(wrong[1:])}")


def assert_same_table(actual: RuleTable, expected: RuleTable) -> None:
    """Asserts the same entries in the same order. The report shows the first other entry, and the shortest key that shows it."""
    __tracebackhide__ = True
    for what in ("drops", "rules"):
        ours, theirs = getattr(actual, what), getattr(expected, what)
        for number in range(max(len(ours), len(theirs))):
            one, other = ours[number : number + 1], theirs[number : number + 1]
            if one != other:
                entry = f"{what[:-1]} {number + 1}"
                lines = [
                    f"{actual.name}: {entry} is not what it should be",
                    f"  actual    {_text(one)}",
                    f"  expected  {_text(other)}",
                ]
                raise AssertionError("\n".join([*lines, *_shown_by(actual, expected, one, other)]))


def _shown_by(actual: RuleTable, expected: RuleTable, one: tuple, other: tuple) -> list[str]:
    """The shortest key on which the two entries alone differ, and what each whole table makes of it."""
    if not all(hasattr(entry, "apply") for entry in one + other):
        return []
    alone = [RuleTable(actual.name, "", "", (), entry) for entry in (one, other)]
    try:
        key = distinguishing_key(*alone)
    except TooManyStates:
        return []
    return [] if key is None else [f"  shown by  {key}", f"    actual    {actual.rename(key)}", f"    expected  {expected.rename(key)}"]


def _text(entry: tuple) -> str:
    return str(entry[0]) if entry else "nothing"


def _explain(table: RuleTable, key: str, expected: str | None) -> str:
    way = _indented(describe(table.trace(key)))
    actual = table.rename(key) or "dropped"
    return f"  actual    {actual}\n  expected  {expected or 'dropped'}\n  its way through {table.name}:\n{way}"


def _indented(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())


def _others(keys: list[str]) -> str:
    return f"\n  and {len(keys)} more, such as {', '.join(keys[:SHOWN])}" if keys else ""
