"""Which rules of a table must run before which, computed over every key there could be.

A replacement reads a key from left to right and remembers only how much of its source it has just
seen: it is a finite machine, and so is a whole table. Two tables run side by side on all keys at
once, shortest first, either reach a key on which they differ or run out of states to be in; the
latter proves them equal on every key.

Reorderings that keep every pair of rules that does not commute in its order give the same table on
every key: one turns into the other by swapping neighbours that commute.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from string import ascii_lowercase

from .engine import Rule, RuleTable


@dataclass(frozen=True)
class Dependency:
    """Rule ``first`` must run before rule ``second``: on ``witness``, the shortest such key, their order shows.

    ``known`` is the shortest known key on which it shows, None where it takes a key made for it.
    """

    first: int
    second: int
    witness: str
    known: str | None = None

    @property
    def shortest(self) -> str:
        return self.known or self.witness


def dependencies(table: RuleTable, keys: Iterable[str] = ()) -> tuple[Dependency, ...]:
    """Every pair of rules that does not commute on some key, with the keys that show it."""
    known = dependencies_on(table, keys)
    return tuple(Dependency(*pair, witness, known.get(pair)) for pair, witness in _conflicts(table.rules).items())


def dependencies_on(table: RuleTable, keys: Iterable[str]) -> dict[tuple[int, int], str]:
    """The pairs of rules whose order shows on ``keys`` or on what other rules make of them; the shortest each."""
    shown: dict[tuple[int, int], str] = {}
    for key in sorted(keys, key=lambda k: (len(k), k)):
        if table.trace(key).dropped is None:
            for pair in _conflicts_on(table.rules, key):
                shown.setdefault(pair, key)
    return dict(sorted(shown.items()))


def swapped(table: RuleTable, dependency: Dependency) -> RuleTable:
    """The table with the later rule of the two moved directly before the earlier one."""
    rules = list(table.rules)
    rules.insert(dependency.first - 1, rules.pop(dependency.second - 1))
    return replace(table, rules=tuple(rules))


def describe_order(table: RuleTable, keys: Iterable[str]) -> str:
    """Every dependency with its key, what becomes of it, and what would with the two rules in the other order."""
    found = dependencies(table, keys)
    lines = [f"{table.name}: the order of {sum(d.known is not None for d in found)} pairs of rules shows on known keys"]
    lines += [_describe(table, d) for d in found if d.known is not None]
    if made := [d for d in found if d.known is None]:
        lines.append(f"{table.name}: the order of {len(made)} more shows only on keys made for it")
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
    """False only for rules that never read or write each other's characters, which therefore commute."""
    if not (one.target and other.target):
        return True
    pairs = ((one.source, other.source), (one.target, other.source), (other.target, one.source))
    return any(_overlap(a, b) or _overlap(b, a) for a, b in pairs)


def _overlap(one: str, other: str) -> bool:
    """Whether ``one`` holds ``other``, or ends as it begins."""
    return other in one or any(one.endswith(other[:n]) for n in range(1, len(other)))


def _conflicts_on(rules: Sequence[Rule], key: str) -> Iterator[tuple[int, int]]:
    """The pairs that do not commute on a key, at any point of any order of all rules."""
    waiting = [(key, frozenset())]
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


class TooManyStates(Exception):
    """Two tables drift apart without end; whether they differ was not found out."""


MOST_STATES = 50_000


def distinguishing_key(one: RuleTable, other: RuleTable) -> str | None:
    """The shortest key that the two tables rename or drop differently; None where there is provably no such key.

    For tables of a few rules, such as the parts in which two large ones differ.

    Raises:
        TooManyStates: neither a difference nor a proof was found.
    """
    left, right = _Machine(one), _Machine(other)
    alphabet = _alphabet((one, other))
    start = (left.start, right.start, "", "")
    came_from: dict[tuple, tuple[tuple, str] | None] = {start: None}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        left_state, right_state, left_ahead, right_ahead = state
        if left.end(left_state, left_ahead) != right.end(right_state, right_ahead):
            return _word(came_from, state)
        if len(came_from) > MOST_STATES:
            raise TooManyStates
        for character in alphabet:
            after = _step(left, right, state, character)
            if after not in came_from:
                came_from[after] = (state, character)
                queue.append(after)
    return None


def _step(left: "_Machine", right: "_Machine", state: tuple, character: str) -> tuple:
    """The states after one more character, and what one has written beyond the other."""
    left_state, left_out = left.step(state[0], character)
    right_state, right_out = right.step(state[1], character)
    left_ahead, right_ahead = state[2] + left_out, state[3] + right_out
    common = _common_start(left_ahead, right_ahead)
    return left_state, right_state, left_ahead[common:], right_ahead[common:]


def _common_start(one: str, other: str) -> int:
    count = 0
    for a, b in zip(one, other):
        if a != b:
            break
        count += 1
    return count


def _word(came_from: dict, state: tuple) -> str:
    characters = []
    while came_from[state] is not None:
        state, character = came_from[state]
        characters.append(character)
    return "".join(reversed(characters))


