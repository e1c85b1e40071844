"""The linter finds each flaw in a table that has it, with the key that shows it, and not in a table that nearly has it."""

from string import ascii_lowercase
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flava_port.rules.engine import Drop, Rule, RuleTable
from flava_port.rules.finder import KEY_LENGTH_MAX, Tracer
from flava_port.rules.from_file import known_keys, own_keys
from flava_port.rules.lint import Flaw, describe_findings, lint
from flava_port.rules.tables import FLAVA, TABLES


def table_of(*rules, drops=()) -> RuleTable:
    return RuleTable("example", "source", "target", tuple(Drop(*d, because="") for d in drops), tuple(Rule(*r) for r in rules))


def as_table(rules) -> RuleTable:
    return rules if isinstance(rules, RuleTable) else table_of(*rules)


def findings(table: RuleTable, keys=None) -> set[tuple[Flaw, str, str]]:
    return {(f.flaw, f.entry, f.witness) for f in lint(table, keys or own_keys(table))}


# For each flaw: rules or a table, keys (None: those made of the table's fragments), and what is found.
HAVE = {
    "dead, it changes nothing": ([("c", "c")], ["c.z"], (Flaw.DEAD, "rule 1", "c")),
    "dead, no key has it": ([("aa", "b"), ("qq", "r")], ["aa.z"], (Flaw.DEAD, "rule 2", "qq")),
    "shadowed by a part of it": ([("b.c", "x"), ("a.b.c", "y")], None, (Flaw.SHADOWED, "rule 2", "a.b.c.weight")),
    "shadowed by the same again": ([("aa", "x"), ("aa", "y")], None, (Flaw.SHADOWED, "rule 2", "aa.weight")),
    "collision": ([("aa", "x"), ("bb", "x")], None, (Flaw.COLLISION, "rules 1 and 2", "aa.weight")),
    "collision after a chain": (
        [("aa", "bb"), ("bb", "x"), ("cc", "x")],
        None,
        (Flaw.COLLISION, "rules 1, 2 and 3", "aa.weight"),
    ),
    "order, one feeds the other": ([("aa", "bb"), ("bb", "cc")], None, (Flaw.ORDER, "rules 1 and 2", "aa.weight")),
    "order, they overlap": ([("a.b", "x"), ("b.c", "y")], None, (Flaw.ORDER, "rules 1 and 2", "a.b.c.weight")),
    "order, general first": ([("b.c", "x"), ("a.b.c", "y")], None, (Flaw.ORDER, "rules 1 and 2", "a.b.c.weight")),
    "not injective": ([("aa", "x")], ["aa.w", "x.w"], (Flaw.NOT_INJECTIVE, "rule 1", "x.w")),
    "not injective, a name vanishes": ([("aa.", "")], ["aa.z", "z"], (Flaw.NOT_INJECTIVE, "rule 1", "z")),
    "not invertible, a name vanishes": ([("aa.", "")], ["aa.z"], (Flaw.NOT_INVERTIBLE, "rule 1", "aa.z")),
    "not invertible, the target was there": ([("aa", "x")], ["aa.x"], (Flaw.NOT_INVERTIBLE, "rule 1", "aa.x")),
    "leftover, the chain runs backwards": ([("bb", "cc"), ("aa", "bb")], None, (Flaw.LEFTOVER, "rule 1", "aa.weight")),
    "leftover, made by what stands around": ([("a.b", "x"), ("q", "b")], ["a.q"], (Flaw.LEFTOVER, "rule 1", "a.q")),
    "touches, it cuts a name": ([("proj", "p")], ["mm_proj.w"], (Flaw.TOUCHES, "rule 1", "mm_proj.w")),
    "touches, it cuts a name short": ([("group_1", "g")], ["group_10.w"], (Flaw.TOUCHES, "rule 1", "group_10.w")),
    "touches, not only the end": ([(".w", ".weight")], ["x.wide.w"], (Flaw.TOUCHES, "rule 1", "x.wide.w")),
    "matches its own result": ([("layer", "layer.layer")], None, (Flaw.MULTIPLIES, "rule 1", "layer.weight")),
    "matches a part of its own result": ([("layer", "layers")], None, (Flaw.MULTIPLIES, "rule 1", "layer.weight")),
    "a drop that keeps what it drops": (table_of(("qq", "r"), drops=[("a.b", "x.a.b")]), ["a.b.w"], (Flaw.KEEPS_ITSELF, "drop 1", "a.b.w")),
    "a drop that keeps the same": (table_of(("qq", "r"), drops=[("a.b", "a.b")]), None, (Flaw.KEEPS_ITSELF, "drop 1", "a.b.weight")),
    "a drop whose copy is no key": (table_of(("qq", "r"), drops=[("a.b", "k")]), ["a.b.w", "k.v"], (Flaw.KEEPS_NOTHING, "drop 1", "a.b.w")),
    "a drop whose copy another drops": (
        table_of(("qq", "r"), drops=[("a.b", "c.d"), ("c.d", "e")]),
        None,
        (Flaw.KEEPS_NOTHING, "drop 1", "a.b.weight"),
    ),
    "undecided, a key grows": ([("a", "aa")] * 40, None, (Flaw.UNDECIDED, "1 key", "a.weight")),
}
# Nearly the same, but for a detail that makes the table right: rules, keys, and the flaw that must not be found.
NEARLY_HAVE = {
    "it changes something": ([("c", "d")], ["c.z"], Flaw.DEAD),
    "one key has it": ([("aa", "b"), ("qq", "r")], ["aa.z", "qq"], Flaw.DEAD),
    "the part comes second": ([("a.b.c", "y"), ("b.c", "x")], None, Flaw.SHADOWED),
    "another key is left to it": ([("a.b.c", "y"), ("a.b", "x"), ("b.c", "z")], ["a.b.c", "a.b", "b.c"], Flaw.SHADOWED),
    "targets that differ in one character": ([("aa", "x1"), ("bb", "x2")], None, Flaw.COLLISION),
    "one target begins with the other": ([("aa", "x"), ("bb", "x.y")], None, Flaw.COLLISION),
    "the chain is broken": ([("aa", "b"), ("bb", "cc")], None, Flaw.ORDER),
    "the special case first": ([("a.b.c", "y"), ("b.c", "x")], None, Flaw.ORDER),
    "names that only share letters": ([("a.bc", "x"), ("cd.e", "y")], None, Flaw.ORDER),
    "the other key has one more name": ([("aa", "x")], ["aa.w", "x.x.w"], Flaw.NOT_INJECTIVE),
    "the target is part of a name": ([("aa", "x")], ["aa.xx"], Flaw.NOT_INVERTIBLE),
    "a target that holds its own source": ([("text", "flava.text")], None, Flaw.LEFTOVER),
    "the chain runs forwards": ([("aa", "bb"), ("bb", "cc")], None, Flaw.LEFTOVER),
    "a whole name": ([("proj", "p")], ["mm.proj.w"], Flaw.TOUCHES),
    "a dot ends it": ([("group_1.", "g.")], ["group_1.w", "group_10.w"], Flaw.TOUCHES),
    "only at the end": ([(".w", ".weight", True)], ["x.wide.w"], Flaw.TOUCHES),
    "a name before it": ([("layer", "model.layer")], None, Flaw.MULTIPLIES),
    "twice at the end": ([(".w", ".w.w", True)], None, Flaw.MULTIPLIES),
    "a drop that keeps a part of it": (table_of(("qq", "r"), drops=[("a.b", "b")]), ["a.b.w", "b.w"], Flaw.KEEPS_ITSELF),
    "a drop whose copy is a key": (table_of(("qq", "r"), drops=[("a.b", "k")]), ["a.b.w", "k.w"], Flaw.KEEPS_NOTHING),
    "a key grows a little": ([("a", "aa")] * 3, None, Flaw.UNDECIDED),
}


