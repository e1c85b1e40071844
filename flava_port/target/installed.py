"""What the installed transformers expects of a FLAVA state dict: keys, shapes, ties."""

import logging
import warnings
from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from threading import Lock

from ..errors import InvalidInput
from .epochs import known_shapes
from .keys import POSITION_IDS
from .parts import CODEBOOK_PART, WHOLE, Part


@dataclass(frozen=True)
class ExpectedShapes:
    """The keys that a file for `FlavaForPreTraining` holds, with their shapes; recomputed buffers left out."""

    shapes: Mapping[str, tuple[int, ...]]
    transformers: str


def expected_schema(config: Mapping, part: Part = WHOLE) -> ExpectedShapes:
    """The layout of the installed transformers for ``config`` (the content of a whole model's config.json).

    A part's keys have the names that they have in `FlavaForPreTraining`. Where the release's layout is
    recorded (`flava_port.epochs`), transformers is not imported, which takes longer than all else.

    Raises:
        InvalidInput: the installed transformers refuses the config.
    """
    release = version("transformers")
    holding = config if part is not CODEBOOK_PART else {**config, "init_codebook": True}
    if (known := known_shapes(holding, release)) is not None:
        return ExpectedShapes({key: shape for key, shape in known.items() if part.holds(key)}, release)
    return built_schema(config, part)


def built_schema(config: Mapping, part: Part = WHOLE) -> ExpectedShapes:
    """The same from a model of the installed transformers, built on the meta device: no weight is allocated.

    Raises:
        InvalidInput: as `expected_layout`.
    """
    import torch
    import transformers

    with quiet():
        model_class = getattr(transformers, part.model_class)  # imported here: under the meta device, some releases do not import
        try:
            own = getattr(transformers, part.config_class).from_dict(deepcopy(dict(part.config_of(config))))
            with torch.device("meta"):
                model = model_class(own)
        except Exception as error:
            # Each release has exception types of its own for this; whichever it is, the config is at fault.
            raise InvalidInput(f"transformers {transformers.__version__} refuses this config: {error}") from None
    shapes = {part.prefix + key: tuple(value.shape) for key, value in model.state_dict().items()}
    return ExpectedShapes({key: shape for key, shape in shapes.items() if key != POSITION_IDS}, transformers.__version__)


def import_transformers(part: Part = WHOLE):
    """The installed transformers, with what its model needs imported too, which takes seconds."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    getattr(transformers, part.model_class)
    return transformers


def load_model(folder: Path, part: Part = WHOLE):
    """The folder's model as the installed transformers loads it, and that version."""
    with quiet():
        transformers = import_transformers(part)
        model = getattr(transformers, part.model_class).from_pretrained(folder)
    return model.eval(), transformers.__version__


class _Quiet:
    """Warnings and log lines put aside by the first that asks, let through again by the last, in whichever threads."""

    def __init__(self) -> None:
        self.lock, self.asking, self.undo = Lock(), 0, ExitStack()

    def begin(self) -> None:
        with self.lock:
            if not self.asking:
                self.undo.callback(logging.disable, logging.root.manager.disable)
                logging.disable(max(logging.root.manager.disable, logging.WARNING))
                self.undo.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            self.asking += 1

    def end(self) -> None:
        with self.lock:
            self.asking -= 1
            if not self.asking:
                self.undo.close()


_quiet = _Quiet()


@contextmanager
def quiet():
    """Without the warnings and log lines of building and running a model; errors still raise."""
    _quiet.begin()
    try:
        yield
    finally:
        _quiet.end()


version = cache(metadata.version)


def recorded_versions() -> dict[str, str]:
    """What a conversion and a certificate record of their circumstances."""
    return {name: version(name) for name in ("flava-port", "transformers", "torch", "safetensors")}
