"""``flava-port drift`` compares files, releases and what is installed; ``pytest --observe`` writes the files."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from flava_port import environments
from flava_port.drift import Unobservable, differences
from flava_port.observation import read

ROOT = Path(__file__).parents[2]


def test_equal_files_are_safe(flava_port, file):
    """Every kind the same, exit status 0."""
    ran = flava_port("drift", "--from", file, "--to", file)
    assert ran.status == 0 and ran.out.rstrip().endswith("verdict: safe to upgrade")
    assert f"from  transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}" in ran.out
    assert all(f"{kind:<15} the same" in ran.out for kind in ("layout", "initialisation", "saving", "loading", "forward"))


def test_the_suite_writes_an_observation(file, tmp_path):
    """pytest --observe FILE, whichever tests run."""
    suite = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/layouts/test_readme.py",
        "--observe",
        tmp_path / "written",
    ]
    ran = subprocess.run([str(part) for part in suite], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0 and "observation written" in ran.stdout, ran.stdout + ran.stderr
    assert differences(read(tmp_path / "written"), read(file)) == []


@pytest.mark.slow
def test_what_is_installed_is_observed_in_a_process_of_its_own(flava_port, file):
    """The default of --to."""
    assert flava_port("drift", "--from", file).status == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4.57.6", {"transformers": "4.57.6"}),
        ("transformers=5.0.0rc1", {"transformers": "5.0.0rc1"}),
        ("torch=2.6.0", {"torch": "2.6.0"}),
        ("transformers==4.57.6,torch==2.6.0", {"transformers": "4.57.6", "torch": "2.6.0"}),
        ("installed", {}),
    ],
)
def test_releases_are_named_as_people_write_them(text, expected):
    """Of transformers where nothing else is said."""
    assert environments.parse(text) == expected


@pytest.mark.parametrize("text", ["latest", "numpy=1.26", "4.57.6;rm", "-1", "", "no/such/file"])
def test_anything_else_is_refused(flava_port, text):
    """Exit status 2, with what would do."""
    ran = flava_port("drift", f"--from={text}")
    assert ran.status == 2 and "is no observation's file, no release (4.57.6, torch=2.6.0" in ran.err


@pytest.mark.parametrize(("old", "new"), [("4.57.6,torch=2.6.0", "5.0.0,torch=2.13.0"), ("installed", "installed"), ("4.57.6", "4.57.6")])
def test_bisection_is_of_one_package(flava_port, old, new):
    """From one release of it to another."""
    ran = flava_port("drift", "--from", old, "--to", new, "--bisect")
    assert ran.status == 2 and "--bisect goes from one release" in ran.err


def test_releases_are_listed_as_pip_finds_them(monkeypatch):
    """Final ones, oldest first."""
    monkeypatch.setattr(
        environments,
        "_run",
        lambda *_: "transformers (5.1.0)\nAvailable versions: 5.1.0, 5.0.0, 5.0.0rc1, 4.9.2, 4.10.0\nINSTALLED: 5.0.0\n",
    )
    assert environments.releases_of("transformers") == ["4.9.2", "4.10.0", "5.0.0", "5.1.0"]


def test_a_release_that_cannot_be_had_is_said_with_the_reason(flava_port, monkeypatch, tmp_path):
    """Exit status 2, no traceback, nothing kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def refuse(command, what, *_):
        raise Unobservable(f"{what} failed: no such release")

    monkeypatch.setattr(environments, "_run", refuse)
    ran = flava_port("drift", "--from", "0.0.1")
    assert ran.status == 2 and "and transformers==0.0.1 failed: no such release" in ran.err
    assert not (tmp_path / "cache").exists()


def test_a_release_in_which_flava_does_not_run_is_a_reason_to_stay(monkeypatch, tmp_path):
    """Said with what stopped it; exit status 1."""
    (tmp_path / "transformers").mkdir()
    (tmp_path / "transformers" / "__init__.py").write_text("raise ImportError('FLAVA has left')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(Unobservable, match=r"FLAVA has left; do not upgrade") as stopped:
        environments.observe({})
    assert stopped.value.exit_status == 1
