"""What is not a checkpoint, called by its name: pointers, pages, archives, tokenizers, adapters, optimizers."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..text import few, shown
from .pickle_objects import Opaque

HEAD_BYTES = 2048  # of a file, by which it is known
JSON_BYTES_MAX = 64 << 20  # a tokenizer.json of 250,000 tokens has 20 MB

_NOT = "not a checkpoint: "

# What a file begins with, and what it is then.
_MAGIC = (
    (b"version https://git-lfs", "a Git LFS pointer, which stands for the file itself; fetch that with: git lfs pull"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"\xfd7zXZ", "an xz archive; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"Rar!", "a rar archive; unpack it first"),
    (b"\x89HDF", "an HDF5 file, as Keras writes them; it takes a checkpoint of PyTorch's"),
    (b"GGUF", "a GGUF file, as llama.cpp reads them; it takes the weights in PyTorch's own dtypes"),
    (b"\x93NUMPY", "a NumPy array; it takes a whole state dict"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"%PDF", "a PDF document"),
    (b"\x7fELF", "a program"),
    (b"#!", "a script"),
    (b"\x0a\x0e\x0a\x05<unk>", "a SentencePiece tokenizer, not the model's weights"),
    (b"#version: ", "a tokenizer's merges, not the model's weights"),
    (b"[PAD]", "a tokenizer's vocabulary, not the model's weights"),
)
_PAGE = re.compile(rb"\s*(<!doctype\s+html|<html|<head|<\?xml)", re.IGNORECASE)


def known_by_its_bytes(head: bytes, whole: Any) -> str:
    """What a file is, by its first bytes; empty if they do not say. ``whole()`` gives all of its bytes, for a file of JSON."""
    for magic, what in _MAGIC:
        if head.startswith(magic):
            return _NOT + "it is " + what
    if head[257:262] == b"ustar":
        return _NOT + "it is a tar archive; unpack it first"
    if _PAGE.match(head):
        return _NOT + "it is an HTML page, such as a server sends to say that something is missing or to ask for a login"
    if head.lstrip()[:1] in (b"{", b"["):
        return _NOT + "it is " + _json(whole())
    return ""


def _json(content: bytes) -> str:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return "a text file"
    if not isinstance(found, dict):
        return "a JSON file"
    for marks, what in (
        ({"peft_type"}, f"the config of a PEFT adapter; {MERGE}"),
        ({"model", "added_tokens"}, "a tokenizer (tokenizer.json), not the model's weights"),
        ({"tokenizer_class"}, "a tokenizer's config, not the model's weights"),
        ({"architectures"}, "a model's config, not its weights"),
        ({"model_type"}, "a model's config, not its weights"),
    ):
        if marks <= found.keys():
            return what
    return f"a JSON file (it holds {', '.join(few([shown(name) for name in found], 3)) or 'nothing'}), not the model's weights"


MERGE = "merge it into its model first (model.merge_and_unload() of peft) and save that"

_ADAPTER = re.compile(r"\.(lora_\w+|ia3_\w+|vera_\w+|oft_\w+|hada_\w+|lokr_\w+|base_layer|modules_to_save)(\.|\Z)")
_MOMENTS = re.compile(r"(\A|\.)(exp_avg|exp_avg_sq|max_exp_avg_sq|momentum_buffer|square_avg|sum)\Z")


def known_by_its_content(content: Any) -> str:
    """What the content of a whole file of torch's is, where it is no model; empty if nothing shows it."""
    if isinstance(content, Opaque):
        what = "a tokenizer" if "okenizer" in content.class_name else "an object"
        return f"{_NOT}it holds {what} of the class {shown(content.class_name)}, not a state dict"
    if not isinstance(content, Mapping):
        return ""
    names = {name for name in content if isinstance(name, str)}
    if {"optimizer_state_dict", "ds_config"} <= names or {"optimizer_state_dict", "ds_version"} <= names:
        return f"{_NOT}it is a part of an optimizer's state as DeepSpeed's ZeRO saves it; {ZERO_TO_FP32}"
    if is_optimizer(content):
        return f"{_NOT}it is an optimizer's state, not the model's"
    if {"base_lrs", "last_epoch"} <= names:
        return f"{_NOT}it is a learning rate scheduler's state, not the model's"
    if names and names <= {"python", "numpy", "cpu", "cuda", "xpu", "npu", "random_state", "numpy_random_seed", "torch_manual_seed"}:
        return f"{_NOT}it is the state of random number generators, not the model's"
    inner = [value for value in content.values() if isinstance(value, dict)]
    if inner and all(map(is_optimizer, inner)):
        return f"{_NOT}it holds an optimizer's state ({shown(next(iter(content)))}), not the model's"
    return ""


ZERO_TO_FP32 = "put the parts together with the zero_to_fp32.py that lies in its folder, and pass the file that it writes"
FULL_STATE_DICT = "save it whole: get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)) of torch, or as a torch.distributed.checkpoint"


def is_optimizer(value: Any) -> bool:
    """Whether it is the state dict of an optimizer."""
    return isinstance(value, Mapping) and "state" in value and "param_groups" in value


def known_by_its_keys(keys: Iterable[str]) -> str:
    """What a state dict is that is no model's own, by its keys; empty if nothing shows it."""
    keys = list(keys)
    if any(map(_ADAPTER.search, keys)):
        return f"it is a PEFT adapter, or a model with one in it, not a model alone; {MERGE}"
    if any(key.rpartition(".")[2] in ("flat_param", "_flat_param") for key in keys):
        return f"it holds FSDP's flattened parameters, of which each rank saves its own part; {FULL_STATE_DICT}"
    if keys and all(map(_MOMENTS.search, keys)):
        return f"{_NOT}it is an optimizer's state, not the model's"
    return ""
