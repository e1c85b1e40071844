"""Where transformers computes otherwise, the forward claim differs and names the first module to diverge."""

from functools import cache

import pytest

from flava_port.proof.certificate import Verdict
from flava_port.verify import verify_flava_checkpoint
from tests.proof import mutants

# Each mutant, and the first module to diverge, which the report must name.
MUTANTS = {
    "a layer norm's epsilon": (mutants.set_epsilon, "flava.text_model.encoder.layer.1.layernorm_after"),
    "an activation": (mutants.set_activation, "flava.image_model.encoder.layer.1.output.dense"),
    "a head's epsilon": (mutants.set_head_epsilon, "mmm_image_head.transform.LayerNorm"),
    "an attention scale": (mutants.set_attention_scale, "flava.multimodal_model.encoder.layer.0.attention.attention.query"),
    "positions": (mutants.shift_positions, "flava.text_model.embeddings.position_embeddings"),
    "a padding mask": (mutants.ignore_the_mask, "flava.text_model.encoder.layer.0.attention.output.dense"),
    "a pooled token": (mutants.pool_another_token, "itm_head.pooler.dense"),
}


@pytest.fixture(scope="module")
def claims_of(tiny, converted):
    """``claims_of("an activation")``: the claims about the model with that mutant in it, by name; each verified once."""

    @cache
    def verified(mutant: str) -> dict:
        with mutants.edited(MUTANTS[mutant][0]):
            certificate = verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, converted)
        assert certificate.verdict is Verdict.DIFFERS, certificate.table()
        return {claim.name: claim for claim in certificate.claims}

    return verified


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutated_transformers_is_caught_and_the_first_module_to_diverge_is_named(mutant, claims_of):
    """Values are proven equal, and the computation differs."""
    claims, culprit = claims_of(mutant), MUTANTS[mutant][1]
    assert claims["values"].verdict is Verdict.PROVEN
    assert claims["forward"].findings[0].key == culprit, "\n".join(map(str, claims["forward"].findings[:3]))


def test_a_difference_from_above_is_not_blamed_on_what_lies_below(claims_of):
    """An activation has no weights: the module after it differs, but agrees when fed the original's input."""
    first = claims_of("an activation")["forward"].findings[0]
    assert "fed the original's input it agrees" in first.what


def test_a_module_that_computes_wrong_is_blamed_itself(claims_of):
    """Fed the original's input, it still differs."""
    first = claims_of("a head's epsilon")["forward"].findings[0]
    assert "its own weights or computation" in first.what and "heads.cmd.mim_head.cls.predictions" in first.source
