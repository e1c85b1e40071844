"""The state dicts that a conversion reads: opened, not yet read, and the layout of each told by its keys."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InvalidInput
from ..files.checkpoint import Checkpoint, open_checkpoint
from ..files.download import download, is_url
from ..files.model_folder import read_weights, weights_file
from ..files.tensors import TensorInFile, TensorSource, UnsupportedTensor
from ..rules.layouts import LAYOUTS_BY_NAME, WAYS, Layout, Way, recognise
from ..rules.tables import CODEBOOK_PREFIX
from ..target.keys import current_name
from ..target.parts import CODEBOOK_PART, MODEL, WHOLE, Part
from .options import Options

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class StateDict:
    """Tensors under the keys of one layout."""

    name: str  # what messages and records call it: checkpoint, codebook or state_dict
    layout: Layout
    tensors: Mapping[str, TensorSource | UnsupportedTensor]

    @property
    def way(self) -> Way:
        """Leads its keys to those of `FlavaForPreTraining`, and back."""
        return WAYS[self.layout]

    def name_in_file(self, key: str) -> str:
        return key


@dataclass(frozen=True)
class Source(StateDict):
    """A state dict in a file, with the part of the model that a file of this layout holds."""

    checkpoint: Checkpoint
    part: Part

    def name_in_file(self, key: str) -> str:
        return self.checkpoint.name_in_file(key)


def in_memory(state_dict: Mapping[str, "torch.Tensor"], layout: Layout) -> StateDict:
    """Tensors of torch as a `StateDict`. A tensor under several keys stays one tensor."""
    from ..files.torch_tensors import MemoryTensor  # imports torch, which converting files does not need

    wrapped: dict[int, MemoryTensor] = {}
    tensors = {key: wrapped.setdefault(id(tensor), MemoryTensor(tensor)) for key, tensor in state_dict.items()}
    return StateDict("state_dict", layout, tensors)


@contextmanager
def open_sources(options: Options) -> Iterator[list[Source]]:
    """The checkpoint and the codebook's file, as far as they are given. Downloads live until the block ends.

    The checkpoint's layout is the one that was named, or else the one that its keys show. A folder of
    transformers' is read only where ``layout`` says ``hf``.

    Raises:
        InvalidInput: a file cannot be read, is in another layout, or both files hold a codebook.
    """
    sources: list[Source] = []
    with ExitStack() as downloads:

        def local(path: str | Path) -> Path:
            if not is_url(path):
                return Path(path)
            folder = downloads.enter_context(tempfile.TemporaryDirectory(prefix="flava_port-"))
            return download(str(path), Path(folder), options.progress)

        if options.checkpoint_path is not None and options.layout == "hf":
            sources.append(open_folder(Path(options.checkpoint_path)))
        elif options.checkpoint_path is not None:
            named = (options.layout,) if options.layout else ("original", "torchmultimodal")
            wanted = [layout for name in named for layout in LAYOUTS_BY_NAME[name]]
            sources.append(_open_file("checkpoint", local(options.checkpoint_path), wanted))
        if options.codebook_path is not None:
            if has_codebook(sources):
                raise InvalidInput(f"{options.checkpoint_path}: holds its codebook already; leave out --codebook_path")
            sources.append(_open_file("codebook", local(options.codebook_path), [Layout.DALLE]))
        yield sources


_PART_OF = {Layout.TORCHMULTIMODAL_MODEL: MODEL, Layout.DALLE: CODEBOOK_PART}


def _open_file(name: str, path: Path, wanted: Sequence[Layout]) -> Source:
    checkpoint = open_checkpoint(path)
    layout = recognise(checkpoint.tensors)
    if layout not in wanted:
        some = ", ".join(list(checkpoint.tensors)[:3])
        belongs = " or ".join(other.value for other in wanted if other is not Layout.TORCHMULTIMODAL_MODEL)
        raise InvalidInput(f"{path}: this is {layout.value}, where {belongs} belongs (its keys: {some}, ...)")
    return Source(name, layout, checkpoint.tensors, checkpoint, _PART_OF.get(layout, WHOLE))


def open_folder(folder: Path) -> Source:
    """The weights of a folder of transformers', under the keys of `FlavaForPreTraining` also where it is of `FlavaModel`.

    Raises:
        InvalidInput: as `read_model_folder`.
        NotFaithful: as `read_model_folder`.
    """
    tensors = read_model_folder(folder)
    part = WHOLE if any(map(MODEL.holds, tensors)) else MODEL
    if part is MODEL:
        tensors = {MODEL.prefix + key: tensor for key, tensor in tensors.items()}
    return Source("checkpoint", Layout.HUGGING_FACE, tensors, Checkpoint(weights_file(folder), "transformers", tensors), part)


def read_model_folder(folder: Path) -> dict[str, TensorInFile]:
    """All weights of a folder of transformers' FLAVA, unread, under the keys that stand there.

    Raises:
        InvalidInput: as `read_weights`; or the folder holds another model.
        NotFaithful: as `read_weights`.
    """
    tensors = read_weights(folder, current_name)
    if (layout := recognise(tensors)) is not Layout.HUGGING_FACE:
        raise InvalidInput(f"{folder}: this is {layout.value}, where {Layout.HUGGING_FACE.value} belongs")
    return tensors


def has_codebook(sources: Sequence[StateDict]) -> bool:
    """Whether there is a codebook, in a file of its own or in the checkpoint."""
    targets = (source.way.to(key).target for source in sources for key in source.tensors)
    return any(target is not None and target.startswith(CODEBOOK_PREFIX) for target in targets)


def source_for(target: str, sources: Sequence[StateDict]) -> StateDict:
    """The state dict where a key of the model belongs: the codebook's own for a codebook's key if there is one, else the first."""
    own = [source for source in sources if source.layout is Layout.DALLE and target.startswith(CODEBOOK_PREFIX)]
    return (own or sources)[0]
