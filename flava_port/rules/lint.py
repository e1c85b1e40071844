"""Finds what is wrong with a rule table, and shows each finding on the shortest key that has it.

Findings are about the keys that the table is meant for. Two rules whose order matters are no finding if the
special case comes first and the rule whose source it contains comes second, as a reader expects.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import combinations

from ..text import count_of
from .describe import describe
from .engine import Rule, RuleTable, Trace, numbered
from .order import dependencies_on


class Flaw(Enum):
    """What can be wrong with an entry of a table."""

    DEAD = "dead rule"
    SHADOWED = "shadowed rule"
    COLLISION = "collision"
    ORDER = "order-sensitive pair"
    NOT_INJECTIVE = "not injective"
    NOT_INVERTIBLE = "not invertible"
    LEFTOVER = "leftover fragment"
    TOUCHES = "touches keys it was not meant for"


@dataclass(frozen=True)
class LintFinding:
    """One thing that is wrong with a table."""

    flaw: Flaw
    entry: str  # "rule 3", "rules 2 and 5", "drop 1"
    witness: str  # the key that shows it
    how: str  # what happens to that key

    def __str__(self) -> str:
        shown = "\n".join("    " + line for line in self.how.splitlines())
        return f"{self.entry}: {self.flaw.value}, as {self.witness} shows\n{shown}"


def lint(table: RuleTable, keys: Iterable[str]) -> list[LintFinding]:
    """Everything that is wrong with ``table`` on ``keys``: one finding for each entry and flaw."""
    traces = [table.trace(key) for key in sorted(set(keys), key=lambda k: (len(k), k))]
    found: dict[tuple[Flaw, str], LintFinding] = {}
    for check in (_unused, _meetings, _order_sensitive, _not_invertible, _leftovers, _touches):
        for finding in check(table, traces):
            found.setdefault((finding.flaw, finding.entry), finding)
    return list(found.values())


def describe_findings(table: RuleTable, keys: Sequence[str], findings: Sequence[LintFinding]) -> str:
    """One line with the numbers of rules, keys and findings, and then each finding."""
    count = count_of(len(findings), "finding") if findings else "no findings"
    title = f"{table.name}: {count_of(len(table.rules), 'rule')} on {count_of(len(keys), 'key')}, {count}"
    return "\n".join([title, *(str(finding) for finding in findings)])


def _unused(table: RuleTable, traces: Sequence[Trace]) -> Iterator[LintFinding]:
    """Entries that change no key: no key contains their fragment, or an earlier entry always changes it first."""
    firing = {step.number for trace in traces for step in trace.steps}
    for number, rule in enumerate(table.rules, start=1):
        if number not in firing:
            able = [trace for trace in traces if rule.apply(trace.source) != trace.source]
            yield _idle(f"rule {number}", str(rule), rule.source, able)
    dropping = {id(trace.dropped) for trace in traces}
    for number, drop in enumerate(table.drops, start=1):
        if id(drop) not in dropping:
            able = [trace for trace in traces if drop.fragment in trace.source]
            yield _idle(f"drop {number}", f"drop {drop.fragment}", drop.fragment, able)


def _idle(entry: str, text: str, fragment: str, able: Sequence[Trace]) -> LintFinding:
    if not able:
        return LintFinding(Flaw.DEAD, entry, fragment, f"{text}\nchanges none of the keys")
    return LintFinding(Flaw.SHADOWED, entry, able[0].source, f"{text}\nnever gets the key, which goes\n{describe(able[0])}")


def _meetings(table: RuleTable, traces: Sequence[Trace]) -> Iterator[LintFinding]:
    """Keys that become one target: a collision if different rules lead there, else the table is not injective."""
    by_target: dict[str, list[Trace]] = {}
    for trace in traces:
        if trace.target is not None:
            by_target.setdefault(trace.target, []).append(trace)
    for meeting in by_target.values():
        for one, other in combinations(meeting, 2):
            mine, theirs = ([step.number for step in trace.steps] for trace in (one, other))
            flaw = Flaw.COLLISION if mine and theirs and mine != theirs else Flaw.NOT_INJECTIVE
            entry = numbered(sorted({*mine, *theirs}))
            yield LintFinding(flaw, entry, one.source, f"two keys become one\n{describe(one)}\n{describe(other)}")


def _order_sensitive(table: RuleTable, traces: Sequence[Trace]) -> Iterator[LintFinding]:
    """Pairs of rules whose order matters, but for a special case that comes first."""
    for (first, second), key in dependencies_on(table, [trace.source for trace in traces]).items():
        one, other = table.rules[first - 1], table.rules[second - 1]
        if other.source not in one.source or one.source == other.source:
            how = f"{one}\n{other}\ntheir order matters, and neither is a special case that comes before the general rule\n{describe(table.trace(key))}"
            yield LintFinding(Flaw.ORDER, numbered([first, second]), key, how)


def _not_invertible(table: RuleTable, traces: Sequence[Trace]) -> Iterator[LintFinding]:
    """Keys that the rules undone do not give back."""
    for trace in traces:
        if trace.target is not None and (back := table.source_of(trace.target)) != trace.source:
            yield LintFinding(Flaw.NOT_INVERTIBLE, trace.rules, trace.source, f"{describe(trace)}\ncomes back as {back}")


def _leftovers(table: RuleTable, traces: Sequence[Trace]) -> Iterator[LintFinding]:
    """Targets that still contain a rule's source, outside of what that rule writes."""
    for trace in traces:
        for number, rule in enumerate(table.rules, start=1):
            outside = (trace.target or "").replace(rule.target, "\0") if rule.target else trace.target or ""
            if outside.endswith(rule.source) if rule.at_end else rule.source in outside:
                how = f"{describe(trace)}\nstill contains {rule.source}, which rule {number} replaces"
                yield LintFinding(Flaw.LEFTOVER, f"rule {number}", trace.source, how)


def _touches(table: RuleTable, traces: Sequence[Trace]) -> Iterator[LintFinding]:
    """Rules that replace a part of a name, as ``text_projection`` does in ``mm_text_projection``."""
    for trace in traces:
        before = trace.source
        for step in trace.steps:
            if (name := _cut_name(step.rule, before)) is not None:
                how = f"{step.rule}\ncuts into the name {name}\n{describe(trace)}"
                yield LintFinding(Flaw.TOUCHES, f"rule {step.number}", trace.source, how)
            before = step.key


def _cut_name(rule: Rule, key: str) -> str | None:
    """The first name of which the rule replaces a part; None where it replaces whole names only."""
    start = len(key) - len(rule.source) if rule.at_end else key.find(rule.source)
    while start >= 0:
        end = start + len(rule.source)
        if any(re.fullmatch(r"\w\w", key[at - 1 : at + 1]) for at in (start, end) if at > 0):
            return key[key.rfind(".", 0, start + 1) + 1 :].split(".")[0]
        start = -1 if rule.at_end else key.find(rule.source, end)
    return None
