"""Finds what is wrong with a rule table, and shows each finding on the shortest key that has it.

Findings are about the keys that the table is meant for. Two rules whose order matters are no finding if the
special case comes first and the rule whose source it contains comes second, as a reader expects.

It takes at most 10 s for any table. What it did not come to in its time is a finding too: undecided.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import combinations, islice
from time import monotonic

from ..text import count_of, few
from .describe import describe
from .engine import Drop, Rule, RuleTable, Trace, numbered
from .finder import KEY_LENGTH_MAX, Tracer
from .from_file import OWN_KEYS_MAX
from .order import conflicts_on


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
    MULTIPLIES = "matches its own result"
    KEEPS_ITSELF = "a drop that keeps itself"
    KEEPS_NOTHING = "a drop whose kept copy does not exist"
    UNDECIDED = "undecided"


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


@dataclass(frozen=True)
class Traced:
    """What the table does to each key, the shortest first; ``partly`` has those keys whose way was not followed to its end."""

    tracer: Tracer
    traces: Sequence[Trace]
    partly: Sequence[Trace]
    keys: frozenset[str]

    @property
    def table(self) -> RuleTable:
        return self.tracer.table


SECONDS, TRACING_SECONDS = 8.0, 3.0
FINDINGS_MAX = 500  # of one check; who sees so many mends these first


def lint(table: RuleTable, keys: Iterable[str]) -> list[LintFinding]:
    """Everything that is wrong with ``table`` on ``keys``: one finding for each entry and flaw, and what was left undecided."""
    start = monotonic()
    ordered = sorted(set(keys), key=lambda k: (len(k), k))
    traced, found = _trace_all(table, ordered)
    by_entry = {(finding.flaw, finding.entry, finding.witness): finding for finding in found}
    for left, (check, about) in zip(range(len(_CHECKS), 0, -1), _CHECKS.items()):
        of_check: dict[tuple[Flaw, str, str], LintFinding] = {}
        end = monotonic() + (start + SECONDS - monotonic()) / left
        for finding in check(traced):
            if isinstance(finding, LintFinding):
                witness = finding.witness if finding.flaw is Flaw.UNDECIDED else ""
                of_check.setdefault((finding.flaw, finding.entry, witness), finding)
            if len(of_check) >= FINDINGS_MAX or monotonic() > end:
                why = f"{FINDINGS_MAX} findings about it" if len(of_check) >= FINDINGS_MAX else "its share of the time"
                undecided = _undecided(about, "the rest of the table", f"it was looked at no further after {why}")
                of_check[undecided.flaw, undecided.entry, undecided.witness] = undecided
                break
        by_entry |= {key: finding for key, finding in of_check.items() if key not in by_entry}
    return list(by_entry.values())


def _undecided(entry: str, witness: str, how: str) -> LintFinding:
    return LintFinding(Flaw.UNDECIDED, entry, witness, how)


def _trace_all(table: RuleTable, ordered: Sequence[str]) -> tuple[Traced, list[LintFinding]]:
    tracer, traces, partly, found = Tracer(table), list[Trace](), list[Trace](), list[LintFinding]()
    end = monotonic() + TRACING_SECONDS
    for count, key in enumerate(ordered):
        if count == OWN_KEYS_MAX or monotonic() > end:
            not_these = f"looked at the {count:,} shortest keys only, not at this one and at least {len(ordered) - count - 1:,} more"
            found.append(_undecided("keys", key, not_these))
            break
        trace, is_all = tracer.trace(key)
        (traces if is_all else partly).append(trace)
    if partly:
        longest = f"rules make it longer than {KEY_LENGTH_MAX:,} characters, where it was followed no further"
        found.append(_undecided(count_of(len(partly), "key"), partly[0].source, longest))
    return Traced(tracer, traces, partly, frozenset(ordered)), found


def describe_findings(table: RuleTable, keys: Sequence[str], findings: Sequence[LintFinding]) -> str:
    """One line with the numbers of rules, keys and findings, then each finding, and what is no flaw but good to know."""
    count = count_of(len(findings), "finding") if findings else "no findings"
    title = f"{table.name}: {count_of(len(table.rules), 'rule')} on {count_of(len(keys), 'key')}, {count}"
    return "\n".join([title, *(str(finding) for finding in findings), *_notes(table)])


def _notes(table: RuleTable) -> list[str]:
    """Rules that put names around what they find, as most tables have them: they find it again."""
    again = [number for number, rule in enumerate(table.rules, start=1) if not _multiplies(rule) and rule.apply(rule.target) != rule.target]
    which = f"rule{'s' if len(again) > 1 else ''} {', '.join(few(list(map(str, again)), 10))}"
    return [f"  note: {which} would change a renamed key again; run the table once"] if again else []


# What a check yields between findings, so that `lint` can end it in time.
_Found = Iterator[LintFinding | None]


def _unused(traced: Traced) -> _Found:
    """Entries that change no key: no key contains their fragment, or an earlier entry always changes it first."""
    table, tracer = traced.table, traced.tracer
    firing = {step.number for trace in (*traced.traces, *traced.partly) for step in trace.steps}
    able: dict[int, Trace] = {}
    in_drops: dict[int, Trace] = {}
    for trace in (*traced.traces, *traced.partly):
        for number in tracer.rules.in_key(trace.source):
            if number not in able and table.rules[number - 1].apply(trace.source) != trace.source:
                able[number] = trace
        for number in tracer.drops.in_key(trace.source):
            in_drops.setdefault(number, trace)
        yield None
    for number, rule in enumerate(table.rules, start=1):
        if number not in firing and not traced.partly:  # what the rest of those keys' way holds is not known
            yield _idle(f"rule {number}", str(rule), rule.source, able.get(number))
    dropping = {id(trace.dropped) for trace in traced.traces}
    for number, drop in enumerate(table.drops, start=1):
        if id(drop) not in dropping:
            yield _idle(f"drop {number}", f"drop {drop.fragment}", drop.fragment, in_drops.get(number))


def _idle(entry: str, text: str, fragment: str, able: Trace | None) -> LintFinding:
    if able is None:
        return LintFinding(Flaw.DEAD, entry, fragment, f"{text}\nchanges none of the keys")
    return LintFinding(Flaw.SHADOWED, entry, able.source, f"{text}\nnever gets the key, which goes\n{describe(able)}")


def _meetings(traced: Traced) -> _Found:
    """Keys that become one target: a collision if different rules lead there, else the table is not injective."""
    by_target: dict[str, list[Trace]] = {}
    for trace in traced.traces:
        if trace.target is not None:
            by_target.setdefault(trace.target, []).append(trace)
    for meeting in by_target.values():
        for one, other in combinations(meeting, 2):
            mine, theirs = ([step.number for step in trace.steps] for trace in (one, other))
            flaw = Flaw.COLLISION if mine and theirs and mine != theirs else Flaw.NOT_INJECTIVE
            entry = numbered(sorted({*mine, *theirs}))
            yield LintFinding(flaw, entry, one.source, f"two keys become one\n{describe(one)}\n{describe(other)}")


def _order_sensitive(traced: Traced) -> _Found:
    """Pairs of rules whose order matters, but for a special case that comes first."""
    table, shown = traced.table, set[tuple[int, int]]()
    for trace in (*traced.traces, *traced.partly):
        pairs, all_tried = conflicts_on(traced.tracer, trace.source) if trace.dropped is None else (set(), True)
        for first, second in sorted(pairs - shown):
            one, other = table.rules[first - 1], table.rules[second - 1]
            if other.source not in one.source or one.source == other.source:
                how = f"{one}\n{other}\ntheir order matters, and neither is a special case that comes before the general rule"
                way = f"\n{describe(trace)}" if trace.target is not None else ""
                yield LintFinding(Flaw.ORDER, numbered([first, second]), trace.source, how + way)
        shown |= pairs
        if not all_tried:
            yield _undecided("order of rules", trace.source, "so many rules work on this key that not every order of them was tried")
        yield None


_INVERTED_MAX = 30_000


def _not_invertible(traced: Traced) -> _Found:
    """Keys that the rules undone do not give back."""
    if len(traced.table.rules) > _INVERTED_MAX:
        yield _undecided("the way back", "the table", f"it has more than {_INVERTED_MAX:,} rules, too many to undo in the time")
        return
    for trace in traced.traces:
        if trace.target is not None and (back := traced.table.source_of(trace.target)) != trace.source:
            yield LintFinding(Flaw.NOT_INVERTIBLE, trace.rules, trace.source, f"{describe(trace)}\ncomes back as {back}")
        yield None


def _leftovers(traced: Traced) -> _Found:
    """Targets that still contain a rule's source, outside of what that rule writes."""
    for trace in traced.traces:
        for number in traced.tracer.rules.in_key(trace.target or ""):
            rule = traced.table.rules[number - 1]
            outside = (trace.target or "").replace(rule.target, "\0") if rule.target else trace.target or ""
            if outside.endswith(rule.source) if rule.at_end else rule.source in outside:
                how = f"{describe(trace)}\nstill contains {rule.source}, which rule {number} replaces"
                yield LintFinding(Flaw.LEFTOVER, f"rule {number}", trace.source, how)
        yield None


