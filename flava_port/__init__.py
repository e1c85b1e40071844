"""Converts FLAVA checkpoints from their original layout to Hugging Face transformers, and proves that nothing changed.

>>> from flava_port import convert_flava_checkpoint
>>> convert_flava_checkpoint("flava.pt", "encoder.pkl", "flava-full")  # doctest: +SKIP
"""

import importlib
from typing import TYPE_CHECKING

from .errors import FlavaPortError, InvalidInput, NotFaithful

if TYPE_CHECKING:
    from .codebook import convert_dalle_checkpoint
    from .convert import convert_flava_checkpoint, count_parameters, upgrade_state_dict
    from .revert import revert_flava_checkpoint
    from .to_torchmultimodal import convert_to_torchmultimodal

__version__ = "0.2.0"

__all__ = [
    "FlavaPortError",
    "InvalidInput",
    "NotFaithful",
    "convert_dalle_checkpoint",
    "convert_flava_checkpoint",
    "convert_to_torchmultimodal",
    "count_parameters",
    "revert_flava_checkpoint",
    "upgrade_state_dict",
]


def __getattr__(name: str) -> object:
    if name in __all__:  # imported on first use, so that `flava-port --help` is quick
        modules = (importlib.import_module(f".{home}", __name__) for home in ("convert", "codebook", "revert", "to_torchmultimodal"))
        return next(getattr(module, name) for module in modules if hasattr(module, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
