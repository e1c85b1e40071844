"""Installed from a wheel, pytest proves a user's files in any folder, and no other suite pays for it."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from flava_port import convert_flava_checkpoint
from tests.readme import ROOT

HEAVY = {"torch", "transformers", "numpy", "safetensors", "tqdm"}


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """A folder with what the wheel brings, as pip would install it."""
    pytest.importorskip("setuptools", minversion="77", reason="builds a wheel: pip install 'setuptools>=77'")
    folder = tmp_path_factory.mktemp("wheel")
    zipfile.ZipFile(built("wheel", folder)).extractall(folder / "site")
    return folder / "site"


def built(what: str, folder: Path) -> Path:
    """The distribution, ``wheel`` or ``sdist``, as its builder makes it from what the repository holds."""
    build = f"from setuptools import build_meta; build_meta.build_{what}({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=copied(folder / "source"), check=True, capture_output=True)
    [made] = folder.glob("*.whl" if what == "wheel" else "*.tar.gz")
    return made


def copied(folder: Path) -> Path:
    """The sources, so that building leaves nothing in the repository."""
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in names.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


@pytest.fixture
def run_pytest(installed, tmp_path):
    """``run_pytest("--pyargs", ...)`` runs pytest in an empty folder beside nothing but the wheel; its status and output."""
    empty = tmp_path / "empty"
    empty.mkdir()

    def run(*arguments: object) -> tuple[int, str]:
        environment = {**os.environ, "PYTHONPATH": str(installed), "PYTEST_ADDOPTS": "-p no:cacheprovider", "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "pytest", *map(str, arguments)]
        ran = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, check=False)
        return ran.returncode, ran.stdout + ran.stderr

    run.folder = empty
    return run


def test_the_options_stand_in_a_group_of_their_own(run_pytest):
    """`pytest --help` has them under one heading, in any folder."""
    status, output = run_pytest("--help")
    group = output.partition("(flava-port)")[2].partition("\n\n")[0]
    options = set(re.findall(r"--[a-z-]+", group))
    assert status == 0 and {"--flava-checkpoint", "--flava-codebook", "--flava-converted", "--flava-config", "--observe"} <= options


def test_a_wheel_brings_the_templates_of_the_report(installed):
    """All of them, so that pages can be made in any folder."""
    ours = {path.name for path in (ROOT / "flava_port" / "report" / "templates").iterdir()}
    assert {path.name for path in (installed / "flava_port" / "report" / "templates").iterdir()} == ours


def test_another_suite_pays_nothing(run_pytest):
    """The plugin imports nothing heavy, and of this package only its errors."""
    (run_pytest.folder / "test_theirs.py").write_text(
        f"import sys\n\ndef test_what_is_imported():\n    assert not {sorted(HEAVY)!r} & sys.modules.keys()\n".replace("[", "{", 1).replace(
            "]", "}", 1
        )
        + "    ours = {name for name in sys.modules if name.startswith('flava_port')}\n"
        "    assert ours == {'flava_port', 'flava_port.errors', 'flava_port.pytest_plugin'}\n"
    )
    status, output = run_pytest("-q", "-W", "error")
    assert status == 0, output


@pytest.mark.slow
def test_the_source_distribution_has_the_tests(tmp_path):
    """And all that they read, and nothing that was made while they ran."""
    with tarfile.open(built("sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    ours = {str(path.relative_to(tmp_path / "source")) for path in (tmp_path / "source").rglob("*") if path.is_file()}
    assert {name for name in ours if name.startswith(("tests/", "fixtures/", "docs/", "benchmarks/", "conftest.py"))} <= names
    assert not [name for name in names if "__pycache__" in name]


@pytest.mark.slow
def test_a_users_files_are_proven_a_test_a_claim(run_pytest, tiny, tmp_path):
    """In a folder in which there is nothing else."""
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, tmp_path / "out")
    files = ("--flava-checkpoint", tiny.checkpoint, "--flava-codebook", tiny.codebook, "--flava-converted", tmp_path / "out")
    status, output = run_pytest("--pyargs", "flava_port.acceptance", "-v", *files)
    assert status == 0 and re.search(r"test_your_converted_checkpoint\[values\] PASSED", output), output


@pytest.mark.slow
def test_a_claim_that_fails_prints_its_cause_and_ten_findings_at_most(run_pytest, tiny, tmp_path):
    """Where every tensor is wrong, the first ten are named and the others counted; there is no traceback."""
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, tmp_path / "out")
    weights = {key: -value for key, value in load_file(tmp_path / "out" / "model.safetensors").items()}
    save_file(weights, tmp_path / "out" / "model.safetensors", {"format": "pt"})
    files = ("--flava-checkpoint", tiny.checkpoint, "--flava-codebook", tiny.codebook, "--flava-converted", tmp_path / "out")
    status, output = run_pytest("--pyargs", "flava_port.acceptance", "-k", "values and not loaded", *files)
    found = re.findall(r"^ +\S+: values differ", output, re.MULTILINE)
    assert status == 1 and "differs     values " in output and re.search(r"^ +\.\.\. and [\d,]+ more$", output, re.MULTILINE), output
    assert len(found) == 10 and "test_claims.py:" not in output.partition("short test summary")[0], output


@pytest.mark.slow
def test_files_that_cannot_be_read_are_one_message(run_pytest):
    """The message, and no traceback."""
    status, output = run_pytest("--pyargs", "flava_port.acceptance", "-k", "keys", "--flava-checkpoint", "no.pt", "--flava-converted", "no")
    assert status == 1 and output.count("\nno: no such file\n") == 1 and "Traceback" not in output, output