def _touches(traced: Traced) -> _Found:
    """Rules that replace a part of a name, as ``text_projection`` does in ``mm_text_projection``."""
    for trace in traced.traces:
        before = trace.source
        for step in trace.steps:
            if (name := _cut_name(step.rule, before)) is not None:
                how = f"{step.rule}\ncuts into the name {name}\n{describe(trace)}"
                yield LintFinding(Flaw.TOUCHES, f"rule {step.number}", trace.source, how)
            before = step.key
        yield None


def _multiplying(traced: Traced) -> _Found:
    """Rules that find their source in what they made of it, so that twice is not once, as ``layer`` to ``layer.layer`` does."""
    for number, rule in enumerate(traced.table.rules, start=1):
        if _multiplies(rule):
            shown = (trace for trace in traced.traces if any(step.number == number for step in trace.steps))
            witness = next((trace.source for trace in islice(shown, 1)), rule.source)
            once, twice = rule.target, rule.target.replace(rule.source, rule.target)
            yield LintFinding(Flaw.MULTIPLIES, f"rule {number}", witness, f"{rule}\napplied twice it makes {once} into {twice}")
        yield None


def _multiplies(rule: Rule) -> bool:
    """Whether its target holds its source more than once, or as a part of another name, as ``layers`` holds ``layer``.

    A name put before the source, or after it, is what most tables do, and `_notes` says so.
    """
    if rule.source == rule.target or rule.source not in rule.target or rule.at_end:
        return False
    return rule.target.count(rule.source) > 1 or _cut_name(rule, rule.target) is not None


