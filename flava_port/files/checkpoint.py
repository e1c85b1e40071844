"""Checkpoint files and folders: which format one has, and what tensors it holds, none of them read yet.

Reads torch's zip and legacy formats and safetensors, in one file or in shards with an index, and the folders of
`torch.distributed.checkpoint`. The keys stay as the file has them.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InvalidInput
from ..text import count_of, few, shown
from . import foreign
from .chunks import ChunkedTensor
from .distributed import METADATA, metadata_files, read_distributed
from .pickle_objects import PickledTensor, class_of
from .safetensors_format import HEADER_BYTES_MAX, read_safetensors
from .shards import WEIGHT_FILES, check_is_file, files_of_weights, is_index
from .state_dicts import StateDictInFile, conventional, is_tensor, state_dicts_in
from .tensors import TensorInFile
from .torch_format import is_text_pickle, read_torch_legacy, read_torch_zip


@dataclass(frozen=True)
class Checkpoint:
    """A state dict in a file or a folder, its tensors not read yet.

    Attributes:
        path: the file or folder.
        format: the name of its format, for people.
        tensors: each tensor by its key.
        files: the files that were read, the one first that says what is in the others.
        container: the names of the dicts around the state dict, the outermost first, joined by dots.
        prefix: what stands before every key in the file, and not in ``tensors``.
        module_class: the class of the pickled module, if the file holds one in place of a state dict.
        ignored: the names of everything else in the file.
        names: the name in the file of each key that is not the prefix and the key.
        wrapped: how many names had wrappers taken out, the prefix not counted.
        left_out: the names in the file of tensors that are no weights of the model, and why each is none.
        notes: what else there is to say about the choice of the state dict.
    """

    path: Path
    format: str
    tensors: Mapping[str, TensorInFile]
    files: Sequence[Path] = ()
    container: str = ""
    prefix: str = ""
    module_class: str = ""
    ignored: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    wrapped: int = 0
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def name_in_file(self, key: str) -> str:
        """The key as the file has it."""
        return self.names.get(key, self.prefix + key)


@dataclass(frozen=True)
class Content:
    """What a file or a folder holds, as plain data with tensors in it that are not read yet.

    ``called`` is what messages call the file: its path, or the URL that it came from.
    """

    path: Path
    format: str
    value: Any
    files: Sequence[Path]
    called: str

    def state_dicts(self) -> list[StateDictInFile]:
        """All state dicts in it.

        Raises:
            InvalidInput: there is none, or a pickled module contains itself.
        """
        with errors_about(self.called):
            if found := state_dicts_in(self.value):
                return found
            if what := foreign.known_by_its_content(self.value):
                raise InvalidInput(what)
            if not isinstance(self.value, Mapping):
                what = "a single tensor" if is_tensor(self.value) else f"a {shown(class_of(self.value))}"
                raise InvalidInput(f"not a checkpoint: it holds {what}, not a state dict")
            names = few([str(name) for name in self.value], 5)
            summary = "it holds " + ", ".join(map(shown, names)) if names else "it is empty"
            raise InvalidInput(f"not a checkpoint: no tensors in it ({summary})")

    def checkpoint(self, chosen: StateDictInFile, tensors: Mapping[str, Any], **others: Any) -> Checkpoint:
        """The checkpoint of one of its state dicts, with these of its tensors; ``others`` are further fields of `Checkpoint`.

        Raises:
            InvalidInput: a chunk of a tensor is missing or misplaced.
        """
        with errors_about(self.called):
            found = {key: _in_file(self.path, tensor) for key, tensor in tensors.items()}
        beside = tuple(chosen.beside())
        fixed = {"container": chosen.container, "module_class": chosen.module_class, "ignored": beside}
        return Checkpoint(self.path, self.format, found, self.files, **{**fixed, **others})


def open_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """The checkpoint in a file or a folder: the state dict in it that has a usual name, or the only one.

    The bytes tell the format, not the file's name. No key is changed.

    Raises:
        InvalidInput: as `read_content`; or there are several state dicts and none has a usual name.
    """
    content = read_content(path)
    found = content.state_dicts()
    usual = next(conventional(found), found[0] if len(found) == 1 else None)
    if usual is None:
        names = ", ".join(few([shown(each.container) for each in found], 5))
        raise InvalidInput(f"{content.called}: holds several state dicts, none under a usual name: {names}")
    return content.checkpoint(usual, usual.tensors())


def read_content(path: str | os.PathLike, called: str = "") -> Content:
    """What a file or a folder holds.

    Raises:
        InvalidInput: there is no such file, it is no checkpoint, it is broken, or its pickle names
            something that only an attack has use for.
    """
    path, called = Path(path), called or str(path)
    if path.is_dir():
        return _read_folder(path, called)
    check_is_file(path)
    if is_index(path):
        return _read_shards(path, path, called)
    with errors_about(called):
        format, value = _read_file(path)
    return Content(path, format, value, [path], called)


def _read_file(path: Path) -> tuple[str, Any]:
    """The name of a file's format, and what it holds."""
    with open(path, "rb") as file:
        head = file.read(foreign.HEAD_BYTES)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= HEADER_BYTES_MAX:
        return "safetensors", read_safetensors(path)
    if head[:4] == b"PK\x03\x04":
        return "torch zip", read_torch_zip(path)
    if what := foreign.known_by_its_bytes(head, lambda: _start_of(path)):
        raise InvalidInput(what)
    if head[:1] == b"\x80" or is_text_pickle(path):
        return "torch legacy", read_torch_legacy(path)
    raise InvalidInput("not a checkpoint: neither a torch file (zip or legacy) nor safetensors")


