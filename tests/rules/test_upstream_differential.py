"""Our `upgrade_state_dict` does what upstream's does, under a transformers that still ships the converter.

Only what `REFUSALS` lists is different on purpose.
"""

import pytest
import torch
from hypothesis import given

from flava_port import codebook
from flava_port.convert import count_parameters, upgrade_state_dict
from flava_port.errors import FlavaPortError
from tests.comparing import assert_same_tensors
from tests.rules.upstream import converters
from tests.strategies import (
    adversarial_state_dicts,
    codebook_decoy_keys,
    codebook_keys,
    decoy_keys,
    original_state_dicts,
    source_keys,
)

try:
    theirs, their_codebook = converters()
except ImportError:
    pytest.skip(
        "the upstream converter left transformers after 4.47.1; run: tox -e upstream (transformers==4.47.1)",
        allow_module_level=True,
    )

ONE, OTHER = torch.ones(2), torch.zeros(2)
# What upstream converts silently and we refuse, by the reason.
REFUSALS = {
    "already converted": {"mlm_head.bias": ONE},
    "both become": {"heads.cmd.itm_head.pooler": ONE, "heads.cmd.heads.cmd.itm_head.cls.pooler": OTHER},
    "two copies that should be one differ": {
        "text_encoder.embeddings.x": ONE,
        "text_encoder.module.embeddings.x": OTHER,
    },
    "would be dropped as a second copy, but there is no": {"image_encoder.embeddings.x": ONE},
}


@given(original_state_dicts())
def test_generated_state_dicts_come_out_as_upstreams(original):
    """Keys, values and dtypes are upstream's, the codebook's key included."""
    source, added = original.state_dict, {"blocks.x": ONE}
    assert_same_tensors(upgrade_state_dict(source, added), theirs(source, added))


@given(adversarial_state_dicts())
def test_adversarial_state_dicts_come_out_as_upstreams_or_are_refused_for_a_listed_reason(original):
    """A state dict with a decoy becomes what upstream makes of it, or is refused for a reason in `REFUSALS`."""
    source = original.state_dict
    try:
        actual = upgrade_state_dict(source, {})
    except FlavaPortError as refusal:
        assert any(why in str(refusal) for why in REFUSALS), refusal
    else:
        assert_same_tensors(actual, theirs(source, {}))


@given(decoy_keys() | source_keys())
def test_single_keys_come_out_as_upstreams(key):
    """Each single key becomes what upstream makes of it; one at a time, so that the shortest that differs is found."""
    from flava_port.rules.tables import FLAVA

    assert [FLAVA.rename(key)] == [*theirs({key: ONE}, {}), None][:1]


@given(codebook_decoy_keys())
def test_codebook_keys_come_out_as_upstreams(key):
    """Codebook keys with odd groups, or fragments in odd places, become what upstream makes of them."""
    from flava_port.rules.tables import CODEBOOK

    assert [CODEBOOK.rename(key)] == list(their_codebook({key: ONE}))


def test_a_whole_codebook_comes_out_as_upstreams():
    """The keys, values and dtypes of a whole codebook are upstream's."""
    source = {key: torch.tensor([n, 0.5], dtype=torch.float16) for n, key in enumerate(codebook_keys())}
    assert_same_tensors(codebook.upgrade_state_dict(source), their_codebook(source))


@given(original_state_dicts())
def test_count_parameters_counts_as_upstream(original):
    """Both sum the same values."""
    from transformers.models.flava.convert_flava_original_pytorch_to_hf import count_parameters as their_count

    source = original.state_dict
    assert float(count_parameters(source)) == float(their_count(source))


@pytest.mark.parametrize("why", REFUSALS)
def test_each_listed_refusal_is_real(why):
    """For each reason there is a state dict that upstream converts and we refuse."""
    theirs(REFUSALS[why], {})
    with pytest.raises(FlavaPortError, match=why):
        upgrade_state_dict(REFUSALS[why], {})
