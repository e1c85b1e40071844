"""`--markdown` writes what a job's summary and a model card take: the verdict, the cause, the claims; texts are escaped."""

import pytest

from flava_port.proof.certificate import Finding
from flava_port.report.markdown import code, plain, proof_in_markdown
from tests.report.certificates import HOSTILE, QUERY, a_certificate, differing, proven


def test_a_proof_says_its_verdict_then_the_cause_then_each_claim():
    """Findings are folded, ten at most."""
    lines = proof_in_markdown(a_certificate(proven("keys"), differing("values", 142))).splitlines()
    assert lines[0] == "### FLAVA: differs"
    assert lines[2].startswith(f"cause: values: {QUERY}: looks like another's; and 141 more")
    assert "| keys | proven | all equal |" in lines and "| values | **differs** | 142 found |" in lines
    assert "<details><summary>values: 142 findings</summary>" in lines
    assert sum(line.startswith("- `flava.") for line in lines) == 10 and "- ... and 132 more" in lines


def test_a_proof_of_the_weights_says_so():
    """Whoever reads the summary sees what was not verified."""
    text = proof_in_markdown(a_certificate(proven("keys"), asked="the weights", not_looked_at="the computation"))
    assert text.startswith("### FLAVA: proven (of the weights; not looked at: the computation)\n")


@pytest.mark.parametrize("text", [HOSTILE, "a|b", "<b>", "`", "``x`", "[a](b)", "*a*", "_a_", "&lt;", "~~a~~", "\x1b[31m"])
def test_texts_out_of_files_stay_texts(text):
    """On one line; whatever Markdown or HTML would act on is escaped, in code and out of it."""
    for shown in (plain(text), code(text)):
        assert "\n" not in shown and "\x1b" not in shown
    escaped = plain(text)
    assert not [n for n, sign in enumerate(escaped) if sign in "`*[]<>&|~" and escaped[n - 1 : n] != "\\"]


def test_a_table_has_a_row_for_each_claim_whatever_is_in_it():
    """A pipe in a text ends no cell, a line break no row."""
    claim = proven("keys")
    claim.summary = HOSTILE
    claim.findings = [Finding(HOSTILE, HOSTILE, HOSTILE, HOSTILE)]
    text = proof_in_markdown(a_certificate(claim))
    [row] = [line for line in text.splitlines() if line.startswith("| keys")]
    assert row.replace("\\|", "").count("|") == 4 and "<script" not in text.replace("\\<script", "").replace(code(HOSTILE), "")


def test_names_in_words_stay_as_they_are():
    """An underscore within a name is no emphasis."""
    assert plain("image_config.layer_norm_eps = 1e-05") == "image_config.layer_norm_eps = 1e-05"
