"""Which rules must run before which is computed, with the key that shows it; nothing else about their order matters."""

import random
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flava_port.rules.engine import Rule, RuleTable
from flava_port.rules.from_file import known_keys
from flava_port.rules.machines import TooManyStates, distinguishing_key
from flava_port.rules.order import dependencies, describe_order, swapped
from flava_port.rules.tables import CODEBOOK, FLAVA, TABLES
from tests.rules.hostile_keys import OUT_OF_ORDER, hostile_codebook_keys, hostile_keys
from tests.strategies import codebook_keys, decoy_keys, original_keys, source_keys

KNOWN = {
    (8, 14): "mm_text_projection.bias",
    (9, 15): "mm_image_projection.bias",
    (12, 13): "mm_encoder.module.encoder.cls_token",
}
KEYS = {
    "flava": (*original_keys((0,)), *hostile_keys()[:300]),
    "codebook": (*codebook_keys(), *hostile_codebook_keys()),
}


@cache
def found(table: RuleTable):
    """A table's dependencies, computed once because it takes a second or two."""
    return dependencies(table, known_keys(table))


def orders(table: RuleTable):
    """(3, 1, 2): random reorderings of a table's rules, by their numbers."""
    return st.permutations(range(1, len(table.rules) + 1)).map(tuple)


def reordered(table: RuleTable, order) -> RuleTable:
    return replace(table, rules=tuple(table.rules[n - 1] for n in order))


def respecting(table: RuleTable, pairs, dice: random.Random) -> RuleTable:
    """A random reordering in which the first of each pair stays before the second."""
    left, order = list(range(1, len(table.rules) + 1)), []
    while left:
        free = [n for n in left if not any(second == n and first in left for first, second in pairs)]
        order.append(dice.choice(free))
        left.remove(order[-1])
    return reordered(table, order)


def test_on_known_keys_three_pairs_of_rules_must_keep_their_order():
    """Exactly three pairs must keep their order on known keys, each shown by its shortest key."""
    assert {(d.first, d.second): d.known for d in found(FLAVA) if d.known} == KNOWN


def test_the_codebooks_rules_may_stand_in_any_order():
    """The codebook's rules have no dependencies, since no two of them touch the same characters."""
    assert found(CODEBOOK) == ()


def test_the_keys_made_to_show_an_order_are_the_computed_ones():
    """The hostile keys of the tests are exactly the witnesses that are computed."""
    assert {d.witness for d in found(FLAVA) if not d.known} == set(OUT_OF_ORDER)


def test_each_dependency_is_shown_by_its_key():
    """Swapping two rules changes what they make of the witness, and what the table makes of the shortest known key."""
    for dependency in found(FLAVA):
        pair = tuple(FLAVA.rules[n - 1] for n in (dependency.first, dependency.second))
        one, other = (replace(FLAVA, drops=(), rules=rules) for rules in (pair, pair[::-1]))
        assert one.rename(dependency.witness) != other.rename(dependency.witness), dependency
        if dependency.known:
            assert swapped(FLAVA, dependency).rename(dependency.known) != FLAVA.rename(dependency.known), dependency


@given(st.randoms(use_true_random=False), decoy_keys() | source_keys())
def test_every_reordering_that_respects_the_dependencies_maps_every_key_alike(dice, key):
    """A table that keeps every dependency renames drawn keys, hostile keys and the grammar's keys as before."""
    table = respecting(FLAVA, [(d.first, d.second) for d in found(FLAVA)], dice)
    for each in (key, *KEYS["flava"]):
        assert table.rename(each) == FLAVA.rename(each), each


@given(st.randoms(use_true_random=False))
def test_every_reordering_that_respects_the_known_dependencies_maps_the_grammar_alike(dice):
    """A table that keeps only the three known pairs in order renames every key of a checkpoint as before."""
    table = respecting(FLAVA, KNOWN, dice)
    for key in original_keys((0, 123)):
        assert table.rename(key) == FLAVA.rename(key), key


@given(orders(FLAVA))
def test_every_reordering_that_breaks_a_dependency_is_caught_by_the_key_of_one_it_breaks(order):
    """If a reordering breaks any dependencies, the key of one of them becomes something else."""
    table = reordered(FLAVA, order)
    broken = [d for d in found(FLAVA) if order.index(d.second) < order.index(d.first)]
    if broken:
        assert any(table.rename(key) != FLAVA.rename(key) for d in broken for key in {d.shortest, d.witness}), (
            order,
            broken,
        )


@given(st.sampled_from(sorted(KNOWN)), st.randoms(use_true_random=False))
def test_every_reordering_that_breaks_a_single_known_dependency_is_caught_with_its_key(broken, dice):
    """If only one known dependency is reversed, its own key becomes something else."""
    others = [(d.first, d.second) for d in found(FLAVA) if (d.first, d.second) != broken]
    table = respecting(FLAVA, [*others, broken[::-1]], dice)
    assert table.rename(KNOWN[broken]) != FLAVA.rename(KNOWN[broken]), broken


@given(orders(CODEBOOK))
def test_every_reordering_of_the_codebooks_rules_maps_every_key_alike(order):
    """A table without dependencies renames alike in every order."""
    table = reordered(CODEBOOK, order)
    for key in KEYS["codebook"]:
        assert table.rename(key) == CODEBOOK.rename(key), key


def small_rules():
    texts = st.text("ab.", min_size=1, max_size=3)
    return st.lists(st.builds(Rule, texts, st.text("ab.", max_size=3), st.booleans()), min_size=1, max_size=3).map(tuple)


WORDS = [""]
for _ in range(6):
    WORDS += [word + c for word in WORDS if len(word) == len(WORDS[-1]) for c in "ab.z"]


@given(small_rules(), small_rules())
def test_the_computed_difference_is_the_shortest_that_trying_all_keys_finds(rules, others):
    """Trying every key of up to six characters finds a difference of the same length, or none where none is computed."""
    one, other = RuleTable("one", "", "", (), rules), RuleTable("other", "", "", (), others)
    try:
        computed = distinguishing_key(one, other)
    except TooManyStates:
        return
    tried = next((word for word in WORDS if one.rename(word) != other.rename(word)), None)
    if computed is None or len(computed) > 6:
        assert tried is None
    else:
        assert tried is not None and len(tried) == len(computed) and one.rename(computed) != other.rename(computed)


def test_the_printed_order_shows_the_key_as_it_is_and_as_it_would_be():
    """`flava-port rules --order` prints the pair, the key, and what it becomes in either order."""
    table = RuleTable("small", "", "", (), (Rule("x.a", "b"), Rule("a", "c")))
    assert describe_order(table, ["x.a.w"]) == (
        "small: the order of 1 pair of rules shows on known keys\n  rule 1 before rule 2\n          x.a.w\n    as is b.w\n    other x.c.w"
    )


def test_the_command_prints_the_order_of_both_tables(run_command):
    """The command prints the three pairs with their keys, and that the codebook has none."""
    ran = run_command("rules", "--order")
    assert ran.status == 0, ran.err
    for (first, second), key in KNOWN.items():
        assert f"  rule {first} before rule {second}\n          {key}\n" in ran.out
    assert "codebook: the order of 0 pairs of rules shows on known keys" in ran.out


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_table_equals_itself_and_a_swap_that_commutes(table):
    """Two tables that are equal on every key have no distinguishing key."""
    pair = table.rules[-2:] if table is CODEBOOK else table.rules[9:11]
    assert distinguishing_key(replace(table, drops=(), rules=pair), replace(table, drops=(), rules=pair[::-1])) is None
