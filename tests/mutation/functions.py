"""Mutants of the functions that convert, made and run by mutmut in a copy: ``python -m tests.mutation.functions``.

Survivors must be `EQUIVALENT`, each with its reason; any other, and any entry that does not survive,
is exit status 1.
"""

import os
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from tests.mutation.equivalent import EQUIVALENT
from tests.mutation.in_a_copy import COPIED, copy_to

MODULES = (
    "rules/engine",
    "rules/tables",
    "rules/describe",
    "convert",
    "to_torchmultimodal",
    "codebook",
    "conversion/account",
    "conversion/plan",
    "target/sizes",
)
TESTS = (
    "tests/rules",
    "tests/conversion",
    "tests/commands",
    "tests/target",
    "tests/files/test_urls.py",
)
# Slow; none is needed to kill.
LEFT_OUT = (
    "rules/test_order.py",
    "rules/test_interop.py",
    "rules/test_upstream_differential.py",
    "conversion/test_memory.py",
    "commands/test_interrupted_commands.py",
)
_LINE = re.compile(r"^\s*(\S+__mutmut_\d+): (survived|no tests|timeout|suspicious)", re.MULTILINE)


def main() -> int:
    if find_spec("mutmut") is None:
        print("mutmut is not installed; run: tox -e mutation")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        copy_to(copy)
        (copy / "setup.cfg").write_text(_configuration())
        environment = {**os.environ, "FLAVA_PORT_PROFILE": "fast", "PYTHONDONTWRITEBYTECODE": ""}
        mutmut = [sys.executable, "-m", "mutmut"]
        ran = subprocess.run(
            [*mutmut, "run"],
            cwd=copy,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        listed = subprocess.run([*mutmut, "results"], cwd=copy, env=environment, capture_output=True, text=True, check=False).stdout
        alive = [match[0] for match in _LINE.findall(listed)]
        shown = {
            name: _change(
                subprocess.run([*mutmut, "show", name], cwd=copy, env=environment, capture_output=True, text=True, check=False).stdout
            )
            for name in alive
        }
    if ran.returncode != 0 or "mutations/second" not in ran.stdout:
        print(ran.stdout[-3000:])
        return 2
    return _verdict(shown, ran.stdout)


def _change(difference: str) -> str:
    """The line that a mutant has in the place of ours."""
    return "\n".join(line[1:].strip() for line in difference.splitlines() if line.startswith("+") and not line.startswith("+++"))


def _verdict(alive: dict[str, str], output: str) -> int:
    total = max(map(int, re.findall(r"\d+/(\d+)", output)))
    survivors = {name: change for name, change in alive.items() if change not in EQUIVALENT}
    stale = EQUIVALENT.keys() - set(alive.values())
    for name, change in survivors.items():
        print(f"SURVIVES  {name}\n    {change}")
    for change in alive.values():
        if change in EQUIVALENT:
            print(f"equivalent  {change}\n    because {EQUIVALENT[change]}")
    print(*(f"listed as equivalent, but is none: {change}" for change in stale), sep="\n")
    killed = total - len(alive)
    print(f"{total} mutants of functions: {killed} killed, {len(survivors)} surviving, {len(alive) - len(survivors)} equivalent")
    return 1 if survivors or stale else 0


def _configuration() -> str:
    def indented(entries) -> str:
        return "".join(f"\n    {entry}" for entry in entries)

    paths = indented(f"flava_port/{name}.py" for name in MODULES)
    ignored = indented(["-x", "-q", "-p", "no:cacheprovider", *(f"--ignore=tests/{name}" for name in LEFT_OUT)])
    also = indented(COPIED)
    options = {"paths_to_mutate": paths, "tests_dir": indented(TESTS), "also_copy": also, "pytest_add_cli_args": ignored}
    return "[mutmut]\n" + "".join(f"{name}={value}\n" for name, value in options.items())


if __name__ == "__main__":
    sys.exit(main())
