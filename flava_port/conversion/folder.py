"""A planned conversion, written to a folder and proven."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ..errors import InvalidInput
from ..files.checkpoint import file_sha256
from ..files.dtypes import FLOAT32, FLOAT64, promoted
from ..files.model_folder import DEFAULT_SHARD_SIZE, RECORD, ProvenTensor, parse_size, prove_weights, shards, sync_weights, write_weights
from ..files.staging import check_space, staged, write_json
from ..files.tensors import TensorSource, cast, nbytes
from ..progress import Progress
from ..rules.layouts import ORIGINAL_SEMANTICS, Semantics
from .account import Placed, Placement, stop_on
from .record import Conversion, conversion_record
from .sources import Source


def write_model(
    target: Path,
    sources: list[Source],
    placement: Placement,
    config_files: Callable[[str], Mapping[str, dict]],
    *,
    dtype: str,
    max_shard_size: str | int | None,
    assumed: list[str],
    progress: Progress,
    key_prefix: str = "",
    differs: Sequence[str] = (),
    made_by: Semantics = ORIGINAL_SEMANTICS,
) -> Conversion:
    """Writes the folder beside ``target``, proves what the disk holds, and puts it in place.

    ``config_files`` gives the other files for the dtype that the weights load in; ``key_prefix`` is
    taken off the targets.
    """
    weights, warnings = choose_dtypes(placement.filled, dtype)
    weights |= {key: made.tensor for key, made in placement.made.items()}
    weights = {key.removeprefix(key_prefix): tensor for key, tensor in weights.items()}
    total = sum(map(nbytes, weights.values()))
    files = shards(weights, parse_size(max_shard_size or DEFAULT_SHARD_SIZE))
    check_space(target, total)
    with ThreadPoolExecutor(2) as pool, staged(target) as folder:
        digests = {source.name: pool.submit(file_sha256, source.checkpoint.path) for source in sources}
        with progress("write", total) as advance:
            write_weights(folder, files, advance)
        synced = pool.submit(sync_weights, folder, files)
        with progress("check", total) as advance:
            proven = prove_weights(folder, files, advance)
        warnings += nonfinite_warnings(proven)
        written = config_files(loading_dtype(weights))
        for name, content in written.items():
            write_json(folder / name, content)
        synced.result()
        conversion = Conversion(
            target, tuple(sources), placement, proven, assumed, warnings, written["config.json"], list(differs), made_by
        )
        write_json(folder / RECORD, conversion_record(conversion, {n: d.result() for n, d in digests.items()}))
    return conversion


WRITTEN_DTYPES = ("float32", "keep")


def choose_dtypes(filled: Mapping[str, Placed], dtype: str) -> tuple[dict[str, TensorSource], list[str]]:
    """Each target's tensor in the dtype to write, and warnings about what that does to the values.

    Raises:
        InvalidInput: ``dtype`` is neither ``float32`` nor ``keep``.
        NotFaithful: a float64 value is too large for float32.
    """
    if dtype not in WRITTEN_DTYPES:
        raise InvalidInput(f"dtype {dtype!r} is none of {', '.join(WRITTEN_DTYPES)}")
    if dtype == "keep":
        weights = {key: placed.tensor for key, placed in filled.items()}
        kept = sorted({str(tensor.dtype) for tensor in weights.values()})
        mixed = f"dtypes are mixed ({', '.join(kept)}); transformers loads all in {loading_dtype(weights)}"
        return weights, [mixed] if len(kept) > 1 else []
    wide = [placed for placed in filled.values() if placed.tensor.dtype == FLOAT64]
    stop_on(f"{placed} holds a float64 value too large for float32; pass --dtype keep" for placed in wide if _overflows(placed))
    weights = {key: cast(placed.tensor, FLOAT32) for key, placed in filled.items()}
    return weights, [f"{len(wide)} float64 tensors are rounded to float32; --dtype keep keeps them"] if wide else []


def _overflows(placed: Placed) -> bool:
    chunks = zip(placed.tensor.chunks(), cast(placed.tensor, FLOAT32).chunks())
    return any(bool((np.isfinite(wide) & np.isinf(narrow)).any()) for wide, narrow in chunks)


def loading_dtype(weights: Mapping[str, TensorSource]) -> str:
    """The narrowest dtype that holds every weight exactly: what the config tells transformers to load in."""
    return str(promoted(tensor.dtype for tensor in weights.values()))


def nonfinite_warnings(proven: Mapping[str, ProvenTensor]) -> list[str]:
    """A line for each tensor that holds NaN or infinity: converted faithfully, and probably not wanted."""
    return [f"{key} holds {tensor.nonfinite} NaN or infinite values" for key, tensor in proven.items() if tensor.nonfinite]
