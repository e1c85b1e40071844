"""Environments of other releases: made, asked for an observation, and removed; what was observed is kept."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from .drift import Unobservable
from .errors import InvalidInput
from .observation import Observation, read


class DoesNotRun(Unobservable):
    """The environment is there, and FLAVA does not run in it."""

    exit_status = 1


INSTALLED = "installed"
# transformers and torch bring the others; these are what flava_port itself imports.
_ALSO = ("safetensors", "tqdm", "numpy")
_PACKAGE = Path(__file__).parent


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


def observe(wanted: Path | Mapping[str, str], say: Callable[[str], object] = lambda _: None) -> Observation:
    """The observation in a file, of the environment that runs this (nothing wanted), or of one that is made for it.

    A release that is not named is the installed one.

    Raises:
        Unobservable: the environment cannot be made, or FLAVA does not run in it; with the reason.
    """
    if isinstance(wanted, Path):
        return read(wanted)
    if not wanted:
        with tempfile.TemporaryDirectory(prefix="flava_port-") as scratch:
            return _observe_with(Path(sys.executable), Path(scratch))
    releases = {name: wanted.get(name) or version(name).split("+")[0] for name in ("torch", "transformers")}
    kept = _kept() / f"{'_'.join(f'{name}-{number}' for name, number in sorted(releases.items()))}.safetensors"
    if kept.exists():
        return read(kept)
    say(f"observing {', '.join(f'{name} {number}' for name, number in releases.items())}")
    with tempfile.TemporaryDirectory(prefix="flava_port-") as scratch:
        observation = _observe_with(make(Path(scratch) / "environment", releases), Path(scratch))
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(Path(scratch) / "observation", kept)
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
    ends = [
        {} if isinstance(side, Path) else {name: side.get(name) or version(name).split("+")[0] for name in named} for side in (old, new)
    ]
    moved = [name for name in named if ends[0].get(name) != ends[1].get(name)]
    if not all(ends) or len(moved) != 1:
        raise InvalidInput("--bisect goes from one release of transformers, or of torch, to another: name those")
    [package] = moved
    first, last = (ends[0][package], ends[1][package])
    releases = [release for release in releases_of(package) if _number(first) <= _number(release) <= _number(last)]
    if len(releases) < 2:
        raise InvalidInput(f"--bisect: there is nothing between {package} {first} and {last}; the older goes first")
    return releases, lambda release: observe({**ends[1], package: release}, say)


def _number(release: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", release)]


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


def _kept() -> Path:
    """Where observations are kept: those of this very code, as another would observe something else."""
    code = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(_PACKAGE.glob("*.py")))).hexdigest()[:12]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "flava_port" / "observations" / f"{code}-python{sys.version_info.major}.{sys.version_info.minor}"


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


def _observe_with(python: Path, scratch: Path) -> Observation:
    """What that Python's environment does; this package is put in its way, not installed."""
    file = scratch / "observation"
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(_PACKAGE.parent))))
    try:
        _run([python, "-m", f"{_PACKAGE.name}.observation", file], "FLAVA", {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"})
    except Unobservable as error:
        raise DoesNotRun(f"{error}; do not upgrade to what does not run") from None
    return read(file)


def _runs(command: list) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _run(command: list, what: str, environment: Mapping[str, str] | None = None) -> str:
    """What the command prints.

    Raises:
        Unobservable: it fails, or does not exist; with the last line that it said.
    """
    try:
        ran = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, check=False,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", **(environment or {})},
        )  # fmt: skip
    except OSError as error:
        raise Unobservable(f"{what}: {error.filename}: {error.strerror}") from None
    if ran.returncode:
        said = [line for line in ran.stderr.splitlines() if line.strip()]
        raise Unobservable(f"{what} failed: {said[-1].strip() if said else f'exit status {ran.returncode}'}")
    return ran.stdout
