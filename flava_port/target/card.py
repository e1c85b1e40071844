"""The model card: README.md of a folder, which the hub shows. It says what the weights come from and how to use them."""

import hashlib
import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from ..files.staging import staged_files, write_text
from ..text import count_of
from .parts import CODEBOOK_PART, MODEL, PARTS, WHOLE, WITHOUT_CODEBOOK, Part
from .tokenizer import takes_texts

CARD = "README.md"

_HEADER = """---
license: bsd-3-clause
library_name: transformers
tags:
- flava
---
"""
_LICENCE = "Meta published FLAVA's weights under BSD-3-Clause; correct the field `license` above where yours are under another."
_PROVEN, _END = "<!-- proven -->", "<!-- end -->"
_SIGNATURE = re.compile(r"<!-- written by flava-port, sha256 ([0-9a-f]{64}) -->\n$")

_IMAGE = 'image = Image.open("image.jpg").convert("RGB")'
_PAIRS = 'inputs = processor(images=[image] * 2, text=["a cat", "a dog"], padding=True, return_tensors="pt")'
_USES = {
    WHOLE.name: (
        "from PIL import Image",
        "from transformers import FlavaForPreTraining, FlavaProcessor",
        'model, processor = FlavaForPreTraining.from_pretrained("."), FlavaProcessor.from_pretrained(".")',
        _IMAGE,
        _PAIRS,
        'found = model(**inputs, input_ids_masked=inputs["input_ids"], return_loss=False)',
        "shares = found.contrastive_logits_per_image[0].softmax(-1)  # of each sentence; itm_logits judge each pair by itself",
    ),
    MODEL.name: (
        "from PIL import Image",
        "from transformers import FlavaModel, FlavaProcessor",
        'model, processor = FlavaModel.from_pretrained("."), FlavaProcessor.from_pretrained(".")',
        _IMAGE,
        _PAIRS,
        "embeddings = model(**inputs).multimodal_embeddings",
    ),
    PARTS["image"].name: (
        "from PIL import Image",
        "from transformers import AutoImageProcessor, FlavaImageModel",
        'model, processor = FlavaImageModel.from_pretrained("."), AutoImageProcessor.from_pretrained(".")',
        _IMAGE,
        'states = model(**processor(image, return_tensors="pt")).last_hidden_state',
    ),
    PARTS["text"].name: (
        "from transformers import AutoTokenizer, FlavaTextModel",
        'model, tokenizer = FlavaTextModel.from_pretrained("."), AutoTokenizer.from_pretrained(".")',
        'states = model(**tokenizer(["a cat", "a dog"], padding=True, return_tensors="pt")).last_hidden_state',
    ),
    PARTS["multimodal"].name: (
        "import torch",
        "from transformers import FlavaMultimodalModel",
        'model = FlavaMultimodalModel.from_pretrained(".")',
        "states = model(torch.zeros(1, 7, model.config.hidden_size)).last_hidden_state  # of images and texts, projected",
    ),
    CODEBOOK_PART.name: (
        "from PIL import Image",
        "from transformers import AutoImageProcessor, FlavaImageCodebook",
        'codebook, processor = FlavaImageCodebook.from_pretrained("."), AutoImageProcessor.from_pretrained(".")',
        _IMAGE,
        'tokens = codebook.get_codebook_indices(processor(image, return_tensors="pt").codebook_pixel_values)',
    ),
}


def model_card(record: Mapping, part: Part) -> str:
    """The card of a conversion, by its record (the content of conversion.json)."""
    sources = [f"| `{s['file']}` | {s['layout']} | {s['bytes']:,} | `{s['sha256']}` |" for s in record["sources"].values()]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    read_back = f"{count_of(len(record['tensors']), 'tensor')} read back from the disk, each equal to its source bit for bit"
    use = _USES[WHOLE.name if part is WITHOUT_CODEBOOK else part.name]
    lines = [
        _HEADER,
        f"# FLAVA, for `{part.model_class}`\n",
        f"Converted by flava-port from the weights below. {_LICENCE}\n",
        "| file | layout | bytes | sha256 |\n|---|---|---|---|",
        *sources,
        f"\n{_words(record)}Made with {versions}. `conversion.json` says where every key went.\n",
        '## Use\n\nIn this folder; elsewhere put its path, or its name on the hub, for `"."`.\n',
        "\n".join(("```python", *use, "```\n")),
        *([_NO_TOKENIZER] if takes_texts(part) and "tokenizer" not in record else []),
        f"## What was proven\n\n{_PROVEN}\n- {read_back}\n{_END}\n",
        *(["## What differs from the original\n", *(f"- {line}" for line in record["differs"]), ""] if record["differs"] else []),
    ]
    return _signed("\n".join(lines))


def _words(record: Mapping) -> str:
    """A sentence about the vocabulary, if there is one."""
    if (vocabulary := record.get("tokenizer")) is None:
        return ""
    whose = "those of bert-base-uncased" if vocabulary["bert-base-uncased"] else "not those of bert-base-uncased"
    return f"The tokenizer knows {vocabulary['words']:,} words, {whose}; `vocab.txt` has sha256 `{vocabulary['sha256']}`. "


_NO_TOKENIZER = "There is no tokenizer in this folder: take that of `facebook/flava-full`, or `bert-base-uncased`.\n"


def write_card(folder: Path, target: Path, record: Mapping, part: Part) -> None:
    """Writes the card into a folder that will replace ``target``, unless somebody wrote or changed the README there, which stays."""
    if not (target / CARD).exists() or own_card_in(target):
        write_text(folder / CARD, model_card(record, part))


def own_card_in(folder: Path) -> Set[str]:
    """The name of the folder's card, if it has one that is as we made it."""
    return {CARD} if (folder / CARD).is_file() and is_ours(_read(folder)) else set()


def add_to_card(folder: Path, proven: Sequence[str]) -> None:
    """Adds to a folder's card what was proven later, a line each, if the card is ours."""
    if is_ours(card := _read(folder)):
        body = _SIGNATURE.sub("", card).replace(f"\n{_END}\n", "".join(f"\n- {line}" for line in proven) + f"\n{_END}\n")
        with staged_files([folder / CARD]) as [partial]:
            write_text(partial, _signed(body))


def _read(folder: Path) -> str:
    return (folder / CARD).read_bytes().decode("utf-8", "replace")


def is_ours(text: str) -> bool:
    """Whether a card is as we made it, and nobody has changed it since."""
    signature = _SIGNATURE.search(text)
    return signature is not None and _digest(text[: signature.start()]) == signature[1]


def _signed(body: str) -> str:
    return f"{body}<!-- written by flava-port, sha256 {_digest(body)} -->\n"


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()
