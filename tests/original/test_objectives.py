"""Each logit is computed from the right states, and each loss is what its definition gives."""

import math

import pytest
import torch
from torch.testing import assert_close

from tests.original import by_hand
from tests.original.models import IGNORE, ONE_WIDTH, batch, flava

OURS = flava(ONE_WIDTH)
INPUTS = batch()
LABELS = ("mim_labels", "mlm_labels", "itm_labels")
UNLABELLED = {name: value for name, value in INPUTS._asdict().items() if name not in LABELS}
OUT = OURS(**UNLABELLED)


def mean_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The mean over the rows of [..., V] whose label is not ignored."""
    rows = zip(logits.flatten(0, -2).tolist(), labels.flatten().tolist(), strict=True)
    losses = [by_hand.cross_entropy(row, label) for row, label in rows if label != IGNORE]
    return torch.tensor(math.fsum(losses) / len(losses), dtype=torch.float64)


def mim_labels_kept() -> torch.Tensor:
    return torch.where(INPUTS.bool_masked_pos, INPUTS.mim_labels, IGNORE).flatten(1)


def test_the_multimodal_encoder_reads_states_before_the_final_norm():
    """The multimodal encoder reads its class token, the image and the text, the latter two projected before their final norm."""
    image = OURS.mm_image_projection(OUT.image.hidden_states[-1])
    text = OURS.mm_text_projection(OUT.text.hidden_states[-1])
    cls = OURS.mm_encoder.module.encoder.cls_token.expand(3, 1, 32)
    assert_close(OUT.multimodal.hidden_states[0], torch.cat([cls, image, text], dim=1))
    assert_close(OUT.image.projected, image)
    assert_close(OUT.text.projected, text)


def test_masked_inputs_reach_the_masked_states_only():
    """The masked states come from the masked image and text alone."""
    image = OURS.encode_image(INPUTS.pixel_values, INPUTS.bool_masked_pos)
    text = OURS.encode_text(INPUTS.input_ids_masked)
    fused = OURS.encode_multimodal(image, text)
    assert_close(OUT.image_masked.last_hidden_state, image.last_hidden_state)
    assert_close(OUT.text_masked.last_hidden_state, text.last_hidden_state)
    assert_close(OUT.multimodal_masked.last_hidden_state, fused.last_hidden_state)
    assert not torch.equal(OUT.multimodal.last_hidden_state, fused.last_hidden_state)


def test_nothing_masked_is_computed_once():
    """Where nothing is masked, the masked outputs are the same objects as the others."""
    out = OURS(INPUTS.pixel_values, INPUTS.input_ids)
    assert out.image_masked is out.image
    assert out.text_masked is out.text
    assert out.multimodal_masked is out.multimodal


def test_contrastive_logits_are_scaled_cosines_of_the_unmasked_class_tokens():
    """Contrastive logits are exp(logit_scale) * cosine for all pairs of the batch."""
    image = OURS.image_projection(OUT.image.last_hidden_state)[:, 0].tolist()
    text = OURS.text_projection(OUT.text.last_hidden_state)[:, 0].tolist()
    scale = math.exp(OURS.heads.cmd.clip_head.logit_scale.item())
    cosines = [[scale * by_hand.dot(i, t) / math.hypot(*i) / math.hypot(*t) for t in text] for i in image]
    expected = torch.tensor(cosines, dtype=torch.float64)
    assert_close(OUT.contrastive_logits_per_image, expected)
    assert_close(OUT.contrastive_logits_per_text, expected.T)


def test_the_contrastive_loss_matches_each_image_with_its_own_text():
    """The contrastive loss is the mean of both directions, and needs no labels."""
    matching = torch.arange(3)
    both = [OUT.contrastive_logits_per_image, OUT.contrastive_logits_per_text]
    assert_close(OUT.global_contrastive_loss, sum(mean_cross_entropy(logits, matching) for logits in both) / 2)


def test_itm_reads_the_masked_multimodal_class_token():
    """ITM has its own pooler, which reads the masked multimodal state after the final norm."""
    head, states = OURS.heads.cmd.itm_head, OUT.multimodal_masked.last_hidden_state.tolist()
    expected = [by_hand.dense(by_hand.pooler(row, head.pooler), head.cls.seq_relationship) for row in states]
    assert_close(OUT.itm_logits, torch.tensor(expected, dtype=torch.float64))
    out = OURS(**INPUTS._asdict())
    assert_close(out.itm_loss, mean_cross_entropy(out.itm_logits, INPUTS.itm_labels))


def test_without_labels_mmm_reads_every_patch_and_token():
    """Without labels MMM gives logits of every patch and token, and no loss."""
    states, heads = OUT.multimodal_masked.last_hidden_state, OURS.heads.cmd
    assert_close(OUT.mmm_image_logits, heads.mim_head.cls.predictions(states[:, 2:11]))
    assert_close(OUT.mmm_text_logits, heads.mlm_head.cls.predictions(states[:, 11:]))
    assert OUT.mmm_image_logits.shape == (3, 9, 21)
    assert OUT.mmm_text_logits.shape == (3, 7, 37)
    assert_close(OUT.loss, OUT.global_contrastive_loss)


def test_labels_choose_positions_in_order():
    """With labels MMM gives the logits of the labelled positions row by row, and the loss is their mean."""
    out = OURS(**{**INPUTS._asdict(), "itm_labels": None})
    patches, tokens = INPUTS.bool_masked_pos.flatten(1), INPUTS.mlm_labels != IGNORE
    assert_close(out.mmm_image_logits, OUT.mmm_image_logits[patches])
    assert_close(out.mmm_text_logits, OUT.mmm_text_logits[tokens])
    assert_close(out.mmm_image_loss, mean_cross_entropy(OUT.mmm_image_logits, mim_labels_kept()))
    assert_close(out.mmm_text_loss, mean_cross_entropy(OUT.mmm_text_logits, INPUTS.mlm_labels))


def test_pairs_that_do_not_match_count_for_itm_only():
    """A pair that does not match has no rows in MMM and contrastive logits, but stays a column of the latter."""
    out, match = OURS(**INPUTS._asdict()), torch.tensor([0, 2])
    patches, tokens = INPUTS.bool_masked_pos.flatten(1)[match], INPUTS.mlm_labels[match] != IGNORE
    assert_close(out.mmm_image_logits, OUT.mmm_image_logits[match][patches])
    assert_close(out.mmm_text_logits, OUT.mmm_text_logits[match][tokens])
    assert_close(out.contrastive_logits_per_image, OUT.contrastive_logits_per_image[match])
    assert_close(out.contrastive_logits_per_text, OUT.contrastive_logits_per_text[match])
    both = [out.contrastive_logits_per_image, out.contrastive_logits_per_text]
    assert_close(out.global_contrastive_loss, sum(mean_cross_entropy(logits, match) for logits in both) / 2)
    assert out.itm_logits.shape == (3, 2)


def test_if_no_pair_matches_all_count():
    """If no pair matches, the losses are those of a batch without ITM labels."""
    none, unlabelled = (OURS(**{**INPUTS._asdict(), "itm_labels": labels}) for labels in (torch.zeros(3, dtype=torch.long), None))
    for name in ("mmm_image_loss", "mmm_text_loss", "global_contrastive_loss"):
        assert torch.equal(getattr(none, name), getattr(unlabelled, name)), name


def test_labels_of_unmasked_patches_are_ignored():
    """Labels of unmasked patches change nothing, and a masked patch may have the label that is ignored."""
    image = {"pixel_values": INPUTS.pixel_values, "bool_masked_pos": INPUTS.bool_masked_pos}
    other = torch.where(INPUTS.bool_masked_pos, INPUTS.mim_labels, 20 - INPUTS.mim_labels)
    one, two = OURS(**image, mim_labels=INPUTS.mim_labels), OURS(**image, mim_labels=other)
    other[0, 0, 0] = IGNORE
    assert_close(OURS(**image, mim_labels=other).mim_logits, one.mim_logits[1:])
    assert torch.equal(one.mim_loss, two.mim_loss)
    without_labels = OURS(**image).mim_logits
    assert_close(one.mim_logits, without_labels[INPUTS.bool_masked_pos.flatten(1)])
    assert_close(one.mim_loss, mean_cross_entropy(without_labels, mim_labels_kept()))


def test_mlm_is_the_mean_over_labelled_tokens():
    """MLM's loss is the mean over the labelled tokens of the masked text."""
    text = {"input_ids": INPUTS.input_ids, "input_ids_masked": INPUTS.input_ids_masked}
    out, without_labels = OURS(**text, mlm_labels=INPUTS.mlm_labels), OURS(**text).mlm_logits
    assert_close(out.mlm_loss, mean_cross_entropy(without_labels, INPUTS.mlm_labels))
    assert torch.equal(out.loss, out.mlm_loss)


