"""Measures how many examples a second of one core each strategy draws: ``python -m benchmarks.strategies``.

Hypothesis itself takes most of the time, so the floor is a share of its speed with one integer. Exit status 1 below it.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests import strategies

FLOOR = 0.33  # of the speed of one integer; the slowest strategy makes ten draws
EXAMPLES = 3000
MEASURED = {
    "source_keys": strategies.source_keys(),
    "decoy_keys": strategies.decoy_keys(),
    "codebook_decoy_keys": strategies.codebook_decoy_keys(),
    "original_state_dicts": strategies.original_state_dicts(),
    "adversarial_state_dicts": strategies.adversarial_state_dicts(),
    "wrapped_state_dicts": strategies.wrapped_state_dicts(),
}


def examples_per_second(strategy: st.SearchStrategy, use: Callable[[Any], object] = lambda drawn: None) -> float:
    """How many examples hypothesis draws and ``use`` takes in a second of CPU time."""
    drawn = 0

    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def draw(example) -> None:
        nonlocal drawn
        use(example)
        drawn += 1

    start = time.process_time()
    draw()
    return drawn / (time.process_time() - start)


def main() -> int:
    ceiling = examples_per_second(st.integers(0, 1 << 24))
    print(f"{'one integer':<26}{ceiling:>8.0f} examples/s of one core")
    slow = False
    for name, strategy in MEASURED.items():
        speed = examples_per_second(strategy)
        slow |= speed < FLOOR * ceiling
        print(f"{name:<26}{speed:>8.0f}")
    built = examples_per_second(MEASURED["original_state_dicts"], lambda original: original.keys)
    print(f"{'  and their keys built':<26}{built:>8.0f}")
    print(f"floor {FLOOR} of one integer: {'missed' if slow else 'reached by all'}")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
