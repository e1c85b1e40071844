"""Environments of other releases: each is made, observed in a process of its own, and removed. Observations are kept."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from packaging.version import InvalidVersion, Version

from ..errors import InvalidInput
from ..target.installed import version
from .observation import Observation, Unobservable, read


class DoesNotRun(Unobservable):
    """The environment could be made, but FLAVA does not run in it, so that nobody should upgrade to it."""

    exit_status = 1


INSTALLED = "installed"
_OBSERVED = ("torch", "transformers")
_ALSO = ("safetensors", "tqdm", "numpy", "packaging", "pillow")  # what flava_port itself imports, beside transformers and torch
_PACKAGE = Path(__file__).parents[1]


def parse(text: str) -> Path | dict[str, str]:
    """What ``--from`` or ``--to`` names: the path of an observation's file, or releases by package.

    Releases are written ``4.57.6`` (of transformers), ``torch=2.6.0``, or both with a comma between; ``installed`` names none.

    Raises:
        InvalidInput: it is none of these.
    """
    if Path(text).is_file():
        return Path(text)
    if text == INSTALLED:
        return {}
    found = {}
    for part in text.split(","):
        name, _, number = part.rpartition("=")
        name = name.rstrip("= ") or "transformers"
        if name not in _OBSERVED or not re.fullmatch(r"\d+(\.\w+)*", number) or _number(number) is None:
            raise InvalidInput(
                f"{text!r} is no observation's file, no release (4.57.6, torch=2.6.0, transformers=4.57.6,torch=2.6.0) and not {INSTALLED!r}"
            )
        found[name] = number
    return found


def check_exists(wanted: Path | Mapping[str, str]) -> None:
    """Stops where no observation could be had, without making an environment: the file holds none, or there is no such release.

    Releases that are kept, and pre-releases, are not looked up; nor is anything where pip reaches no index.

    Raises:
        InvalidInput: as said.
    """
    if isinstance(wanted, Path):
        read(wanted)
        return
    if not wanted or _kept({name: _release(wanted, name) for name in _OBSERVED}).exists():
        return
    for package, number in wanted.items():
        if final_version(number) is None:
            continue
        with suppress(Unobservable):
            known = releases_of(package)
            if Version(number) not in map(Version, known):
                raise InvalidInput(f"there is no {package} {number}; the newest is {known[-1]}")


def observation_of(wanted: Path | Mapping[str, str], say: Callable[[str], object] = lambda _: None) -> Observation:
    """The observation in a file; or of the installed environment, where no release is wanted; or of one made for the releases.

    A package of which no release is wanted has the installed one.

    Raises:
        InvalidInput: the file holds no observation, or the environment that was made has other releases.
        Unobservable: the environment cannot be made, or FLAVA does not run in it; with the reason.
    """
    if isinstance(wanted, Path):
        return read(wanted)
    releases = {name: _release(wanted, name) for name in _OBSERVED}
    named = ", ".join(f"{name} {number}" for name, number in releases.items())
    with tempfile.TemporaryDirectory(prefix="flava_port-") as folder:
        scratch = Path(folder)
        try:
            if not wanted:
                return _observe_with(Path(sys.executable), scratch, os.environ.get("PYTHONPATH"))
            kept = _kept(releases)
            with suppress(InvalidInput):
                return _of_these(releases, read(kept))
            say(f"observing {named}")
            observation = _of_these(releases, _observe_with(make(scratch / "environment", releases), scratch))
        except DoesNotRun as error:
            raise DoesNotRun(f"under {named}, {error}") from None
        _keep(scratch / "observation", kept)
    return observation


def _release(wanted: Mapping[str, str], name: str) -> str:
    """The release of a package that is wanted, or the installed one."""
    return wanted.get(name) or version(name).split("+")[0]


def _of_these(releases: Mapping[str, str], observation: Observation) -> Observation:
    """The observation; an InvalidInput where it is of other releases."""
    for name, number in releases.items():
        if _number(observation.versions.get(name, "")) != _number(number):
            raise InvalidInput(f"an environment with {name} {number} was asked for, and {observation} was observed")
    return observation


def _number(release: str) -> Version | None:
    """The release's number, by which releases compare: 5.0 is 5.0.0, and 2.13.0+cpu is 2.13.0. None for what is none."""
    try:
        return Version(Version(release).public)
    except InvalidVersion:
        return None


