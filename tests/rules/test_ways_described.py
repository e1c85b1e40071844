"""What the tables do to a key, as `flava-port rules KEY` prints it and as reports name it."""

from dataclasses import replace

import pytest

from flava_port.rules.describe import STEPS_SHOWN, describe, describe_way
from flava_port.rules.engine import Rule
from flava_port.rules.layouts import from_torchmultimodal
from flava_port.rules.tables import CODEBOOK, FLAVA, TORCHMULTIMODAL


def test_a_key_goes_back_through_torchmultimodals_table_and_on_through_upstreams():
    """Each step names its table, and torchmultimodal's rules are marked as undone."""
    assert describe_way("model.image_encoder.encoder.layer.3.attention.query.weight") == (
        "model.image_encoder.encoder.layer.3.attention.query.weight\n"
        "  rule 3  model.image_encoder -> image_encoder.module  (torchmultimodal, undone)\n"
        "          image_encoder.module.encoder.layer.3.attention.query.weight\n"
        "  rule 6  attention.query -> attention.attention.query  (torchmultimodal, undone)\n"
        "          image_encoder.module.encoder.layer.3.attention.attention.query.weight\n"
        "  rule 10 image_encoder.module -> flava.image_model  (flava)\n"
        "          flava.image_model.encoder.layer.3.attention.attention.query.weight"
    )


def test_an_older_name_has_no_number():
    """A step by an older name shows `older` in place of a number."""
    assert describe(from_torchmultimodal("itm_head.pooler.dense.bias")) == (
        "itm_head.pooler.dense.bias\n"
        "  older   itm_head -> heads.cmd.itm_head  (torchmultimodal, undone)\n"
        "          heads.cmd.itm_head.pooler.dense.bias\n"
        "  rule 4  heads.cmd.itm_head.pooler -> itm_head.pooler  (flava)\n"
        "          itm_head.pooler.dense.bias"
    )


@pytest.mark.parametrize(
    ("trace", "rules"),
    [
        (FLAVA.trace("image_projection.bias"), "rule 15"),
        (FLAVA.trace("projection.bias"), "no rule"),
        (CODEBOOK.trace("blocks.group_1.block_1.res_path.conv_1.w"), "rules 1, 5 and 6"),
        (from_torchmultimodal("loss.contrastive_loss.image_projection.bias"), "torchmultimodal an older name undone, then flava rule 15"),
        (
            from_torchmultimodal("model.image_encoder.encoder.layer.3.intermediate.weight"),
            "torchmultimodal rule 3 and an older name undone, then flava rule 10",
        ),
    ],
)
def test_the_rules_on_a_way_are_named_in_words(trace, rules):
    """The rules are named by their numbers in order, and an older name without one."""
    assert trace.rules == rules


@pytest.mark.parametrize("key", ["model.image_projection.bias", "itm_head.pooler.dense.bias", "xlmm_head", "x", ""])
def test_the_way_back_starts_at_the_key(key):
    """The trace of the way back begins with the key, and changes nothing that no rule knows."""
    back = TORCHMULTIMODAL.back(key)
    assert back.source == key
    assert back.target == TORCHMULTIMODAL.source_of(key)
    if not back.steps:
        assert back.target == key


def test_a_rule_for_the_end_of_a_key_is_undone_at_the_end_alone():
    """`.weight` is undone only at the end of a key."""
    table = replace(CODEBOOK, drops=(), rules=(Rule(".w", ".weight", at_end=True),))
    assert table.source_of("a.weight") == "a.w"
    assert table.source_of("a.weight.b") == "a.weight.b" == table.back("a.weight.b").target
    assert table.source_of("a.weights") == "a.weights"


@pytest.mark.parametrize(("steps", "left_out"), [(1, 0), (STEPS_SHOWN - 1, 0), (STEPS_SHOWN, 0), (STEPS_SHOWN + 1, 1), (1100, 1070)])
def test_of_a_long_way_the_first_steps_and_the_last_are_shown(steps, left_out):
    """And how many are left out, where some are."""
    table = replace(TORCHMULTIMODAL, name="chain", drops=(), older=(), rules=tuple(Rule(f"k{i}.", f"k{i + 1}.") for i in range(steps)))
    source, *lines = describe(table.trace("k0.weight")).splitlines()
    assert source == "k0.weight"
    told = [f"  rule {i + 1:<2} k{i}. -> k{i + 1}.\n          k{i + 1}.weight" for i in range(steps)]
    if left_out:
        told[STEPS_SHOWN - 1 : -1] = [f"  ... and {left_out:,} more"]
    assert "\n".join(lines) == "\n".join(told)
