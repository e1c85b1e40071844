"""The rename rules: tables as data, the engine that applies them, the layouts that they rename between, and a linter for tables."""
