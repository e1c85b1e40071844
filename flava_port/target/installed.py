"""The installed transformers: its models built and loaded, its sources told apart."""

import gc
import hashlib
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from threading import Lock, RLock
from types import ModuleType
from typing import TYPE_CHECKING

from .parts import WHOLE, Part

if TYPE_CHECKING:
    from torch import nn

version = cache(metadata.version)
_importing = RLock()


def recorded_versions() -> dict[str, str]:
    """The versions that a conversion's record and a certificate name, by package."""
    return {name: version(name) for name in ("flava-port", "transformers", "torch", "safetensors")}


def empty_model(config: Mapping, part: Part = WHOLE) -> "nn.Module":
    """The installed transformers' model of this whole config, on the meta device, where no weight takes memory."""
    import torch

    with quiet():
        transformers = import_transformers(part)  # here, since some releases cannot be imported under the meta device
        own = getattr(transformers, part.config_class).from_dict(deepcopy(dict(part.config_of(config))))
        with torch.device("meta"):
            return getattr(transformers, part.model_class)(own)


def import_transformers(part: Part = WHOLE) -> ModuleType:
    """The installed transformers, with its model imported too, which takes seconds; its progress bars are off.

    One thread at a time: transformers imports its models when they are first asked for, and a second thread may not find them.
    """
    with _importing, no_garbage_collected():
        import transformers

        transformers.utils.logging.disable_progress_bar()
        getattr(transformers, part.model_class)
    return transformers


@contextmanager
def no_garbage_collected() -> Iterator[None]:
    """For imports and for building models. They leave little garbage, and to search all that they make takes a sixth of their time.

    What was imported lives on, so that it is put with what is searched last.
    """
    was_on, modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > modules and not gc.get_freeze_count():
            gc.freeze()
            gc.unfreeze()
        if was_on:
            gc.enable()


def load_model(folder: Path, part: Part = WHOLE) -> tuple["nn.Module", str]:
    """The folder's model as the installed transformers loads it, in evaluation mode; and the version of transformers."""
    with quiet():
        transformers = import_transformers(part)
        model = getattr(transformers, part.model_class).from_pretrained(folder)
    return model.eval(), transformers.__version__


def unloaded_model(folder: Path, part: Part = WHOLE) -> tuple["nn.Module", str]:
    """The model of the folder's config on the meta device, in evaluation mode; and the version of transformers.

    Its weights take no memory and have no values. Buffers of whole numbers, which the model makes itself, are real.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class WholeNumbersAreReal(TorchFunctionMode):
        def __torch_function__(self, function, types, arguments=(), options=None):  # type: ignore[no-untyped-def] # torch's own
            whole = function is torch.arange or (options or {}).get("dtype") is torch.long
            return function(*arguments, **({"device": "cpu"} if whole else {}) | (options or {}))

    with quiet():
        transformers = import_transformers(part)
        config = getattr(transformers, part.config_class).from_pretrained(folder, local_files_only=True)
        with torch.device("meta"), WholeNumbersAreReal():
            model = getattr(transformers, part.model_class)(config)
    return model.eval(), transformers.__version__


def source_digest(package: Path | None = None) -> str | None:
    """The sha256 of the modules in a transformers' folder that make a FLAVA, load it and save it; None where it has no FLAVA.

    Those are the modules of ``models/flava`` and those that all models share, at the package's top; its ``__init__``,
    which has the version, is left out, and so are scripts that convert checkpoints. Without a folder, it is that of the
    installed transformers, which is not imported.
    """
    if package is None:
        spec = find_spec("transformers")
        if spec is None or not spec.submodule_search_locations:
            return None
        package = Path(spec.submodule_search_locations[0])
    flava = [path for path in sorted(package.glob("models/flava/*.py")) if not path.name.startswith("convert_")]
    shared = [path for path in sorted(package.glob("*.py")) if path.name != "__init__.py"]
    digest = hashlib.sha256()
    for path in (*flava, *shared):
        source = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()} {len(source)}\n".encode() + source)
    return digest.hexdigest() if flava else None


_lock, _users, _undo = Lock(), list[object](), ExitStack()


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps the warnings and log lines of building and running a model from being shown; errors still raise.

    Users may overlap, in one thread or in several: the first one silences, and the last one to end restores.
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
