"""A key that is renamed through all three layouts, in either direction, comes back as it was."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flava_port.rules.layouts import WAYS, Layout, from_torchmultimodal, to_hugging_face, to_torchmultimodal
from flava_port.rules.tables import TORCHMULTIMODAL, source_name
from tests.rules.grammar import first_release, projection_itm_mp, remapped, side_by_side
from tests.rules.reports import assert_all
from tests.strategies import MOST_LAYERS, codebook_keys, every_original_key

pytestmark = pytest.mark.peers

RECORDED = Path(__file__).parents[2] / "fixtures" / "keys_torchmultimodal.json"
OLDER = {"first release": first_release, "remapped by their notebook": remapped, "projection_itm_mp": projection_itm_mp}


def originals():
    """image_encoder.module.layernorm.bias, blocks.input.w: any key that is in all three layouts."""
    return st.sampled_from(sorted(side_by_side(range(20)), key=lambda key: (len(key), key)))


def test_every_key_of_the_grammar_has_torchmultimodals_name():
    """For every number of a layer, the rules give the names that `grammar` lists without any rule."""
    names = side_by_side(range(MOST_LAYERS))
    assert_all(TORCHMULTIMODAL, names, "torchmultimodal's name", lambda key: TORCHMULTIMODAL.rename(key) == names[key])


def test_what_has_no_name_there_is_dropped_or_recomputed():
    """Only second copies and position_ids have no name in torchmultimodal."""
    named = side_by_side(range(MOST_LAYERS))
    left = [key for key in (*every_original_key(), *codebook_keys()) if key not in named]
    assert left and all(TORCHMULTIMODAL.rename(key) is None or key.endswith("module.embeddings.position_ids") for key in left)


def test_distinct_keys_never_meet_in_one_target():
    """No two of all 48,000 keys become one name of torchmultimodal's."""
    names = side_by_side(range(MOST_LAYERS))
    assert len({TORCHMULTIMODAL.rename(key) for key in names}) == len(names)


def test_the_names_are_those_of_torchmultimodals_own_models():
    """The names are those recorded from a FLAVAForPreTraining and a FLAVAModel of two layers (one in the multimodal encoder)."""
    recorded = json.loads(RECORDED.read_text())
    names = {key for key in side_by_side(range(2)).values() if ".mm_encoder.encoder.layer.1." not in key}
    no_path = {
        f"image_codebook.encoder.blocks.group_{g}.block_{b}.id_path.{p}" for g, b in ((1, 1), (1, 2), (2, 2), (3, 2), (4, 2)) for p in "wb"
    }
    assert names - no_path == set(recorded["FLAVAForPreTraining"])
    bare = {key.removeprefix("model.") for key in names if key.startswith("model.")}
    assert bare == set(recorded["FLAVAModel"])


@given(originals())
def test_original_to_hugging_face_to_torchmultimodal_and_back(key):
    """An original key becomes Hugging Face's, torchmultimodal's, and itself again."""
    target = to_hugging_face(key).target
    theirs = to_torchmultimodal(target)
    assert theirs == side_by_side(range(20))[key]
    assert TORCHMULTIMODAL.source_of(theirs) == key == TORCHMULTIMODAL.back(theirs).target


@given(originals())
def test_original_to_torchmultimodal_to_hugging_face_and_back(key):
    """An original key becomes torchmultimodal's, Hugging Face's, and itself again."""
    theirs = TORCHMULTIMODAL.rename(key)
    target = from_torchmultimodal(theirs).target
    assert target == to_hugging_face(key).target
    assert source_name(target) == key


@given(originals())
def test_a_bare_models_key_goes_where_the_whole_models_does(key):
    """A key becomes the same with and without the prefix `model.`, and back."""
    theirs = TORCHMULTIMODAL.rename(key)
    bare = WAYS[Layout.TORCHMULTIMODAL_MODEL]
    if theirs.startswith("model."):
        trace = bare.to(theirs.removeprefix("model."))
        assert trace.target == from_torchmultimodal(theirs).target
        assert f"model.{bare.back(trace.target)}" == theirs


@pytest.mark.parametrize("names", OLDER.values(), ids=OLDER)
def test_every_older_name_leads_to_the_same_key(names):
    """Each older name of torchmultimodal's, the codebook's included, leads back to the original's key."""
    back = {
        theirs: (original, TORCHMULTIMODAL.back(theirs).target, TORCHMULTIMODAL.source_of(theirs)) for original, theirs in names().items()
    }
    wrong = sorted(
        (theirs for theirs, (original, *found) in back.items() if found != [original, original]), key=lambda key: (len(key), key)
    )
    assert not wrong, f"{wrong[0]}: should lead back to {back[wrong[0]][0]}, leads to {back[wrong[0]][1]}; and {len(wrong) - 1} more"
    for original, theirs in names().items():
        assert from_torchmultimodal(theirs).target == to_hugging_face(original).target


def test_every_older_rule_is_used():
    """Each older rule is needed for a name of some past release."""
    used = {step.rule for names in OLDER.values() for key in names().values() for step in TORCHMULTIMODAL.back(key).steps}
    unneeded = [rule for rule in TORCHMULTIMODAL.older if rule not in used and rule.source != rule.target]
    assert not unneeded, unneeded


def test_without_its_older_rules_the_table_loses_the_older_names():
    """Without the older rules, some older name does not lead back, so the tests above depend on them."""
    from dataclasses import replace

    today = replace(TORCHMULTIMODAL, older=())
    assert any(today.source_of(theirs) != original for original, theirs in first_release().items())


def test_a_way_through_two_tables_names_the_rules_of_both():
    """A key that passes through two tables is reported with the rules of both."""
    trace = from_torchmultimodal("model.image_encoder.encoder.layer.3.attention.query.weight")
    assert trace.target == "flava.image_model.encoder.layer.3.attention.attention.query.weight"
    assert trace.rules == "torchmultimodal rules 3 and 6 undone, then flava rule 10"
    assert from_torchmultimodal("itm_head.pooler.dense.bias").rules == "torchmultimodal an older name undone, then flava rule 4"


def test_the_command_shows_the_way_of_a_torchmultimodal_key(run_command):
    """`flava-port rules KEY` shows a torchmultimodal key's steps, through the original's name."""
    ran = run_command("rules", "loss.mlm_loss.cls.dense.bias")
    assert ran.status == 0
    assert "heads.fairseq_mlm.cls.predictions.transform.dense.bias" in ran.out and "mlm_head.transform.dense.bias" in ran.out
    assert "(torchmultimodal, undone)" in ran.out and "(flava)" in ran.out
