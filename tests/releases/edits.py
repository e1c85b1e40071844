"""Edits of transformers' FLAVA that a release might make, one by one, each of which `drift` must name.

Each says in which kind of differences it is named, and by what.
"""

from typing import NamedTuple

from tests.releases.futures import CONFIGURATION, MODELING, Edit

PIL = "models/flava/image_processing_pil_flava.py"


class Named(NamedTuple):
    """An edit, the kind of differences that it must be named in, and what the difference must say."""

    edit: Edit
    kind: str
    says: str


def _modeling(pattern: str, by: str, kind: str, says: str, count: int = 1) -> Named:
    return Named(Edit(MODELING, pattern, by, count), kind, says)


def _appended(text: str, kind: str, says: str) -> Named:
    return Named(Edit(MODELING, r"\Z", text), kind, says)


ROUNDS_ON_SAVE = """
_save = FlavaPreTrainedModel.save_pretrained


def _save_rounded(self, folder, state_dict=None, **options):
    rounded = {key: value.bfloat16().to(value.dtype) for key, value in self.state_dict().items()}
    return _save(self, folder, state_dict=rounded, **options)


FlavaPreTrainedModel.save_pretrained = _save_rounded
"""
AFTER_LOADING = """
_load = FlavaPreTrainedModel.from_pretrained.__func__


@classmethod
def _load_otherwise(cls, *arguments, **options):
    loaded = _load(cls, *arguments, **options)
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    model.{0}
    return loaded


FlavaPreTrainedModel.from_pretrained = _load_otherwise
"""

_LAST_DROPOUT = r"(class FlavaOutput[\s\S]*?)        hidden_states = self\.dropout\(hidden_states\)\n"

