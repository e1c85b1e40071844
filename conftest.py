"""Hypothesis profiles, the report header and the fixtures that all tests share; options come from `flava_port.pytest_plugin`."""

import gc
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from tests.builders import Ran, TinyFiles

# One registry, chosen by FLAVA_PORT_PROFILE: `fast` while editing, `dev` by default, `ci` the same
# examples every time, `thorough` behind its own tox environment.
PROFILES = {
    "fast": dict(max_examples=10),
    "dev": dict(max_examples=50),
    "ci": dict(max_examples=50, derandomize=True),
    "thorough": dict(max_examples=2000),
}
for name, settings in PROFILES.items():
    hypothesis.settings.register_profile(name, deadline=None, print_blob=True, **settings)
PROFILE = os.environ.get("FLAVA_PORT_PROFILE", "ci" if os.environ.get("CI") else "dev")
hypothesis.settings.load_profile(PROFILE)

# The options for your own files and for observations. Where flava_port is installed, its entry point has this name too.
pytest_plugins = ["flava_port.pytest_plugin", "tests.cause"]

# No test may download a model, and no library may print advice about that.
# Nor may a tokenizer that happens to be in the hub's cache be taken.
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_CACHE=os.devnull, TRANSFORMERS_VERBOSITY="error", TRANSFORMERS_NO_ADVISORY_WARNINGS="1")


def pytest_configure(config: pytest.Config) -> None:
    """Gives torch one thread: the models are tiny, and threads that wait for each other take ten times as long."""
    import torch

    torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Keeps the garbage collector from what the imports made, which lives until the end; it takes a tenth of the run otherwise."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*gc.get_threshold()[:2], 100)


def pytest_report_header() -> str:
    import torch
    import transformers

    return (
        f"flava-port under transformers {transformers.__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}; hypothesis profile {PROFILE}"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests and those in a browser run only where a marker expression names them; known gaps must fail."""
    import transformers

    from tests.known_gaps import gaps_of

    for item in items:
        for mark in ("slow", "browser"):
            if mark in item.keywords and mark not in config.option.markexpr:
                item.add_marker(pytest.mark.skip(reason=f"{mark}; run it with: pytest -m {mark}"))
        for gap in gaps_of(item.nodeid, transformers.__version__):
            item.add_marker(pytest.mark.xfail(strict=True, reason=gap.why.value))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> "TinyFiles":
    """A tiny original checkpoint and codebook on disk, made once a run; see `tests.builders.TinyFiles`."""
    from tests.builders import write_tiny

    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def converted(tiny: "TinyFiles", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint and its codebook, converted once: the form that loads right everywhere. Not to be changed."""
    from flava_port import convert_flava_checkpoint

    folder = tmp_path_factory.mktemp("converted") / "out"
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, folder)
    return folder


@pytest.fixture
def run_command(capsys: pytest.CaptureFixture[str]) -> "Callable[..., Ran]":
    """Runs the command line in this process: ``run_command("rules")`` gives its status and what it printed."""
    from flava_port.cli import main
    from tests.builders import Ran

    def run(*arguments: str | Path) -> Ran:
        capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse ends the process itself
            status = stop.code
        return Ran(status, *capsys.readouterr())

    return run
