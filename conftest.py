"""Options, hypothesis profiles, the report header and the fixtures that all tests share."""

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

# No test may download a model, and no library may print advice about that.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TRANSFORMERS_NO_ADVISORY_WARNINGS="1")


def pytest_configure(config: pytest.Config) -> None:
    """Gives torch one thread: the models are tiny, and threads that wait for each other take ten times as long."""
    import torch

    torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Keeps the garbage collector from what the imports made, which lives until the end; it takes a tenth of the run otherwise."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*gc.get_threshold()[:2], 100)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("FLAVA checkpoint under test (tests/acceptance)")
    group.addoption("--flava-checkpoint", metavar="P", help="your original checkpoint")
    group.addoption("--flava-codebook", metavar="C", help="its codebook: OpenAI's DALL-E encoder; leave out for a model without one")
    group.addoption("--flava-converted", metavar="OUT", help="the folder that was converted from them")
    group.addoption("--flava-config", metavar="CFG", help="the original's config.json, where it is not FLAVA's own")
    group = parser.getgroup("FLAVA's drift (flava-port drift --from FILE --to FILE)")
    group.addoption("--observe", metavar="FILE", help="write what this environment's transformers and torch do with FLAVA to FILE")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Writes the observation that ``--observe`` asks for, whichever tests ran; under pytest-xdist once, not in each worker."""
    if (file := session.config.option.observe) and not hasattr(session.config, "workerinput"):
        from flava_port.releases.observation import write
        from flava_port.releases.observe import observe

        write(observe(), Path(file))


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if config.option.observe:
        terminalreporter.write_line(f"observation written: {config.option.observe}; compare: flava-port drift --from FILE --to FILE")


def pytest_report_header() -> str:
    import torch
    import transformers

    return (
        f"flava-port under transformers {transformers.__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}; hypothesis profile {PROFILE}"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests run only where a marker expression names them; known gaps must fail."""
    import transformers

    from tests.known_gaps import gaps_of

    for item in items:
        if "slow" in item.keywords and "slow" not in config.option.markexpr:
            item.add_marker(pytest.mark.skip(reason="slow; run it with: pytest -m slow"))
        for gap in gaps_of(item.nodeid, transformers.__version__):
            item.add_marker(pytest.mark.xfail(strict=True, reason=gap.why.value))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> "TinyFiles":
    """A tiny original checkpoint and codebook on disk, made once a run; see `tests.builders.TinyFiles`."""
    from tests.builders import write_tiny

    return write_tiny(tmp_path_factory.mktemp("tiny"))


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
