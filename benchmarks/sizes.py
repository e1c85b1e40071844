"""The FLAVAs that are measured, and their files: made a chunk at a time, so that making them needs no memory either."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from flava_port.files.torch_format import write_torch_zip
from flava_port.original.config import CodebookConfig, FlavaConfig, ImageConfig, MultimodalConfig, TextConfig
from flava_port.original.seeded import seeded_codebook, seeded_state_dict


def _scaled(width: int, inner: int, heads: int, layers: int, multimodal_layers: int) -> FlavaConfig:
    return FlavaConfig(
        ImageConfig(width, layers, heads, inner),
        TextConfig(width, layers, heads, inner),
        MultimodalConfig(width, multimodal_layers, heads, inner),
    )


# As published (arXiv 2112.04482), and the larger ones of torchmultimodal's scaling study (examples/flava/native).
SIZES = {
    "default": FlavaConfig(),
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
    config = SIZES[size]
    files = Files(folder / f"{size}.pt", folder / "codebook.pt", folder / f"{size}-config")
    if not files.codebook.exists():
        write_torch_zip(files.codebook, seeded_codebook(CodebookConfig()))
    if not files.checkpoint.exists():
        tensors = {key: tensor for key, tensor in seeded_state_dict(config).items() if "position_ids" not in key}
        write_torch_zip(files.checkpoint, tensors)
    files.config.mkdir(exist_ok=True)
    fields = {**asdict(config), "hidden_size": config.multimodal_config.hidden_size}
    (files.config / "config.json").write_text(json.dumps({"model_type": "flava", **fields}))
    return files


def checkpoint_bytes(size: str) -> int:
    """How large the checkpoint of a size would be, without making it."""
    from flava_port.files.tensors import nbytes

    return sum(nbytes(tensor) for tensor in {id(t): t for t in seeded_state_dict(SIZES[size]).values()}.values())
