"""What a conversion is asked to do, in one piece."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidInput
from ..files.download import is_url
from ..progress import Progress, silent

WRITTEN_DTYPES = ("float32", "keep")


@dataclass(frozen=True)
class Options:
    """The parameters of `convert_flava_checkpoint`, which explains them, without the target.

    Raises:
        InvalidInput: the dtype is none of `WRITTEN_DTYPES`, or a codebook is given for a part that has none.
    """

    checkpoint_path: str | Path | None  # None: the codebook is converted alone
    codebook_path: str | Path | None = None
    config_path: str | Path | None = None
    layout: str | None = None
    part: str | None = None
    no_codebook: bool | None = None
    head_layer_norm_eps: float | None = None
    container: str | None = None
    prefix: str | None = None
    drop: Sequence[str] = ()
    dtype: str = "float32"
    max_shard_size: str | int | None = None
    force: bool = False
    tokenizer: str | Path | None = None
    progress: Progress = silent

    def __post_init__(self) -> None:
        if self.part is not None and self.codebook_path is not None:
            raise InvalidInput(f"--part {self.part} has no codebook; leave out --codebook_path")
        if self.dtype not in WRITTEN_DTYPES:
            raise InvalidInput(f"dtype {self.dtype!r} is none of {', '.join(WRITTEN_DTYPES)}")

    def folder(self) -> Path | None:
        """The folder of transformers' that is converted, if it is one."""
        return Path(self.checkpoint_path) if self.layout == "hf" and self.checkpoint_path is not None else None

    def local_paths(self) -> tuple[Path, ...]:
        """The files and folders that are read, URLs left out."""
        given = (self.checkpoint_path, self.codebook_path, self.config_path, self.tokenizer)
        return tuple(Path(path) for path in given if path is not None and not is_url(path))
