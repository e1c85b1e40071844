"""Each block of the reference gives what the same block in plain Python loops (`by_hand`) gives, in float64."""

import pytest
import torch
from torch.testing import assert_close

from flava_port.original.config import EncoderConfig
from flava_port.original.encoder import Layer
from tests.original import by_hand
from tests.original.models import CONFIG, batch, flava

ENCODERS = ("image_encoder", "text_encoder", "mm_encoder")


def tokens_for(width: int, count: int = 4, seed: int = 5) -> torch.Tensor:
    return torch.randn(1, count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_by_hand(actual: torch.Tensor, expected: list) -> None:
    __tracebackhide__ = True
    assert_close(actual, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("seen", [[0, 1, 2, 3], [0, 2]], ids=["all keys", "padded keys"])
def test_a_layer_is_attention_and_feed_forward_each_after_a_norm(encoder, seen):
    """A layer adds attention and feed-forward of the normalised input to the unnormalised one, and padding keys change nothing."""
    part = getattr(flava(), encoder).module.encoder.layer[0]
    x = tokens_for(part.intermediate.dense.in_features)
    mask = torch.full((4,), torch.finfo(x.dtype).min, dtype=x.dtype)
    mask[seen] = 0
    assert_by_hand(part(x, mask)[0], by_hand.layer(x[0].tolist(), part, seen))


def test_an_encoder_chains_its_layers_and_norms_the_last():
    """hidden_states begins with the embeddings, only last_hidden_state has the final norm, and the pooler reads that."""
    ours = flava().text_encoder.module
    tokens = tokens_for(32)
    out = ours(tokens)
    expected = [tokens[0].tolist()]
    for part in ours.encoder.layer:
        expected.append(by_hand.layer(expected[-1], part, [0, 1, 2, 3]))
    last = [by_hand.layer_norm(token, ours.layernorm) for token in expected[-1]]
    for state, state_by_hand in zip(out.hidden_states, expected, strict=True):
        assert_by_hand(state[0], state_by_hand)
    assert_by_hand(out.last_hidden_state[0], last)
    assert_by_hand(out.pooler_output[0], by_hand.pooler(last, ours.pooler))


@pytest.mark.parametrize("head", ["fairseq_mlm", "imagenet.mim_head", "cmd.mlm_head", "cmd.mim_head"])
def test_a_head_adds_its_bias_once(head):
    """A head is decoder(LayerNorm(gelu(dense(x)))), with its bias added once."""
    part = flava().heads.get_submodule(head).cls.predictions
    x = tokens_for(part.decoder.in_features)
    assert_by_hand(part(x)[0], [by_hand.head(token, part) for token in x[0].tolist()])


def test_image_embeddings_are_patches_row_by_row():
    """A patch is a dense map of its pixels, or the mask token; the class token comes first, and positions are added to all."""
    ours, inputs = flava().image_encoder.module.embeddings, batch()
    projection, size = ours.patch_embeddings.projection, CONFIG.image_config.patch_size
    weight, bias = projection.weight.flatten(1).tolist(), projection.bias.tolist()
    masked = inputs.bool_masked_pos[0]
    expected = [ours.cls_token[0, 0].tolist()]
    for row, column in ((row, column) for row in range(3) for column in range(3)):
        window = inputs.pixel_values[0, :, row * size : (row + 1) * size, column * size : (column + 1) * size]
        pixels = window.flatten().tolist()
        patch = by_hand.add([by_hand.dot(weights, pixels) for weights in weight], bias)
        expected.append(ours.mask_token[0, 0].tolist() if masked[row, column] else patch)
    positions = ours.position_embeddings[0].tolist()
    expected = [by_hand.add(token, position) for token, position in zip(expected, positions, strict=True)]
    assert_by_hand(ours(inputs.pixel_values, inputs.bool_masked_pos)[0], expected)


def test_text_embeddings_are_the_norm_of_a_sum():
    """Text embeddings are the layer norm of word + position + token type."""
    ours, ids, types = flava().text_encoder.module.embeddings, [5, 36, 0, 5], [0, 2, 1, 0]
    tables = [table.weight.tolist() for table in (ours.word_embeddings, ours.position_embeddings, ours.token_type_embeddings)]
    rows = zip(ids, range(4), types, strict=True)
    sums = [by_hand.add(*(table[i] for table, i in zip(tables, row, strict=True))) for row in rows]
    expected = [by_hand.layer_norm(token, ours.LayerNorm) for token in sums]
    assert_by_hand(ours(torch.tensor([ids]), torch.tensor([types]))[0], expected)


def test_token_types_are_zero_where_not_given():
    """Token types that are not given count as zeros, as in BERT."""
    ours, ids = flava().text_encoder.module.embeddings, batch().input_ids
    assert torch.equal(ours(ids), ours(ids, torch.zeros_like(ids)))


@pytest.mark.parametrize(
    ("name", "at_one"),
    [
        ("gelu", 0.8413447),
        ("gelu_new", 0.8411920),
        ("gelu_pytorch_tanh", 0.8411920),
        ("relu", 1.0),
        ("selu", 1.0507010),
    ],
)
def test_an_activation_is_the_one_that_its_name_says(name, at_one):
    """Each activation has at 1 the value that its definition gives; for `gelu` this is Phi(1)."""
    part = Layer(EncoderConfig(8, 1, 2, 8, hidden_act=name))
    assert_close(part.activation(torch.tensor(1.0)), torch.tensor(at_one))