@pytest.mark.parametrize("name", HAVE)
def test_a_fault_is_found_with_its_key(name):
    """The finding has the flaw, the entry and the shortest key that shows it."""
    rules, keys, expected = HAVE[name]
    assert expected in findings(as_table(rules), keys)


@pytest.mark.parametrize("name", NEARLY_HAVE)
def test_what_is_nearly_a_fault_is_not_found(name):
    """The linter does not report that flaw for any entry."""
    rules, keys, flaw = NEARLY_HAVE[name]
    assert not [found for found in findings(as_table(rules), keys) if found[0] is flaw]


def test_every_flaw_has_a_table_that_has_it_and_one_that_nearly_has_it():
    """No flaw is left untested."""
    assert {expected[0] for _, _, expected in HAVE.values()} == set(Flaw) == {flaw for _, _, flaw in NEARLY_HAVE.values()}


def test_a_drop_that_drops_nothing_is_dead_and_one_behind_another_is_shadowed():
    """Drops are checked as rules are."""
    table = table_of(("aa", "x"), drops=[("a.b", "k"), ("a.b.c", "k"), ("zz", "k")])
    found = findings(table, ["aa", "a.b.c"])
    assert (Flaw.SHADOWED, "drop 2", "a.b.c") in found
    assert (Flaw.DEAD, "drop 3", "zz") in found


