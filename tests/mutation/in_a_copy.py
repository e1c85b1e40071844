"""Runs the rules' tests in a copy of the project that has a mutant in place of a table."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from flava_port.rules.engine import RuleTable
from tests.mutation.tables import Verdict

ROOT = Path(__file__).parents[2]
COPIED = ("flava_port", "tests", "fixtures", "conftest.py", "pyproject.toml", "README.md", "tox.ini")
TESTS = {"torchmultimodal": ("tests/rules/test_triangle.py",)}
UPSTREAMS = ("tests/rules/test_tables_are_upstreams.py",)


def not_caught(verdict: Verdict) -> str | None:
    """What is wrong with a real test run on the mutant; None if it fails, as it must, and names the key that shows the mutant."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        copy_to(copy)
        table = verdict.mutant.table
        with (copy / "flava_port" / "rules" / "tables.py").open("a") as rules:
            rules.write("\n\n" + _redefinition(table))
        environment = {**os.environ, "PYTHONPATH": str(copy)}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS.get(table.name, UPSTREAMS)]
        ran = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode != 1:
        return f"{table.name}: {verdict.mutant.what}: exit status {ran.returncode}\n{ran.stdout[-2000:]}"
    if verdict.killed_by not in ran.stdout:
        return f"{table.name}: {verdict.mutant.what}: the output does not name {verdict.killed_by}"
    return None


def copy_to(copy: Path) -> None:
    """Copies what the tests need of the project into the folder."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)


def _redefinition(table: RuleTable) -> str:
    """Python code that replaces the table by the mutant, also in the list of tables."""
    rules = [(rule.source, rule.target, rule.at_end) for rule in table.rules]
    older = [(rule.source, rule.target, rule.at_end) for rule in table.older]
    drops = [(drop.fragment, drop.kept, drop.because) for drop in table.drops]
    prefix = [type(rule).__name__ == "PrefixRule" for rule in table.rules]
    return f"""
class _PrefixRule(Rule):
    def apply(self, key):
        return self.target + key.removeprefix(self.source) if key.startswith(self.source) else key


_rules = tuple((_PrefixRule if p else Rule)(*r) for r, p in zip({rules!r}, {prefix!r}))
_mutant = RuleTable({table.name!r}, {table.source!r}, {table.target!r}, tuple(Drop(*d) for d in {drops!r}), _rules, tuple(Rule(*o) for o in {older!r}))
{table.name.upper()} = _mutant
TABLES = (FLAVA, CODEBOOK, TORCHMULTIMODAL)
"""
