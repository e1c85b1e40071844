"""Which rules of a table must run before which, over every possible key.

Two rules commute if running them in either order gives the same result on every key. A reordering of the table
that keeps the order of every two rules that do not commute gives the same results on every key: it is reached
by swapping neighbours that commute.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations

from ..text import count_of
from .engine import Rule, RuleTable
from .finder import Tracer, would_grow
from .machines import distinguishing_key


@dataclass(frozen=True)
class Dependency:
    """Rule ``first`` must run before rule ``second``."""

    first: int
    second: int
    witness: str  # the shortest key on which the two rules alone give another result in the other order
    known: str | None = None  # the shortest of the known keys on which it shows, if there is one

    @property
    def shortest(self) -> str:
        return self.known or self.witness


def dependencies(table: RuleTable, keys: Iterable[str] = (), undecided: list[str] | None = None) -> tuple[Dependency, ...]:
    """Every pair of rules that does not commute, with the keys that show it. ``keys`` are the known ones; see `dependencies_on`."""
    known = dependencies_on(table, keys, undecided)
    return tuple(Dependency(*pair, witness, known.get(pair)) for pair, witness in _conflicts(table.rules).items())


def dependencies_on(table: RuleTable, keys: Iterable[str], undecided: list[str] | None = None) -> dict[tuple[int, int], str]:
    """The pairs of rules whose order shows on one of ``keys``, or on what other rules make of it: the shortest for each pair.

    Keys on which more orders are possible than were tried are added to ``undecided``.
    """
    tracer = Tracer(table)
    shown: dict[tuple[int, int], str] = {}
    for key in sorted(keys, key=lambda k: (len(k), k)):
        if not tracer.drops.in_key(key):
            pairs, all_tried = conflicts_on(tracer, key)
            for pair in pairs:
                shown.setdefault(pair, key)
            if not all_tried and undecided is not None:
                undecided.append(key)
    return dict(sorted(shown.items()))


def swapped(table: RuleTable, dependency: Dependency) -> RuleTable:
    """The table with the second of the two rules moved directly before the first."""
    rules = list(table.rules)
    rules.insert(dependency.first - 1, rules.pop(dependency.second - 1))
    return replace(table, rules=tuple(rules))


def describe_order(table: RuleTable, keys: Iterable[str]) -> str:
    """Every dependency with a key that shows it: what the key becomes, and what it would become in the other order."""
    undecided: list[str] = []
    found = dependencies(table, keys, undecided)
    lines = [f"{table.name}: the order of {count_of(sum(d.known is not None for d in found), 'pair')} of rules shows on known keys"]
    lines += [_describe(table, d) for d in found if d.known is not None]
    if made := [d for d in found if d.known is None]:
        lines.append(f"{table.name}: the order of {len(made)} more shows only on keys made to show it")
        lines += [_describe(table, d) for d in made]
    if undecided:
        lines.append(f"{table.name}: not every order was tried on {count_of(len(undecided), 'key')}, such as {undecided[0]}")
    return "\n".join(lines)


def _describe(table: RuleTable, dependency: Dependency) -> str:
    key, (one, other) = dependency.shortest, (table.rules[n - 1] for n in (dependency.first, dependency.second))
    kept, turned = (table, swapped(table, dependency)) if dependency.known else (_only(one, other), _only(other, one))
    return (
        f"  rule {dependency.first} before rule {dependency.second}\n"
        f"          {key}\n"
        f"    as is {kept.rename(key)}\n"
        f"    other {turned.rename(key)}"
    )


@lru_cache
def _conflicts(rules: tuple[Rule, ...]) -> dict[tuple[int, int], str]:
    found = {}
    for (i, one), (j, other) in combinations(enumerate(rules, start=1), 2):
        if _can_meet(one, other) and (key := distinguishing_key(_only(one, other), _only(other, one))) is not None:
            found[i, j] = key
    return found


def _only(*rules: Rule) -> RuleTable:
    return RuleTable("", "", "", (), rules)


def _can_meet(one: Rule, other: Rule) -> bool:
    """False only for two rules that never read or write each other's characters, and therefore commute."""
    pairs = ((one.source, other.source), (one.target, other.source), (other.target, one.source))
    return not (one.target and other.target) or any(_overlap(a, b) or _overlap(b, a) for a, b in pairs)


def _overlap(one: str, other: str) -> bool:
    """Whether ``one`` contains ``other``, or ends with what ``other`` begins with."""
    return other in one or any(one.endswith(other[:n]) for n in range(1, len(other)))


# How many results of rules on one key are followed; of n rules that all work on it there may be 2 to the power of n.
RESULTS_MAX = 200


def conflicts_on(tracer: Tracer, key: str) -> tuple[set[tuple[int, int]], bool]:
    """The pairs that do not commute on a key, or on one that other rules make of it, in any order.

    Also whether all were tried: no more than `RESULTS_MAX` results are, and no key longer than `KEY_LENGTH_MAX`.
    """
    rules, found, all_tried = tracer.table.rules, set[tuple[int, int]](), True
    waiting: list[tuple[str, frozenset[int]]] = [(key, frozenset())]
    seen = set(waiting)
    while waiting:
        now, used = waiting.pop()
        working = [n for n in tracer.rules.in_key(now) if n not in used]
        growing = {n for n in working if would_grow(rules[n - 1], now)}
        all_tried = all_tried and not growing
        after = {n: text for n in working if n not in growing and (text := rules[n - 1].apply(now)) != now}
        for one, text in after.items():
            for other in {*after, *tracer.rules.in_key(text)} - used - growing - {one}:
                if would_grow(rules[other - 1], text):
                    all_tried = False
                elif rules[other - 1].apply(text) != rules[one - 1].apply(after.get(other, now)):
                    found.add((min(one, other), max(one, other)))
        fresh = {(text, used | {n}) for n, text in after.items()} - seen
        if len(seen) + len(fresh) > RESULTS_MAX:
            return found, False
        seen |= fresh
        waiting += fresh
    return found, all_tried