def test_a_rule_behind_a_drop_is_shadowed():
    """A drop that takes every key of a rule shadows the rule."""
    table = table_of(("a.b.c", "x"), drops=[("a.b", "k")])
    assert (Flaw.SHADOWED, "rule 1", "a.b.c") in findings(table, ["a.b.c", "k.c"])


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_our_own_tables_have_no_findings(table):
    """The linter finds nothing on a checkpoint's keys, nor on keys made of the tables' fragments."""
    for keys in (known_keys(table), own_keys(table)):
        found = lint(table, keys)
        assert not found, describe_findings(table, keys, found)


def test_the_text_of_a_finding_shows_the_key_and_its_way():
    """`flava-port rules --lint` prints the finding, the rule, and the key step by step."""
    table = table_of(("b.c", "x"), ("a.b.c", "y"))
    shadowed = next(f for f in lint(table, ["a.b.c"]) if f.flaw is Flaw.SHADOWED)
    assert str(shadowed) == (
        "rule 2: shadowed rule, as a.b.c shows\n"
        "    a.b.c -> y\n"
        "    never gets the key, which goes\n"
        "    a.b.c\n"
        "      rule 1  b.c -> x\n"
        "              a.x"
    )


LARGE = {
    "10,000 rules": table_of(*((f"layer_{n}.a", f"l{n}.b") for n in range(10_000))),
    "10,000 rules that meet": table_of(*((f"layer_{n}.a", "x") for n in range(10_000))),
    "10,000 rules that overlap": table_of(*(("a.a." + n % 50 * "a." + "a", f"a.{n}.a") for n in range(10_000))),
    "10,000 drops": table_of(("aa", "b"), drops=[(f"x{n}.", f"y{n}.") for n in range(10_000)]),
    "a rule for each letter": table_of(*((letter, letter.upper()) for letter in ascii_lowercase)),
    "one that doubles, forty times": table_of(*[("a", "aa")] * 40),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "10,000 rules")) for name in LARGE])
def test_any_table_is_done_within_ten_seconds_or_says_what_was_left(name):
    """A table that all of it was looked at has no such finding, and the others name what was not."""
    keys = [ascii_lowercase] if name == "a rule for each letter" else own_keys(LARGE[name])
    start = monotonic()
    left = [found.entry for found in lint(LARGE[name], keys) if found.flaw is Flaw.UNDECIDED]
    assert monotonic() - start < 10
    assert left or name == "10,000 rules"  # whose way back takes a few seconds, and may be left


@given(
    st.lists(st.tuples(st.text("ab.", min_size=1, max_size=3), st.text("ab.", max_size=3), st.booleans()), min_size=1, max_size=6),
    st.text("ab.x", max_size=12),
)
def test_the_quick_way_through_a_table_is_the_tables_own(rules, key):
    """`Tracer` finds the rules that can work on a key by an index, and its traces are those of `RuleTable.trace`."""
    table = table_of(*rules, drops=[("xx", "a")])
    trace, is_all = Tracer(table).trace(key)
    assert is_all and trace == table.trace(key)


def test_a_key_that_grows_too_long_is_followed_no_further():
    """Forty rules that double it would fill any memory."""
    trace, is_all = Tracer(table_of(*[("a", "aa")] * 40)).trace("a.w")
    assert not is_all and trace.target is None and len(trace.steps[-1].key) <= KEY_LENGTH_MAX


def test_rules_that_put_a_name_before_what_they_find_are_noted_and_no_finding():
    """FLAVA's own table has such rules: it is for the original's keys, and is never run on its own result."""
    text = describe_findings(FLAVA, [], [])
    assert "note: rules 14, 15 would change a renamed key again; run the table once" in text
