"""What a failing test of the rules says: the shortest key, what each rule does to it, actual and expected."""

from dataclasses import replace

import pytest
from hypothesis import Phase, find, settings

from flava_port.rules.describe import describe
from flava_port.rules.engine import Drop, Rule, RuleTable
from flava_port.rules.tables import FLAVA
from tests.rules.reports import assert_all, assert_same_table, assert_targets
from tests.strategies import decoy_keys, original_keys, original_state_dicts, source_keys

SWAPPED = replace(FLAVA, rules=(*FLAVA.rules[:7], FLAVA.rules[13], *FLAVA.rules[8:13], FLAVA.rules[7], FLAVA.rules[14]))


def report_of(check, *arguments) -> str:
    with pytest.raises(AssertionError) as failure:
        check(*arguments)
    return str(failure.value)


def test_a_wrong_target_is_reported_with_the_shortest_key_and_its_way():
    """With rules 8 and 14 swapped two keys go wrong: the shorter is shown, the other counted."""
    expected = {key: FLAVA.rename(key) for key in original_keys()}
    assert report_of(assert_targets, SWAPPED, expected) == (
        "mm_text_projection.bias: wrong target\n"
        "  actual    mm_flava.text_projection.bias\n"
        "  expected  flava.text_to_mm_projection.bias\n"
        "  its way through flava:\n"
        "    mm_text_projection.bias\n"
        "      rule 8  text_projection -> flava.text_projection\n"
        "              mm_flava.text_projection.bias\n"
        "  and 1 more, such as mm_text_projection.weight"
    )


def test_a_key_that_should_be_dropped_is_reported_with_what_became_of_it():
    """A table without drops is reported with the key that it keeps."""
    key = "text_encoder.embeddings.position_ids"
    assert report_of(assert_targets, replace(FLAVA, drops=()), {key: None}) == (
        f"{key}: wrong target\n  actual    {key}\n  expected  dropped\n  its way through flava:\n    {key}\n      no rule touches it"
    )


def test_a_property_that_fails_is_reported_with_the_shortest_key_and_its_way():
    """Without rule 5 one key is neither renamed nor dropped, and the report shows it."""
    table = replace(FLAVA, rules=FLAVA.rules[:4] + FLAVA.rules[5:])
    assert report_of(assert_all, table, original_keys(), "renamed or dropped", lambda key: table.rename(key) != key) == (
        "heads.cmd.clip_head.logit_scale: not renamed or dropped\n"
        "  its way through flava:\n"
        "    heads.cmd.clip_head.logit_scale\n"
        "      no rule touches it"
    )


def test_an_edited_rule_is_reported_by_its_number_and_the_key_that_shows_it():
    """With one character of rule 6 changed, the report shows both rules and the shortest key on which they differ."""
    rule = Rule("heads.fairseq_mln.cls.predictions", "mlm_head")
    edited = replace(FLAVA, rules=(*FLAVA.rules[:5], rule, *FLAVA.rules[6:]))
    assert report_of(assert_same_table, edited, FLAVA) == (
        "flava: rule 6 is not what it should be\n"
        "  actual    heads.fairseq_mln.cls.predictions -> mlm_head\n"
        "  expected  heads.fairseq_mlm.cls.predictions -> mlm_head\n"
        "  shown by  heads.fairseq_mlm.cls.predictions\n"
        "    actual    heads.fairseq_mlm.cls.predictions\n"
        "    expected  mlm_head"
    )


def test_a_missing_rule_is_reported_by_its_number():
    """With the last rule left out, the report says that nothing stands in its place."""
    report = report_of(assert_same_table, replace(FLAVA, rules=FLAVA.rules[:-1]), FLAVA)
    assert report.startswith("flava: rule 15 is not what it should be\n  actual    nothing\n  expected  image_projection -> ")


def test_a_missing_drop_is_reported_by_its_number():
    """With a drop left out, the report names it; a drop has no key to show."""
    report = report_of(assert_same_table, replace(FLAVA, drops=FLAVA.drops[:1]), FLAVA)
    assert report.startswith("flava: drop 2 is not what it should be\n  actual    nothing\n  expected  Drop(")


def test_the_strategies_shrink_to_the_shortest_guilty_key():
    """Hypothesis ends at the shortest of all keys that the swapped table renames otherwise."""
    guilty = find(
        source_keys(),
        lambda key: SWAPPED.rename(key) != FLAVA.rename(key),
        settings=settings(max_examples=5000, database=None, phases=tuple(Phase)),
    )
    assert guilty == "mm_text_projection.bias"


def test_state_dicts_shrink_to_the_fewest_keys():
    """A state dict in which some head is missing shrinks to no layers, no heads and the first seed."""
    found = find(original_state_dicts(), lambda original: len(original.heads) < 6, settings=settings(database=None))
    assert (found.layers, found.heads, found.seed) == (((), (), ()), (), 0)


def test_decoys_shrink_to_the_simplest_edit():
    """Decoys shrink to the first edit, the first fragment and the shortest key."""
    assert find(decoy_keys(), lambda key: True, settings=settings(database=None)) == "mm_image_projection.text_projection.bias"


def test_the_way_of_a_key_shows_every_rule_and_what_it_left():
    """`flava-port rules KEY` prints each rule that changes the key, and the key after it."""
    assert describe(FLAVA.trace("mm_encoder.module.encoder.cls_token")) == (
        "mm_encoder.module.encoder.cls_token\n"
        "  rule 12 mm_encoder.module.encoder.cls_token -> flava.multimodal_model.cls_token\n"
        "          flava.multimodal_model.cls_token"
    )


def test_the_way_of_a_dropped_key_says_why_and_what_is_kept():
    """The text has the drop's fragment, its reason, and the key of the copy that is kept."""
    table = RuleTable("t", "a", "b", (Drop("x.y", kept="x.z.y", because="it is there twice"),), ())
    assert describe(table.trace("x.y.w")) == "x.y.w\n  dropped: contains 'x.y'; it is there twice\n          kept as x.z.y.w"


@pytest.mark.parametrize(
    ("key", "rules"),
    (("x", "no rule"), ("text_projection", "rule 14"), ("text_projection.image_projection", "rules 14 and 15")),
)
def test_a_trace_names_its_rules(key, rules):
    """Error messages name the rules that changed a key by their numbers."""
    assert FLAVA.trace(key).rules == rules
