"""The installed transformers: the shapes that it expects, its models built and loaded, its sources told apart."""

import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING

from ..errors import InvalidInput
from .epochs import epoch_of
from .keys import POSITION_IDS
from .parts import CODEBOOK_PART, WHOLE, Part
from .plain import is_plain
from .shapes import Shapes, expected_shapes

if TYPE_CHECKING:
    from torch import nn

version = cache(metadata.version)


def recorded_versions() -> dict[str, str]:
    """The versions that a conversion's record and a certificate name, by package."""
    return {name: version(name) for name in ("flava-port", "transformers", "torch", "safetensors")}


def shapes_for(config: Mapping, part: Part = WHOLE) -> Shapes:
    """The keys and shapes that the installed transformers expects of a part's file; position_ids is left out.

    ``config`` is a whole model's, and keys are those of `FlavaForPreTraining`. transformers is imported only where its
    release or the config is an unusual one, since that takes longer than all the rest of a conversion.

    Raises:
        InvalidInput: the installed transformers refuses the config.
    """
    known = known_shapes({**config, "init_codebook": True} if part is CODEBOOK_PART else config, version("transformers"))
    return built_shapes(config, part) if known is None else {key: shape for key, shape in known.items() if part.holds(key)}


def known_shapes(config: Mapping, release: str) -> Shapes | None:
    """The keys and shapes of a release's `FlavaForPreTraining`, position_ids left out; found without importing transformers.

    None where only transformers can tell: the release lies in no known epoch, or might refuse the config.
    """
    epoch = epoch_of(release)
    return expected_shapes(config) if epoch is not None and is_plain(config, epoch.defaults) else None


def built_shapes(config: Mapping, part: Part = WHOLE) -> Shapes:
    """What `shapes_for` gives, read from a model of the installed transformers that is built on the meta device.

    Raises:
        InvalidInput: the installed transformers refuses the config.
    """
    with quiet():
        transformers = import_transformers(part)
    try:
        model = empty_model(config, part)
    except Exception as error:
        # Each release has exception types of its own for this; whichever it is, the config is at fault.
        raise InvalidInput(f"transformers {transformers.__version__} refuses this config: {error}") from None
    return {key: tuple(value.shape) for name, value in model.state_dict().items() if (key := part.prefix + name) != POSITION_IDS}


def empty_model(config: Mapping, part: Part = WHOLE) -> "nn.Module":
    """The installed transformers' model of this whole config, on the meta device, where no weight takes memory."""
    import torch

    with quiet():
        transformers = import_transformers(part)  # here, since some releases cannot be imported under the meta device
        own = getattr(transformers, part.config_class).from_dict(deepcopy(dict(part.config_of(config))))
        with torch.device("meta"):
            return getattr(transformers, part.model_class)(own)


def import_transformers(part: Part = WHOLE) -> ModuleType:
    """The installed transformers, with its model imported too, which takes seconds; its progress bars are off."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    getattr(transformers, part.model_class)
    return transformers


def load_model(folder: Path, part: Part = WHOLE) -> tuple["nn.Module", str]:
    """The folder's model as the installed transformers loads it, in evaluation mode; and the version of transformers."""
    with quiet():
        transformers = import_transformers(part)
        model = getattr(transformers, part.model_class).from_pretrained(folder)
    return model.eval(), transformers.__version__


def source_digest(package: Path | None = None) -> str | None:
    """The sha256 of the modules that are FLAVA in a transformers' folder; None where it has none.

    Without a folder, in that of the installed transformers, which is not imported. Scripts that convert checkpoints are
    left out: they came and went without a change to the model.
    """
    if package is None:
        spec = find_spec("transformers")
        if spec is None or not spec.submodule_search_locations:
            return None
        package = Path(spec.submodule_search_locations[0])
    modules = {path.name: path.read_bytes() for path in sorted(package.glob("models/flava/*.py")) if not path.name.startswith("convert_")}
    content = b"".join(f"{name} {len(source)}\n".encode() + source for name, source in modules.items())
    return hashlib.sha256(content).hexdigest() if modules else None


_lock, _users, _undo = Lock(), list[object](), ExitStack()


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps the warnings and log lines of building and running a model from being shown; errors still raise.

    Users may overlap, in one thread or in several. The first puts them aside, and the last one to end lets them through
    again: what each found when it began may be the silence of another.
    """
    user = object()
    with _lock:
        if not _users:
            _undo.callback(logging.disable, logging.root.manager.disable)
            logging.disable(max(logging.root.manager.disable, logging.WARNING))
            _undo.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        _users.append(user)
    try:
        yield
    finally:
        with _lock:
            _users.remove(user)
            if not _users:
                _undo.close()
