"""What a conversion did: its summary for people, its record for the folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files.checkpoint import Checkpoint
from ..files.model_folder import ProvenTensor
from ..reading.sources import Source
from ..target.installed import recorded_versions
from ..target.keys import is_key_of_flava
from ..target.tokenizer import ChosenTokenizer
from ..text import READ_BACK, count_of, few, labelled
from .account import Dropped
from .plan import Plan


@dataclass(frozen=True)
class Conversion:
    """A conversion that is done: the folder, the plan it followed, the config it wrote, and what was read back."""

    folder: Path
    plan: Plan
    config: Mapping
    proven: Mapping[str, ProvenTensor]
    warnings: list[str]
    tokenizer: ChosenTokenizer | None = None  # None for a class that takes no texts
    notes: Sequence[str] = ()

    def summary(self) -> str:
        """What was read, assumed, dropped, written and proven, a line each."""
        lines = described(self.plan)
        if self.plan.assumed:
            lines.append(("assumed", f"{'; '.join(self.plan.assumed)} (no shape tells; --config_path does)"))
        files = count_of(len({tensor.file for tensor in self.proven.values()}), "file")
        lines.append(("wrote", f"{self.folder}: {count_of(len(self.proven), 'tensor')} in {files}, for {self.config['architectures'][0]}"))
        lines.append(("proven", READ_BACK))
        lines += [("differs", line) for line in self.plan.differs]
        lines += [("warning", line) for line in self.warnings]
        lines += [(self.tokenizer.label, self.tokenizer.said)] if self.tokenizer else []
        lines += [("note", line) for line in self.notes]
        return labelled(lines)


def described(plan: Plan) -> list[tuple[str, str]]:
    """What was read, and what became of its keys, a labelled line each."""
    files = [(source.checkpoint.path.name, source) for source in plan.sources]
    lines = [("read", f"{file}: {_contents(source.checkpoint)}; {source.layout.value}") for file, source in files]
    ignored = [(file, source.checkpoint.ignored) for file, source in files if source.checkpoint.ignored]
    lines += [("ignored", f"{file}: {', '.join(few(names, 6))}") for file, names in ignored]
    if plan.left_out:
        lines.append(("ignored", f"of the config {', '.join(few(plan.left_out, 6))}: neither FLAVA's nor known to be harmless"))
    lines.append(("renamed", count_of(len(plan.placement.filled), "key")))
    reasons: dict[str, list[Dropped]] = {}
    for dropped in plan.placement.dropped:
        reasons.setdefault(dropped.kind, []).append(dropped)
    lines += [("dropped", f"{count_of(len(some), 'key')}: {reason}{_named(some)}") for reason, some in reasons.items()]
    left_out: dict[str, list[str]] = {}
    for _, source in files:
        for name, because in source.checkpoint.left_out.items():
            left_out.setdefault(because, []).append(name)
    lines += [("dropped", f"{count_of(len(names), 'key')}: {because}: {', '.join(few(names, 6))}") for because, names in left_out.items()]
    lines += [("made", f"{key}: {made.because}") for key, made in plan.placement.made.items()]
    return lines + [("note", note) for _, source in files for note in source.checkpoint.notes]


def _named(dropped: Sequence[Dropped]) -> str:
    """The keys by name that may be a surprise: those that no FLAVA has, or all where they are few."""
    names = [each.placed.name_in_file for each in dropped]
    strange = [each.placed.name_in_file for each in dropped if not is_key_of_flava(each.placed.target)]
    if strange:
        return f": {', '.join(few(strange, 6))}"
    return f": {', '.join(names)}" if len(names) <= 3 and not names[0].endswith("position_ids") else ""


def _contents(checkpoint: Checkpoint) -> str:
    nested = f" under {checkpoint.container!r}" if checkpoint.container else ""
    prefix = f", each with {checkpoint.prefix!r} before it" if checkpoint.prefix else ""
    wrapped = f", wrappers' names taken out of {checkpoint.wrapped}" if checkpoint.wrapped else ""
    module = f", a pickled {checkpoint.module_class}" if checkpoint.module_class else ""
    return f"{len(checkpoint.tensors)} keys{nested}{prefix}{wrapped} ({checkpoint.format}{module})"


def conversion_record(conversion: Conversion, digest_of: Mapping[Path, str]) -> dict:
    """The content of conversion.json: where every key went, and the digests of the sources' files and of every tensor."""
    plan, placement = conversion.plan, conversion.plan.placement
    keys: dict[str, dict[str, dict]] = {source.name: {} for source in plan.sources}
    for target, placed in placement.filled.items():
        fate = keys[placed.source.name].setdefault(placed.name_in_file, {"target": placed.target})
        if target != placed.target:
            fate["also"] = target  # the other key of a tied pair, which the source leaves out
    for dropped in placement.dropped:
        keys[dropped.placed.source.name][dropped.placed.name_in_file] = {"dropped": dropped.because}
    vocabulary = conversion.tokenizer and conversion.tokenizer.vocabulary
    for source in plan.sources:
        keys[source.name] |= {name: {"dropped": because} for name, because in source.checkpoint.left_out.items()}
    return {
        "versions": recorded_versions(),
        "sources": {source.name: _source_record(source, digest_of, keys[source.name]) for source in plan.sources},
        "assumed": plan.assumed,
        "config": conversion.config,
        "made": {key: made.because for key, made in placement.made.items()},
        "made_by": plan.made_by.as_json(),
        "differs": plan.differs,
        "warnings": conversion.warnings,
        **({"tokenizer": vocabulary.as_json()} if vocabulary else {}),
        "tensors": {key: tensor.as_json() for key, tensor in conversion.proven.items()},
    }


def _source_record(source: Source, digest_of: Mapping[Path, str], keys: dict[str, dict]) -> dict:
    checkpoint = source.checkpoint
    several = {"files": {path.name: digest_of[path] for path in source.files}} if len(source.files) > 1 else {}
    return {
        "file": checkpoint.path.name,
        "bytes": sum(path.stat().st_size for path in source.files),
        "sha256": digest_of[source.files[0]],
        **several,
        "layout": source.layout.value,
        "format": checkpoint.format,
        "container": checkpoint.container,
        "module": checkpoint.module_class,
        "ignored": list(checkpoint.ignored),
        "keys": keys,
    }
