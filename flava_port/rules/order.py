"""Which rules of a table must run before which, over every possible key.

Two rules commute if running them in either order gives the same result on every key. A reordering of the table
that keeps the order of every two rules that do not commute gives the same results on every key: it is reached
by swapping neighbours that commute.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations

from ..text import count_of
from .engine import Rule, RuleTable
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


def dependencies(table: RuleTable, keys: Iterable[str] = ()) -> tuple[Dependency, ...]:
    """Every pair of rules that does not commute, with the keys that show it. ``keys`` are the known ones."""
    known = dependencies_on(table, keys)
    return tuple(Dependency(*pair, witness, known.get(pair)) for pair, witness in _conflicts(table.rules).items())


def dependencies_on(table: RuleTable, keys: Iterable[str]) -> dict[tuple[int, int], str]:
    """The pairs of rules whose order shows on one of ``keys``, or on what other rules make of it: the shortest for each pair."""
    shown: dict[tuple[int, int], str] = {}
    for key in sorted(keys, key=lambda k: (len(k), k)):
        if table.trace(key).dropped is None:
            for pair in _conflicts_on(table.rules, key):
                shown.setdefault(pair, key)
    return dict(sorted(shown.items()))


def swapped(table: RuleTable, dependency: Dependency) -> RuleTable:
    """The table with the second of the two rules moved directly before the first."""
    rules = list(table.rules)
    rules.insert(dependency.first - 1, rules.pop(dependency.second - 1))
    return replace(table, rules=tuple(rules))


def describe_order(table: RuleTable, keys: Iterable[str]) -> str:
    """Every dependency with a key that shows it: what the key becomes, and what it would become in the other order."""
    found = dependencies(table, keys)
    lines = [f"{table.name}: the order of {count_of(sum(d.known is not None for d in found), 'pair')} of rules shows on known keys"]
    lines += [_describe(table, d) for d in found if d.known is not None]
    if made := [d for d in found if d.known is None]:
        lines.append(f"{table.name}: the order of {len(made)} more shows only on keys made to show it")
        lines += [_describe(table, d) for d in made]
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


def _conflicts_on(rules: Sequence[Rule], key: str) -> Iterator[tuple[int, int]]:
    """The pairs that do not commute on a key, nor on what any of the other rules, in any order, make of it."""
    waiting: list[tuple[str, frozenset[int]]] = [(key, frozenset())]
    seen = set(waiting)
    while waiting:
        now, used = waiting.pop()
        after = {n: rule.apply(now) for n, rule in enumerate(rules, start=1) if n not in used}
        active = [n for n, text in after.items() if text != now]
        for i, j in {tuple(sorted((a, n))) for a in active for n in after if n != a}:
            if rules[j - 1].apply(after[i]) != rules[i - 1].apply(after[j]):
                yield i, j
        fresh = {(after[n], used | {n}) for n in active} - seen
        seen |= fresh
        waiting += fresh