EDITS = {
    "the scale's upper bound": _modeling(r"LOGIT_SCALE_CLAMP_MAX = 4\.6052", "LOGIT_SCALE_CLAMP_MAX = 4.0", "forward", "logit scale above 4.6052, training"),
    "positions interpolated linearly": _modeling('mode="bicubic"', 'mode="bilinear"', "forward", "a larger image, positions interpolated"),
    "positions interpolated corner to corner": _modeling("align_corners=False", "align_corners=True", "forward", "a larger image, positions interpolated"),
    "height and width swapped": _modeling(r"size=\(new_height, new_width\)", "size=(new_width, new_height)", "forward", "a flat image, positions interpolated"),
    "any size of image accepted": _modeling(r"if not interpolate_pos_encoding:\n", "if False:\n", "forward", "pixel_values flat"),
    "no dropout after attention": _modeling(r"(class FlavaSelfOutput[\s\S]*?)        hidden_states = self\.dropout\(hidden_states\)\n", r"\1", "training", "training, image_config.hidden_dropout_prob"),
    "no dropout after the widening": _modeling(_LAST_DROPOUT, r"\1", "training", "training, text_config.hidden_dropout_prob"),
    "attention's dropout from another field": _modeling(r"nn\.Dropout\(config\.attention_probs_dropout_prob\)", "nn.Dropout(config.hidden_dropout_prob)", "training", "attention_probs_dropout_prob"),
    "no dropout of a text's embeddings": _modeling(r"(class FlavaTextEmbeddings[\s\S]*?)        embeddings = self\.dropout\(embeddings\)\n", r"\1", "training", "training, text_config.hidden_dropout_prob"),
    "layers that are not checkpointed": _modeling(r"class FlavaLayer\(GradientCheckpointingLayer\)", "class FlavaLayer(nn.Module)", "training", "gradient checkpointing"),
    "no checkpointing at all": _modeling("supports_gradient_checkpointing = True", "supports_gradient_checkpointing = False", "training", "gradient checkpointing"),
    "targets of the first process": _modeling(r"local_batch_size \* torch\.distributed\.get_rank\(\) \+ ", "", "two processes", "process 1, pairs, labels"),
    "no gradient from the other process": _modeling(r"torch\.distributed\.nn\.functional\.all_gather\(text_embeddings\)", "torch.distributed.nn.functional.all_gather(text_embeddings.detach())", "two processes", "pairs, labels"),
    "a codebook that learns": _modeling(r"param\.requires_grad = False", "param.requires_grad = True", "initialisation", "image_codebook.blocks.input.weight"),
    "an encoder's prefix": _modeling(r'base_model_prefix = "flava\.image_model"', 'base_model_prefix = "image_model"', "loading", "FlavaImageModel from a whole folder"),
    "a config's dict ignored": Named(Edit(CONFIGURATION, r'(image_config_dict", None\)\)) is not None', r"\1 is False"), "config", "image_config_dict"),
    "a default of the config": Named(Edit(CONFIGURATION, r"return_loss: bool = True", "return_loss: bool = False"), "schema", "default of return_loss: True -> False"),
    "features of the first token alone": _modeling(r"self\.text_projection\(last_hidden_state\)", "self.text_projection(last_hidden_state[:, 0])", "forward", "features of texts"),
    "features without a gradient": _modeling(r"self\.image_projection\(last_hidden_state\)", "self.image_projection(last_hidden_state).detach()", "forward", "get_image_features, gradients"),
    "positions not handed on": _modeling(r"position_ids=position_ids,\n            return_dict=True,", "return_dict=True,", "forward", "get_text_features, position_ids"),
    "an image's mask not handed on": _modeling(r"attention_mask=image_attention_mask,\n                output", "output", "forward", "FlavaModel, image_attention_mask"),
    "a new argument": _modeling(r"(        skip_multimodal_encoder: bool \| None = None,\n)", r"\1        window: int | None = None,\n", "interface", "FlavaModel.forward(window)"),
    "another order of arguments' defaults": _modeling(r"output_hidden_states: bool = True,", "output_hidden_states: bool = False,", "interface", "output_hidden_states"),
    "half precision alone": _modeling(r"pooled_output = self\.activation\(pooled_output\)", "pooled_output = self.activation(pooled_output.float()).to(pooled_output.dtype) if pooled_output.dtype == torch.float16 else self.activation(pooled_output)", "precision", "float16, "),
    "bfloat16 alone": _modeling(r"attention_scores = attention_scores / math", "attention_scores = attention_scores.double().to(attention_scores.dtype) * 1.0 if attention_scores.dtype != torch.bfloat16 else attention_scores.float()\n        attention_scores = attention_scores / math", "precision", "bfloat16, "),
    "float32 alone": _modeling(r"inputs_embeds = self\.word_embeddings\(input_ids\)", "inputs_embeds = self.word_embeddings(input_ids)\n        inputs_embeds = inputs_embeds.bfloat16().float() if inputs_embeds.dtype == torch.float32 else inputs_embeds", "precision", "float32, "),
    "masks of patches in rows": _modeling(r"bool_masked_pos = bool_masked_pos\.view\(bool_masked_pos\.size\(0\), -1\)", "bool_masked_pos = bool_masked_pos[:, 0]", "forward", "bool_masked_pos in rows"),
    "pairs of which none matches": _modeling(r"pos_mask = pos_pairs \| ~pos_pairs\.any\(\)", "pos_mask = pos_pairs", "forward", "none match"),
    "other patches predicted": _modeling(r"sequence_for_image\[:, 2 : 2 \+ end_index, :\]", "sequence_for_image[:, 1 : 1 + end_index, :]", "forward", "no longer as the original"),
    "a loss without its weight": _modeling(r" +mlm_loss \*= self\.mlm_weight\n", "", "config", "mlm_weight = 0.5"),
    "a tuple in another order": _modeling(
        r"itm_logits,\n                logits_per_image,\n",
        "logits_per_image,\n                itm_logits,\n",
        "forward",
        "FlavaForPreTraining, return_dict off",
    ),
    "the codebook's gain": _modeling(r"1 / \(num_layers\*\*2\)", "1 / num_layers", "forward", "FlavaImageCodebook"),
    "the codebook's choice": _modeling(r"torch\.argmax\(z_logits, axis=1\)", "torch.argmin(z_logits, axis=1)", "forward", "get_codebook_indices"),
    "the codebook's pixels": Named(Edit(PIL, r"LOGIT_LAPLACE_EPS: float = 0\.1", "LOGIT_LAPLACE_EPS: float = 0.2"), "processing", "codebook_pixel_values"),
    "a filter of images": Named(Edit(PIL, r"^    resample = PILImageResampling\.BICUBIC", "    resample = PILImageResampling.BILINEAR"), "processing", "resample"),
    "tries of a mask": Named(Edit(PIL, r"range\(10\)", "range(1)"), "processing", "bool_masked_pos"),
    "values rounded on save": _appended(ROUNDS_ON_SAVE, "saving", "bits saved"),
    "training after loading": _appended(AFTER_LOADING.format("train()"), "loading", "mode"),
    "float32 after loading": _appended(AFTER_LOADING.format("float()"), "loading", "dtype of a file in float16"),
    "class tokens that start at random": _modeling(r"init\.zeros_\(module\.cls_token\)", "init.normal_(module.cls_token)", "initialisation", "cls_token"),
    "token types ignored": _modeling(r"self\.token_type_embeddings\(token_type_ids\)", "self.token_type_embeddings(token_type_ids * 0)", "forward", "token_type_ids"),
    "padding that learns": _modeling(r", padding_idx=config\.pad_token_id", "", "forward", "token of padding"),
    "an encoder that is never skipped": _modeling(r" and not skip_multimodal_encoder:", ":", "forward", "skip_multimodal_encoder on"),
    "a bias that no switch turns off": _modeling(r"(self\.value = .*)bias=config\.qkv_bias", r"\1bias=True", "schema", "value.bias"),
    "one activation for all": _modeling(r"ACT2FN\[config\.hidden_act\]", 'ACT2FN["gelu"]', "config", "hidden_act = relu"),
    "labels to ignore": _modeling(r"mlm_labels\.ne\(self\.ce_ignore_index\)", "mlm_labels.ne(-100)", "config", "ce_ignore_index = -1, texts alone"),
    "another order of parameters": _modeling(
        r"(        self\.text_model = .*\n)(        self\.image_model = .*\n)", r"\2\1", "interface", "order of parameters"
    ),
    "a size that is not handed on": Named(
        Edit(PIL, r'image_processor_dict\["codebook_size"\] = kwargs', "kwargs"), "processing", "loaded with codebook_size = 20"
    ),
    "labels left as they were": _modeling(r"(    mim_labels = self\._resize_to_2d\(mim_labels\))$", r"\1.clone()", "forward", "inputs.mim_labels"),
}  # fmt: skip
