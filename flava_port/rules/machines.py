"""Finds the shortest key on which two rule tables differ, or proves that there is none.

A rule reads a key from left to right, and needs to remember only how much of its source it has just seen. So a rule is a finite
state machine, and a table is a chain of them. Two tables are run side by side on all keys at once, shorter keys first. Either
they reach a key on which they differ, or no new combination of states is left. Then the two tables are equal on every key.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from functools import cache
from string import ascii_lowercase

from .engine import Drop, Rule, RuleTable


class TooManyStates(Exception):
    """The search ended before it found a difference or proved that there is none."""


MOST_STATES = 50_000


def distinguishing_key(one: RuleTable, other: RuleTable) -> str | None:
    """The shortest key that the two tables rename or drop differently; None where it is proven that there is none.

    For tables of a few rules, such as the parts in which two large tables differ.

    Raises:
        TooManyStates: neither a difference nor a proof was found among `MOST_STATES` states.
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
    """The state of both after one more character: each machine's own, and what it has written beyond the other."""
    left_state, left_out = left.step(state[0], character)
    right_state, right_out = right.step(state[1], character)
    left_ahead, right_ahead = state[2] + left_out, state[3] + right_out
    common = next((n for n, (a, b) in enumerate(zip(left_ahead, right_ahead)) if a != b), min(len(left_ahead), len(right_ahead)))
    return left_state, right_state, left_ahead[common:], right_ahead[common:]


def _word(came_from: Mapping[tuple, tuple[tuple, str] | None], state: tuple) -> str:
    """The characters that led to the state."""
    characters = []
    while (before := came_from[state]) is not None:
        state, character = before
        characters.append(character)
    return "".join(reversed(characters))


def _alphabet(tables: Iterable[RuleTable]) -> str:
    """Every character that the tables look for, and one that stands for all others: no table tells those apart."""
    named = {c for t in tables for r in t.rules for c in r.source}
    named |= {c for t in tables for d in t.drops for c in d.fragment}
    unnamed = next(c for c in ascii_lowercase[::-1] + "~!" + "".join(map(chr, range(0x3B1, 0x3FF))) if c not in named)
    return "".join(sorted(named)) + unnamed


class _Machine:
    """A table that reads a key character by character, and writes what can no longer change.

    Its state counts, for each drop's fragment and for each rule's source, how many of its characters were just read.
    """

    def __init__(self, table: RuleTable) -> None:
        self._drops, self._rules = table.drops, table.rules
        self._steps: dict[tuple, tuple[tuple, str]] = {}
        self.start = ((0,) * len(self._drops), (0,) * len(self._rules))

    def step(self, state: tuple, character: str) -> tuple[tuple, str]:
        if (state, character) not in self._steps:
            # A fragment that was found stays found.
            drops = tuple(
                seen if seen == len(drop.fragment) else _after(drop.fragment, seen, character) for drop, seen in zip(self._drops, state[0])
            )
            rules, written = (self.start[1], "") if self._dropped_by(drops) else self._pass(state[1], character)
            self._steps[state, character] = (drops, rules), written
        return self._steps[state, character]

    def _pass(self, state: tuple[int, ...], text: str) -> tuple[tuple[int, ...], str]:
        """Hands the text on from rule to rule. Returns the rules' new states, and what the last rule writes."""
        after = []
        coming = None
        for rule, seen in zip(self._rules, state):
            seen, text = _read(rule, seen, text)
            if coming:
                seen, released = _release(rule, seen, coming)
                text += released
            coming = _next_out(rule, seen, coming)
            after.append(seen)
        return tuple(after), text

    def _dropped_by(self, state: tuple[int, ...]) -> Drop | None:
        return next((drop for drop, seen in zip(self._drops, state) if seen == len(drop.fragment)), None)

    def end(self, state: tuple, ahead: str) -> tuple:
        """What becomes of a key that ends here. ``ahead`` is what this table has written and the other has not."""
        if drop := self._dropped_by(state[0]):
            return "dropped", (drop.fragment, drop.kept)
        text = ""
        for rule, seen in zip(self._rules, state[1]):
            seen, text = _read(rule, seen, text)
            text += rule.target if rule.at_end and seen == len(rule.source) else rule.source[:seen]
        return "renamed", ahead + text


@cache
def _after(word: str, seen: int, character: str) -> int:
    """With how many characters of ``word`` a text ends that ended with ``seen`` of them, after one more character."""
    text = word[:seen] + character
    return next(n for n in range(len(text), -1, -1) if word[:n] == text[len(text) - n :])


# A rule holds back what may become its source, and writes the rest: ``seen`` characters are held back.


@cache
def _read(rule: Rule, seen: int, text: str) -> tuple[int, str]:
    """What a rule holds back after reading the text, and what it writes."""
    written = []
    for character in text:
        held = rule.source[:seen] + character
        seen = _after(rule.source, seen, character)
        written.append(held[: len(held) - seen])
        if seen == len(rule.source) and not rule.at_end:
            written.append(rule.target)
            seen = 0
    return seen, "".join(written)


def _release(rule: Rule, seen: int, coming: frozenset[str]) -> tuple[int, str]:
    """What a rule still holds back, and writes, if one of the characters ``coming`` is certain to follow."""
    after = {c: _after(rule.source, seen, c) for c in coming}
    for fewer in range(seen):
        same_end = rule.source[:seen].endswith(rule.source[:fewer])
        if same_end and all(_after(rule.source, fewer, c) == n for c, n in after.items()):
            return fewer, rule.source[: seen - fewer]
    return seen, ""


def _next_out(rule: Rule, seen: int, coming: frozenset[str] | None) -> frozenset[str] | None:
    """The characters of which a rule will certainly write one next; None where that is not known."""
    first = frozenset(rule.target[:1])
    if seen:
        return first | {rule.source[0]} if first else None
    if coming is None or rule.source[0] not in coming:
        return coming
    return coming | first if first else None
