"""A catalogue of planted faults: each edits a converted folder in one way that changes the model.

`python -m tests.proof.table` prints which claims catch which fault.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from flava_port.proof.certificate import Verdict

TEXT = "flava.text_model.encoder.layer"
QUERY, KEY = (f"{TEXT}.1.attention.attention.{name}.weight" for name in ("query", "key"))
WORDS = "flava.text_model.embeddings.word_embeddings.weight"
IMAGE_QUERY = "flava.image_model.encoder.layer.1.attention.attention.query.weight"

Weights = dict[str, torch.Tensor]
Plant = Callable[[Weights, dict], None]  # edits the weights and the config in place
PlantInFolder = Callable[[Path], None]  # edits the folder's files
Change = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Fault:
    """What to plant, the culprit that the report must name, and what it must say that the culprit looks like."""

    name: str
    plant: Plant | None
    culprit: str
    looks_like: str = ""
    in_folder: PlantInFolder | None = None  # in place of ``plant``
    verdict: Verdict = Verdict.DIFFERS  # of the weights and configs alone


def _value(key: str, change: Change) -> Plant:
    def plant(weights: Weights, _config: dict) -> None:
        weights[key] = change(weights[key].clone()).contiguous()

    return plant


def _swap(one: str, other: str) -> Plant:
    def plant(weights: Weights, _config: dict) -> None:
        weights[one], weights[other] = weights[other], weights[one]

    return plant


def _field(section: str, name: str, value: object) -> Plant:
    def plant(_weights: Weights, config: dict) -> None:
        (config[section] if section else config)[name] = value

    return plant


def _flip_lowest_bit(tensor: torch.Tensor) -> torch.Tensor:
    tensor.view(torch.int32).view(-1)[7] ^= 1
    return tensor


def _at(index: int, change: Change) -> Change:
    def edit(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[index] = change(tensor.view(-1)[index])
        return tensor

    return edit


def _everywhere(change: Change) -> Plant:
    def plant(weights: Weights, _config: dict) -> None:
        for key in weights:
            weights[key] = change(weights[key])

    return plant


def _layers_swapped(weights: Weights, _config: dict) -> None:
    for key in [key for key in weights if key.startswith(f"{TEXT}.0.")]:
        twin = key.replace(f"{TEXT}.0.", f"{TEXT}.1.")
        weights[key], weights[twin] = weights[twin], weights[key]


def _untied(weights: Weights, _config: dict) -> None:
    weights["mlm_head.bias"] = weights["mlm_head.bias"] + 1


def _dropped(*keys: str) -> Plant:
    def plant(weights: Weights, _config: dict) -> None:
        for key in keys:
            del weights[key]

    return plant


def _added(weights: Weights, _config: dict) -> None:
    weights["flava.text_model.encoder.layer.99.output.dense.bias"] = torch.ones(3)


def _position_ids_off_by_one(weights: Weights, _config: dict) -> None:
    weights["flava.text_model.embeddings.position_ids"] = torch.arange(20)[None] + 1


def _permuted_neurons(weights: Weights, _config: dict) -> None:
    dense, output = f"{TEXT}.0.intermediate.dense", f"{TEXT}.0.output.dense.weight"
    order = torch.arange(len(weights[f"{dense}.bias"])).roll(5)
    for key in (f"{dense}.weight", f"{dense}.bias"):
        weights[key] = weights[key][order]
    weights[output] = weights[output][:, order]


def _rescaled(weights: Weights, _config: dict) -> None:
    for part in ("weight", "bias"):
        weights[QUERY.replace("weight", part)] = weights[QUERY.replace("weight", part)] * 2
        weights[KEY.replace("weight", part)] = weights[KEY.replace("weight", part)] / 2


def _zeroed_biases(weights: Weights, _config: dict) -> None:
    for head in ("mim_head", "mlm_head", "mmm_image_head", "mmm_text_head"):
        weights[f"{head}.bias"] = weights[f"{head}.decoder.bias"] = torch.zeros_like(weights[f"{head}.bias"])


VALUES = [
    Fault("two layers swapped", _layers_swapped, f"{TEXT}.0.", f"{TEXT}.1."),
    Fault("query and key swapped", _swap(QUERY, KEY), QUERY, KEY),
    Fault("a matrix transposed", _value(QUERY, lambda t: t.T), QUERY, "transpose"),
    Fault("rows permuted", _value(QUERY, lambda t: t.roll(3, 0)[torch.arange(len(t)) ^ 1]), QUERY, "rows in another order"),
    Fault("attention heads permuted", _value(IMAGE_QUERY, lambda t: t.roll(32, 0)), IMAGE_QUERY, "rows in another order"),
    Fault("one row zeroed", _value(WORDS, lambda t: t.index_fill(0, torch.tensor([5]), 0.0)), WORDS),
    Fault("one lowest bit flipped", _value(WORDS, _flip_lowest_bit), WORDS, "1 bit"),
    Fault("one sign flipped", _value(KEY, _at(11, lambda x: -x)), KEY, "1 bit"),
    Fault("a bias that no output shows", _value(KEY.replace("weight", "bias"), lambda t: t + 1), KEY.replace("weight", "bias")),
    Fault("one tensor rounded to half", _value(WORDS, lambda t: t.half().float()), WORDS, "float16"),
    Fault("one tensor rounded to bfloat16", _value(WORDS, lambda t: t.bfloat16().float()), WORDS, "bfloat16"),
    Fault("one tensor negated", _value(QUERY, lambda t: -t), QUERY, "negative"),
    Fault("one tensor scaled", _value(QUERY, lambda t: t * 1.0001), QUERY),
    Fault("heads swapped", _swap("mlm_head.transform.dense.weight", "mmm_text_head.transform.dense.weight"), "mlm_head.transform", "mmm_text_head.transform"),
    Fault("encoders swapped", _swap("flava.image_model.layernorm.weight", "flava.text_model.layernorm.weight"), "flava.image_model.layernorm.weight", "flava.text_model.layernorm.weight"),
    Fault("projections swapped", _swap("flava.image_to_mm_projection.weight", "flava.text_to_mm_projection.weight"), "flava.image_to_mm_projection"),
    Fault("positions shifted", _value("flava.text_model.embeddings.position_embeddings.weight", lambda t: t.roll(1, 0)), "position_embeddings", "shifted"),
    Fault("channels reversed", _value("flava.image_model.embeddings.patch_embeddings.projection.weight", lambda t: t.flip(1)), "patch_embeddings", "flipped along axis 1"),
    Fault("pixels of a patch transposed", _value("flava.image_model.embeddings.patch_embeddings.projection.weight", lambda t: t.transpose(2, 3)), "patch_embeddings", "last two axes"),
    Fault("norm weight and bias swapped", _swap("flava.text_model.layernorm.weight", "flava.text_model.layernorm.bias"), "flava.text_model.layernorm"),
    Fault("logit scale changed", _value("flava.logit_scale", lambda t: t + 1e-3), "flava.logit_scale"),
    Fault("class tokens swapped", _swap("flava.image_model.embeddings.cls_token", "flava.image_model.embeddings.mask_token"), "cls_token", "mask_token"),
    Fault("a NaN", _value(WORDS, _at(3, lambda x: x * float("nan"))), WORDS),
    Fault("codebook blocks swapped", _swap("image_codebook.blocks.group_1.group.block_1.res_path.path.conv_2.weight", "image_codebook.blocks.group_1.group.block_2.res_path.path.conv_2.weight"), "image_codebook.blocks.group_1"),
    Fault("a codebook value changed", _value("image_codebook.blocks.input.bias", _at(0, lambda x: x + 1e-6)), "image_codebook.blocks.input.bias"),
    Fault("both bias keys untied", _untied, "mlm_head.bias"),
    Fault("all biases of the heads zeroed", _zeroed_biases, "mlm_head", "zeros"),
    Fault("everything in half precision", _everywhere(lambda t: t.half()), "float16"),
    Fault("a key missing", _dropped(QUERY), QUERY),
    Fault("both bias keys missing", _dropped("mlm_head.bias", "mlm_head.decoder.bias"), "mlm_head"),
    Fault("one bias key of a pair missing", _dropped("mlm_head.decoder.bias"), "mlm_head.decoder.bias"),
    Fault("a key added", _added, "layer.99"),
    Fault("position_ids off by one", _position_ids_off_by_one, "position_ids", "does not count"),
    Fault("neurons permuted, which no output shows", _permuted_neurons, f"{TEXT}.0.intermediate.dense.weight", "rows in another order"),
    Fault("query doubled, key halved", _rescaled, QUERY),
    Fault("class and mask token swapped", _swap("flava.image_model.embeddings.cls_token", "flava.image_model.embeddings.mask_token"), "cls_token", "mask_token"),
    Fault("two words swapped", _value(WORDS, lambda t: t[[0, 1, 2, 4, 3, *range(5, len(t))]]), WORDS, "rows in another order"),
    Fault("match and mismatch swapped", _value("itm_head.seq_relationship.weight", lambda t: t.flip(0)), "itm_head.seq_relationship.weight", "axis 0"),
]  # fmt: skip

CONFIG = [
    Fault(f"config: {section + '.' if section else ''}{name} = {value!r}", _field(section, name, value), name)
    for section, name, value in [
        ("text_config", "hidden_act", "gelu_new"),
        ("image_config", "hidden_act", "relu"),
        ("multimodal_config", "hidden_act", "quick_gelu"),
        ("text_config", "layer_norm_eps", 1e-5),
        ("image_config", "layer_norm_eps", 1e-6),
        ("multimodal_config", "layer_norm_eps", 1e-5),
        ("text_config", "num_attention_heads", 2),
        ("image_config", "num_attention_heads", 4),
        ("multimodal_config", "num_attention_heads", 2),
        ("text_config", "hidden_dropout_prob", 0.1),
        ("image_config", "attention_probs_dropout_prob", 0.1),
        ("text_config", "pad_token_id", 1),
        ("image_codebook_config", "num_groups", 3),
        ("", "ce_ignore_index", -1),
        ("", "mlm_weight", 0.5),
        ("", "itm_weight", 0.0),
        ("", "global_contrastive_weight", 2.0),
        ("", "return_loss", False),
        ("", "skip_unmasked_multimodal_encoder", False),
        ("", "tie_word_embeddings", False),
        ("", "init_codebook", False),
        ("image_config", "mask_token", False),
        ("text_config", "qkv_bias", False),
        ("multimodal_config", "use_cls_token", False),
        ("text_config", "is_decoder", True),
        ("text_config", "position_embedding_type", "relative_key"),
        ("image_config", "layer_norm_eps", 1e-11),
        ("multimodal_config", "num_hidden_layers", 2),
        ("image_codebook_config", "freeze", False),
        ("", "global_backprop_contrastive", False),
        ("", "torch_dtype", "float16"),
        ("", "return_dict", False),
    ]
]


def _json(name: str, section: str = "", /, **fields: object) -> PlantInFolder:
    """Sets fields of a JSON file, or of a section in it; the file is made if there is none."""

    def edit(folder: Path) -> None:
        path = folder / name
        content = json.loads(path.read_text()) if path.exists() else {}
        (content[section] if section else content).update(fields)
        path.write_text(json.dumps(content))

    return edit


def _both(*edits: PlantInFolder) -> PlantInFolder:
    return lambda folder: [edit(folder) for edit in edits] and None


def _other_weights(name: str, change: Change = lambda tensor: tensor + 1) -> PlantInFolder:
    """A second file of weights, all of them changed."""

    def write(folder: Path) -> None:
        weights = {key: change(tensor) for key, tensor in load_file(folder / WEIGHTS).items()}
        torch.save(weights, folder / name) if name.endswith(".bin") else save_file(weights, folder / name, {"format": "pt"})

    return write


def _in_shards(leave_out: str = "", misplace: str = "") -> PlantInFolder:
    """The weights in two files, and an index that leaves out one key, or looks for it in the wrong file."""

    def split(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        files = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
        where = {key: files[number % 2] for number, key in enumerate(sorted(weights))}
        for file in files:
            save_file({key: value for key, value in weights.items() if where[key] == file}, folder / file, {"format": "pt"})
        where.pop(leave_out, None)
        if misplace:
            where[misplace] = files[1 - files.index(where[misplace])]
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
        (folder / WEIGHTS).unlink()

    return split


def _witness(section: str, name: str, value: object, **record: object) -> PlantInFolder:
    """A field of the config, and the same in the record, as if the conversion had been told so."""

    def edit(folder: Path) -> None:
        for file in ("config.json", "conversion.json"):
            content = json.loads((folder / file).read_text())
            config = content["config"] if file == "conversion.json" else content
            config[section][name] = value
            (folder / file).write_text(json.dumps(content | (record if file == "conversion.json" else {})))

    return edit


def _another_config(folder: Path) -> None:
    """A config of another version, which transformers reads in place of config.json."""
    (folder / "config.4.0.0.json").write_bytes((folder / "config.json").read_bytes())
    _json("config.4.0.0.json", mlm_weight=0.5)(folder)
    _json("config.json", configuration_files=["config.4.0.0.json"])(folder)


def _rival_processor(folder: Path) -> None:
    images = json.loads((folder / "preprocessor_config.json").read_text()) | {"image_mean": [0.5, 0.5, 0.5]}
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "FlavaProcessor", "image_processor": images}))


def _touch(name: str) -> PlantInFolder:
    return lambda folder: (folder / name).write_bytes(b"?") and None


WEIGHTS = "model.safetensors"
LEFT_OUT = "flava.text_model.layernorm.weight"
PREPROCESSOR = "preprocessor_config.json"
UNKNOWN = Verdict.NOT_PROVEN  # a field that nobody knows, a file that nobody can read

FOLDER = [
    Fault(name, None, culprit, in_folder=in_folder, verdict=verdict)
    for name, in_folder, culprit, verdict in [
        ("configuration_files leads to another config", _another_config, "configuration_files", UNKNOWN),
        ("attribute_map in a section", _json("config.json", "text_config", attribute_map={"layer_norm_eps": "initializer_range"}), "text_config.attribute_map", UNKNOWN),
        ("attribute_map at the top", _json("config.json", attribute_map={"mlm_weight": "itm_weight"}), "attribute_map", UNKNOWN),
        ("text_config_dict fills the rest with defaults", _json("config.json", text_config_dict={"hidden_act": "gelu"}), "text_config.num_attention_heads", Verdict.DIFFERS),
        ("image_config_dict with a dropout", _json("config.json", image_config_dict={"hidden_dropout_prob": 0.1}), "image_config.hidden_dropout_prob", Verdict.DIFFERS),
        ("sub_configs", _json("config.json", sub_configs={}), "sub_configs", UNKNOWN),
        ("transformers_weights names another file", _both(_other_weights("others.safetensors"), _json("config.json", transformers_weights="others.safetensors")), "others.safetensors", Verdict.DIFFERS),
        ("auto_map with code", _both(_json("config.json", auto_map={"AutoModel": "code.Model"}), _touch("code.py")), "auto_map", UNKNOWN),
        ("a section with a dtype of its own", _json("config.json", "text_config", torch_dtype="float16"), "text_config.torch_dtype", Verdict.DIFFERS),
        ("a field that nobody knows", _json("config.json", "multimodal_config", norm_first=False), "multimodal_config.norm_first", UNKNOWN),
        ("quantization", _json("config.json", quantization_config={"quant_method": "bitsandbytes"}), "quantization_config", Verdict.DIFFERS),
        ("an index that leaves out a key", _in_shards(leave_out=LEFT_OUT), LEFT_OUT, Verdict.DIFFERS),
        ("an index that looks in the wrong shard", _in_shards(misplace=LEFT_OUT), LEFT_OUT, Verdict.DIFFERS),
        ("a shard that no index names", _other_weights("model-00003-of-00003.safetensors"), "model-00003-of-00003.safetensors", Verdict.DIFFERS),
        ("other weights, pickled", _other_weights("pytorch_model.bin"), "pytorch_model.bin", Verdict.DIFFERS),
        ("a variant in half precision", _other_weights("model.fp16.safetensors", lambda tensor: tensor.half()), "model.fp16.safetensors", Verdict.DIFFERS),
        ("pickled weights that cannot be read", _touch("pytorch_model.bin"), "pytorch_model.bin", UNKNOWN),
        ("TensorFlow's weights", _touch("tf_model.h5"), "tf_model.h5", UNKNOWN),
        ("an adapter", _json("adapter_config.json", peft_type="LORA"), "adapter_config.json", UNKNOWN),
        ("a distributed checkpoint", _touch("__0_0.distcp"), "__0_0.distcp", UNKNOWN),
        ("another processor config", _rival_processor, "processor_config.json: image_processor: image_mean", Verdict.DIFFERS),
        ("images with their channels last", _json(PREPROCESSOR, input_data_format="channels_last"), "input_data_format", Verdict.DIFFERS),
        ("images that need not be square", _json(PREPROCESSOR, default_to_square=False), "default_to_square", Verdict.DIFFERS),
        ("code for the processor", _json(PREPROCESSOR, auto_map={"AutoImageProcessor": "code.Processor"}), "auto_map", Verdict.DIFFERS),
        ("the record edited with the config: epsilon", _witness("image_config", "layer_norm_eps", 1e-5), "image_config.layer_norm_eps", Verdict.DIFFERS),
        ("the record edited with the config: activation", _witness("text_config", "hidden_act", "relu"), "text_config.hidden_act", Verdict.DIFFERS),
        ("the record edited with the config: heads, of no source", _witness("text_config", "num_attention_heads", 4, sources={}), "text_config.num_attention_heads", Verdict.DIFFERS),
    ]
]  # fmt: skip

FAULTS = VALUES + CONFIG + FOLDER


def plant(fault: Fault, clean: Path, folder: Path) -> None:
    """Writes to ``folder`` a copy of the clean one with the fault in it."""
    if fault.in_folder is not None:
        shutil.copytree(clean, folder)
        fault.in_folder(folder)
        return
    folder.mkdir()
    weights, config = load_file(clean / WEIGHTS), json.loads((clean / "config.json").read_text())
    assert fault.plant is not None
    fault.plant(weights, config)
    save_file({key: value.clone() for key, value in weights.items()}, folder / WEIGHTS, {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "conversion.json").write_bytes((clean / "conversion.json").read_bytes())