def test_the_loss_is_the_sum_of_the_losses():
    """The total loss is the sum of the losses, each with weight 1."""
    out = OURS(**INPUTS._asdict())
    assert_close(out.loss, out.global_contrastive_loss + out.itm_loss + out.mmm_image_loss + out.mmm_text_loss)


def test_the_pad_tokens_embedding_is_read_and_not_trained():
    """The pad token's embedding changes the output and gets no gradient."""
    ours, ids = flava(), torch.tensor([[5, 0, 9]])
    out = ours(input_ids=ids)
    out.text.last_hidden_state.square().sum().backward()
    gradient = ours.text_encoder.module.embeddings.word_embeddings.weight.grad
    assert gradient.abs().amax(1).nonzero().flatten().tolist() == [5, 9]
    ours.text_encoder.module.embeddings.word_embeddings.weight.data[0] += 1
    assert not torch.equal(ours(input_ids=ids).text_embeddings, out.text_embeddings)


def test_every_parameter_moves_a_loss():
    """Every parameter has a gradient, but for the encoders' poolers, which no loss reads, and key biases, which softmax cancels."""
    ours, inputs = flava(ONE_WIDTH), INPUTS._asdict()
    image = ours(**{name: inputs[name] for name in ("pixel_values", "bool_masked_pos", "mim_labels")})
    text = ours(**{name: inputs[name] for name in ("input_ids", "input_ids_masked", "mlm_labels")})
    (ours(**inputs).loss + image.loss + text.loss).backward()
    for name, parameter in ours.named_parameters():
        if ".module.pooler." in name:
            assert parameter.grad is None, name
        elif name.endswith("key.bias"):
            assert_close(parameter.grad, torch.zeros_like(parameter))
        else:
            assert parameter.grad.abs().max() > 1e-6, name


