"""One conversion from open sources to a proven folder: what every command that converts shares."""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .checkpoint import Checkpoint, open_checkpoint
from .digests import file_sha256
from .download import download, is_url
from .dtypes import FLOAT32, FLOAT64, promoted
from .errors import InvalidInput
from .model_folder import read_model_folder, weights_file
from .output import (
    DEFAULT_SHARD_SIZE,
    RECORD,
    ProvenTensor,
    parse_size,
    prove_weights,
    shards,
    sync_weights,
    write_weights,
)
from .parts import MODEL
from .placing import Placed, Placement, Source, stop_on
from .progress import Progress
from .recognise import Kind, recognise
from .rules import CODEBOOK_PREFIX
from .semantics import ORIGINAL, Semantics
from .staging import check_space, staged
from .tensors import TensorSource, cast, nbytes
from .versions import recorded_versions
from .writing import write_json


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
    differs: list[str] = field(default_factory=list)
    made_by: Semantics = ORIGINAL

    def summary(self) -> str:
        """What was read, assumed, dropped, written and proven, a line each."""
        lines = described(self.sources, self.placement)
        if self.assumed:
            lines.append(("assumed", f"{'; '.join(self.assumed)} (no shape tells; --config_path does)"))
        files = {tensor.file for tensor in self.proven.values()}
        lines.append(
            ("wrote", f"{self.folder}: {count_of(len(self.proven), 'tensor')} in {count_of(len(files), 'file')}, {self.model_class}")
        )
        lines.append(("proven", "every value was read back from the disk and equals its source, bit for bit"))
        lines += [("differs", line) for line in self.differs]
        lines += [("warning", line) for line in self.warnings]
        return labelled(lines)

    @property
    def model_class(self) -> str:
        return f"for {self.config['architectures'][0]}"


def described(sources: Sequence[Source], placement: Placement) -> list[tuple[str, str]]:
    """What was read, and what became of its keys, a labelled line each."""
    lines = [("read", f"{s.checkpoint.path.name}: {_contents(s.checkpoint)}; {s.kind.value}") for s in sources]
    lines += [("ignored", f"{s.checkpoint.path.name}: {_some(s.checkpoint.ignored)}") for s in sources if s.checkpoint.ignored]
    lines.append(("renamed", count_of(len(placement.filled), "key")))
    lines += [
        ("dropped", f"{count_of(len(keys), 'key')}: {because}{_few(keys)}") for because, keys in placement.reasons_for_dropping().items()
    ]
    lines += [("made", f"{key}: {made.because}") for key, made in placement.made.items()]
    return lines


def _few(keys: Sequence[str]) -> str:
    """The keys by name, where they are few enough to be a surprise."""
    return f": {', '.join(keys)}" if len(keys) <= FEW and not keys[0].endswith("position_ids") else ""


FEW = 3


def labelled(lines: Iterable[tuple[str, str]]) -> str:
    """The lines of a summary, their labels in a column."""
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


# The layouts that `--from` takes, with the kinds of file that are in them, the whole model first.
LAYOUTS = {
    "original": (Kind.ORIGINAL,),
    "torchmultimodal": (Kind.TORCHMULTIMODAL, Kind.TORCHMULTIMODAL_MODEL),
    "hf": (Kind.HUGGING_FACE,),
}


def open_source(name: str, path: str | Path, wanted: Sequence[Kind], stack: ExitStack, progress: Progress) -> Source:
    """The checkpoint at a path or URL, which must be of a wanted kind. A download lives as long as ``stack``."""
    if is_url(path):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flava_port-")))
        path = download(str(path), folder, progress)
    checkpoint = open_checkpoint(path)
    kind = recognise(checkpoint.tensors)
    if kind not in wanted:
        some = ", ".join(list(checkpoint.tensors)[:3])
        belongs = " or ".join(kind.value for kind in wanted if kind is not Kind.TORCHMULTIMODAL_MODEL)
        raise InvalidInput(f"{path}: this is {kind.value}, where {belongs} belongs (its keys: {some}, ...)")
    return Source(name, checkpoint, kind)


def open_sources(
    checkpoint_path: str | Path, codebook_path: str | Path | None, layout: str | None, stack: ExitStack, progress: Progress
) -> list[Source]:
    """The checkpoint, in the layout that was named or else the one that its keys show, and its codebook's file.

    A folder of transformers' is read only where ``layout`` says so.

    Raises:
        InvalidInput: a file is not what it should be, or holds a codebook beside the one that was given.
    """
    if layout == "hf":
        source = Source("checkpoint", _open_folder(Path(checkpoint_path)), Kind.HUGGING_FACE)
    else:
        wanted = LAYOUTS[layout] if layout else (*LAYOUTS["original"], *LAYOUTS["torchmultimodal"])
        source = open_source("checkpoint", checkpoint_path, wanted, stack, progress)
    if codebook_path is None:
        return [source]
    if has_codebook([source]):
        raise InvalidInput(f"{checkpoint_path}: holds its codebook already; leave out --codebook_path")
    return [source, open_source("codebook", codebook_path, (Kind.DALLE,), stack, progress)]


def has_codebook(sources: Sequence[Source]) -> bool:
    """Whether there is a codebook, in a file of its own or in the checkpoint."""
    inside = (source.way.to(key).target for source in sources for key in source.checkpoint.tensors)
    return any(target is not None and target.startswith(CODEBOOK_PREFIX) for target in inside)


def _open_folder(folder: Path) -> Checkpoint:
    tensors = read_model_folder(folder)
    if not any(key.startswith(MODEL.prefix) for key in tensors):
        tensors = {MODEL.prefix + key: tensor for key, tensor in tensors.items()}  # a folder of FlavaModel's
    return Checkpoint(weights_file(folder), "transformers", tensors)


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
    made_by: Semantics = ORIGINAL,
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
        "versions": recorded_versions(),
        "sources": {s.name: _source_record(s.checkpoint, s.kind, digest_of[s.name], keys[s.name]) for s in conversion.sources},
        "assumed": conversion.assumed,
        "config": conversion.config,
        "made": {key: made.because for key, made in conversion.placement.made.items()},
        "made_by": conversion.made_by.as_json(),
        "differs": conversion.differs,
        "warnings": conversion.warnings,
        "tensors": {key: tensor.as_json() for key, tensor in conversion.proven.items()},
    }


def _source_record(checkpoint: Checkpoint, kind: Kind, sha256: str, keys: Mapping[str, dict]) -> dict:
    return {
        "file": checkpoint.path.name,
        "bytes": checkpoint.path.stat().st_size,
        "sha256": sha256,
        "layout": kind.value,
        "format": checkpoint.format,
        "container": checkpoint.container,
        "module": checkpoint.module_class,
        "ignored": list(checkpoint.ignored),
        "keys": dict(keys),
    }