def _alphabet(tables: Iterable[RuleTable]) -> str:
    """Every character the tables look for, and one for all others: no machine tells those apart."""
    named = {c for t in tables for r in t.rules for c in r.source}
    named |= {c for t in tables for d in t.drops for c in d.fragment}
    unnamed = next(c for c in ascii_lowercase[::-1] + "~!" + "".join(map(chr, range(0x3B1, 0x3FF))) if c not in named)
    return "".join(sorted(named)) + unnamed


class _Machine:
    """A table that reads a key character by character, writing what can no longer change."""

    def __init__(self, table: RuleTable) -> None:
        self._drops = [_Matcher(drop.fragment, absorbing=True) for drop in table.drops]
        self._kept = [(drop.fragment, drop.kept) for drop in table.drops]
        self._stages = [_Stage(rule) for rule in table.rules]
        self._steps: dict[tuple, tuple[tuple, str]] = {}
        self._ends: dict[tuple, str] = {}
        self.start = ((0,) * len(self._drops), (0,) * len(self._stages))

    def step(self, state: tuple, character: str) -> tuple[tuple, str]:
        if (state, character) not in self._steps:
            drops, stages = state
            drops = tuple(drop.step(seen, character) for drop, seen in zip(self._drops, drops))
            if any(drop.is_whole(seen) for drop, seen in zip(self._drops, drops)):
                self._steps[state, character] = (drops, self.start[1]), ""
            else:
                stages, written = self._pass(stages, character)
                self._steps[state, character] = (drops, stages), written
        return self._steps[state, character]

    def _pass(self, stages: tuple[int, ...], text: str) -> tuple[tuple[int, ...], str]:
        after = []
        coming = None
        for stage, seen in zip(self._stages, stages):
            seen, text = stage.read(seen, text)
            if coming:
                seen, released = stage.release(seen, coming)
                text += released
            coming = stage.next_out(seen, coming)
            after.append(seen)
        return tuple(after), text

    def end(self, state: tuple, ahead: str) -> tuple:
        """What becomes of a key that ends here, as far as the other table has not yet matched it."""
        for drop, seen, kept in zip(self._drops, state[0], self._kept):
            if drop.is_whole(seen):
                return "dropped", kept
        if state not in self._ends:
            text = ""
            for stage, seen in zip(self._stages, state[1]):
                seen, text = stage.read(seen, text)
                text += stage.rest(seen)
            self._ends[state] = text
        return "renamed", ahead + self._ends[state]


class _Matcher:
    """How much of ``word`` the text read so far ends with."""

    def __init__(self, word: str, *, absorbing: bool = False) -> None:
        self.word = word
        self._absorbing = absorbing
        self._steps: dict[tuple[int, str], int] = {}

    def step(self, seen: int, character: str) -> int:
        if self._absorbing and self.is_whole(seen):
            return seen
        if (seen, character) not in self._steps:
            text = self.word[:seen] + character
            self._steps[seen, character] = next(n for n in range(len(text), -1, -1) if self.word[:n] == text[len(text) - n :])
        return self._steps[seen, character]

    def is_whole(self, seen: int) -> bool:
        return seen == len(self.word)


class _Stage:
    """One rule: holds back what may become its source, writes the rest."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._matcher = _Matcher(rule.source)
        self._reads: dict[tuple[int, str], tuple[int, str]] = {}

    def read(self, seen: int, text: str) -> tuple[int, str]:
        if (seen, text) not in self._reads:
            self._reads[seen, text] = self._read(seen, text)
        return self._reads[seen, text]

    def _read(self, seen: int, text: str) -> tuple[int, str]:
        written = []
        for character in text:
            held = self._rule.source[:seen] + character
            seen = self._matcher.step(seen, character)
            written.append(held[: len(held) - seen])
            if self._matcher.is_whole(seen) and not self._rule.at_end:
                written.append(self._rule.target)
                seen = 0
        return seen, "".join(written)

    def release(self, seen: int, coming: frozenset[str]) -> tuple[int, str]:
        """Holds back no more than matters when one of the characters ``coming`` is certain to follow."""
        after = {c: self._matcher.step(seen, c) for c in coming}
        for fewer in range(seen):
            if self._ends_with(seen, fewer) and all(self._matcher.step(fewer, c) == n for c, n in after.items()):
                return fewer, self._rule.source[: seen - fewer]
        return seen, ""

    def _ends_with(self, seen: int, fewer: int) -> bool:
        return self._rule.source[:seen].endswith(self._rule.source[:fewer])

    def next_out(self, seen: int, coming: frozenset[str] | None) -> frozenset[str] | None:
        """The characters that this stage may write next, one of them for certain; None where it cannot be told."""
        first = frozenset(self._rule.target[:1])
        if seen:
            return first | {self._rule.source[0]} if first else None
        if coming is None or self._rule.source[0] not in coming:
            return coming
        return coming | first if first else None

    def rest(self, seen: int) -> str:
        """What is still held back when the key ends."""
        if self._rule.at_end and self._matcher.is_whole(seen):
            return self._rule.target
        return self._rule.source[:seen]
