"""The bytes that every command writes are those that it wrote before: digests of a dozen seeded conversions, committed.

The values come from whole numbers, so that they are the same bits under every torch and on every processor.
``python -m tests.conversion.test_same_bytes`` records the digests anew; do that only where the bytes are meant to change.
"""

import hashlib
import json
import sys
import tempfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from flava_port.cli import main
from flava_port.files.tensors import ArrayTensor
from flava_port.files.torch_format import write_torch_zip
from flava_port.original.seeded import seeded_codebook, seeded_state_dict
from tests.builders import TINY, TINY_CODEBOOK

DIGESTS = Path(__file__).parents[2] / "fixtures" / "written_files.json"


def run(*arguments: str | Path) -> None:
    """One command, which must end well."""
    assert main([*map(str, arguments), "--quiet"]) == 0


def exact(sources: Mapping) -> dict[str, ArrayTensor]:
    """The same keys and shapes with values that are whole numbers of 65536ths; what shared a tensor shares one still."""
    made: dict[int, ArrayTensor] = {}
    return {key: made.setdefault(id(source), _exact(key, source)) for key, source in sources.items()}


def _exact(key: str, source) -> ArrayTensor:
    if source.dtype.kind != "float":
        return source
    numbers = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).integers(-(1 << 15), 1 << 15, source.shape)
    return ArrayTensor((numbers / 65536).astype(np.float32).reshape(source.shape))


def narrowed(tensors: Mapping[str, ArrayTensor]) -> dict[str, ArrayTensor]:
    """Every third tensor in half precision, every fifth in double."""
    made: dict[int, ArrayTensor] = {}
    found = {}
    for number, (key, tensor) in enumerate(tensors.items()):
        dtype = np.float16 if number % 3 == 0 else np.float64 if number % 5 == 0 else np.float32
        is_float = tensor.dtype.kind == "float"
        found[key] = made.setdefault(id(tensor), ArrayTensor(tensor.array.astype(dtype)) if is_float else tensor)
    return found


class Inputs:
    """A seeded checkpoint, its codebook, and what is made of them on the way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoint, self.codebook, self.mixed = folder / "flava.pt", folder / "codebook.pt", folder / "mixed.pt"
        model = exact(seeded_state_dict(TINY))
        write_torch_zip(self.checkpoint, model)
        write_torch_zip(self.mixed, narrowed(model))
        write_torch_zip(self.codebook, exact(seeded_codebook(TINY_CODEBOOK)))
        self.converted, self.torchmultimodal = folder / "converted", folder / "torchmultimodal.pt"
        convert(self, self.converted)
        convert(self, self.torchmultimodal, "--to", "torchmultimodal")
        self.saved = folder / "saved"
        self.saved.mkdir()
        weights = load_file(self.converted / "model.safetensors")
        save_file(
            {_as_5_0_0(key): value for key, value in weights.items() if not key.endswith("decoder.bias")},
            self.saved / "model.safetensors",
            {"format": "pt"},
        )
        (self.saved / "config.json").write_bytes((self.converted / "config.json").read_bytes())


def _as_5_0_0(key: str) -> str:
    return key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def convert(inputs: Inputs, target: Path, *options: str | Path) -> None:
    run(
        "convert",
        "--checkpoint_path",
        inputs.checkpoint,
        "--codebook_path",
        inputs.codebook,
        "--pytorch_dump_folder_path",
        target,
        *options,
    )


def convert_alone(checkpoint: Path, target: Path, *options: str | Path) -> None:
    run("convert", "--checkpoint_path", checkpoint, "--pytorch_dump_folder_path", target, *options)


def part(name: str) -> Callable[[Inputs, Path], None]:
    return lambda inputs, target: convert_alone(inputs.checkpoint, target, "--part", name)


def revert(source: Path, target: Path, *options: str | Path) -> None:
    target.mkdir()
    run("revert", "--converted_path", source, "--checkpoint_path", target / "flava.pt", *options)


CASES: dict[str, Callable[[Inputs, Path], None]] = {
    "convert": convert,
    "convert, sharded": lambda inputs, target: convert(inputs, target, "--max-shard-size", "200KB"),
    "convert, mixed dtypes kept": lambda inputs, target: run(
        "convert", "--checkpoint_path", inputs.mixed, "--codebook_path", inputs.codebook, "--pytorch_dump_folder_path", target, "--dtype", "keep"
    ),
    "convert, without codebook": lambda inputs, target: convert_alone(inputs.checkpoint, target, "--no-codebook"),
    "convert, config given": lambda inputs, target: convert(inputs, target, "--config_path", inputs.converted),
    "convert, image": part("image"),
    "convert, text": part("text"),
    "convert, multimodal": part("multimodal"),
    "convert, model": part("model"),
    "convert to torchmultimodal": lambda inputs, target: (target.mkdir(), convert(inputs, target / "torchmm.pt", "--to", "torchmultimodal")),
    "convert from torchmultimodal": lambda inputs, target: convert_alone(inputs.torchmultimodal, target),
    "convert from a folder, image": lambda inputs, target: convert_alone(inputs.converted, target, "--from", "hf", "--part", "image"),
    "convert-codebook": lambda inputs, target: run(
        "convert-codebook", "--checkpoint_path", inputs.codebook, "--pytorch_dump_folder_path", target
    ),
    "revert": lambda inputs, target: revert(inputs.converted, target, "--codebook_path", target / "codebook.pt"),
    "revert from torchmultimodal": lambda inputs, target: revert(inputs.torchmultimodal, target, "--codebook_path", target / "codebook.pt"),
    "revert to torchmultimodal": lambda inputs, target: revert(inputs.converted, target, "--to", "torchmultimodal"),
    "repair": lambda inputs, target: run("repair", "--converted_path", inputs.saved, "--repaired_path", target),
}  # fmt: skip


def digests(folder: Path) -> dict[str, str]:
    """The sha256 of every file; of a conversion's record and card without the versions that they name."""
    return {path.name: hashlib.sha256(_content(path)).hexdigest() for path in sorted(folder.iterdir())}


def _content(path: Path) -> bytes:
    if path.name == "README.md":
        return b"".join(line for line in path.read_bytes().splitlines(True) if b"ade with " not in line and b"sha256 " not in line)
    if path.name != "conversion.json":
        return path.read_bytes()
    record = json.loads(path.read_bytes())
    del record["versions"]
    return json.dumps(record, indent=2).encode()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize("case", CASES)
def test_every_byte_is_the_one_that_it_was(case, inputs, tmp_path):
    """Weights, configs, records: of each command, on each kind of input."""
    CASES[case](inputs, tmp_path / "out")
    assert digests(tmp_path / "out") == json.loads(DIGESTS.read_bytes())[case]


def test_a_changed_byte_is_seen(inputs, tmp_path):
    """One bit of one weight."""
    CASES["convert"](inputs, tmp_path / "out")
    before, file = digests(tmp_path / "out"), tmp_path / "out" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert [name for name, digest in digests(tmp_path / "out").items() if digest != before[name]] == ["model.safetensors"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        found = {}
        (Path(scratch) / "inputs").mkdir()
        seeded = Inputs(Path(scratch) / "inputs")
        for number, name in enumerate(CASES):
            CASES[name](seeded, Path(scratch) / str(number))
            found[name] = digests(Path(scratch) / str(number))
        Path(sys.argv[1] if len(sys.argv) > 1 else DIGESTS).write_text(json.dumps(found, indent=1) + "\n")
