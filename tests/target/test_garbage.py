"""Garbage is left while modules are imported, and collected again afterwards as the caller has it."""

import gc
import subprocess
import sys

import pytest

from flava_port.target.installed import no_garbage_collected


@pytest.fixture(params=[True, False], ids=["on", "off"])
def is_on(request):
    """The collector as the caller has it."""
    before = gc.isenabled()
    (gc.enable if request.param else gc.disable)()
    yield request.param
    (gc.enable if before else gc.disable)()


def test_the_collector_is_as_the_caller_has_it(is_on):
    """Nothing is collected within the context or one within it; afterwards, and after an error, all is as before."""
    with pytest.raises(ImportError), no_garbage_collected():
        with no_garbage_collected():
            assert not gc.isenabled()
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled() is is_on


IMPORTED = """
import gc, sys
from flava_port.target.installed import no_garbage_collected

def generation_after(imports):
    mine = [[]]
    with no_garbage_collected():
        sys.modules |= dict.fromkeys(imports, gc)
    return [any(found is mine for found in gc.get_objects(generation)) for generation in range(3)].index(True)

print(generation_after([]), generation_after(["a module"]), gc.get_freeze_count())
gc.freeze()
print(generation_after(["another module"]), gc.get_freeze_count() > 0)
"""
AT_EXIT = """
import atexit, gc
from flava_port.cli import main

atexit.register(lambda: print(gc.get_freeze_count() > 0))
main(["rules", "itm_head.seq_relationship.bias"])
print(gc.get_freeze_count() > 0)
"""


def _printed(program: str) -> list[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.splitlines()


def test_what_was_imported_is_searched_last_and_what_the_caller_froze_stays_frozen():
    """Objects go to the oldest generation if a module was imported, and none is left out of collections but by the caller."""
    assert _printed(IMPORTED) == ["0 2 0", "0 True"]


def test_exit_searches_nothing():
    """What a command imported is out of the collector's sight when Python ends, and not before."""
    assert _printed(AT_EXIT)[-2:] == ["False", "True"]
