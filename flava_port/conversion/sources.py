"""The checkpoints that a conversion reads: opened, and the layout of each told."""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidInput
from ..files.checkpoint import Checkpoint, open_checkpoint
from ..files.download import download, is_url
from ..files.model_folder import read_weights, weights_file
from ..files.tensors import StoredTensor, UnsupportedTensor
from ..progress import Progress
from ..rules.layouts import LAYOUTS_BY_NAME, WAYS, Layout, Way, recognise
from ..rules.tables import CODEBOOK_PREFIX
from ..target.keys import current_name
from ..target.parts import MODEL


@dataclass(frozen=True)
class Source:
    """A checkpoint and the layout it is in, which says where its keys go."""

    name: str  # "checkpoint" or "codebook"
    checkpoint: Checkpoint
    kind: Layout

    @property
    def way(self) -> Way:
        return WAYS[self.kind]


def open_source(name: str, path: str | Path, wanted: Sequence[Layout], stack: ExitStack, progress: Progress) -> Source:
    """The checkpoint at a path or URL, which must be of a wanted kind. A download lives as long as ``stack``."""
    if is_url(path):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flava_port-")))
        path = download(str(path), folder, progress)
    checkpoint = open_checkpoint(path)
    kind = recognise(checkpoint.tensors)
    if kind not in wanted:
        some = ", ".join(list(checkpoint.tensors)[:3])
        belongs = " or ".join(kind.value for kind in wanted if kind is not Layout.TORCHMULTIMODAL_MODEL)
        raise InvalidInput(f"{path}: this is {kind.value}, where {belongs} belongs (its keys: {some}, ...)")
    return Source(name, checkpoint, kind)


def open_sources(
    checkpoint_path: str | Path, codebook_path: str | Path | None, layout: str | None, stack: ExitStack, progress: Progress
) -> list[Source]:
    """The checkpoint, in the layout that was named or else the one that its keys show, and its codebook's file.

    A folder of transformers' is read only where ``layout`` says so.

    Raises:
        InvalidInput: a file is not what it should be, or holds a codebook beside the one that was given.
    """
    if layout == "hf":
        source = Source("checkpoint", _open_folder(Path(checkpoint_path)), Layout.HUGGING_FACE)
    else:
        wanted = LAYOUTS_BY_NAME[layout] if layout else (*LAYOUTS_BY_NAME["original"], *LAYOUTS_BY_NAME["torchmultimodal"])
        source = open_source("checkpoint", checkpoint_path, wanted, stack, progress)
    if codebook_path is None:
        return [source]
    if has_codebook([source]):
        raise InvalidInput(f"{checkpoint_path}: holds its codebook already; leave out --codebook_path")
    return [source, open_source("codebook", codebook_path, (Layout.DALLE,), stack, progress)]


def has_codebook(sources: Sequence[Source]) -> bool:
    """Whether there is a codebook, in a file of its own or in the checkpoint."""
    inside = (source.way.to(key).target for source in sources for key in source.checkpoint.tensors)
    return any(target is not None and target.startswith(CODEBOOK_PREFIX) for target in inside)


def _open_folder(folder: Path) -> Checkpoint:
    tensors = read_model_folder(folder)
    if not any(key.startswith(MODEL.prefix) for key in tensors):
        tensors = {MODEL.prefix + key: tensor for key, tensor in tensors.items()}  # a folder of FlavaModel's
    return Checkpoint(weights_file(folder), "transformers", tensors)


def local_paths(*paths: str | Path | None) -> tuple[Path, ...]:
    return tuple(Path(path) for path in paths if path is not None and not is_url(path))


def read_model_folder(folder: Path) -> dict[str, StoredTensor | UnsupportedTensor]:
    """All weights of a folder of transformers' FLAVA, unread.

    Raises:
        InvalidInput: as `read_weights`; or the folder holds another model.
        NotFaithful: as `read_weights`.
    """
    tensors = read_weights(folder, current_name)
    if (layout := recognise(tensors)) is not Layout.HUGGING_FACE:
        raise InvalidInput(f"{folder}: this is {layout.value}, where {Layout.HUGGING_FACE.value} belongs")
    return tensors