def _start_of(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(foreign.JSON_BYTES_MAX)


def _read_folder(folder: Path, called: str) -> Content:
    if metadata := metadata_files(folder):
        with errors_about(called):
            value = read_distributed(folder)
        data = sorted(folder.glob("*.distcp"))
        return Content(folder, f"torch.distributed.checkpoint, {count_of(len(data), 'file')}", value, [*metadata, *data], called)
    name = next((name for name in WEIGHT_FILES if (folder / name).exists()), None)
    if name is None:
        raise InvalidInput(f"{called}: {_unread(folder)}")
    if is_index(folder / name):
        return _read_shards(folder, folder / name, called)
    check_is_file(folder / name)
    with errors_about(f"{folder / name}"):
        format, value = _read_file(folder / name)
    return Content(folder / name, format, value, [folder / name], called)


def _unread(folder: Path) -> str:
    """Why nothing can be read from a folder, and what to pass in its place."""
    names = sorted(path.name for path in folder.iterdir())
    if "adapter_config.json" in names:
        return f"is the folder of a PEFT adapter, not of a model; {foreign.MERGE}"
    if "zero_to_fp32.py" in names or any(name.startswith(("zero_pp_rank", "bf16_zero_pp_rank")) for name in names):
        return f"is a folder of DeepSpeed's ZeRO; {foreign.ZERO_TO_FP32}"
    if any(name.endswith(".distcp") for name in names):
        return (
            f"has shards (.distcp) and no {METADATA}, which is written last: the save was not finished, or the copy left hidden files out"
        )
    inside = [name for name in names if (folder / name / METADATA).is_file()]
    inside = inside or [name for name in names if name.endswith((".pt", ".pth", ".bin", ".ckpt", ".pkl", ".safetensors"))]
    return "is a folder; pass the checkpoint file inside it" + (f" ({', '.join(few(inside, 3))})" if inside else "")


def _read_shards(path: Path, index: Path, called: str) -> Content:
    """The one state dict in the files that an index names."""
    entries: dict[str, TensorInFile] = {}
    files = files_of_weights(index)
    for file in files:
        check_is_file(file)
        found = open_checkpoint(file).tensors
        if twice := entries.keys() & found.keys():
            raise InvalidInput(f"{called}: {shown(min(twice))} stands in two of its files; the index or a file is of another checkpoint")
        entries |= found
    return Content(path, f"{index.name}, {count_of(len(files), 'file')}", entries, [index, *files], called)


@contextmanager
def errors_about(called: str) -> Iterator[None]:
    """Puts what a file is called before the message of an InvalidInput."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(f"{called}: {error}") from None


# Bytes. After each read a thread waits for Python's lock, which one that imports seldom yields: beside that, more are read at once.
READ_AT_ONCE, READ_BESIDE_IMPORTS = 1 << 18, 32 << 20


def file_sha256(path: Path, bytes_at_once: int = READ_AT_ONCE) -> str:
    """The digest of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        memory = memoryview(bytearray(min(bytes_at_once, max(1, os.fstat(file.fileno()).st_size))))
        while read := file.readinto(memory):
            digest.update(memory[:read])
    return digest.hexdigest()


def _in_file(path: Path, tensor: Any) -> TensorInFile:
    """The tensor as it lies in its file; of one in chunks it is sure that they are all there."""
    if isinstance(tensor, ChunkedTensor):
        assert tensor.parts is not None
        return tensor
    return tensor.stored_in(path) if isinstance(tensor, PickledTensor) else tensor
