"""Mutants of functions that no test can kill: the mutant's line, and the reason."""

_SAME_KIND = "a tensor that cannot be compared is of a kind that no other tensor's form is"

EQUIVALENT: dict[str, str] = {
    "if low <= value < high": "the value is a float32, and no float32 is 4.6052",
    "if isinstance(one, UnsupportedTensor) and isinstance(other, UnsupportedTensor):": _SAME_KIND,
    'return f"both {forms[1]}, which cannot be compared"': "both forms are equal there",
    'return "" if (one is other) and False else str(first_difference(one, other) or "")': "a tensor does not differ from itself",
}
