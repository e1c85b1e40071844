"""Makes every mutant of the rule tables and says which the tests kill: ``python -m tests.mutation``.

Each mutant is judged in this process, by the keys that the default test run compares. A sample of the killed
mutants is then written into copies of the project, where the real test run must fail and name the key.
The exit status is 1 if a mutant survives, or if a test run does not fail as it must.
"""

import argparse
import random
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from flava_port.rules.tables import TABLES
from tests.mutation.in_a_copy import not_caught
from tests.mutation.tables import Verdict, judge, mutants


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=6, help="how many killed mutants to check with real test runs (default: %(default)s)")
    options = parser.parse_args()
    with ProcessPoolExecutor() as pool:
        verdicts = [verdict for table in TABLES for verdict in pool.map(partial(judge, table), mutants(table), chunksize=20)]
    _print(verdicts)
    killed = [verdict for verdict in verdicts if verdict.killed_by]
    wrong = [problem for v in random.Random(0).sample(killed, options.sample) if (problem := not_caught(v))]
    print(f"cross-check: {options.sample - len(wrong)} of {options.sample} killed by the default run of a copy, by name")
    print(*wrong, sep="\n")
    return 1 if wrong or any(not v.killed_by and not v.proof for v in verdicts) else 0


def _print(verdicts: list[Verdict]) -> None:
    equal = [v for v in verdicts if v.proof]
    alive = [v for v in verdicts if not v.killed_by and not v.proof]
    for proof, count in Counter(v.proof for v in equal).items():
        print(f"equivalent ({count}), each {proof}:")
        print(*(f"  {v.mutant.table.name}: {v.mutant.what}" for v in equal if v.proof == proof), sep="\n")
    for verdict in alive:
        print(f"SURVIVES  {verdict.mutant.table.name}: {verdict.mutant.what}")
    killed = len(verdicts) - len(equal) - len(alive)
    score = 100 * killed / (killed + len(alive))
    print(f"{len(verdicts)} mutants: {killed} killed, {len(alive)} surviving, {len(equal)} equivalent; score {score:.1f}%")


if __name__ == "__main__":
    sys.exit(main())
