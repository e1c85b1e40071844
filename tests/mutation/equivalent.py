"""Mutants of functions that no test can kill: the mutant's line, and the reason."""

_NO_CODEBOOK_FIELD = "the config that is written is the codebook's section, in which nothing says whether there is a codebook"

EQUIVALENT: dict[str, str] = {
    "config, _ = settle_config(given, renamed, with_codebook=None)": _NO_CODEBOOK_FIELD,
    "config, _ = settle_config(given, renamed, with_codebook=False)": _NO_CODEBOOK_FIELD,
    "if not low <= value < high:": "the value is a float32, and no float32 is 4.6052",
}
