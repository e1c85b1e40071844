"""What the mutation commands mutate, copy and run is there."""

from configparser import ConfigParser

import pytest

from tests.mutation import functions, in_a_copy


@pytest.mark.parametrize("option", ["source_paths", "also_copy", "pytest_add_cli_args_test_selection"])
def test_every_path_that_mutmut_is_given_exists(option):
    """A module or folder that was moved would otherwise be left out silently."""
    settings = ConfigParser()
    settings.read_string(functions.configuration())
    paths = settings["mutmut"][option].split()
    assert paths and not [path for path in paths if not (in_a_copy.ROOT / path).exists()]


def test_every_test_that_is_left_out_or_run_in_a_copy_exists():
    """The lists of test files name files that are there."""
    paths = [
        *(f"tests/{name}" for name in functions.LEFT_OUT),
        *in_a_copy.UPSTREAMS,
        *(path for paths in in_a_copy.TESTS.values() for path in paths),
    ]
    assert not [path for path in paths if not (in_a_copy.ROOT / path).exists()]
