"""Folders that `torch.distributed.checkpoint` wrote, from any number of ranks, read without torch.

The file ``.metadata`` is a pickle: the shape, dtype and chunks of each tensor, and for each chunk the file, the
position and the number of bytes that hold it. Those bytes are a small zip file of torch's, with the chunk in it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from ..errors import InvalidInput
from ..text import shown
from .chunks import Box, ChunkedTensor
from .dtypes import Dtype
from .pickle_machine import bounded, read_pickle
from .pickle_names import are_sizes, is_size
from .pickle_objects import KEY_CHARS_MAX, Key, Opaque, OtherKey, PickledTensor, as_key
from .tensors import StoredTensor
from .torch_format import read_torch_zip

METADATA = ".metadata"
METADATA_SCALE = 4  # as many times as long as a checkpoint's pickle: each chunk of each rank stands in it
DEPTH_MAX = 16  # of the dicts that were saved

_PACKAGE = "torch.distributed.checkpoint."


class _Place(NamedTuple):
    """The bytes of a file that hold one chunk."""

    file: str
    first: int
    nbytes: int


@dataclass
class _Described:
    """A tensor as the metadata describes it."""

    dtype: Dtype
    shape: tuple[int, ...]
    boxes: list[Box] = field(default_factory=list)
    places: list[_Place] = field(default_factory=list)


def metadata_files(folder: Path) -> list[Path]:
    """The files of metadata: one, or one of each rank where the ranks did not talk to each other; none in any other folder."""
    if (folder / METADATA).is_file():
        return [folder / METADATA]
    return sorted(folder.glob(f"__*{METADATA}"))


def read_distributed(folder: Path) -> dict[Key, Any]:
    """What was saved: nested dicts, with a `ChunkedTensor` for each tensor, and an opaque value for anything else.

    Raises:
        InvalidInput: the metadata is broken, or names bytes that lie outside of the folder's files.
    """
    content: dict[Key, Any] = {}
    tensors: dict[str, _Described] = {}
    paths: dict[str, Any] = {}
    for path in metadata_files(folder):
        metadata = _Metadata(path)
        for key, described in metadata.entries():
            if isinstance(described, _Described):
                _merge(tensors.setdefault(key, _Described(described.dtype, described.shape)), described, key)
            paths[key] = metadata.paths.get(key)
    _check_places(folder, tensors.values())
    for key, path in paths.items():
        value = _chunked(folder, key, tensors[key]) if key in tensors else Opaque("io.BytesIO")
        _put(content, _names(path, key), value)
    return content


class _Metadata:
    """One file of metadata, each field of it checked before it is used: the file may come from anyone."""

    def __init__(self, path: Path):
        with open(path, "rb") as file:
            found = read_pickle(bounded(file, METADATA_SCALE), _no_storage, METADATA_SCALE)
        fields = self.fields(found, "metadata.Metadata")
        self.described = fields.get("state_dict_metadata")
        paths, places = fields.get("planner_data"), fields.get("storage_data")
        if not isinstance(self.described, dict) or not isinstance(places, dict):
            _broken()
        self.paths = paths if isinstance(paths, dict) else {}
        self.places = dict(self._place(key, info) for key, info in places.items())
        if len(self.places) != len(places):
            raise InvalidInput("its metadata gives one chunk two places; the checkpoint is broken")

    @staticmethod
    def fields(value: object, name: str) -> Mapping[str, Any]:
        """The fields of an object of one of torch's own classes."""
        if not isinstance(value, Opaque) or value.class_name != _PACKAGE + name or not isinstance(value.state, dict):
            _broken()
        return value.state

    def _place(self, key: object, info: object) -> tuple[tuple[str, tuple[int, ...]], _Place]:
        index = self.fields(key.value if isinstance(key, OtherKey) else None, "metadata.MetadataIndex")
        stored = self.fields(info, "filesystem._StorageInfo")
        name, offset = index.get("fqn"), index.get("offset") or ()
        file, first, nbytes = stored.get("relative_path"), stored.get("offset"), stored.get("length")
        if not isinstance(name, str) or len(name) > KEY_CHARS_MAX or not are_sizes(offset):
            _broken()
        if not isinstance(file, str) or not is_size(first) or not is_size(nbytes):
            _broken()
        if not file or len(file) > 255 or Path(file).name != file or not file.isprintable():
            raise InvalidInput(f"its metadata names the file {shown(file)!r}, which does not lie in the folder; refused")
        if stored.get("transform_descriptors"):
            raise InvalidInput("its chunks are compressed or encrypted (transform_descriptors); save it again without")
        return (name, tuple(offset)), _Place(file, first, nbytes)

    def entries(self) -> Iterator[tuple[str, _Described | None]]:
        """Each key with its tensor, or with None where something else was saved under it."""
        assert isinstance(self.described, dict)
        for key, value in self.described.items():
            if not isinstance(key, str):
                _broken()
            if isinstance(value, Opaque) and value.class_name == f"{_PACKAGE}metadata.BytesStorageMetadata":
                yield key, None
                continue
            fields = self.fields(value, "metadata.TensorStorageMetadata")
            shape, chunks = fields.get("size"), fields.get("chunks")
            if not are_sizes(shape) or not isinstance(chunks, list):
                _broken()
            described = _Described(self._dtype(fields.get("properties")), tuple(shape))
            for chunk in chunks:
                corner = self.fields(chunk, "metadata.ChunkStorageMetadata")
                offsets, sizes = corner.get("offsets"), corner.get("sizes")
                if not are_sizes(offsets) or not are_sizes(sizes):
                    _broken()
                place = self.places.get((key, tuple(offsets)))
                if place is None:
                    raise InvalidInput(f"its metadata has no place for a chunk of {shown(key)}; the checkpoint is broken")
                described.boxes.append((tuple(offsets), tuple(sizes)))
                described.places.append(place)
            yield key, described

    def _dtype(self, properties: object) -> Dtype:
        is_properties = isinstance(properties, Opaque) and properties.class_name == f"{_PACKAGE}metadata.TensorProperties"
        state = properties.state if is_properties and isinstance(properties, Opaque) else None
        dtype = state[0] if isinstance(state, tuple) and state else state.get("dtype") if isinstance(state, dict) else None
        if not isinstance(dtype, Dtype):
            _broken()
        return dtype


