"""Under a transformers that nobody has seen, the suite and the commands start, and say first what it changed; see `futures`."""

import json

import pytest

from flava_port import convert_flava_checkpoint
from flava_port.target.epochs import EPOCHS
from flava_port.target.installed import source_digest
from tests.releases.futures import FUTURES, INSTALLED, NUMBER, make_future, run_under

NEWEST = EPOCHS[-1].releases[-1]
STAY = f"; stay on {NEWEST}, or see `flava-port layout`"
NOT_THE_CHECKPOINT = ". The installed transformers is the cause, and not the checkpoint"
RENAMED = "renamed encoder.layer.N.intermediate to encoder.layer.N.mlp_in in all three encoders"
SUITE = ("pytest", "-q", "-p", "no:cacheprovider")
THE_TEST = "tests/releases/test_the_installed_release.py"
FOLLOWING = ("tests/conversion/test_same_bytes.py", "tests/conversion/test_revert.py", "tests/proof/test_clean_folders.py")

# What the first line says of each future that is no known FLAVA.
SAYS = {
    "a submodule renamed": RENAMED,
    "a tie removed": "removed tie mlm_head.bias = mlm_head.decoder.bias",
    "a persistent buffer added": "added persistent buffer embeddings.scale in the text encoder",
    "a default epsilon changed": "default of layer_norm_eps: 1e-12 -> 1e-05 in all three encoders",
    "an attention scale changed": "computes otherwise than the original in ",
    "keys renamed on save alone": "saves 10 keys under other names, first: flava.image_model.encoder.layer.0.norm_first.bias",
}


def _arguments(command, tiny, folder):
    files = ("--checkpoint_path", tiny.checkpoint, "--codebook_path", tiny.codebook)
    return ("flava_port", command, *files, "--pytorch_dump_folder_path" if command == "convert" else "--converted_path", folder)


def test_a_future_has_the_sources_of_its_change_alone(tmp_path):
    """Unchanged, it has the installed digest; every change gives another, and the installed package stays as it is."""
    before, digests = source_digest(), set()
    for name, edits in FUTURES.items():
        (tmp_path / name).mkdir()
        digests.add(source_digest(make_future(tmp_path / name, *edits) / "transformers"))
    assert before in digests and len(digests) == len(FUTURES) and source_digest() == before


@pytest.mark.slow  # in this process: tests/target/test_known.py
def test_a_patched_release_is_not_trusted_for_its_number(tiny, tmp_path):
    """`convert` refuses under a known number with other sources, in one line that says what they changed, and writes nothing."""
    future = make_future(tmp_path, *FUTURES["a submodule renamed"], number=INSTALLED)
    ran = run_under(future, *_arguments("convert", tiny, tmp_path / "out"))
    assert ran.returncode == 1 and ran.stdout.startswith(f"flava-port: transformers {INSTALLED}"), ran.stdout
    assert ran.stdout.endswith(f" {RENAMED}{STAY}{NOT_THE_CHECKPOINT}\n") and ran.stdout.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_unchanged_flava_under_a_new_number_converts_as_ever(tiny, tmp_path):
    """The digest of its sources is known, so that neither torch nor transformers is imported."""
    ran = run_under(make_future(tmp_path), *_arguments("convert", tiny, tmp_path / "out"))
    assert ran.returncode == 0 and "proven   every value was read back" in ran.stdout
    assert NUMBER in (tmp_path / "out" / "conversion.json").read_text()


def _says_the_cause(ran, line: str) -> None:
    """The suite's first line and the first of its summary have the cause; one test fails for it, in few lines."""
    lines = ran.stdout.splitlines()
    assert ran.returncode == 1 and lines[0].startswith(line), ran.stdout
    summary = next(number for number, text in enumerate(lines) if text.startswith("=====") and " cause " in text)
    assert lines[summary + 1] == lines[0]
    assert [text for text in lines if text.startswith(("FAILED", "ERROR")) and THE_TEST not in text] == []
    assert lines[-1].startswith("1 failed, ") and len(lines) <= 60


def test_the_suite_says_first_what_was_renamed(tmp_path):
    """What follows from a renamed module is skipped with that reason, and one test fails."""
    ran = run_under(make_future(tmp_path, *FUTURES["a submodule renamed"]), *SUITE, THE_TEST, "tests/conversion/test_same_bytes.py")
    _says_the_cause(ran, f"transformers {NUMBER} {RENAMED}{STAY}")
    assert f"tests: follows from the cause: transformers {NUMBER} {RENAMED}" in ran.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", SAYS)
