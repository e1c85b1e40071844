"""Padding and masked patches change nothing that the model computes from the rest, in every precision."""

import pytest
import torch
from torch.testing import assert_close

from flava_port.original.encoder import additive
from tests.original.models import ONE_WIDTH, batch, flava

DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def padded(ids: torch.Tensor, filler: int, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """The ids with `count` fillers on their right, and the mask that hides these."""
    padding = torch.full((len(ids), count), filler)
    return torch.cat([ids, padding], dim=1), torch.cat([torch.ones_like(ids), torch.zeros_like(padding)], dim=1)


@pytest.mark.parametrize("filler", [0, 9])
def test_padding_changes_no_text_embedding(filler):
    """A padded batch gives the text states of the unpadded one, whatever the padding holds."""
    ours, inputs = flava(), batch()
    ids, mask = padded(inputs.input_ids, filler)
    actual, expected = ours(input_ids=ids, attention_mask=mask), ours(input_ids=inputs.input_ids)
    assert_close(actual.text_embeddings, expected.text_embeddings)
    for ours_padded, ours_alone in zip(actual.text.hidden_states, expected.text.hidden_states, strict=True):
        assert_close(ours_padded[:, :7], ours_alone)


@pytest.mark.parametrize("filler", [0, 9])
def test_padding_changes_no_multimodal_state(filler):
    """The multimodal encoder masks the text's padding, and nothing of the image or its class token."""
    ours, inputs = flava(), batch()
    ids, mask = padded(inputs.input_ids, filler)
    actual = ours(inputs.pixel_values, ids, attention_mask=mask)
    expected = ours(inputs.pixel_values, inputs.input_ids)
    assert actual.multimodal.last_hidden_state.shape[1] == 1 + 10 + 10
    assert_close(actual.multimodal.last_hidden_state[:, :18], expected.multimodal.last_hidden_state)
    assert_close(actual.itm_logits, expected.itm_logits)


def test_each_row_is_padded_on_its_own():
    """A short text in a batch of longer ones gives what it gives alone."""
    ours, inputs = flava(), batch()
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 6 + [0]])
    together = ours(inputs.pixel_values, inputs.input_ids, attention_mask=mask)
    for row, length in enumerate((7, 4, 6)):
        alone = ours(inputs.pixel_values[row : row + 1], inputs.input_ids[row : row + 1, :length])
        assert_close(together.multimodal.pooler_output[row], alone.multimodal.pooler_output[0])
        assert_close(together.text.pooler_output[row], alone.text.pooler_output[0])


def test_without_a_mask_every_token_is_seen():
    """Without a mask every token is seen, the pad token too."""
    ours, inputs = flava(), batch()
    ids = inputs.input_ids.clone()
    ids[:, -1] = 0
    actual, expected = ours(input_ids=ids), ours(input_ids=ids, attention_mask=torch.ones_like(ids))
    assert torch.equal(actual.text_embeddings, expected.text_embeddings)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16], ids=str)
def test_a_padding_key_has_probability_zero(dtype):
    """A padding key has probability 0 exactly, beside large negative scores too, and never NaN."""
    mask = additive(torch.tensor([[1, 0, 1], [0, 0, 0]]), dtype)
    scores = torch.tensor([-3e4, 3e4, -3e4], dtype=dtype) + mask
    probabilities = scores.double().softmax(-1)  # old torch has no softmax in float16
    assert mask.dtype == dtype
    assert probabilities[0].flatten().tolist() == [0.5, 0, 0.5]
    assert probabilities.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_precision_runs(dtype):
    """In every precision the outputs have the model's dtype and are finite."""
    inputs = batch(dtype=dtype)
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 6 + [0]])
    out = flava(ONE_WIDTH, dtype=dtype)(attention_mask=mask, **inputs._asdict())
    for value in (out.multimodal_masked.last_hidden_state, out.itm_logits, out.mmm_text_logits, out.loss):
        assert value.dtype == dtype
        assert value.isfinite().all()


def test_masked_patches_cannot_be_seen():
    """Other pixels in masked patches change no state of the masked image."""
    ours, inputs = flava(), batch()
    hidden = inputs.bool_masked_pos.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    other = torch.where(hidden, inputs.pixel_values.flip(0) * 3, inputs.pixel_values)
    one = ours(inputs.pixel_values, bool_masked_pos=inputs.bool_masked_pos)
    two = ours(other, bool_masked_pos=inputs.bool_masked_pos.flatten(1).long())
    assert torch.equal(one.image_masked.last_hidden_state, two.image_masked.last_hidden_state)
    assert not torch.equal(one.image.last_hidden_state, two.image.last_hidden_state)
