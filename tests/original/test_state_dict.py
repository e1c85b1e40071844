"""The reference's state dict has the original checkpoint's keys, shapes and shared tensors, and is read back from them."""

import copy
from itertools import product

import pytest
import torch

from flava_port.original.codebook import DalleEncoder
from flava_port.original.config import CodebookConfig, FlavaConfig, config_of
from flava_port.original.flava import Flava
from tests.original.models import CODEBOOK, CONFIG, dalle_encoder, flava

HEADS = ("heads.cmd.mim_head", "heads.cmd.mlm_head", "heads.fairseq_mlm", "heads.imagenet.mim_head")
UNSEEN = {
    "image": {"num_attention_heads": 4},
    "text": {"num_attention_heads": 2},
    "multimodal": {"num_attention_heads": 5},
}


def affine(*names: str) -> set[str]:
    return {f"{name}.{kind}" for name, kind in product(names, ("weight", "bias"))}


def transformer_keys(prefix: str, layers: int) -> set[str]:
    parts = [f"attention.attention.{name}" for name in ("query", "key", "value")]
    parts += ["attention.output.dense", "intermediate.dense", "output.dense", "layernorm_before", "layernorm_after"]
    names = [f"encoder.layer.{layer}.{part}" for layer, part in product(range(layers), parts)]
    return affine(*(prefix + name for name in [*names, "layernorm", "pooler.dense"]))


def published_keys(image_layers: int, text_layers: int, multimodal_layers: int) -> set[str]:
    keys = transformer_keys("image_encoder.module.", image_layers)
    keys |= transformer_keys("text_encoder.module.", text_layers)
    keys |= transformer_keys("mm_encoder.module.", multimodal_layers) | {"mm_encoder.module.encoder.cls_token"}
    for embeddings in ("module.embeddings.", "embeddings."):
        image, text = f"image_encoder.{embeddings}", f"text_encoder.{embeddings}"
        keys |= {image + name for name in ("cls_token", "mask_token", "position_embeddings")}
        keys |= affine(image + "patch_embeddings.projection", text + "LayerNorm")
        keys |= {f"{text}{name}_embeddings.weight" for name in ("word", "position", "token_type")}
        keys |= {text + "position_ids"}
    keys |= affine("mm_image_projection", "mm_text_projection", "image_projection", "text_projection")
    for head in HEADS:
        parts = ("transform.dense", "transform.LayerNorm", "decoder")
        keys |= affine(*(f"{head}.cls.predictions.{part}" for part in parts)) | {f"{head}.cls.predictions.bias"}
    keys |= affine("heads.cmd.itm_head.pooler.dense", "heads.cmd.itm_head.cls.seq_relationship")
    return keys | {"heads.cmd.clip_head.logit_scale"}


def test_the_keys_are_those_of_the_original():
    """The state dict has exactly the original's keys."""
    assert set(flava().state_dict()) == published_keys(2, 3, 1)


def test_the_published_size_builds_on_the_meta_device():
    """The default config has 12 + 12 + 6 layers and the published shapes, and builds on the meta device."""
    with torch.device("meta"):
        state_dict = Flava().state_dict()
    shapes = {key: tuple(value.shape) for key, value in state_dict.items()}
    assert all(value.is_meta for value in state_dict.values())
    assert set(shapes) == published_keys(12, 12, 6)
    assert shapes["image_encoder.module.embeddings.position_embeddings"] == (1, 197, 768)
    assert shapes["text_encoder.module.embeddings.word_embeddings.weight"] == (30522, 768)
    assert shapes["text_encoder.module.embeddings.position_ids"] == (1, 512)
    assert shapes["heads.imagenet.mim_head.cls.predictions.decoder.weight"] == (8192, 768)
    assert shapes["heads.cmd.clip_head.logit_scale"] == ()


def test_the_defaults_are_the_published_ones():
    """The defaults of what no shape shows are the published ones, for all three encoders."""
    config = FlavaConfig()
    for encoder in (config.image_config, config.text_config, config.multimodal_config):
        assert (encoder.num_attention_heads, encoder.hidden_act, encoder.layer_norm_eps) == (12, "gelu", 1e-12)
    assert (config.text_config.pad_token_id, config.ce_ignore_index, config.logit_scale_init_value) == (0, -100, 2.6592)
    norms = [module.eps for module in flava().modules() if isinstance(module, torch.nn.LayerNorm)]
    assert set(norms) == {1e-12}


def test_position_ids_count_up_from_zero():
    """position_ids are int64 [1, max_position_embeddings], and stay so when the model is cast."""
    for key in ("text_encoder.module.embeddings.position_ids", "text_encoder.embeddings.position_ids"):
        position_ids = flava().bfloat16().state_dict()[key]
        assert torch.equal(position_ids, torch.arange(11)[None])
        assert position_ids.dtype == torch.int64