def releases_between(
    old: Path | Mapping[str, str], new: Path | Mapping[str, str], say: Callable[[str], object] = lambda _: None
) -> tuple[list[str], Callable[[str], Observation]]:
    """Every release of a package from the old to the new, oldest first; and the function that observes one of them.

    Raises:
        InvalidInput: the two sides are not two releases of one package, or a release does not exist.
        Unobservable: as `releases_of`.
    """
    sides = [side for side in (old, new) if not isinstance(side, Path)]
    named = {name for side in sides for name in side}
    ends = [{name: _release(side, name) for name in named} for side in sides]
    moved = [name for name in named if len({end[name] for end in ends}) == 2]
    if len(moved) != 1:
        raise InvalidInput("--bisect goes from one release of transformers, or of torch, to another: name those")
    [package] = moved
    known = {Version(release): release for release in releases_of(package)}
    for end in ends:
        if _number(end[package]) not in known:
            raise InvalidInput(f"--bisect: {package} has no release {end[package]}")
    first, last = (Version(end[package]) for end in ends)
    releases = [release for number, release in known.items() if first <= number <= last]
    if len(releases) < 2:
        raise InvalidInput(f"--bisect: there is nothing between {package} {first} and {last}; the older goes first")
    return releases, lambda release: observation_of({**ends[1], package: release}, say)


def final_version(release: str) -> Version | None:
    """The number of a final release; None for a development or pre-release, a build of one's own, and what is no number."""
    number = _number(release)
    return number if number is not None and release == number.base_version else None


def _has_pip() -> bool:
    """Whether this environment has pip, told by its metadata: looking for the module may bring setuptools' warnings."""
    try:
        return bool(metadata.version("pip"))
    except metadata.PackageNotFoundError:
        return False


def releases_of(package: str) -> list[str]:
    """Every final release of a package, oldest first, as pip lists them.

    Raises:
        Unobservable: there is no pip, or it reaches no index.
    """
    pip = [sys.executable, "-m", "pip"] if _has_pip() else ["uv", "tool", "run", "pip"]
    listed = _run([*pip, "index", "versions", package], f"the releases of {package}")
    found = re.search(r"^Available versions: (.*)$", listed, re.MULTILINE)
    if not found:
        raise Unobservable(f"pip lists no releases of {package}")
    return sorted((release for release in found[1].split(", ") if final_version(release)), key=Version)


def _kept(releases: Mapping[str, str]) -> Path:
    """Where an observation of these releases is kept: apart from those of other versions of this code, which observe otherwise."""
    code = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(_PACKAGE.rglob("*.py")))).hexdigest()[:12]
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without a home
        home = Path(tempfile.gettempdir())
    folder = home / "flava_port" / "observations" / f"{code}-python{sys.version_info.major}.{sys.version_info.minor}"
    return folder / f"{'_'.join(f'{name}-{number}' for name, number in sorted(releases.items()))}.safetensors"


def _keep(observation: Path, kept: Path) -> None:
    """Keeps the observation's file, whole or not at all; without one, the environment is observed again the next time."""
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        beside = kept.with_name(f".{kept.name}.{os.getpid()}")
        shutil.copyfile(observation, beside)
        os.replace(beside, kept)


def make(folder: Path, releases: Mapping[str, str], also: Sequence[str] = ()) -> Path:
    """Makes an environment and returns its Python. uv does it where it is installed, else venv and pip do.

    Raises:
        Unobservable: it cannot be made; with the reason.
    """
    packages = [*(f"{name}=={number}" for name, number in releases.items()), *_ALSO, *also]
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    what = f"an environment with {' and '.join(packages[:2])}"
    if shutil.which("uv"):
        _run(["uv", "venv", "--quiet", "--python", sys.executable, folder], what)
        _run(["uv", "pip", "install", "--quiet", "--python", python, *packages], what)
    else:
        _run([sys.executable, "-m", "venv", folder], what)
        _run([python, "-m", "pip", "install", "--quiet", *packages], what)
    return python


def _observe_with(python: Path, scratch: Path, also: str | None = None) -> Observation:
    """The observation that this package makes under that Python.

    The package is copied, so that nothing that is installed beside it can be imported; the paths in ``also`` can be.
    """
    file = scratch / "observation"
    way = scratch / "way"
    way.mkdir()
    shutil.copytree(_PACKAGE, way / _PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    paths = [str(way), *(os.path.abspath(path) for path in (also or "").split(os.pathsep) if path)]
    environment = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        _run([python, "-m", f"{_PACKAGE.name}.releases.observe", file], "FLAVA", environment, way)
    except Unobservable as error:
        raise DoesNotRun(str(error)) from None
    return read(file)


def _run(command: Sequence[str | Path], what: str, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> str:
    """What a command prints; where it fails, an Unobservable that says what it was for and what it last printed on stderr."""
    try:
        ran = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, check=False, cwd=folder,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", **(environment or {})},
        )  # fmt: skip
    except OSError as error:
        raise Unobservable(f"{what}: {error.filename}: {error.strerror}") from None
    if ran.returncode:
        said = [line for line in ran.stderr.splitlines() if line.strip()]
        raise Unobservable(f"{what} failed: {said[-1].strip() if said else f'exit status {ran.returncode}'}")
    return ran.stdout
