"""Environments of other releases: made, asked for an observation, and removed; what was observed is kept."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ..errors import InvalidInput
from ..target.installed import version
from .drift import Unobservable
from .observation import Observation, read


class DoesNotRun(Unobservable):
    """The environment is there, and FLAVA does not run in it: no release to upgrade to."""

    exit_status = 1


INSTALLED = "installed"
# transformers and torch bring the others; these are what flava_port itself imports.
_ALSO = ("safetensors", "tqdm", "numpy")
_PACKAGE = Path(__file__).parents[1]


def parse(text: str) -> Path | dict[str, str]:
    """What ``--from`` and ``--to`` take: an observation's file, ``4.57.6``, ``torch=2.6.0``, both with a comma, or ``installed``.

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
        if name not in ("transformers", "torch") or not re.fullmatch(r"\d+(\.\w+)*", number):
            raise InvalidInput(
                f"{text!r} is no observation's file, no release (4.57.6, torch=2.6.0, transformers=4.57.6,torch=2.6.0) and not {INSTALLED!r}"
            )
        found[name] = number
    return found


def observation_of(wanted: Path | Mapping[str, str], say: Callable[[str], object] = lambda _: None) -> Observation:
    """The observation in a file, of the environment that runs this (nothing wanted), or of one that is made for it.

    A release that is not named is the installed one.

    Raises:
        Unobservable: the environment cannot be made, or FLAVA does not run in it; with the reason.
    """
    if isinstance(wanted, Path):
        return read(wanted)
    releases = {name: _release(wanted, name) for name in ("torch", "transformers")}
    kept = _kept(releases) if wanted else None
    if kept is not None:
        with suppress(InvalidInput):
            return _of_these(releases, read(kept))
        say(f"observing {', '.join(f'{name} {number}' for name, number in releases.items())}")
    with tempfile.TemporaryDirectory(prefix="flava_port-") as folder:
        scratch = Path(folder)
        python = make(scratch / "environment", releases) if wanted else Path(sys.executable)
        try:
            observation = _of_these(
                releases if wanted else {}, _observe_with(python, scratch, os.environ.get("PYTHONPATH") if not wanted else None)
            )
        except DoesNotRun as error:
            raise DoesNotRun(f"under {', '.join(f'{name} {number}' for name, number in releases.items())}, {error}") from None
        if kept is not None:
            _keep(scratch / "observation", kept)
    return observation


def _release(wanted: Mapping[str, str], name: str) -> str:
    """The one that is wanted of a package, or the installed one."""
    return wanted.get(name) or version(name).split("+")[0]


def _of_these(releases: Mapping[str, str], observation: Observation) -> Observation:
    """The same; what was asked for must be what was observed."""
    for name, number in releases.items():
        if _number(observation.versions.get(name, "")) != _number(number):
            raise InvalidInput(f"an environment with {name} {number} was asked for, and {observation} was observed")
    return observation


def releases_between(
    old: Path | Mapping[str, str], new: Path | Mapping[str, str], say: Callable[[str], object] = lambda _: None
) -> tuple[list[str], Callable[[str], Observation]]:
    """Every release of the one package that was named, from the old to the new, and how to observe one.

    Raises:
        InvalidInput: other than one release of the same package was named on both sides.
        Unobservable: see `releases_of`.
    """
    named = {name for side in (old, new) if not isinstance(side, Path) for name in side}
    ends = [{} if isinstance(side, Path) else {name: _release(side, name) for name in named} for side in (old, new)]
    moved = [name for name in named if ends[0].get(name) != ends[1].get(name)]
    if not all(ends) or len(moved) != 1:
        raise InvalidInput("--bisect goes from one release of transformers, or of torch, to another: name those")
    [package] = moved
    first, last = (ends[0][package], ends[1][package])
    known = releases_of(package)
    for end in (first, last):
        if _number(end) not in map(_number, known):
            raise InvalidInput(f"--bisect: {package} has no release {end}")
    releases = [release for release in known if _number(first) <= _number(release) <= _number(last)]
    if len(releases) < 2:
        raise InvalidInput(f"--bisect: there is nothing between {package} {first} and {last}; the older goes first")
    return releases, lambda release: observation_of({**ends[1], package: release}, say)


def _number(release: str) -> list[int]:
    """Sorts releases; 5.0 is 5.0.0, and what was built for it (2.13.0+cpu) is it."""
    numbers = [int(number) for number in re.findall(r"\d+", release.partition("+")[0])]
    return numbers + [0] * (4 - len(numbers))


def releases_of(package: str) -> list[str]:
    """Every final release of a package, oldest first, as pip finds them.

    Raises:
        Unobservable: there is no pip, or it reaches no index.
    """
    pip = [sys.executable, "-m", "pip"] if _runs([sys.executable, "-m", "pip", "--version"]) else ["uv", "tool", "run", "pip"]
    listed = _run([*pip, "index", "versions", package], f"the releases of {package}")
    found = re.search(r"^Available versions: (.*)$", listed, re.MULTILINE)
    if not found:
        raise Unobservable(f"pip lists no releases of {package}")
    return sorted((r for r in found[1].split(", ") if re.fullmatch(r"\d+(\.\d+)*", r)), key=_number)


def _kept(releases: Mapping[str, str]) -> Path:
    """Where an observation is kept: beside those of this very code, as another would observe something else."""
    code = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(_PACKAGE.rglob("*.py")))).hexdigest()[:12]
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without a home
        home = Path(tempfile.gettempdir())
    folder = home / "flava_port" / "observations" / f"{code}-python{sys.version_info.major}.{sys.version_info.minor}"
    return folder / f"{'_'.join(f'{name}-{number}' for name, number in sorted(releases.items()))}.safetensors"


def _keep(observation: Path, kept: Path) -> None:
    """Whole or not at all; where nothing can be kept, it is observed again the next time."""
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        beside = kept.with_name(f".{kept.name}.{os.getpid()}")
        shutil.copyfile(observation, beside)
        os.replace(beside, kept)


def make(folder: Path, releases: Mapping[str, str], also: Sequence[str] = ()) -> Path:
    """The Python of a new environment; uv makes it where it is installed, else venv and pip do.

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
    """What that Python's environment does; this package is put in its way, nothing that lies around it, and the paths in ``also``."""
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


def _runs(command: list) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _run(command: list, what: str, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> str:
    """What the command prints.

    Raises:
        Unobservable: it fails, or does not exist; with the last line that it said.
    """
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