def test_mim_and_mlm_read_the_masked_states_by_heads_of_their_own():
    """MIM reads every patch without the class token, MLM every token with the first, each by its own head."""
    image = OURS(INPUTS.pixel_values, bool_masked_pos=INPUTS.bool_masked_pos)
    text = OURS(input_ids=INPUTS.input_ids, input_ids_masked=INPUTS.input_ids_masked)
    patches = OUT.image_masked.last_hidden_state[:, 1:]
    assert_close(image.mim_logits, OURS.heads.imagenet.mim_head.cls.predictions(patches))
    assert_close(text.mlm_logits, OURS.heads.fairseq_mlm.cls.predictions(OUT.text_masked.last_hidden_state))


@pytest.mark.parametrize("modality", ["image", "text"])
def test_one_modality_gives_its_own_objective_only(modality):
    """An image alone gives MIM's logits and a text alone MLM's, of every patch or token where there are no labels."""
    names = ("pixel_values", "bool_masked_pos") if modality == "image" else ("input_ids", "input_ids_masked")
    out = OURS(**{name: UNLABELLED[name] for name in names})
    filled = {name for name, value in vars(out).items() if value is not None}
    objective = "mim_logits" if modality == "image" else "mlm_logits"
    assert filled == {modality, f"{modality}_masked", f"{modality}_embeddings", objective}
    assert getattr(out, objective).shape == ((3, 9, 21) if modality == "image" else (3, 7, 37))
    assert out.loss is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), "neither pixel_values nor input_ids"),
        (("input_ids", "bool_masked_pos"), "bool_masked_pos without pixel_values"),
        (("pixel_values", "mim_labels"), "mim_labels without bool_masked_pos"),
        (("pixel_values", "input_ids_masked"), "input_ids_masked without input_ids"),
        (("pixel_values", "mlm_labels"), "mlm_labels without input_ids"),
    ],
)
def test_an_input_without_the_one_it_belongs_to_is_refused(given, message):
    """An input without the one that it belongs to is refused, and the message names both."""
    with pytest.raises(ValueError, match=message):
        OURS(**{name: getattr(INPUTS, name) for name in given})


def test_inputs_of_other_sizes_are_refused():
    """An image of another size and a text longer than the positions are refused with both sizes."""
    with pytest.raises(ValueError, match=r"images \[3, 16, 24\], expected \[3, 24, 24\]"):
        OURS(torch.zeros(1, 3, 16, 24))
    with pytest.raises(ValueError, match=r"input_ids \[1, 12\]: more than 11 positions"):
        OURS(input_ids=torch.zeros(1, 12, dtype=torch.long))


def test_mmm_needs_encoders_of_one_width():
    """Where the encoders' widths differ, there is no MMM, and all else is computed."""
    out = flava()(**UNLABELLED)
    assert out.mmm_image_logits is None
    assert out.mmm_text_logits is None
    assert out.itm_logits.shape == (3, 2)