@pytest.mark.parametrize("cast", ["double", "bfloat16", "half", "deepcopied", "moved off meta", "read back"])
def test_what_the_original_holds_twice_is_one_tensor(cast):
    """Second embeddings and head biases are the same tensors, also after the model is cast, copied or moved."""
    model = flava()
    match cast:
        case "deepcopied":
            model = copy.deepcopy(model)
        case "moved off meta":
            with torch.device("meta"):
                model = Flava(CONFIG)
            model = model.to_empty(device="cpu")
        case "read back":
            model = Flava.from_state_dict(model.state_dict(), **UNSEEN)
        case _:
            model = getattr(model, cast)()
    state_dict = model.state_dict(keep_vars=True)
    for key, value in state_dict.items():
        kept = key.replace("_encoder.embeddings.", "_encoder.module.embeddings.")
        assert state_dict[kept.replace("predictions.bias", "predictions.decoder.bias")] is value, key


def test_a_config_is_read_off_the_shapes():
    """The config comes back from the shapes, with only the numbers of attention heads passed in."""
    assert config_of(flava().state_dict(), **UNSEEN) == CONFIG
    with torch.device("meta"):
        assert config_of(Flava().state_dict()) == FlavaConfig()


def test_a_model_is_read_from_a_state_dict():
    """The model has every tensor in its dtype, and every parameter can be trained."""
    state_dict = flava().half().state_dict()
    model = Flava.from_state_dict(state_dict, **UNSEEN)
    assert all(torch.equal(value, state_dict[key]) for key, value in model.state_dict().items())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("key", ["image_encoder.embeddings.mask_token", "heads.fairseq_mlm.cls.predictions.bias"])
def test_copies_that_differ_are_refused(key):
    """Where two copies of one tensor differ, the message names both keys."""
    state_dict = {name: value.clone() for name, value in flava().state_dict().items()}
    state_dict[key].view(-1)[3] += 1e-9
    with pytest.raises(ValueError, match=rf"^{key} and .* differ"):
        Flava.from_state_dict(state_dict, **UNSEEN)


def test_a_missing_and_an_extra_key_are_refused():
    """A missing and an unknown key are both refused."""
    for change in ("missing", "extra"):
        state_dict = flava().state_dict()
        if change == "missing":
            del state_dict["mm_encoder.module.layernorm.bias"]
        else:
            state_dict["mm_encoder.module.layernorm.scale"] = torch.ones(40)
        with pytest.raises(RuntimeError, match=r"mm_encoder\.module\.layernorm"):
            Flava.from_state_dict(state_dict, **UNSEEN)


def test_sizes_that_fit_no_flava_are_refused():
    """Heads that do not divide the width, an unknown activation, and patches that fill no square are refused."""
    state_dict = flava().state_dict()
    with pytest.raises(ValueError, match="hidden_size 24 does not split into num_attention_heads 0"):
        config_of(state_dict)
    with pytest.raises(ValueError, match="hidden_act 'swoosh' is none of gelu"):
        config_of(state_dict, **(UNSEEN | {"image": {"num_attention_heads": 4, "hidden_act": "swoosh"}}))
    state_dict["image_encoder.module.embeddings.position_embeddings"] = torch.zeros(1, 9, 24)
    with pytest.raises(ValueError, match="8 patches make no square image"):
        config_of(state_dict, **UNSEEN)


def test_the_codebook_keys_are_those_of_dall_e():
    """The codebook has exactly DALL-E's keys; the first block of each group but the first has an id_path."""
    keys = {"blocks.input", "blocks.output.conv"}
    for group, block in product(range(1, 5), range(1, 3)):
        keys |= {f"blocks.group_{group}.block_{block}.res_path.conv_{conv}" for conv in range(1, 5)}
    keys |= {f"blocks.group_{group}.block_1.id_path" for group in (2, 3, 4)}
    assert set(dalle_encoder().state_dict()) == {f"{key}.{kind}" for key, kind in product(keys, "wb")}


def test_the_codebook_is_read_from_a_state_dict():
    """The codebook's sizes come back from the shapes, and the default sizes are DALL-E's."""
    state_dict = dalle_encoder(CodebookConfig(4, 3, 12, 17, 2)).state_dict()
    ours = DalleEncoder.from_state_dict(state_dict)
    assert ours.config == CodebookConfig(4, 3, 12, 17, 2)
    assert all(torch.equal(value, state_dict[key]) for key, value in ours.state_dict().items())
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in DalleEncoder().state_dict().items()}
    assert shapes["blocks.input.w"] == (256, 3, 7, 7)
    assert shapes["blocks.group_4.block_1.res_path.conv_1.w"] == (512, 1024, 3, 3)
    assert shapes["blocks.output.conv.w"] == (8192, 2048, 1, 1)
    assert DalleEncoder(CODEBOOK).config == CODEBOOK
