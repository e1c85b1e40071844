"""Makes every mutant of a rule table, and says whether it is killed, equals the table on every key, or survives."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations

from flava_port.rules.engine import Drop, Rule, RuleTable
from flava_port.rules.machines import TooManyStates, distinguishing_key
from flava_port.rules.order import dependencies
from flava_port.rules.tables import TORCHMULTIMODAL
from tests.rules.grammar import first_release, projection_itm_mp, remapped, side_by_side
from tests.rules.upstream import recorded_keys
from tests.strategies import MOST_LAYERS, every_original_key, original_keys


@dataclass(frozen=True)
class PrefixRule(Rule):
    """A rule that works only at the beginning of a key."""

    def apply(self, key: str) -> str:
        return self.target + key.removeprefix(self.source) if key.startswith(self.source) else key


@dataclass(frozen=True)
class Mutant:
    what: str
    table: RuleTable
    order: tuple[int, ...] | None = None  # for a reordering, the table's own numbers in the new order


@dataclass(frozen=True)
class Verdict:
    mutant: Mutant
    killed_by: str | None = None  # the shortest recorded key that it renames otherwise
    proof: str | None = None  # why it renames every key as the table does


def judge(table: RuleTable, mutant: Mutant) -> Verdict:
    """The mutant is killed by a key that the default test run compares, or equal by a proof, or neither."""
    wrong = _wrong_with(table, mutant.table)
    if wrong:
        return Verdict(mutant, killed_by=min(wrong, key=lambda key: (len(key), key)))
    return Verdict(mutant, proof=_proof(table, mutant))


def _wrong_with(table: RuleTable, mutant: RuleTable) -> list[str]:
    """Keys that the mutant renames otherwise than the tests' record says, which has upstream's targets or torchmultimodal's names."""
    if table != TORCHMULTIMODAL:
        recorded = recorded_keys(table.name)
        return [key for key in recorded if _differs(table, mutant, key, recorded[key])]
    for layers in ((0,), (0, 1, 10, 123)):  # most mutants are killed by the keys of a layer, in a quarter of the time
        wrong = [key for key, name in _torchmultimodals(layers).items() if mutant.rename(key) != name]
        wrong = wrong or [name for name, key in _read_back(layers).items() if mutant.back(name).target != key]
        if wrong:
            break
    return wrong


@cache
def _torchmultimodals(layers: tuple[int, ...]) -> dict[str, str | None]:
    """torchmultimodal's name of each key, or None where it has none; position_ids are left out."""
    named = side_by_side(layers)
    others = [key for key in original_keys(layers) if key not in named and "module.embeddings.position_ids" not in key]
    return named | dict.fromkeys(others)


@cache
def _read_back(layers: tuple[int, ...]) -> dict[str, str]:
    """The key of each name that torchmultimodal has or had."""
    return {name: key for names in (side_by_side, first_release, remapped, projection_itm_mp) for key, name in names(layers).items()}


def _differs(table: RuleTable, mutant: RuleTable, key: str, expected: str | None) -> bool:
    trace = mutant.trace(key)
    return trace.target != expected or (trace.dropped is not None and trace.dropped.kept_key(key) != table.trace(key).dropped.kept_key(key))


def _proof(table: RuleTable, mutant: Mutant) -> str | None:
    if mutant.order is not None:
        place = {number: at for at, number in enumerate(mutant.order)}
        needed = _dependencies(table)
        if all(place[d.first] < place[d.second] for d in needed) and _undone(table) == _undone(mutant.table):
            return f"keeps all {len(needed)} pairs of rules that do not commute in their order"
    if table == TORCHMULTIMODAL:
        return _same_on_the_grammar(table, mutant.table)
    if mutant.order is not None:
        return None
    if mutant.table.drops != table.drops or any(isinstance(rule, PrefixRule) for rule in mutant.table.rules):
        return None
    for before in (0, 1):
        ours, theirs = _changed(table.rules, mutant.table.rules, before)
        if _same_on_every_key(*(replace(table, drops=(), rules=rules) for rules in (ours, theirs))):
            return "changes rules that, run side by side with the table's on every key there is, do the same"
    return None


def _undone(table: RuleTable) -> dict[str, str]:
    """What each target becomes on the way back. Where two rules have one target, the last one counts."""
    return {rule.target: rule.source for rule in table.rules}


@cache
def _dependencies(table: RuleTable):
    return dependencies(table)


def _same_on_the_grammar(table: RuleTable, mutant: RuleTable) -> str | None:
    """The proof that both tables rename every key of the original, and every name that torchmultimodal ever had, alike."""
    keys, names = every_original_key(), _read_back(tuple(range(MOST_LAYERS)))
    same = all(mutant.rename(key) == table.rename(key) for key in keys) and all(
        mutant.back(name).target == key for name, key in names.items()
    )
    return (
        f"takes all {len(keys):,} keys of the grammar and all {len(names):,} names of torchmultimodal's, past ones too, where the table takes them"
        if same
        else None
    )


