"""FLAVA checkpoints from the original layout to Hugging Face transformers, and the proof that nothing changed.

>>> from flava_port import convert_flava_checkpoint
>>> convert_flava_checkpoint("flava.pt", "encoder.pkl", "flava-full")  # doctest: +SKIP
"""

import importlib

from .errors import FlavaPortError, InvalidInput, NotFaithful

__version__ = "0.1.0"

# Loaded on first use, so that `flava-port --help` and the rules need no torch.
_HOMES = {
    "convert_flava_checkpoint": "convert",
    "convert_to_torchmultimodal": "to_torchmultimodal",
    "count_parameters": "convert",
    "upgrade_state_dict": "convert",
    "convert_dalle_checkpoint": "codebook",
    "revert_flava_checkpoint": "revert",
}

__all__ = ["FlavaPortError", "InvalidInput", "NotFaithful", *_HOMES]


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
