"""Finds the shortest key on which two rule tables differ, or proves that there is none.

A rule reads a key from left to right, and needs to remember only how much of its source it has just seen. So a
rule is a finite state machine, and a table is a chain of them. Two tables are run side by side on all keys at
once, shorter keys first. Either they reach a key on which they differ, or no new combination of states is left.
Then the two tables are equal on every key.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from string import ascii_lowercase

from .engine import Rule, RuleTable


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
    common = _common_start(left_ahead, right_ahead)
    return left_state, right_state, left_ahead[common:], right_ahead[common:]


def _common_start(one: str, other: str) -> int:
    count = 0
    for a, b in zip(one, other):
        if a != b:
            break
        count += 1
    return count


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
    """A table that reads a key character by character, and writes what can no longer change."""

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
        """Hands the text on from rule to rule. Returns the rules' new states, and what the last rule writes."""
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
        """What becomes of a key that ends here. ``ahead`` is what this table has written and the other has not."""
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
    """Counts how many characters of ``word`` the text read so far ends with. Absorbing: a whole word stays counted."""

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
    """One rule: it holds back what may become its source, and writes the rest. ``seen`` characters are held back."""

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
        """Writes what it need not hold back if one of the characters ``coming`` is certain to follow."""
        after = {c: self._matcher.step(seen, c) for c in coming}
        for fewer in range(seen):
            if self._ends_with(seen, fewer) and all(self._matcher.step(fewer, c) == n for c, n in after.items()):
                return fewer, self._rule.source[: seen - fewer]
        return seen, ""

    def _ends_with(self, seen: int, fewer: int) -> bool:
        return self._rule.source[:seen].endswith(self._rule.source[:fewer])

    def next_out(self, seen: int, coming: frozenset[str] | None) -> frozenset[str] | None:
        """The characters of which this stage will certainly write one next; None where that is not known."""
        first = frozenset(self._rule.target[:1])
        if seen:
            return first | {self._rule.source[0]} if first else None
        if coming is None or self._rule.source[0] not in coming:
            return coming
        return coming | first if first else None

    def rest(self, seen: int) -> str:
        """What it writes when the key ends."""
        if self._rule.at_end and self._matcher.is_whole(seen):
            return self._rule.target
        return self._rule.source[:seen]
