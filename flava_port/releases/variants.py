"""Circumstances in which the small model is built or run otherwise: precisions, dropout, checkpointing, fields of the config."""

from collections.abc import Iterator
from typing import Any

import torch

from .arguments import with_arguments
from .circumstances import Circumstance, Inputs, plain_circumstances
from .small_model import Variant

LOWER_PRECISIONS = ("float32", "float16", "bfloat16")
TRAINING, PRECISION, CONFIG = "training", "precision", "config"


def circumstances() -> list[Circumstance]:
    """All of them."""
    of = Inputs()
    return [*plain_circumstances(), *with_arguments(), *_alone(of), *_in_training(of), *_with_fields(of), *_in_precisions(of)]


def _labelled(of: Inputs) -> dict[str, torch.Tensor]:
    return of.pairs | of.mim | of.mlm | of.padding | {"itm_labels": torch.tensor([1, 0, 1])}


def _alone(of: Inputs) -> Iterator[Circumstance]:
    """A batch of one; texts that hold the token of padding, whose embedding has no gradient."""
    one = {name: value[:1] for name, value in (of.pairs | of.mim | of.mlm | {"itm_labels": torch.tensor([1])}).items()}
    padded = of.padding["attention_mask"] == 0
    words = {name: value.masked_fill(padded, 0) for name, value in of.texts.items()}
    labels = {"mlm_labels": of.mlm["mlm_labels"].masked_fill(padded, -100)}
    yield Circumstance("one pair, labels", one, judged_by=None)
    yield Circumstance("one pair, which does not match, labels", one | {"itm_labels": torch.tensor([0])}, judged_by=None)
    yield Circumstance("texts that hold the token of padding, labels", words | of.mlm, judged_by=None)  # and no mask hides it
    yield Circumstance("pairs that hold the token of padding, labels", _labelled(of) | words | labels, judged_by=None)
    for shape, images in (("flat", of.flat_images), ("narrow", of.narrow_images)):
        for called in ("flava.image_model", "flava.get_image_features"):
            name = f"{called.removeprefix('flava.')}, a {shape} image, positions interpolated"
            yield Circumstance(name, images, {"interpolate_pos_encoding": True}, called=called, judged_by=None, gradients_of_answers=True)
    rows = {name: value.view(3, 3, 3) for name, value in ({"bool_masked_pos": of.images["bool_masked_pos"]} | of.mim).items()}
    yield Circumstance("pairs, patches and their labels in rows", _labelled(of) | rows, judged_by=None)
    yield Circumstance("images alone, patches and their labels in rows", {"pixel_values": of.images["pixel_values"]} | rows, judged_by=None)


def _in_training(of: Inputs) -> Iterator[Circumstance]:
    """Each kind of dropout alone, from a seed; gradient checkpointing. All pairs match: others stop some releases."""
    labelled = _labelled(of) | {"itm_labels": torch.tensor([1, 1, 1])}

    def case(name: str, variant: Variant, training: bool = True) -> Circumstance:
        return Circumstance(name, labelled, training=training, judged_by=None, kind=TRAINING, variant=variant)

    for section in ("image", "text", "multimodal"):
        for what in ("hidden", "attention_probs"):
            field = f"{section}_config.{what}_dropout_prob"
            yield case(f"training, {field} = 0.3", Variant(fields=((field, 0.3),)))
    both = tuple((f"{section}_config.hidden_dropout_prob", 0.3) for section in ("image", "text", "multimodal"))
    yield case("evaluation, hidden_dropout_prob = 0.3", Variant(fields=both), training=False)
    yield case("training, gradient checkpointing", Variant(checkpointing=True))
    yield case("training, gradient checkpointing, hidden_dropout_prob = 0.3", Variant(fields=both, checkpointing=True))


