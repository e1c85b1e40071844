"""The commands take flags as upstream and with dashes, exit with a status that says how it went, and print for people and pipes."""

import subprocess
import sys

import pytest

from flava_port.rules.tables import FLAVA

COMMANDS = ("convert", "convert-codebook", "revert", "verify", "rules", "layout", "repair", "drift", "demo")


def _convert(tiny, out, dash="_"):
    flags = ("checkpoint_path", tiny.checkpoint), ("codebook_path", tiny.codebook), ("pytorch_dump_folder_path", out)
    return ["convert", *(part for name, value in flags for part in (f"--{name.replace('_', dash)}", value))]


@pytest.mark.parametrize("dash", ["_", "-"])
def test_flags_are_upstreams_and_the_same_with_dashes(tiny, run_command, tmp_path, dash):
    """--checkpoint_path and --checkpoint-path are the same flag."""
    assert run_command(*_convert(tiny, tmp_path / "out", dash)).status == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(run_command, command):
    """--help exits 0 and prints the usage."""
    ran = run_command(command, "--help")
    assert ran.status == 0 and "usage: flava-port" in ran.out


def test_wrong_usage_exits_2(run_command, tiny, tmp_path):
    """A missing flag, an unknown one, and neither or both of codebook and no codebook stop with a message."""
    checkpoint = ["--checkpoint_path", tiny.checkpoint, "--pytorch_dump_folder_path", tmp_path / "out"]
    for arguments in (["convert"], ["convert", "--nonsense"], ["convert", *checkpoint], [*_convert(tiny, tmp_path), "--no-codebook"]):
        ran = run_command(*arguments)
        assert ran.status == 2 and ran.err and "Traceback" not in ran.err


def test_an_existing_folder_stops_the_command_before_any_work(tiny, run_command, tmp_path):
    """Without --force it is left as it was; with --force what others have in it stays."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    ran = run_command(*_convert(tiny, out))
    assert ran.status == 2 and "--force" in ran.err and (out / "mine.txt").read_text() == "mine"
    assert run_command(*_convert(tiny, out), "--force").status == 0
    assert (out / "model.safetensors").exists() and (out / "mine.txt").read_text() == "mine"


def test_force_does_not_delete_its_own_source(tiny, run_command):
    """A checkpoint inside the folder that --force would replace stops the command."""
    ran = run_command(*_convert(tiny, tiny.checkpoint.parent), "--force")
    assert ran.status == 2 and "which lies inside" in ran.err and tiny.checkpoint.exists()


def test_an_empty_folder_is_filled(tiny, run_command, tmp_path):
    """A folder with nothing in it needs no --force, as nothing is lost."""
    assert run_command(*_convert(tiny, tmp_path)).status == 0
    assert (tmp_path / "model.safetensors").exists()


def test_quiet_prints_nothing(tiny, run_command, tmp_path):
    """With --quiet neither a summary nor a bar is printed."""
    ran = run_command(*_convert(tiny, tmp_path / "out"), "--quiet")
    assert (ran.status, ran.out, ran.err) == (0, "", "")


def test_a_pipe_gets_no_progress_bars(tiny, run_command, tmp_path):
    """Where stderr is no terminal, nothing is written to it."""
    assert run_command(*_convert(tiny, tmp_path / "out")).err == ""


def test_rules_prints_every_rule(run_command):
    """The rules are in order, with what is dropped and why."""
    out = run_command("rules").out
    positions = [out.index(f"{number}  {rule.source}") for number, rule in enumerate(FLAVA.rules, start=1)]
    assert positions == sorted(positions) and "drop  text_encoder.embeddings" in out and "because" in out


def test_rules_shows_a_keys_way(run_command):
    """Each rule that changes the key is printed in order, with the key after it."""
    out = run_command("rules", "blocks.group_2.block_1.res_path.conv_4.w").out
    assert [line.strip() for line in out.splitlines()] == [
        "blocks.group_2.block_1.res_path.conv_4.w",
        "rule 2  group_2. -> group_2.group.",
        "blocks.group_2.group.block_1.res_path.conv_4.w",
        "rule 5  res_path. -> res_path.path.",
        "blocks.group_2.group.block_1.res_path.path.conv_4.w",
        "rule 6  .w -> .weight (at the end)",
        "blocks.group_2.group.block_1.res_path.path.conv_4.weight",
    ]


def test_the_demo_converts_proves_and_keeps_its_files(run_command, tmp_path):
    """It says that every value is equal, and with --keep the files stay."""
    ran = run_command("demo", "--keep", tmp_path / "kept")
    assert ran.status == 0, ran.err
    assert "every value equal, bit for bit" in ran.out and (tmp_path / "kept" / "flava" / "config.json").exists()


def test_the_module_runs_as_a_program():
    """python -m flava_port is flava-port."""
    ran = subprocess.run([sys.executable, "-m", "flava_port", "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("flava-port ")


def test_a_conversion_and_its_way_back_need_no_torch(tiny, tmp_path):
    """Nor transformers: importing either takes longer than converting a default-size checkpoint."""
    out, back = tmp_path / "out", tmp_path / "back"
    both = f"'--checkpoint_path', {str(tiny.checkpoint)!r}, '--codebook_path', {str(tiny.codebook)!r}"
    commands = (
        f"'convert', {both}, '--pytorch_dump_folder_path', {str(out)!r}",
        f"'verify', {both}, '--converted_path', {str(out)!r}, '--weights-only'",
        f"'revert', '--converted_path', {str(out)!r}, '--checkpoint_path', '{back}.pt', '--codebook_path', '{back}_codes.pt'",
        f"'convert-codebook', '--checkpoint_path', '{back}_codes.pt', '--pytorch_dump_folder_path', '{back}_codes'",
        f"'repair', '--converted_path', {str(out)!r}, '--repaired_path', '{back}_repaired'",
    )
    program = "import sys\nfrom flava_port.cli import main\n" + "".join(f"assert main([{command}]) == 0\n" for command in commands)
    program += "print(*{'torch', 'transformers'} & sys.modules.keys())"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0 and ran.stdout.splitlines()[-1] == "", ran.stdout + ran.stderr


def test_a_torch_that_was_built_for_another_numpy_converts_and_reverts_all_the_same(tiny, run_command, tmp_path, monkeypatch):
    """Values pass between torch and numpy as bytes, as torch 2.1 beside numpy 2 needs it."""
    import torch

    def refuse(*_):
        raise RuntimeError("Numpy is not available")

    monkeypatch.setattr(torch.Tensor, "numpy", refuse)
    monkeypatch.setattr(torch, "from_numpy", refuse)
    ran = run_command("demo", "--keep", tmp_path / "kept")
    assert ran.status == 0 and "every value equal, bit for bit" in ran.out, ran.err