def _same_on_every_key(one: RuleTable, other: RuleTable) -> bool:
    try:
        return distinguishing_key(one, other) is None
    except TooManyStates:
        return False


def _changed(ours: tuple[Rule, ...], theirs: tuple[Rule, ...], before: int) -> tuple[tuple[Rule, ...], tuple[Rule, ...]]:
    """The rules in which the two differ, with so many rules ``before`` them."""
    start = next((n for n, (one, other) in enumerate(zip(ours, theirs)) if one != other), min(len(ours), len(theirs)))
    shared = min(len(ours), len(theirs)) - start
    end = next((n for n in range(shared) if ours[-1 - n] != theirs[-1 - n]), shared)
    start = max(0, start - before)
    return ours[start : len(ours) - end], theirs[start : len(theirs) - end]


def mutants(table: RuleTable) -> Iterator[Mutant]:
    """Every mutant: each rule left out, doubled, moved and edited, each pair swapped, each drop left out and edited."""
    rules = table.rules
    for at, rule in enumerate(rules):
        yield Mutant(f"rule {at + 1} left out", _with(table, rules[:at] + rules[at + 1 :]))
        yield Mutant(f"rule {at + 1} doubled", _with(table, rules[: at + 1] + rules[at:]))
        yield Mutant(f"rule {at + 1} only at the beginning", _with_rule(table, at, PrefixRule(rule.source, rule.target)))
        yield Mutant(f"rule {at + 1} at the end or not", _with_rule(table, at, replace(rule, at_end=not rule.at_end)))
        for field in ("source", "target"):
            for what, text in _edits(getattr(rule, field)):
                yield Mutant(f"rule {at + 1}, {field}: {what}", _with_rule(table, at, replace(rule, **{field: text})))
    yield from _reordered(table)
    for at, rule in enumerate(table.older):
        yield Mutant(f"older rule {at + 1} left out", replace(table, older=table.older[:at] + table.older[at + 1 :]))
        for field in ("source", "target"):
            for what, text in _edits(getattr(rule, field)):
                edited = (*table.older[:at], replace(rule, **{field: text}), *table.older[at + 1 :])
                yield Mutant(f"older rule {at + 1}, {field}: {what}", replace(table, older=edited))
    for at, drop in enumerate(table.drops):
        yield Mutant(f"drop {at + 1} left out", replace(table, drops=table.drops[:at] + table.drops[at + 1 :]))
        for field in ("fragment", "kept"):
            for what, text in _edits(getattr(drop, field)):
                yield Mutant(f"drop {at + 1}, {field}: {what}", _with_drop(table, at, replace(drop, **{field: text})))


def _reordered(table: RuleTable) -> Iterator[Mutant]:
    numbers = list(range(1, len(table.rules) + 1))
    for one, other in combinations(numbers, 2):
        order = list(numbers)
        order[one - 1], order[other - 1] = other, one
        yield _in_order(table, f"rules {one} and {other} swapped", order)
    for moved in numbers:
        for place in range(len(numbers)):
            order = [number for number in numbers if number != moved]
            order.insert(place, moved)
            if abs(place + 1 - moved) > 1:
                yield _in_order(table, f"rule {moved} moved to place {place + 1}", order)


def _in_order(table: RuleTable, what: str, order: list[int]) -> Mutant:
    return Mutant(what, _with(table, tuple(table.rules[n - 1] for n in order)), tuple(order))


def _edits(text: str) -> Iterator[tuple[str, str]]:
    """Edits of single characters: the first, a middle and the last of each class, changed, left out and doubled."""
    classes = {"letter": str.isalpha, "digit": str.isdigit, "dot": ".".__eq__, "underscore": "_".__eq__}
    for name, belongs in classes.items():
        places = [at for at, character in enumerate(text) if belongs(character)]
        for at in sorted({places[0], places[len(places) // 2], places[-1]}) if places else ():
            other = "x" if text[at] != "x" else "y"
            yield f"{name} {at} changed", text[:at] + other + text[at + 1 :]
            yield f"{name} {at} left out", text[:at] + text[at + 1 :]
            yield f"{name} {at} doubled", text[:at] + text[at] + text[at:]


def _with(table: RuleTable, rules: tuple[Rule, ...]) -> RuleTable:
    return replace(table, rules=rules)


def _with_rule(table: RuleTable, at: int, rule: Rule) -> RuleTable:
    return _with(table, (*table.rules[:at], rule, *table.rules[at + 1 :]))


def _with_drop(table: RuleTable, at: int, drop: Drop) -> RuleTable:
    return replace(table, drops=(*table.drops[:at], drop, *table.drops[at + 1 :]))