def test_the_suite_says_first_what_a_future_changed(name, tmp_path):
    """Whatever it is: in the schema, in what is computed, or in what is saved."""
    if name == "a tie removed" and INSTALLED == "5.0.0":
        pytest.skip("5.0.0 has no ties")
    _says_the_cause(run_under(make_future(tmp_path, *FUTURES[name]), *SUITE, THE_TEST, *FOLLOWING), f"transformers {NUMBER} {SAYS[name]}")


@pytest.mark.slow
def test_the_suite_passes_under_a_new_number(tmp_path):
    """One line of the header says whose FLAVA it is."""
    ran = run_under(make_future(tmp_path), *SUITE, THE_TEST, *FOLLOWING, "tests/target", "tests/releases/test_layout_command.py")
    assert ran.returncode == 0, ran.stdout
    assert ran.stdout.splitlines()[0] == f"transformers {NUMBER} is not recorded yet; its FLAVA is that of {INSTALLED}"


@pytest.mark.slow
def test_the_whole_suite_starts_where_flava_is_gone(tmp_path):
    """No error in collection; the cause is said first."""
    ran = run_under(make_future(tmp_path, without="models/flava"), *SUITE, "--collect-only", "-qq")
    said = f"transformers {NUMBER} no longer has FLAVA: there is no models/flava in it{STAY}"
    assert ran.stdout.splitlines()[0] == said and "error" not in ran.stdout.splitlines()[-1], ran.stdout
    _says_the_cause(run_under(tmp_path, *SUITE, THE_TEST, *FOLLOWING), said)


@pytest.mark.slow
def test_a_run_that_leaves_the_one_test_out_fails_all_the_same(tmp_path):
    """What was asked for is skipped, and the exit status is 1."""
    ran = run_under(make_future(tmp_path, *FUTURES["a submodule renamed"]), *SUITE, FOLLOWING[0])
    assert ran.returncode == 1 and "failed" not in ran.stdout.splitlines()[-1]


@pytest.mark.slow
def test_a_fault_of_our_own_still_fails_under_a_changed_transformers(tmp_path):
    """A test of a room that asks nothing of transformers fails as ever."""
    wrong = tmp_path / "suite" / "tests" / "rules"
    wrong.mkdir(parents=True)
    (wrong / "test_wrong.py").write_text("def test_wrong():\n    assert 1 == 2\n")
    (tmp_path / "suite" / "conftest.py").write_text('pytest_plugins = ["tests.cause"]\n')
    (tmp_path / "future").mkdir()
    future = make_future(tmp_path / "future", *FUTURES["a submodule renamed"])
    ran = run_under(future, *SUITE, "tests/rules/test_wrong.py", "-p", "tests.cause", folder=tmp_path / "suite")
    assert "FAILED tests/rules/test_wrong.py::test_wrong" in ran.stdout and "1 failed" in ran.stdout, ran.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a submodule renamed", f"transformers {NUMBER} {RENAMED}{STAY}{NOT_THE_CHECKPOINT}"),
        ("an attention scale changed", f"its sources are none that were recorded{NOT_THE_CHECKPOINT}: flava-port drift --from {NEWEST}"),
    ],
)
def test_verify_says_that_the_installed_release_is_the_cause(name, says, tiny, tmp_path):
    """The last line says so; what is claimed of the files is proven."""
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, tmp_path / "out")
    future = make_future(tmp_path, *FUTURES[name])
    ran = run_under(future, *_arguments("verify", tiny, tmp_path / "out"), "--json", tmp_path / "certificate")
    assert ran.returncode == 1 and says in ran.stdout.splitlines()[-1], ran.stdout
    assert "proven      values             234 tensors equal" in ran.stdout
    assert says in json.loads((tmp_path / "certificate").read_text())["doubts"]


@pytest.mark.slow
def test_layout_says_what_was_renamed_in_real_keys(tmp_path):
    """In short first, then key by key."""
    ran = run_under(make_future(tmp_path, *FUTURES["a submodule renamed"]), "flava_port", "layout")
    layer = "flava.image_model.encoder.layer.N."
    assert ran.stdout.splitlines()[0] == f"transformers {NUMBER} {RENAMED}."
    assert f"  renamed {layer}intermediate.dense.weight -> {layer}mlp_in.dense.weight" in ran.stdout and ran.returncode == 1