def _no_storage(_reference: tuple) -> NoReturn:
    _broken()


def _broken() -> NoReturn:
    raise InvalidInput("its metadata is not what torch.distributed.checkpoint writes; the checkpoint is broken")


def _merge(known: _Described, more: _Described, key: str) -> None:
    """Adds one rank's chunks of a tensor to those that are known; several ranks may have saved the same one."""
    if (known.dtype, known.shape) != (more.dtype, more.shape):
        raise InvalidInput(f"its ranks disagree on the dtype or the shape of {shown(key)}; the checkpoint is broken")
    have = set(known.boxes)
    for box, place in zip(more.boxes, more.places):
        if box not in have:
            known.boxes.append(box)
            known.places.append(place)


def _check_places(folder: Path, tensors: Iterable[_Described]) -> None:
    """All bytes that hold chunks lie inside their files, and no byte holds two: so no tensor is larger than its files."""
    places = sorted(place for described in tensors for place in described.places)
    for name in sorted({place.file for place in places}):
        path = folder / name
        if not path.is_file():
            raise InvalidInput(f"its file {name} is missing; fetch or copy the folder again")
    sizes = {name: (folder / name).stat().st_size for name in {place.file for place in places}}
    for place in places:
        if place.first + place.nbytes > sizes[place.file]:
            raise InvalidInput(f"its metadata names bytes past the end of {place.file}; the file is truncated")
    for one, next_one in pairwise(places):
        if one.file == next_one.file and one.first + one.nbytes > next_one.first:
            raise InvalidInput(f"its metadata names bytes of {one.file} for two chunks; the checkpoint is broken")


def _chunked(folder: Path, key: str, described: _Described) -> ChunkedTensor:
    def open_chunk(at: int) -> StoredTensor:
        place = described.places[at]
        try:
            tensor = read_torch_zip(folder / place.file, place.first, place.nbytes)
        except InvalidInput as error:
            raise InvalidInput(f"in {place.file}, a chunk of {shown(key)}: {error}") from None
        if not isinstance(tensor, PickledTensor):
            raise InvalidInput(f"in {place.file}, a chunk of {shown(key)} is no tensor; the checkpoint is broken")
        return tensor.stored_in(folder / place.file)

    return ChunkedTensor(shown(key), described.dtype, described.shape, tuple(described.boxes), open_chunk)


def _names(path: object, key: str) -> list[Key]:
    """The names of the dicts that led to a tensor when it was saved, and its own; the flat key where they are unknown."""
    if not isinstance(path, tuple) or not 0 < len(path) <= DEPTH_MAX or not all(isinstance(name, str | int) for name in path):
        return [as_key(key)]
    return [as_key(name if isinstance(name, str) else str(as_key(name))) for name in path]


def _put(content: dict[Key, Any], names: Sequence[Key], value: object) -> None:
    for name in names[:-1]:
        content = content.setdefault(name, {})
        if not isinstance(content, dict):
            _broken()
    if names[-1] in content:
        _broken()
    content[names[-1]] = value
