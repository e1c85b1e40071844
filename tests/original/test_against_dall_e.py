"""The same weights in OpenAI's `dall_e.Encoder` (`DALL-E` 0.1) give the same logits and tokens.

Theirs computes in float32 whatever its input; `test_against_torchmultimodal.py` compares torchmultimodal's copy in float64.
"""

import pytest
import torch

from flava_port.original.codebook import DalleEncoder
from flava_port.original.config import CodebookConfig
from tests.original.models import assert_rounding_apart, dalle_encoder

CONFIGS = {
    "as published, narrow": CodebookConfig(hidden_size=8, vocab_size=21),
    "three blocks a group": CodebookConfig(num_blocks_per_group=3, hidden_size=4, vocab_size=9),
    "one block a group, one channel": CodebookConfig(num_blocks_per_group=1, hidden_size=12, input_channels=1),
}


def build_theirs(dall_e, config: CodebookConfig) -> torch.nn.Module:
    return dall_e.Encoder(
        n_hid=config.hidden_size,
        n_blk_per_group=config.num_blocks_per_group,
        input_channels=config.input_channels,
        vocab_size=config.vocab_size,
    ).eval()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@torch.no_grad()
def test_logits_and_tokens_agree(dall_e, config):
    """Logits and tokens of images that are not square are the same as theirs."""
    theirs, ours = build_theirs(dall_e, config), dalle_encoder(config)
    theirs.load_state_dict(ours.float().state_dict(), strict=True)
    pixels = torch.rand(2, config.input_channels, 16, 32, generator=torch.Generator().manual_seed(2))
    logits, rounded, exact = theirs(pixels), ours(pixels), ours.double()(pixels.double())
    assert_rounding_apart("codebook logits", logits, exact, rounded)
    assert torch.equal(logits.argmax(dim=1), ours.codebook_indices(pixels.double()))


@pytest.mark.slow  # the default configuration
def test_the_published_size_has_the_same_keys_and_shapes(dall_e):
    """The default configs of both have the same keys and shapes, compared on the meta device."""
    with torch.device("meta"):
        theirs = dall_e.Encoder(device=torch.device("meta")).state_dict()
        ours = DalleEncoder().state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


@torch.no_grad()
def test_a_wrong_gain_would_be_seen(dall_e):
    """A gain that is one part in a hundred off in one block fails the comparison."""
    config = CONFIGS["as published, narrow"]
    theirs, ours = build_theirs(dall_e, config), dalle_encoder(config)
    theirs.load_state_dict(ours.float().state_dict(), strict=True)
    theirs.blocks.group_3.block_2.post_gain *= 1.01
    pixels = torch.rand(2, 3, 16, 32, generator=torch.Generator().manual_seed(2))
    logits, rounded, exact = theirs(pixels), ours(pixels), ours.double()(pixels.double())
    with pytest.raises(AssertionError, match=r"^codebook logits: max \|Δ\| .*, tolerance"):
        assert_rounding_apart("codebook logits", logits, exact, rounded)
