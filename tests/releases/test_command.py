"""``flava-port drift`` compares files, releases and what is installed; ``pytest --observe`` writes the files."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from flava_port.releases import environments
from flava_port.releases.drift import KINDS, changes
from flava_port.releases.observation import Unobservable, read, write

ROOT = Path(__file__).parents[2]


def test_equal_files_are_safe(run_command, file):
    """Two equal observations are the same in every kind, and the exit status is 0."""
    ran = run_command("drift", "--from", file, "--to", file)
    assert ran.status == 0 and ran.out.startswith("verdict: safe to upgrade\n")
    assert f"from  transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}" in ran.out
    assert ran.out.splitlines()[-1] == f"the same: {', '.join(KINDS)}"


@pytest.mark.slow
def test_the_suite_writes_an_observation(file, tmp_path):
    """`pytest --observe FILE` writes one, whichever tests run."""
    suite = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/rules/test_readme.py",
        "--observe",
        tmp_path / "written",
    ]
    ran = subprocess.run([str(part) for part in suite], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0 and "observation written" in ran.stdout, ran.stdout + ran.stderr
    assert changes(read(tmp_path / "written"), read(file)) == []


@pytest.mark.slow
def test_what_is_installed_is_observed_in_a_process_of_its_own(run_command, file):
    """Without `--to`, the installed environment is compared."""
    assert run_command("drift", "--from", file).status == 0


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
    """A number alone is a release of transformers."""
    assert environments.parse(text) == expected


@pytest.mark.parametrize("text", ["latest", "numpy=1.26", "4.57.6;rm", "-1", "", "no/such/file"])
def test_anything_else_is_refused(run_command, text):
    """The exit status is 2, and the message says what would do."""
    ran = run_command("drift", f"--from={text}")
    assert ran.status == 2 and "is no observation's file, no release (4.57.6, torch=2.6.0" in ran.err


@pytest.mark.parametrize(("old", "new"), [("4.57.6,torch=2.6.0", "5.0.0,torch=2.13.0"), ("installed", "installed"), ("4.57.6", "4.57.6")])
def test_bisection_is_of_one_package(run_command, old, new):
    """`--bisect` goes from one release of a package to another."""
    ran = run_command("drift", "--from", old, "--to", new, "--bisect")
    assert ran.status == 2 and "--bisect goes from one release" in ran.err


def test_releases_are_listed_as_pip_finds_them(monkeypatch):
    """Final releases are listed, oldest first."""
    monkeypatch.setattr(
        environments,
        "_run",
        lambda *_: "transformers (5.1.0)\nAvailable versions: 5.1.0, 5.0.0, 5.0.0rc1, 4.9.2, 4.10.0\nINSTALLED: 5.0.0\n",
    )
    assert environments.releases_of("transformers") == ["4.9.2", "4.10.0", "5.0.0", "5.1.0"]


def test_a_release_that_cannot_be_had_is_said_with_the_reason(run_command, monkeypatch, tmp_path):
    """The exit status is 2, there is no traceback, and nothing is kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def refuse(run_command, what, *_):
        raise Unobservable(f"{what} failed: no such release")

    monkeypatch.setattr(environments, "_run", refuse)
    ran = run_command("drift", "--from", "0.0.1")
    assert ran.status == 2 and "and transformers==0.0.1 failed: no such release" in ran.err
    assert not (tmp_path / "cache").exists()


def test_a_release_in_which_flava_does_not_run_is_a_reason_to_stay(monkeypatch, tmp_path):
    """The error says what stopped it, and its exit status is 1."""
    (tmp_path / "transformers").mkdir()
    (tmp_path / "transformers" / "__init__.py").write_text("raise ImportError('FLAVA has left')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(Unobservable, match=r"under torch \S+, transformers \S+, FLAVA failed: ImportError: FLAVA has left") as stopped:
        environments.observation_of({})
    assert stopped.value.exit_status == 1


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """Pretends that environments are made, and keeps observations below a folder of the test's, which this is; pip may keep things there too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(environments, "make", lambda folder, releases: Path(sys.executable))
    return tmp_path / "cache"


def test_an_observation_of_other_releases_than_were_asked_for_is_refused(run_command, elsewhere, monkeypatch, observed):
    """If an environment turns out to have other releases, its observation is neither used nor kept."""
    monkeypatch.setattr(environments, "_observe_with", lambda *_: observed)
    ran = run_command("drift", "--from", "4.0.1")
    assert ran.status == 2 and "an environment with transformers 4.0.1 was asked for, and transformers" in ran.err
    assert not (elsewhere / "flava_port").exists()


def test_what_was_observed_is_kept_and_what_cannot_be_read_is_observed_again(elsewhere, monkeypatch, observed):
    """A kept file spares an observation; one that is broken or cannot be written fails nothing."""
    wanted, seen = {"transformers": transformers.__version__}, []

    def observe_with(_python, scratch, _also=None):
        seen.append(scratch)
        write(observed, scratch / "observation")
        return observed

    monkeypatch.setattr(environments, "_observe_with", observe_with)
    environments.observation_of(wanted)
    environments.observation_of(wanted)
    [kept] = elsewhere.rglob("*.safetensors")
    assert len(seen) == 1
    kept.write_bytes(kept.read_bytes()[:1000])
    environments.observation_of(wanted)
    assert len(seen) == 2 and read(kept).versions == observed.versions
    elsewhere.rename(elsewhere.with_name("gone"))
    elsewhere.write_text("no folder")
    environments.observation_of(wanted)
    assert len(seen) == 3


def test_nothing_that_lies_around_this_package_is_in_the_way_of_a_made_environment(monkeypatch, tmp_path):
    """Packages installed beside this one cannot be imported in a made environment, nor what is on the user's PYTHONPATH."""
    ran = []
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "mine"))
    monkeypatch.setattr(environments, "_run", lambda command, what, environment, folder: ran.append((environment, folder)))
    monkeypatch.setattr(environments, "read", lambda file: None)
    environments._observe_with(Path("python"), tmp_path)
    [(environment, folder)] = ran
    assert environment["PYTHONPATH"] == str(folder) and [path.name for path in folder.iterdir()] == ["flava_port"]


def test_nothing_in_the_current_folder_is_in_the_way_either(monkeypatch, tmp_path):
    """Modules in the current folder, where ``python -m`` looks first, are not imported."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "torch.py").write_text("raise ImportError('somebody's own')")
    (tmp_path / "way").mkdir()
    (tmp_path / "way" / "asked.py").write_text("import torch; print(torch.__version__)")
    monkeypatch.chdir(tmp_path / "here")
    said = environments._run([sys.executable, "-m", "asked"], "torch", {"PYTHONPATH": str(tmp_path / "way")}, tmp_path / "way")
    assert said.strip() == torch.__version__


@pytest.mark.parametrize(("old", "new"), [("4.57.7", "5.0.0"), ("4.57.6", "5.0.7")])
def test_an_end_that_was_never_released_is_refused(run_command, monkeypatch, old, new):
    """A number that was never released is not taken for its neighbour; 5.0 is 5.0.0."""
    monkeypatch.setattr(environments, "releases_of", lambda _package: ["4.57.6", "5.0.0", "5.1.0"])
    ran = run_command("drift", "--from", old, "--to", new, "--bisect")
    assert ran.status == 2 and "transformers has no release" in ran.err
    releases, _ = environments.releases_between({"transformers": "4.57.6"}, {"transformers": "5.0"})
    assert releases == ["4.57.6", "5.0.0"]
