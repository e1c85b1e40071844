"""Mutants of functions that no test can kill, by the line they have, each with the reason."""

EQUIVALENT: dict[str, str] = {}
