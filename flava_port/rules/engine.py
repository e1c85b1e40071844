"""Applies a rule table: renames a key from one layout to another, and back.

A table is an ordered list of string replacements. Each one works on the result of the one before, so
their order matters. The engine knows neither tensors nor files.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby


@dataclass(frozen=True)
class Rule:
    """Replaces ``source`` by ``target``, everywhere in a key or only at its end."""

    source: str
    target: str
    at_end: bool = False

    def apply(self, key: str) -> str:
        if self.at_end:
            return key.removesuffix(self.source) + self.target if key.endswith(self.source) else key
        return key.replace(self.source, self.target)

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}" + (" (at the end)" if self.at_end else "")


@dataclass(frozen=True)
class Drop:
    """Leaves out the keys that contain ``fragment``. With ``kept`` in its place, such a key names the copy that stays."""

    fragment: str
    kept: str
    because: str

    def kept_key(self, key: str) -> str:
        """The key of the copy that stays where ``key`` is left out."""
        return key.replace(self.fragment, self.kept)


@dataclass(frozen=True)
class Step:
    """One rule that changed a key, and the key after it."""

    number: int  # counts the table's rules from 1; 0 for an older name of the target layout
    rule: Rule
    key: str
    undone: bool = False  # the rule is applied backwards
    table: str = ""  # names the rule's table where a key passes through more than one


@dataclass(frozen=True)
class Trace:
    """What a table does to a key: it is ``dropped`` and has no target, or ``steps`` rename it to ``target``."""

    source: str
    steps: tuple[Step, ...]
    target: str | None
    dropped: Drop | None = None

    @property
    def rules(self) -> str:
        """The steps in words: ``rule 13``, ``no rule``, or ``torchmultimodal rule 5 undone, then flava rule 10``."""
        legs = [_leg(*leg, list(steps)) for leg, steps in groupby(self.steps, lambda s: (s.table, s.undone))]
        return ", then ".join(legs) or "no rule"


def _leg(table: str, undone: bool, steps: Sequence[Step]) -> str:
    """The steps through one table in words."""
    numbers = [step.number for step in steps if step.number]
    parts = [numbered(numbers)] if numbers else []
    if len(numbers) < len(steps):
        parts.append("an older name")
    return f"{table} {' and '.join(parts)}".strip() + (" undone" if undone else "")


def numbered(numbers: Sequence[int]) -> str:
    """``rule 13``, or ``rules 2, 5 and 6``."""
    *first, last = map(str, numbers)
    return f"rules {', '.join(first)} and {last}" if first else f"rule {last}"


@dataclass(frozen=True)
class RuleTable:
    """Ordered rules from the layout ``source`` to the layout ``target``. ``drops`` come before all rules."""

    name: str
    source: str
    target: str
    drops: tuple[Drop, ...]
    rules: tuple[Rule, ...]
    older: tuple[Rule, ...] = ()  # names of earlier versions of the target layout: read on the way back, never written

    def trace(self, key: str) -> Trace:
        """Every rule that changes ``key``, in order, and the key that comes out."""
        for drop in self.drops:
            if drop.fragment in key:
                return Trace(key, (), None, drop)
        steps = []
        renamed = key
        for number, rule in enumerate(self.rules, start=1):
            after = rule.apply(renamed)
            if after != renamed:
                steps.append(Step(number, rule, after))
                renamed = after
        return Trace(key, tuple(steps), renamed)

    def rename(self, key: str) -> str | None:
        """The key in the target layout, or None where the table drops it."""
        return self.trace(key).target

    def source_of(self, key: str) -> str:
        """The key in the source layout that becomes ``key`` in the target layout."""
        return self._undo.sub(lambda match: self._numbers[match[0]][1].source, key)

    def back(self, key: str) -> Trace:
        """What `source_of` does to a key in the target layout, step by step."""
        steps = []
        done, rest = "", 0
        for match in self._undo.finditer(key):
            number, rule = self._numbers[match[0]]
            done, rest = done + key[rest : match.start()] + rule.source, match.end()
            if rule.source != rule.target:
                steps.append(Step(number, rule, done + key[rest:], undone=True))
        return Trace(key, tuple(steps), done + key[rest:])

    @cached_property
    def _numbers(self) -> dict[str, tuple[int, Rule]]:
        """Each target's rule and its number; the number of an older name is 0."""
        numbered = {rule.target: (number, rule) for number, rule in enumerate(self.rules, start=1)}
        return {rule.target: (0, rule) for rule in self.older} | numbered

    @cached_property
    def _undo(self) -> re.Pattern[str]:
        """Finds all targets, from left to right; the longest first, as one may begin with another (``itm_head.pooler``)."""
        rules = [rule for _, rule in self._numbers.values()]
        return re.compile("|".join(map(_whole_names, sorted(rules, key=lambda r: -len(r.target)))))


def _whole_names(rule: Rule) -> str:
    """A pattern for the rule's target as whole names between dots, so that ``mlm_head`` is not found in ``xmlm_head``."""
    begin = "" if rule.target.startswith(".") else r"(?<![^.])"
    end = r"\Z" if rule.at_end else "" if rule.target.endswith(".") else r"(?![^.])"
    return begin + re.escape(rule.target) + end
