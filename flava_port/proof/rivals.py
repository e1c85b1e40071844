"""What else lies in a folder that some call would load in place of what was compared: other weights, an adapter, code.

Weights under another name that hold the same values are noted; others differ, and what cannot be read is not proven.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidInput
from ..files.checkpoint import open_checkpoint
from ..files.dtypes import FLOAT32
from ..files.model_folder import weights_file
from ..files.shards import files_of_weights, is_index, weight_map
from ..files.tensors import TensorSource, UnsupportedTensor
from ..target.keys import POSITION_IDS, TIED_KEYS, current_name
from ..text import count_of
from .certificate import Claim, Finding, Verdict
from .values import compare_values

# Names under which some class, or some option of `from_pretrained`, looks for weights. What a trainer leaves beside a model
# (training_args.bin, optimizer.pt) has none of them.
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "model*.bin", "flava*.bin", "adapter_model.bin")
_UNREAD = {
    "*.h5": "TensorFlow's weights",
    "*.msgpack": "JAX's weights",
    "*.gguf": "weights in GGUF",
    "*.onnx": "a model in ONNX",
    "*.distcp": "a distributed checkpoint, which transformers 5 loads before all other weights",
    ".metadata": "a distributed checkpoint, which transformers 5 loads before all other weights",
    "adapter_config.json": "an adapter, which from_pretrained puts into the model where peft is installed",
}
_SHARD = re.compile(r".*-\d{5}-of-\d{5}\.(safetensors|bin)")

Originals = Mapping[str, tuple[str, TensorSource]]


@dataclass(frozen=True)
class Rival:
    """A file that could be loaded in place of what was compared; ``findings`` say how it differs, ``why_not`` why it was not compared."""

    name: str
    findings: tuple[Finding, ...] = ()
    why_not: str = ""


def judge_rivals(folder: Path, prefix: str, originals: Originals, claim: Claim) -> None:
    """Nothing else in the folder could be loaded as this model and be another.

    ``originals`` has the original's name and tensor for each key of `FlavaForPreTraining`, and ``prefix`` is what the
    folder's own keys leave out of those.
    """
    compared = weights_file(folder)
    used = {compared, *files_of_weights(compared)}
    claim.findings = list(_misplaced(compared)) if is_index(compared) else []
    rivals = [_weights(path, prefix, originals) for path in _matching(folder, _WEIGHTS) if path not in used]
    rivals += [_index(path) for path in _matching(folder, ("*.index.json",)) if path != compared]
    rivals += [Rival(path.name, why_not=what) for pattern, what in _UNREAD.items() for path in _matching(folder, (pattern,))]
    claim.findings += [finding for rival in rivals for finding in rival.findings]
    left = [rival for rival in rivals if rival.why_not]
    same = [rival.name for rival in rivals if not rival.why_not and not rival.findings]
    claim.settle("no other weights" if not same else f"{', '.join(same)}: the same once more")
    if left:
        claim.verdict = Verdict.DIFFERS if claim.findings else Verdict.NOT_PROVEN
        claim.summary = f"{len(claim.findings) + len(left)} found"
        claim.findings += [
            Finding(rival.name, "", f"{rival.why_not}; it was not looked into, so take it out of the folder") for rival in left
        ]


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern)})


def _misplaced(index: Path) -> Iterator[Finding]:
    """Keys that an index leaves out though a shard holds them, or looks for in another: some releases then leave them random."""
    named = weight_map(index)
    for file in files_of_weights(index):
        held = open_checkpoint(file).tensors
        for key in held:
            if named.get(key) != file.name and not key.endswith(POSITION_IDS):
                where = f"names {named[key]} for it" if key in named else "leaves it out"
                yield Finding(key, "", f"{file.name} holds it and {index.name} {where}; flava-port repair writes it anew")
        for key, name in named.items():
            if name == file.name and key not in held:
                yield Finding(key, "", f"{index.name} names {name} for it, which does not hold it; flava-port repair writes it anew")


def _weights(path: Path, prefix: str, originals: Originals) -> Rival:
    """A file of weights that was not compared with the folder's own."""
    try:
        tensors = open_checkpoint(path).tensors
    except InvalidInput as error:
        return Rival(path.name, why_not=f"cannot be read ({error})")
    ours: dict[str, TensorSource] = {}
    findings = []
    for name, tensor in tensors.items():
        key = prefix + current_name(name)
        if key == POSITION_IDS:
            continue
        if key not in originals or isinstance(tensor, UnsupportedTensor):
            findings.append(Finding(f"{path.name}: {name}", "", "the original has no such tensor, and some call would load this file"))
        elif tensor.dtype not in (FLOAT32, originals[key][1].dtype):
            findings.append(
                Finding(f"{path.name}: {name}", originals[key][0], f"{tensor.dtype}; float32 or {originals[key][1].dtype} belongs")
            )
        else:
            ours[key] = tensor
    absent = originals.keys() - {prefix + current_name(name) for name in tensors} - TIED_KEYS
    if absent and not _SHARD.fullmatch(path.name):
        findings.append(
            Finding(path.name, "", f"lacks {count_of(len(absent), 'key')} of the model, such as {min(absent)}, and some call would load it")
        )
    differing, _ = compare_values(ours, {key: originals[key] for key in ours})
    findings += [Finding(f"{path.name}: {f.key}", f.source, f.what, f.looks_like) for f in differing]
    return Rival(path.name, tuple(findings))


def _index(path: Path) -> Rival:
    """An index beside the one that counts. Its files are among the rivals already, if they lie there."""
    try:
        missing = [file.name for file in files_of_weights(path) if not file.exists()]
    except InvalidInput as error:
        return Rival(path.name, why_not=f"cannot be read ({error})")
    return Rival(path.name, (Finding(path.name, "", f"names {missing[0]}, which is not there"),) if missing else ())
