"""One conversion from open sources to a proven folder: what every command that converts shares."""

import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch

from .checkpoint import Checkpoint, file_sha256, open_checkpoint
from .download import download, is_url
from .errors import InvalidInput
from .output import DEFAULT_SHARD_SIZE, RECORD, ProvenTensor, parse_size, prove_weights, shards, sync_weights, write_weights
from .placing import Placed, Placement, Source, stop_on
from .progress import Progress
from .recognise import Kind, recognise
from .staging import check_space, staged
from .tensors import TensorSource, cast, dtype_name, nbytes
from .writing import write_json

DTYPES = ("float32", "keep")


@dataclass
class Conversion:
    """What a conversion did, for whoever asks: the command line prints it."""

    folder: Path
    sources: tuple[Source, ...]
    placement: Placement
    proven: Mapping[str, ProvenTensor] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    config: dict = field(default_factory=dict)

    def summary(self) -> str:
        """What was read, assumed, dropped, written and proven, a line each."""
        lines = [("read", f"{s.checkpoint.path.name}: {_contents(s.checkpoint)}") for s in self.sources]
        lines += [("ignored", f"{s.checkpoint.path.name}: {_some(s.checkpoint.ignored)}") for s in self.sources if s.checkpoint.ignored]
        if self.assumed:
            lines.append(("assumed", f"{'; '.join(self.assumed)} (no shape tells; --config_path does)"))
        lines.append(("renamed", count_of(len(self.placement.filled), "key")))
        for because, count in self.placement.reasons_for_dropping().items():
            lines.append(("dropped", f"{count_of(count, 'key')}: {because}"))
        files = {tensor.file for tensor in self.proven.values()}
        lines.append(("wrote", f"{self.folder}: {count_of(len(self.proven), 'tensor')} in {count_of(len(files), 'file')}"))
        lines.append(("proven", "every value was read back from the disk and equals its source, bit for bit"))
        lines += [("warning", line) for line in self.warnings]
        return "\n".join(f"{label:<8} {text}" for label, text in lines)


def count_of(count: int, noun: str) -> str:
    """``1 file``, ``12 keys``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _contents(checkpoint: Checkpoint) -> str:
    nested = f" under {checkpoint.container!r}" if checkpoint.container else ""
    prefix = f", each with {checkpoint.prefix!r} before it" if checkpoint.prefix else ""
    module = f", a pickled {checkpoint.module_class}" if checkpoint.module_class else ""
    return f"{len(checkpoint.tensors)} keys{nested}{prefix} ({checkpoint.format}{module})"


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:6]) + (f", and {len(names) - 6} more" if len(names) > 6 else "")


def open_source(path: str | Path, wanted: Kind, stack: ExitStack, progress: Progress) -> Checkpoint:
    """The checkpoint at a path or URL, which must be of the wanted kind. A download lives as long as ``stack``."""
    if is_url(path):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flava_port-")))
        path = download(str(path), folder, progress)
    checkpoint = open_checkpoint(path)
    kind = recognise(checkpoint.tensors)
    if kind is not wanted:
        some = ", ".join(list(checkpoint.tensors)[:3])
        raise InvalidInput(f"{path}: this is {kind.value}, where {wanted.value} belongs (its keys: {some}, ...)")
    return checkpoint


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
) -> Conversion:
    """Writes the folder beside ``target``, proves what the disk holds, and puts it in place.

    ``config_files`` gives the other files for the dtype that the weights load in; ``key_prefix`` is
    taken off the targets.
    """
    weights, warnings = choose_dtypes(placement.filled, dtype)
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
        conversion = Conversion(target, tuple(sources), placement, proven, assumed, warnings, written["config.json"])
        write_json(folder / RECORD, conversion_record(conversion, {n: d.result() for n, d in digests.items()}))
    return conversion


def choose_dtypes(filled: Mapping[str, Placed], dtype: str) -> tuple[dict[str, TensorSource], list[str]]:
    """Each target's tensor in the dtype to write, and warnings about what that does to the values.

    Raises:
        NotFaithful: a float64 value is too large for float32.
    """
    if dtype == "keep":
        weights = {key: placed.tensor for key, placed in filled.items()}
        kept = sorted({dtype_name(tensor.dtype) for tensor in weights.values()})
        mixed = f"dtypes are mixed ({', '.join(kept)}); transformers loads all in {loading_dtype(weights)}"
        return weights, [mixed] if len(kept) > 1 else []
    wide = [placed for placed in filled.values() if placed.tensor.dtype == torch.float64]
    stop_on(f"{placed} holds a float64 value too large for float32; pass --dtype keep" for placed in wide if _overflows(placed))
    weights = {key: cast(placed.tensor, torch.float32) for key, placed in filled.items()}
    return weights, [f"{len(wide)} float64 tensors are rounded to float32; --dtype keep keeps them"] if wide else []


def _overflows(placed: Placed) -> bool:
    chunks = zip(placed.tensor.chunks(), cast(placed.tensor, torch.float32).chunks())
    return any(bool((torch.isfinite(wide) & torch.isinf(narrow)).any()) for wide, narrow in chunks)


def loading_dtype(weights: Mapping[str, TensorSource]) -> str:
    """The narrowest dtype that holds every weight exactly: what the config tells transformers to load in."""
    dtypes = list({tensor.dtype for tensor in weights.values()})
    widest = dtypes[0]
    for dtype in dtypes[1:]:
        widest = torch.promote_types(widest, dtype)
    return dtype_name(widest)


def nonfinite_warnings(proven: Mapping[str, ProvenTensor]) -> list[str]:
    """A line for each tensor that holds NaN or infinity: converted faithfully, and probably not wanted."""
    return [f"{key} holds {tensor.nonfinite} NaN or infinite values" for key, tensor in proven.items() if tensor.nonfinite]


def conversion_record(conversion: Conversion, digest_of: Mapping[str, str]) -> dict:
    """The content of conversion.json: where every key went, and the digest of every tensor."""
    keys: dict[str, dict] = {source.name: {} for source in conversion.sources}
    for target, placed in conversion.placement.filled.items():
        keys[placed.source.name].setdefault(placed.name_in_file, {"target": placed.target})
        if target != placed.target:
            keys[placed.source.name][placed.name_in_file]["also"] = target  # a tied key that the source leaves out
    for dropped in conversion.placement.dropped:
        keys[dropped.placed.source.name][dropped.placed.name_in_file] = {"dropped": dropped.because}
    return {
        "versions": {name: version(name) for name in ("flava-port", "transformers", "torch", "safetensors")},
        "sources": {s.name: _source_record(s.checkpoint, digest_of[s.name], keys[s.name]) for s in conversion.sources},
        "assumed": conversion.assumed,
        "config": conversion.config,
        "warnings": conversion.warnings,
        "tensors": {key: tensor.as_json() for key, tensor in conversion.proven.items()},
    }


def _source_record(checkpoint: Checkpoint, sha256: str, keys: Mapping[str, dict]) -> dict:
    return {
        "file": checkpoint.path.name,
        "bytes": checkpoint.path.stat().st_size,
        "sha256": sha256,
        "format": checkpoint.format,
        "container": checkpoint.container,
        "module": checkpoint.module_class,
        "ignored": list(checkpoint.ignored),
        "keys": dict(keys),
    }
