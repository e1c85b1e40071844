"""The state dicts that a conversion reads: opened, not yet read, and the layout of each told by its keys."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InvalidInput
from ..files.checkpoint import Checkpoint, Content, read_content
from ..files.download import download, is_url, shown_url
from ..files.model_folder import read_weights, weights_file
from ..files.shards import WEIGHT_FILES
from ..files.tensors import TensorSource, UnsupportedTensor
from ..rules.layouts import LAYOUTS_BY_NAME, WAYS, Layout, Way, recognise
from ..rules.tables import CODEBOOK_PREFIX
from ..rules.wrappers import ENCODERS_ALONE
from ..target.keys import current_name
from ..target.parts import CODEBOOK_PART, MODEL, WHOLE, Part, part_with
from .finding import Wish, find_model
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

    @property
    def files(self) -> Sequence[Path]:
        """The files that it is read from, first the one that says what is in the others."""
        return self.checkpoint.files or [self.checkpoint.path]


def in_memory(state_dict: Mapping[str, "torch.Tensor"], layout: Layout) -> StateDict:
    """Tensors of torch as a `StateDict`. A tensor under several keys stays one tensor."""
    from ..files.torch_tensors import MemoryTensor  # imports torch, which converting files does not need

    wrapped: dict[int, MemoryTensor] = {}
    tensors = {key: wrapped.setdefault(id(tensor), MemoryTensor(tensor)) for key, tensor in state_dict.items()}
    return StateDict("state_dict", layout, tensors)


@contextmanager
def open_sources(options: Options) -> Iterator[list[Source]]:
    """The checkpoint and the codebook's file, as far as they are given. Downloads live until the block ends.

    The checkpoint's layout is the one that was named, or else the one that its keys show.

    Raises:
        InvalidInput: a file cannot be read, is in another layout, or both files hold a codebook.
        NotFaithful: two names in a file stand for one key.
    """
    sources: list[Source] = []
    with ExitStack() as downloads:

        def read(path: str | Path) -> Content:
            if not is_url(path):
                return read_content(path)
            folder = downloads.enter_context(tempfile.TemporaryDirectory(prefix="flava_port-"))
            return read_content(download(str(path), Path(folder), options.progress), shown_url(str(path)))

        wish = Wish(options.container, options.prefix, options.drop)
        if options.checkpoint_path is not None:
            if options.layout == "hf" and wish == Wish() and is_model_folder(options.checkpoint_path):
                sources.append(open_folder(Path(options.checkpoint_path)))
            else:
                layouts = [layout for name in LAYOUTS_BY_NAME if options.layout in (None, name) for layout in LAYOUTS_BY_NAME[name]]
                sources.append(_source("checkpoint", read(options.checkpoint_path), layouts, wish))
        if options.codebook_path is not None:
            if has_codebook(sources):
                raise InvalidInput(f"{options.checkpoint_path}: holds its codebook already; leave out --codebook_path")
            wish = Wish() if sources else wish
            sources.append(_source("codebook", read(options.codebook_path), CODEBOOK_LAYOUTS, wish))
        yield sources


CODEBOOK_LAYOUTS = (Layout.DALLE, Layout.HUGGING_FACE_CODEBOOK)


def _source(name: str, content: Content, wanted: Sequence[Layout], wish: Wish) -> Source:
    found = find_model(content, wanted, wish)
    part = CODEBOOK_PART if found.layout in CODEBOOK_LAYOUTS else MODEL if found.naming in ENCODERS_ALONE else WHOLE
    return Source(name, found.layout, found.checkpoint.tensors, found.checkpoint, part)


def is_model_folder(path: str | Path) -> bool:
    """Whether it is a folder with weights under a name that transformers gives them."""
    return any((Path(path) / name).is_file() for name in WEIGHT_FILES)


def open_folder(folder: Path) -> Source:
    """All weights of a folder of transformers' FLAVA, unread, under the keys of `FlavaForPreTraining` whatever part of it they are.

    Raises:
        InvalidInput, NotFaithful: as `read_weights`; the first also where the folder holds another model.
    """
    found = read_weights(folder, current_name)
    part = part_with(found)
    tensors = {part.prefix + key: tensor for key, tensor in found.items()}
    if (layout := recognise(tensors)) not in (Layout.HUGGING_FACE, Layout.HUGGING_FACE_CODEBOOK):
        raise InvalidInput(f"{folder}: this is {layout.value}, where {Layout.HUGGING_FACE.value} belongs")
    return Source("checkpoint", Layout.HUGGING_FACE, tensors, Checkpoint(weights_file(folder), "transformers", tensors), part)


def has_codebook(sources: Sequence[StateDict]) -> bool:
    """Whether there is a codebook, in a file of its own or in the checkpoint."""
    targets = (source.way.to(key).target for source in sources for key in source.tensors)
    return any(target is not None and target.startswith(CODEBOOK_PREFIX) for target in targets)


def source_for(target: str, sources: Sequence[StateDict]) -> StateDict:
    """The state dict where a key of the model belongs: the codebook's own for a codebook's key if there is one, else the first."""
    own = [source for source in sources if source.layout in CODEBOOK_LAYOUTS and target.startswith(CODEBOOK_PREFIX)]
    return (own or sources)[0]
