"""Warnings and log lines that `quiet` keeps back are shown again after the last of its users has ended, whichever that is."""

import logging
import warnings
from contextlib import ExitStack

import pytest

from flava_port.target.installed import quiet


def _heard(caplog) -> list[str]:
    """The warning and the log line that get through, if they do."""
    caplog.clear()
    with warnings.catch_warnings(record=True) as warned:
        warnings.warn("a warning", stacklevel=1)
    logging.getLogger("a library").warning("a line")
    return [str(warning.message) for warning in warned] + caplog.messages


@pytest.mark.parametrize("first_to_end", [0, 1], ids=["the first ends first", "the last ends first"])
@pytest.mark.filterwarnings("always")
def test_it_is_quiet_until_the_last_user_has_ended(caplog, first_to_end):
    """Where two users overlap, as in two threads, nothing is shown until both have ended, in whichever order."""
    users = [ExitStack(), ExitStack()]
    for user in users:
        user.enter_context(quiet())
    assert _heard(caplog) == []
    users.pop(first_to_end).close()
    assert _heard(caplog) == []
    users.pop().close()
    assert _heard(caplog) == ["a warning", "a line"]


def test_a_level_that_the_caller_has_disabled_stays_disabled():
    """A log level that the caller disabled is disabled inside of `quiet` and after it."""
    logging.disable(logging.ERROR)
    try:
        with quiet(), quiet():
            assert logging.root.manager.disable == logging.ERROR
        assert logging.root.manager.disable == logging.ERROR
    finally:
        logging.disable(logging.NOTSET)
