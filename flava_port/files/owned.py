"""Which files in a folder flava-port wrote, and may replace: those that its record there lists, under names that it gives.

The record, conversion.json, may come from anyone. So it is believed only about names that we write.
"""

import json
import os
import re
from collections.abc import Set
from pathlib import Path

from ..errors import InvalidInput
from ..text import few, shown
from .shards import INDEX
from .staging import check_target
from .vocabulary import TOKENIZER, TOKENIZER_CONFIG, VOCABULARY

RECORD = "conversion.json"
RECORD_BYTES_MAX = 256 << 20

# What a conversion writes beside weights.
_BESIDE_WEIGHTS = frozenset({"config.json", "preprocessor_config.json", INDEX, RECORD})
_TOKENIZER = frozenset({VOCABULARY, TOKENIZER, TOKENIZER_CONFIG, "special_tokens_map.json"})
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")


def is_written(name: str) -> bool:
    """Whether a conversion always gives files such names: those of weights and configs, not of tokenizers and cards."""
    return name in _BESIDE_WEIGHTS or _WEIGHTS.fullmatch(name) is not None


def owned_in(folder: Path) -> Set[str]:
    """The names of the folder's files that flava-port wrote; none where it left no record."""
    record = folder / RECORD
    try:
        if record.stat().st_size > RECORD_BYTES_MAX:
            return set()
        found = json.loads(record.read_bytes())
        listed = {tensor["file"] for tensor in found["tensors"].values() if isinstance(tensor["file"], str)}
        own = _BESIDE_WEIGHTS | _TOKENIZER if "tokenizer" in found else _BESIDE_WEIGHTS
        present = os.listdir(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()
    return {name for name in present if name in own or (is_written(name) and name in listed)}


def written_in(folder: Path) -> Set[str]:
    """The names of the files that we wrote in a folder that a killed run left, by their names or by the record there."""
    return {name for name in os.listdir(folder) if is_written(name)} | owned_in(folder)


def check_folder(target: Path, *, force: bool, sources: tuple[Path, ...] = ()) -> Path:
    """The real path of the folder to make, once it is sure that nothing is lost but what flava-port wrote there.

    Raises:
        InvalidInput: as `check_target`; or others have files there under names that a conversion needs.
    """
    target = check_target(target, force=force, sources=sources)
    if not target.exists():
        return target
    if not target.is_dir():
        raise InvalidInput(f"{target}: is a file, and --force replaces only a folder that flava-port wrote; name another")
    owned = owned_in(target)
    if theirs := sorted(name for name in os.listdir(target) if is_written(name) and name not in owned):
        names = ", ".join(map(shown, few(theirs, 4)))
        raise InvalidInput(
            f"{target}: flava-port did not write {names} there, and --force replaces only what it wrote; move that, or name another"
        )
    return target
