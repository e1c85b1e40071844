"""The linter finds each flaw in a table that has it, with the key that shows it, and not in a table that nearly has it."""

import pytest

from flava_port.rules.engine import Drop, Rule, RuleTable
from flava_port.rules.from_file import known_keys, own_keys
from flava_port.rules.lint import Flaw, describe_findings, lint
from flava_port.rules.tables import TABLES


def table_of(*rules, drops=()) -> RuleTable:
    return RuleTable("example", "source", "target", tuple(Drop(*d, because="") for d in drops), tuple(Rule(*r) for r in rules))


def findings(table: RuleTable, keys=None) -> set[tuple[Flaw, str, str]]:
    return {(f.flaw, f.entry, f.witness) for f in lint(table, keys or own_keys(table))}


# For each flaw: rules, keys (None: those made of the table's fragments), and what is found.
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
}


@pytest.mark.parametrize("name", HAVE)
def test_a_fault_is_found_with_its_key(name):
    """The finding has the flaw, the entry and the shortest key that shows it."""
    rules, keys, expected = HAVE[name]
    assert expected in findings(table_of(*rules), keys)


@pytest.mark.parametrize("name", NEARLY_HAVE)
def test_what_is_nearly_a_fault_is_not_found(name):
    """The linter does not report that flaw for any entry."""
    rules, keys, flaw = NEARLY_HAVE[name]
    assert not [found for found in findings(table_of(*rules), keys) if found[0] is flaw]


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
