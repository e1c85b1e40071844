"""Says first what the installed transformers changed of FLAVA; what only follows from that is skipped, and one test fails for it.

A pytest plugin, which `conftest.py` loads. Under a recorded release it costs a digest; under any other, FLAVA is built
and run once. What is compared are the schema, what the original computes, and what is saved and loaded.
"""

from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass

import hypothesis
import pytest
from hypothesis import Phase

from flava_port.target.keys import current_name
from flava_port.target.known import NOT_THE_CHECKPOINT, InstalledFlava, installed_flava
from flava_port.text import few
from tests.known_gaps import gaps_of

THE_TEST = "tests/releases/test_the_installed_release.py::test_flava_is_that_of_a_known_release"
_COMPUTES = "tests/releases/test_observation.py::test_the_installed_release_computes_what_the_original_does"
# Rooms whose tests ask nothing of transformers, but for some: what fails there is our own fault, unless it says otherwise.
_ON_THEIR_OWN = ("tests/files/", "tests/rules/", "tests/meta/")
_BUT_FOR = (
    "tests/rules/test_every_key_is_placed.py::test_the_targets_are_the_installed_transformers_keys",
    "tests/rules/test_every_key_is_placed.py::test_the_codebooks_targets_are_the_installed_transformers_keys",
)


@dataclass(frozen=True)
class Cause:
    """One line about the installed transformers, and whether it changed FLAVA."""

    line: str
    changed: bool


CAUSE = pytest.StashKey[Cause | None]()


def find_cause() -> Cause | None:
    """What is to be said of the installed transformers; None where it is a recorded release."""
    flava = installed_flava()
    if flava.as_recorded:
        return None
    changed = flava.changes or ("" if flava.same_as else "; ".join(few(list(_otherwise(flava)), 3)))
    return Cause(flava.with_advice(changed), True) if changed else Cause(flava.describe(), False)


def _otherwise(flava: InstalledFlava) -> Iterator[str]:
    """What sources with a known schema do otherwise than the original, or than every known release."""
    from flava_port.releases.circumstances import FORWARD
    from flava_port.releases.drift import ROUNDING
    from flava_port.releases.observation import OURS
    from flava_port.releases.observe import observe_in_short

    observed = observe_in_short()
    runs, saved, loaded = observed.runs, observed.saved, observed.loaded[OURS]
    judged = {name: run for name, run in runs.items() if run.from_original is not None and run.kind == FORWARD}
    other = [
        name for name, run in judged.items() if not run.from_original <= ROUNDING and not [*gaps_of(f"{_COMPUTES}[{name}]", flava.release)]
    ]
    if other:
        error = judged[other[0]].error
        yield f"{'stops with ' + error if error else 'computes otherwise than the original'} in {len(other)} of {len(judged)} uses, first: {other[0]}"
    if "error" in saved:
        yield f"cannot save a model ({saved['error']})"
    if renamed := [key for key in saved.get("under other names", ()) if current_name(key) == key]:
        yield f"saves {len(renamed)} keys under other names, first: {renamed[0]}"
    if loaded != "right":
        yield f"does not load a converted folder right ({loaded})"


def pytest_configure(config: pytest.Config) -> None:
    """Looks for the cause, once; a worker of pytest-xdist is told it."""
    given = getattr(config, "workerinput", {}).get("cause", ...)
    config.stash[CAUSE] = find_cause() if given is ... else Cause(**given) if given else None
    if _changed(config):  # hundreds of failures follow from one cause; none of them is worth a smaller example
        hypothesis.settings.register_profile("changed", hypothesis.settings(), phases=(Phase.explicit, Phase.generate))
        hypothesis.settings.load_profile("changed")


def _changed(config: pytest.Config) -> Cause | None:
    cause = config.stash[CAUSE]
    return cause if cause and cause.changed else None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node) -> None:
    cause = node.config.stash[CAUSE]
    node.workerinput["cause"] = cause and asdict(cause)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter and (cause := session.config.stash[CAUSE]) and not hasattr(session.config, "workerinput"):
        reporter.write_line(cause.line, red=cause.changed, bold=cause.changed)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> Generator[None, None, None]:
    if cause := _changed(config):
        terminalreporter.write_sep("=", "cause", red=True, bold=True)
        terminalreporter.write_line(cause.line, red=True, bold=True)
        terminalreporter.write_line("Tests that failed for this reason alone count as skipped.")
    yield


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    cause = _changed(item.config)
    if cause and report.failed and item.nodeid != THE_TEST and _follows(item.nodeid, report):
        _skip(report, cause)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if (cause := _changed(collector.config)) and report.failed and _follows(collector.nodeid, report):
        _skip(report, cause)
    return report


def _follows(test: str, report: pytest.TestReport | pytest.CollectReport) -> bool:
    return test in _BUT_FOR or not test.startswith(_ON_THEIR_OWN) or NOT_THE_CHECKPOINT in report.longreprtext


def _skip(report: pytest.TestReport | pytest.CollectReport, cause: Cause) -> None:
    """Turns a failure into a skip; all of these share one line of the summary."""
    report.outcome = "skipped"
    report.longrepr = ("tests", None, f"Skipped: follows from the cause: {cause.line}")
    report.sections.clear()
    report.__dict__.pop("wasxfail", None)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """The run fails even if the test that fails for the cause was not among those that were asked for."""
    if _changed(session.config) and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
