"""What a conversion did: its summary for people, its record for the folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..files.checkpoint import Checkpoint
from ..files.model_folder import ProvenTensor
from ..rules.layouts import ORIGINAL_SEMANTICS, Layout, Semantics
from ..target.installed import recorded_versions
from ..text import count_of, labelled
from .account import Placement
from .sources import Source


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
    made_by: Semantics = ORIGINAL_SEMANTICS

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


def _contents(checkpoint: Checkpoint) -> str:
    nested = f" under {checkpoint.container!r}" if checkpoint.container else ""
    prefix = f", each with {checkpoint.prefix!r} before it" if checkpoint.prefix else ""
    module = f", a pickled {checkpoint.module_class}" if checkpoint.module_class else ""
    return f"{len(checkpoint.tensors)} keys{nested}{prefix} ({checkpoint.format}{module})"


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:6]) + (f", and {len(names) - 6} more" if len(names) > 6 else "")


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


def _source_record(checkpoint: Checkpoint, kind: Layout, sha256: str, keys: Mapping[str, dict]) -> dict:
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
