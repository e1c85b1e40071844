"""The models that are measured, and their files, which are made a chunk at a time and so in constant memory."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from flava_port.demo import DEMO_SIZES
from flava_port.files.tensors import nbytes
from flava_port.files.torch_format import write_torch_zip
from flava_port.original.config import CodebookConfig, FlavaConfig, ImageConfig, MultimodalConfig, TextConfig
from flava_port.original.seeded import seeded_codebook, seeded_state_dict


def _scaled(width: int, inner: int, heads: int, layers: int, multimodal_layers: int) -> tuple[FlavaConfig, CodebookConfig]:
    image, text = ImageConfig(width, layers, heads, inner), TextConfig(width, layers, heads, inner)
    return FlavaConfig(image, text, MultimodalConfig(width, multimodal_layers, heads, inner)), CodebookConfig()


# The demo's, which shows that the benchmark runs; as published (arXiv 2112.04482); and the larger ones of
# torchmultimodal's scaling study (examples/flava/native).
SIZES = {
    "tiny": DEMO_SIZES["tiny"],
    "default": DEMO_SIZES["full"],
    "900m": _scaled(1024, 4096, 16, 24, 12),
    "1.8b": _scaled(1280, 5120, 16, 32, 16),
    "10b": _scaled(2048, 10240, 16, 64, 40),
}


@dataclass(frozen=True)
class Files:
    """One size's checkpoint, codebook and config, as both converters read them."""

    checkpoint: Path
    codebook: Path
    config: Path

    @property
    def bytes(self) -> int:
        return self.checkpoint.stat().st_size + self.codebook.stat().st_size


def make(size: str, folder: Path) -> Files:
    """Writes the files, unless they are there. position_ids, at which upstream's strict load stops, are left out."""
    config, codebook_config = SIZES[size]
    files = Files(folder / f"{size}.pt", folder / f"{size}-codebook.pt", folder / f"{size}-config")
    if not files.codebook.exists():
        write_torch_zip(files.codebook, seeded_codebook(codebook_config))
    if not files.checkpoint.exists():
        tensors = {key: tensor for key, tensor in seeded_state_dict(config).items() if "position_ids" not in key}
        write_torch_zip(files.checkpoint, tensors)
    files.config.mkdir(exist_ok=True)
    fields = {**asdict(config), "hidden_size": config.multimodal_config.hidden_size}
    (files.config / "config.json").write_text(json.dumps({"model_type": "flava", **fields}))
    return files


def checkpoint_bytes(size: str) -> int:
    """How many bytes the checkpoint of a size would have, without making it."""
    config, _ = SIZES[size]
    return sum(nbytes(tensor) for tensor in {id(t): t for t in seeded_state_dict(config).values()}.values())
