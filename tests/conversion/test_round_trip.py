"""A tiny random FLAVA that is converted, loaded, saved by transformers and reverted comes back bit for bit."""

import json
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from flava_port.cli import main
from flava_port.files.torch_tensors import load
from flava_port.original.config import CodebookConfig, FlavaConfig
from flava_port.original.seeded import seeded_codebook, seeded_state_dict, write_pickled_codebook
from tests.builders import from_pretrained
from tests.comparing import assert_converted, assert_same_tensors
from tests.strategies import original_codebook_configs, original_configs


def _write(folder: Path, config: FlavaConfig, codebook: CodebookConfig, seed: int):
    state_dict = {key: load(source) for key, source in seeded_state_dict(config, seed).items()}
    torch.save(state_dict, folder / "flava.pt")
    write_pickled_codebook(folder / "encoder.pkl", codebook, seed)
    (folder / "config.json").write_text(json.dumps(_fields(config, codebook)))
    return state_dict, {key: load(source) for key, source in seeded_codebook(codebook, seed).items()}


def _fields(config: FlavaConfig, codebook: CodebookConfig) -> dict:
    """The content of a config.json, heads included."""
    hidden_size = config.multimodal_config.hidden_size
    return {**asdict(config), "hidden_size": hidden_size, "image_codebook_config": asdict(codebook)}


# Each example runs four commands; the failing key is in the message, so shrinking would only take minutes.
@settings(max_examples=6, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(config=original_configs(), codebook=original_codebook_configs(), seed=st.integers(0, 2**20))
def test_a_checkpoint_converted_loaded_and_reverted_comes_back_bit_for_bit(config, codebook, seed):
    """Every tensor comes back under the key that it had."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        state_dict, codes = _write(folder, config, codebook, seed)
        files = ["--checkpoint_path", f"{folder}/flava.pt", "--codebook_path", f"{folder}/encoder.pkl"]
        out = ["--pytorch_dump_folder_path", f"{folder}/out", "--config_path", f"{folder}/config.json", "--quiet"]
        assert main(["convert", *files, *out]) == 0
        assert_converted(folder / "out", state_dict, codes)
        from_pretrained(folder / "out").save_pretrained(folder / "saved")
        back = ["--checkpoint_path", f"{folder}/back.pt", "--codebook_path", f"{folder}/back_codes.pt", "--quiet"]
        assert main(["revert", "--converted_path", f"{folder}/saved", *back]) == 0
        assert_same_tensors(torch.load(folder / "back.pt", weights_only=True), state_dict)
        assert_same_tensors(torch.load(folder / "back_codes.pt", weights_only=True), codes)


def test_convert_revert_convert_gives_the_same_bytes(tiny, run_command, tmp_path):
    """The weights and configs of the second conversion are the same files."""
    first, second = tmp_path / "first", tmp_path / "second"
    files = ["--checkpoint_path", tiny.checkpoint, "--codebook_path", tiny.codebook]
    assert run_command("convert", *files, "--pytorch_dump_folder_path", first).status == 0
    back = ["--checkpoint_path", tmp_path / "back.pt", "--codebook_path", tmp_path / "codes.pt"]
    assert run_command("revert", "--converted_path", first, *back).status == 0
    assert run_command("convert", *back, "--pytorch_dump_folder_path", second).status == 0
    for name in ("model.safetensors", "config.json", "preprocessor_config.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