# Fields that change what is built or computed, each with a value that is not its default.
FIELDS: tuple[tuple[str, Any], ...] = (
    *((f"{section}_config.hidden_act", act) for section in ("image", "text", "multimodal") for act in ("relu", "gelu_new")),
    *((f"{section}_config.layer_norm_eps", 1e-3) for section in ("image", "text", "multimodal")),
    *((f"{section}_config.qkv_bias", False) for section in ("image", "text", "multimodal")),
    *((f"{section}_config.num_attention_heads", 4) for section in ("image", "text", "multimodal")),
    ("image_config.mask_token", False),
    ("image_config.image_size", (12, 20)),
    ("image_config.patch_size", 2),
    ("multimodal_config.use_cls_token", False),
    ("text_config.pad_token_id", 3),
    ("init_codebook", False),
    ("image_codebook_config.num_groups", 2),
    ("image_codebook_config.num_blocks_per_group", 1),
    *((f"{loss}_weight", weight) for loss in ("mim", "mlm", "mmm_image", "mmm_text", "itm", "global_contrastive") for weight in (0.0, 0.5)),
    ("ce_ignore_index", -1),
    ("skip_unmasked_multimodal_encoder", False),
    ("global_backprop_contrastive", False),
    ("logit_scale_init_value", 1.5),
    ("return_loss", False),
    ("return_dict", False),
    ("tie_word_embeddings", False),
    ("layer_norm_eps", 1e-3),
    ("text_config.output_attentions", True),
    ("multimodal_config.output_hidden_states", True),
)


def _inputs_for(field: str, of: Inputs) -> dict[str, dict[str, torch.Tensor]]:
    """Images alone and texts alone, for the fields that are about the losses of one modality too."""
    ignored = {"mlm_labels": of.mlm["mlm_labels"].masked_fill(of.mlm["mlm_labels"] == -100, -1)}
    return {
        "mim_weight": {"images alone": of.images | of.mim},
        "mlm_weight": {"texts alone": of.texts | of.mlm},
        "ce_ignore_index": {"images alone": of.images | of.mim, "texts alone": of.texts | ignored, "pairs": of.pairs | of.mim | ignored},
    }.get(field, {})


def _with_fields(of: Inputs) -> Iterator[Circumstance]:
    labelled = _labelled(of)
    images, texts = {"pixel_values": of.images["pixel_values"]}, {"input_ids": of.texts["input_ids"]}
    weights = tuple((f"{loss}_weight", 0.0) for loss in ("mim", "mlm", "mmm_image", "mmm_text", "itm", "global_contrastive"))
    yield Circumstance("every weight of a loss = 0", labelled, judged_by=None, kind=CONFIG, variant=Variant(fields=weights))
    for field, value in FIELDS:
        name, variant = f"{field} = {value}", Variant(fields=((field, value),))
        given = labelled
        if field.startswith(("image_config.image_size", "image_config.patch_size", "image_config.mask_token")):
            given = {
                "pixel_values": of.flat_images["pixel_values"][..., :20] if field.endswith("image_size") else images["pixel_values"],
                **texts,
            }
        for what, given in _inputs_for(field, of).items():
            yield Circumstance(f"{name}, {what}", given, judged_by=None, kind=CONFIG, variant=variant)
        called = "image_codebook" if field.startswith("image_codebook") else ""
        options = {} if called or given is labelled else {"return_loss": False}
        yield Circumstance(
            name, of.codebook_alone if called else given, options, judged_by=None, kind=CONFIG, variant=variant, called=called
        )


def _in_precisions(of: Inputs) -> Iterator[Circumstance]:
    """What people run in lower precisions; each stands beside the same in float64, from which its rounding is measured."""
    pairs = of.pairs | of.padding
    plain = {"return_loss": False}
    cases: tuple[tuple[str, dict[str, torch.Tensor], dict[str, Any], str], ...] = (
        ("pairs, padded texts", pairs, plain, ""),
        ("pairs, labels", _labelled(of), {}, ""),
        ("pairs, one text nothing but padding", of.pairs | of.a_text_of_padding, plain, ""),
        ("every attention", pairs, {**plain, "output_attentions": True}, ""),
        ("features of images", {"pixel_values": of.images["pixel_values"]}, {}, "flava.get_image_features"),
        ("features of texts", {"input_ids": of.texts["input_ids"], **of.padding}, {}, "flava.get_text_features"),
        ("a larger image, positions interpolated", of.larger_images, {"interpolate_pos_encoding": True}, "flava.image_model"),
        ("the codebook", of.codebook_alone, {}, "image_codebook.get_codebook_probs"),
    )
    for precision in LOWER_PRECISIONS:
        for name, inputs, options, called in cases:
            yield Circumstance(
                f"{precision}, {name}", inputs, options, called=called, judged_by=None, kind=PRECISION, variant=Variant(precision)
            )
    low = Variant("float32")
    yield Circumstance("bfloat16 by autocast, pairs, labels", _labelled(of), judged_by=None, kind=PRECISION, variant=low, autocast=True)
    yield Circumstance("float32, training, pairs, labels", _labelled(of), training=True, judged_by=None, kind=PRECISION, variant=low)
