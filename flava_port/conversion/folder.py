"""A folder of transformers', made whole or not at all: its weights in the dtype that was chosen, written and proven."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..files.dtypes import FLOAT32, FLOAT64, promoted
from ..files.model_folder import DEFAULT_SHARD_SIZE, ProvenTensor, parse_size, prove_weights, shards, sync_weights, write_weights
from ..files.staging import check_space, staged
from ..files.tensors import TensorSource, cast, nbytes
from ..progress import Progress, in_background
from .account import Placement, stop_on


@contextmanager
def proven_folder(
    target: Path,
    weights: Mapping[str, TensorSource],
    owned: Collection[str],
    max_shard_size: str | int | None,
    progress: Progress,
) -> Iterator[tuple[Path, dict[str, ProvenTensor]]]:
    """A hidden folder beside ``target`` with the weights in it, and what was found when they were read back.

    The block adds what else belongs there. When it ends well, the folder is renamed to ``target``; in an old one there
    only what is ``owned`` goes.

    Raises:
        InvalidInput: the size is none, or the place cannot be written to.
        NotFaithful: what was read back is not what was written.
    """
    total = sum(map(nbytes, weights.values()))
    files = shards(weights, parse_size(max_shard_size or DEFAULT_SHARD_SIZE))
    check_space(target, total)
    with staged(target, owned) as folder:
        with progress("write", total) as advance:
            write_weights(folder, files, advance)
        synced = in_background(sync_weights, folder, files)  # waits for the disk while the values are compared
        with progress("check", total) as advance:
            proven = prove_weights(folder, files, advance)
        yield folder, proven
        synced.result()


def choose_dtypes(placement: Placement, dtype: str) -> tuple[dict[str, TensorSource], list[str]]:
    """Each target's tensor in the dtype to write, made ones included, and warnings about what that does to the values.

    Raises:
        NotFaithful: a float64 value is too large for float32.
    """
    weights = placement.tensors()
    made = {key: made.tensor for key, made in placement.made.items()}
    if dtype == "keep":
        kept = sorted({str(tensor.dtype) for tensor in weights.values()})
        mixed = f"dtypes are mixed ({', '.join(kept)}); transformers loads all in {loading_dtype(weights)}"
        return {**weights, **made}, [mixed] if len(kept) > 1 else []
    wide = {key: tensor for key, tensor in weights.items() if tensor.dtype == FLOAT64}
    large = (placement.filled[key] for key, tensor in wide.items() if _overflows(tensor))
    stop_on(f"{placed} holds a float64 value too large for float32; pass --dtype keep" for placed in large)
    rounded = [f"{len(wide)} float64 tensors are rounded to float32; --dtype keep keeps them"] if wide else []
    return {**{key: cast(tensor, FLOAT32) for key, tensor in weights.items()}, **made}, rounded


def _overflows(tensor: TensorSource) -> bool:
    chunks = zip(tensor.chunks(), cast(tensor, FLOAT32).chunks())
    return any(bool((np.isfinite(wide) & np.isinf(narrow)).any()) for wide, narrow in chunks)


def loading_dtype(weights: Mapping[str, TensorSource]) -> str:
    """The narrowest dtype that holds every weight exactly, which the config tells transformers to load in."""
    return str(promoted(tensor.dtype for tensor in weights.values()))
