"""A rename table: ordered rules that lead a key from one layout to another, and back.

A table is an ordered list of string replacements; each one works on the result of the last, so
their order matters. The engine knows no tensors and no files.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby


@dataclass(frozen=True)
class Rule:
    """Replaces ``source`` by ``target``: wherever it stands in the key, or only at its end."""

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
    """Keys that contain ``fragment`` are left out; ``kept`` in its place names the copy that stays."""

    fragment: str
    kept: str
    because: str

    def kept_key(self, key: str) -> str:
        return key.replace(self.fragment, self.kept)


@dataclass(frozen=True)
class Step:
    """One rule that changed the key, by its number in the table, and the key after it.

    ``undone`` where the way leads back from the target; ``table`` where it leads through more than one.
    An older name of the target's has no number: it is 0.
    """

    number: int
    rule: Rule
    key: str
    undone: bool = False
    table: str = ""


@dataclass(frozen=True)
class Trace:
    """A key's way through a table: either ``dropped`` by an entry, or renamed to ``target``."""

    source: str
    steps: tuple[Step, ...]
    target: str | None
    dropped: Drop | None = None

    @property
    def rules(self) -> str:
        """``rule 13``, ``rules 2, 5 and 6``, ``no rule``, or ``torchmultimodal rule 5 undone, then flava rule 10``."""
        legs = [_leg(*leg, list(steps)) for leg, steps in groupby(self.steps, lambda s: (s.table, s.undone))]
        return ", then ".join(legs) or "no rule"


def _leg(table: str, undone: bool, steps: list[Step]) -> str:
    """The rules of one table on a key's way, in words; an older name has no number."""
    *first, last = [str(step.number) for step in steps if step.number] or [""]
    text = f"rules {', '.join(first)} and {last}" if first else f"rule {last}" if last else ""
    if not all(step.number for step in steps):
        text = f"{text} and an older name" if text else "an older name"
    return f"{table} {text}".strip() + (" undone" if undone else "")


@dataclass(frozen=True)
class RuleTable:
    """Ordered rules from one layout to another, and what is dropped on purpose before them.

    ``older`` are names that earlier versions of the target layout had: read on the way back, never written.
    """

    name: str
    source: str
    target: str
    drops: tuple[Drop, ...]
    rules: tuple[Rule, ...]
    older: tuple[Rule, ...] = ()

    def trace(self, key: str) -> Trace:
        """Every rule that changes ``key``, in order, and where it ends."""
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
        """The key in the target layout, or None where it is dropped on purpose."""
        return self.trace(key).target

    def source_of(self, key: str) -> str:
        """The key in the source layout whose name in the target layout is ``key``.

        All rules are undone in one pass from left to right, the longest target first, because one
        rule's target may begin with another's (``itm_head`` and ``itm_head.pooler``).
        """
        return self._undo.sub(lambda match: self._sources[match[0]], key)

    def back(self, key: str) -> Trace:
        """The way back of a key in the target layout: what `source_of` undoes, step by step."""
        steps = []
        done, rest = "", 0
        for match in self._undo.finditer(key):
            done += key[rest : match.start()] + self._sources[match[0]]
            rest = match.end()
            number, rule = self._numbers[match[0]]
            if rule.source != rule.target:
                steps.append(Step(number, rule, done + key[rest:], undone=True))
        return Trace(key, tuple(steps), done + key[rest:])

    @cached_property
    def _numbers(self) -> dict[str, tuple[int, Rule]]:
        """By target: the rule, with its number; older names' have none."""
        numbered = {rule.target: (number, rule) for number, rule in enumerate(self.rules, start=1)}
        return {rule.target: (0, rule) for rule in self.older} | numbered

    @cached_property
    def _sources(self) -> dict[str, str]:
        return {target: rule.source for target, (_, rule) in self._numbers.items()}

    @cached_property
    def _undo(self) -> re.Pattern:
        rules = [rule for _, rule in self._numbers.values()]
        return re.compile("|".join(map(_whole_names, sorted(rules, key=lambda r: -len(r.target)))))


def _whole_names(rule: Rule) -> str:
    """A pattern for the rule's target between dots, so that ``mlm_head`` is not seen in ``xmlm_head``."""
    begin = "" if rule.target.startswith(".") else r"(?<![^.])"
    end = r"\Z" if rule.at_end else "" if rule.target.endswith(".") else r"(?![^.])"
    return begin + re.escape(rule.target) + end