def _badly_kept(traced: Traced) -> _Found:
    """Drops whose kept copy is dropped by the same drop, by another one, or is none of the keys."""
    numbers = {id(drop): number for number, drop in enumerate(traced.table.drops, start=1)}
    for trace in traced.traces:
        if (drop := trace.dropped) is not None and (found := _kept_where(traced, trace.source, drop)) is not None:
            flaw, why = found
            how = f"drop {drop.fragment}, kept {drop.kept}\n{describe(trace)}\n{why}"
            yield LintFinding(flaw, f"drop {numbers[id(drop)]}", trace.source, how)
        yield None


def _kept_where(traced: Traced, key: str, drop: Drop) -> tuple[Flaw, str] | None:
    """What is wrong with the copy that should stay; None where it stays."""
    kept = drop.kept_key(key)
    if drop.fragment in kept:
        return Flaw.KEEPS_ITSELF, "which is dropped too, by the same entry: nothing stays"
    if other := next((number for number in traced.tracer.drops.in_key(kept)), None):
        return Flaw.KEEPS_NOTHING, f"which drop {other} drops: nothing stays"
    return None if kept in traced.keys else (Flaw.KEEPS_NOTHING, "which is none of the keys: the value is lost")


_CHECKS: dict[Callable[[Traced], _Found], str] = {
    _unused: "dead and shadowed entries",
    _multiplying: "rules that match their own result",
    _badly_kept: "kept copies",
    _meetings: "collisions",
    _order_sensitive: "order",
    _not_invertible: "the way back",
    _leftovers: "leftover fragments",
    _touches: "names that are cut",
}


def _cut_name(rule: Rule, key: str) -> str | None:
    """The first name of which the rule replaces a part; None where it replaces whole names only."""
    start = len(key) - len(rule.source) if rule.at_end else key.find(rule.source)
    while start >= 0:
        end = start + len(rule.source)
        if any(re.fullmatch(r"\w\w", key[at - 1 : at + 1]) for at in (start, end) if at > 0):
            return key[key.rfind(".", 0, start + 1) + 1 :].split(".")[0]
        start = -1 if rule.at_end else key.find(rule.source, end)
    return None
