"""The command `verify` prints a short table, writes a certificate, and its exit status matches the verdict."""

import json

import pytest
from safetensors.torch import load_file, save_file

from flava_port import convert_flava_checkpoint
from flava_port.target.keys import TIED
from tests.proof.faults import FAULTS, plant


@pytest.fixture
def files(tiny, tmp_path):
    """Flags for a clean conversion."""
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, tmp_path / "clean", tokenizer=tiny.vocabulary)
    return ["--checkpoint_path", tiny.checkpoint, "--codebook_path", tiny.codebook, "--converted_path", tmp_path / "clean"]


def test_a_proven_folder_exits_0_with_a_certificate(run_command, files, tiny, tmp_path):
    """The certificate has the versions, digests of both sides, errors and tolerances, and the verdict."""
    ran = run_command("verify", *files, "--tokenizer", tiny.vocabulary, "--json", tmp_path / "certificate.json")
    assert ran.status == 0 and ran.out.rstrip().endswith("verdict: proven")
    certificate = json.loads((tmp_path / "certificate.json").read_text())
    assert certificate["verdict"] == "proven" and {"transformers", "torch"} <= set(certificate["versions"])
    assert {"flava.pt", "encoder.pkl", "flava.logit_scale"} <= set(certificate["digests"])
    measured = [m for claim in certificate["claims"] for m in claim["measured"]]
    assert len(measured) > 100 and all(m["error"] <= m["tolerance"] for m in measured)


def test_a_difference_exits_1_and_names_the_culprit_in_both_layouts(run_command, files, tiny, tmp_path):
    """The report also says what it looks like."""
    plant(FAULTS[1], tmp_path / "clean", tmp_path / "faulty")
    ran = run_command("verify", *files[:4], "--converted_path", tmp_path / "faulty", "--weights-only")
    assert ran.status == 1 and "verdict: differs" in ran.out
    assert "flava.text_model.encoder.layer.1.attention.attention.query.weight: values differ" in ran.out
    assert "  from text_encoder.module.encoder.layer.1.attention.attention.query.weight" in ran.out
    assert "  looks like flava.text_model.encoder.layer.1.attention.attention.key.weight's" in ran.out


def test_what_was_not_asked_for_is_not_claimed(run_command, files):
    """The verdict of --weights-only says that it is about the weights alone."""
    ran = run_command("verify", *files, "--weights-only")
    assert ran.status == 0 and "forward" not in ran.out
    assert (
        "proven (of the weights and configs; not looked at: how transformers loads them, the computation, what becomes of images and texts)"
        in ran.out
    )


@pytest.mark.parametrize("broken", ["checkpoint_path", "codebook_path", "converted_path"])
def test_a_side_that_cannot_be_read_exits_2(run_command, files, tmp_path, broken):
    """There is one message, and it names that side."""
    ran = run_command("verify", *files, f"--{broken}", tmp_path / "nowhere")
    assert ran.status == 2 and "nowhere" in ran.err and ran.out == ""


def test_converting_with_verify_proves_the_computation_too(run_command, files, tiny, tmp_path):
    """The output of `convert --verify` ends with the table."""
    out = ["--pytorch_dump_folder_path", tmp_path / "out", "--tokenizer", tiny.vocabulary, "--verify"]
    ran = run_command("convert", *files[:4], *out)
    assert ran.status == 0 and "gradients" in ran.out and ran.out.rstrip().endswith("verdict: proven")


ONE, FOUR = "1 bias is stored under one of its two keys", "4 biases are stored under one of their two keys"
REPAIR = "flava-port repair writes both keys"


@pytest.mark.parametrize(
    ("held", "heads", "says_tied", "note"),
    [
        ("bias", 4, True, FOUR),
        ("bias", 1, False, f"{ONE}; transformers 5.0.0 drops it; {REPAIR}"),
        ("bias", 4, False, f"{FOUR}; transformers 5.0.0 drops them; {REPAIR}"),
        ("decoder.bias", 1, True, f"{ONE}; transformers 4.43.0 to 4.57.6 drops it; {REPAIR}"),
        ("decoder.bias", 4, True, f"{FOUR}; transformers 4.43.0 to 4.57.6 drops them; {REPAIR}"),
        ("decoder.bias", 4, False, f"{FOUR}; transformers 4.43.0 to 4.57.6 and 5.0.0 drops them; {REPAIR}"),
    ],
)
def test_biases_that_some_releases_lose_are_said(run_command, files, tmp_path, held, heads, says_tied, note):
    """A folder that transformers saved has one key of each pair: it is proven, and the table says which releases drop the bias."""
    folder = tmp_path / "clean"
    (folder / "conversion.json").unlink()  # which would say that both were written
    state, config = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
    left_out = {pair[1 if held == "bias" else 0] for pair in TIED[:heads]}
    save_file({key: value for key, value in state.items() if key not in left_out}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(
        json.dumps({name: value for name, value in config.items() if says_tied or name != "tie_word_embeddings"})
    )
    ran = run_command("verify", *files, "--weights-only")
    assert ran.status == 0 and f"4 head biases; {note}\n" in ran.out, ran.out
