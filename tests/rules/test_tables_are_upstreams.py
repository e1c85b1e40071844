"""The tables do to every recorded key what transformers 4.47.1's converter does, hostile keys included."""

import pytest

from flava_port.rules.engine import Rule, RuleTable
from flava_port.rules.tables import CODEBOOK, FLAVA
from tests.rules.reports import assert_same_table, assert_targets
from tests.rules.upstream import recorded_keys, recorded_rules


@pytest.mark.parametrize("table", (FLAVA, CODEBOOK), ids=lambda table: table.name)
def test_every_recorded_key_goes_where_upstream_puts_it(table):
    """Keys of the grammar, and keys with fragments in odd places, become what upstream's code makes of them."""
    assert_targets(table, recorded_keys(table.name))


def test_the_rules_are_the_replacements_in_upstreams_source():
    """The table has upstream's replacements in upstream's order."""
    recorded = recorded_rules()
    rules = tuple(Rule(source, target) for source, target in recorded["rules"])
    assert_same_table(FLAVA, RuleTable("upstream", "", "", FLAVA.drops, rules))


def test_the_drops_are_the_conditions_in_upstreams_source():
    """The table drops what upstream skips, in its order."""
    assert [drop.fragment for drop in FLAVA.drops] == recorded_rules()["drops"]


def test_each_drop_keeps_the_copy_under_module():
    """Each drop keeps the copy under the encoder's module, which upstream's converter loads."""
    for drop in FLAVA.drops:
        encoder, embeddings = drop.fragment.split(".")
        assert drop.kept == f"{encoder}.module.{embeddings}", f"{drop.fragment} keeps {drop.kept}"


def test_the_codebooks_rules_are_the_ones_of_the_published_conversion():
    """Groups 1 to 4 and res_path get one more name, and w and b at the end become weight and bias."""
    rules = [Rule(f"group_{n}.", f"group_{n}.group.") for n in (1, 2, 3, 4)]
    rules += [Rule("res_path.", "res_path.path."), Rule(".w", ".weight", at_end=True), Rule(".b", ".bias", at_end=True)]
    assert_same_table(CODEBOOK, RuleTable("expected", "", "", (), tuple(rules)))
