"""Finds which of many fragments stand in a key, and what a table makes of it, in a time that hardly grows with the table."""

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property

from .engine import Rule, RuleTable, Step, Trace

KEY_LENGTH_MAX = 2_000  # a rule that writes its own source twice doubles a key, and forty of them fill any memory


class Finder:
    """Says for any key which of the fragments it contains, by their numbers from 1 on."""

    def __init__(self, fragments: Sequence[str]) -> None:
        self._numbers: dict[str, list[int]] = defaultdict(list)
        for number, fragment in enumerate(fragments, start=1):
            self._numbers[fragment].append(number)
        self._lengths = sorted(set(map(len, self._numbers)))
        self._found: dict[str, list[int]] = {}

    def in_key(self, key: str) -> list[int]:
        """The numbers of the fragments in it, in order."""
        if key not in self._found:
            parts = {key[at : at + n] for n in self._lengths if n <= len(key) for at in range(len(key) - n + 1)}
            self._found[key] = sorted(number for part in parts & self._numbers.keys() for number in self._numbers[part])
        return self._found[key]


class Tracer:
    """Traces keys through one table as `RuleTable.trace` does, but stops where a key grows too long."""

    def __init__(self, table: RuleTable) -> None:
        self.table = table

    @cached_property
    def rules(self) -> Finder:
        """Of the rules' sources. A rule may work only at the end of a key; that is for `Rule.apply` to say."""
        return Finder([rule.source for rule in self.table.rules])

    @cached_property
    def drops(self) -> Finder:
        return Finder([drop.fragment for drop in self.table.drops])

    def trace(self, key: str) -> tuple[Trace, bool]:
        """What the table does to the key, and whether that is all: it stops before a key grows beyond `KEY_LENGTH_MAX`."""
        if dropping := self.drops.in_key(key):
            return Trace(key, (), None, self.table.drops[dropping[0] - 1]), True
        steps: list[Step] = []
        renamed, last = key, 0
        while number := next((n for n in self.rules.in_key(renamed) if n > last), 0):
            rule, last = self.table.rules[number - 1], number
            if would_grow(rule, renamed):
                return Trace(key, tuple(steps), None), False
            if (after := rule.apply(renamed)) != renamed:
                steps.append(Step(number, rule, after))
                renamed = after
        return Trace(key, tuple(steps), renamed), True


def would_grow(rule: Rule, key: str) -> bool:
    """Whether the rule makes the key longer than `KEY_LENGTH_MAX`."""
    times = 1 if rule.at_end else key.count(rule.source)
    return len(key) + times * (len(rule.target) - len(rule.source)) > KEY_LENGTH_MAX
