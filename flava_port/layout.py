"""What the installed transformers expects of a FLAVA state dict: keys, shapes, ties."""

import logging
import warnings
from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from .epochs import POSITION_IDS, known_shapes
from .errors import InvalidInput
from .parts import CODEBOOK, WHOLE, Part
from .versions import version

# The masked-prediction heads hold their bias twice, as `bias` and as the `bias` of their decoder.
# They are one tensor; which of the two a release reads from a file differs, so files need both.
HEADS = ("mim_head", "mlm_head", "mmm_image_head", "mmm_text_head")
TIED = tuple((f"{head}.bias", f"{head}.decoder.bias") for head in HEADS)
TIED_KEYS = frozenset(key for pair in TIED for key in pair)


def lost_in(held: str, *, says_tied: bool) -> list[str]:
    """The releases that lose a head's bias of which a file has one key alone, ``bias`` or ``decoder.bias``.

    ``says_tied``: the folder's config has ``tie_word_embeddings``. Measured by `python -m tests.compatibility`:
    the bias is zero there, or never given a value.
    """
    return ["4.43.0 to 4.57.6"] * (held == "decoder.bias") + ["5.0.0"] * (not says_tied)


@dataclass(frozen=True)
class Layout:
    """The keys that a file for `FlavaForPreTraining` holds, with their shapes; recomputed buffers left out."""

    shapes: Mapping[str, tuple[int, ...]]
    transformers: str


def expected_layout(config: Mapping, part: Part = WHOLE) -> Layout:
    """The layout of the installed transformers for ``config`` (the content of a whole model's config.json).

    A part's keys have the names that they have in `FlavaForPreTraining`. Where the release's layout is
    recorded (`flava_port.epochs`), transformers is not imported, which takes longer than all else.

    Raises:
        InvalidInput: the installed transformers refuses the config.
    """
    release = version("transformers")
    holding = config if part is not CODEBOOK else {**config, "init_codebook": True}
    if (known := known_shapes(holding, release)) is not None:
        return Layout({key: shape for key, shape in known.items() if part.holds(key)}, release)
    return built_layout(config, part)


def built_layout(config: Mapping, part: Part = WHOLE) -> Layout:
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
    return Layout({key: shape for key, shape in shapes.items() if key != POSITION_IDS}, transformers.__version__)


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
