"""The engine: rules at the end of keys, tables and rules as text, and several faults reported at once."""

import pytest
import torch

from flava_port.conversion.account import PROBLEMS_SHOWN, stop_on
from flava_port.convert import upgrade_state_dict
from flava_port.errors import NotFaithful
from flava_port.rules.describe import describe, describe_table
from flava_port.rules.engine import Rule
from flava_port.rules.tables import CODEBOOK, FLAVA, table_for


def test_a_rule_says_what_it_does_and_where():
    """A rule as text names its source, its target, and whether it works only at the end."""
    assert str(Rule("a", "b")) == "a -> b"
    assert str(Rule(".w", ".weight", at_end=True)) == ".w -> .weight (at the end)"


def test_a_rule_at_the_end_leaves_the_rest_alone():
    """The source is replaced at the end of the key, and nowhere else."""
    assert Rule(".w", ".weight", at_end=True).apply("x.w.w") == "x.w.weight"
    assert Rule(".w", ".weight", at_end=True).apply("x.w.y") == "x.w.y"


def test_the_inverse_of_a_rule_at_the_end_works_at_the_end():
    """`.weight` is undone at the end of a key, and not inside it."""
    assert CODEBOOK.source_of("x.weight.y") == "x.weight.y"
    assert CODEBOOK.source_of("x.weight") == "x.w"


def test_an_untouched_key_is_said_to_be():
    """The text says that no rule touches the key."""
    assert describe(FLAVA.trace("x")) == "x\n  no rule touches it"


def test_a_key_is_meant_for_the_table_of_its_layout():
    """Keys that begin with ``blocks.`` belong to the codebook's table, all others to FLAVA's."""
    assert table_for("blocks.input.w") is CODEBOOK
    assert table_for("text_projection.bias") is FLAVA


def test_a_table_is_printed_an_entry_a_line():
    """Each rule stands on a line with its number, each drop with its reason."""
    lines = describe_table(CODEBOOK).splitlines()
    assert lines[0] == "codebook: DALL-E to Hugging Face"
    assert lines[1] == "     1  group_1.   group_1.group."
    assert lines[6] == "     6  .w         .weight  (at the end)"
    assert describe_table(FLAVA).splitlines()[1].startswith("  drop  text_encoder.embeddings.*  because the checkpoint holds")


def test_every_fault_of_a_state_dict_is_named():
    """The message names every second copy that differs, not only one."""
    keys = [f"text_encoder.{m}embeddings.{part}" for part in "xy" for m in ("", "module.")]
    with pytest.raises(NotFaithful) as refusal:
        upgrade_state_dict({key: torch.full((2,), float(n)) for n, key in enumerate(keys)}, {})
    assert "embeddings.x" in str(refusal.value) and "embeddings.y" in str(refusal.value)


def test_a_second_copy_that_is_equal_but_not_the_same_tensor_is_dropped():
    """The values are compared, so equal tensors in two places of memory count as copies."""
    source = {"text_encoder.embeddings.x": torch.ones(2), "text_encoder.module.embeddings.x": torch.ones(2)}
    assert list(upgrade_state_dict(source, {})) == ["flava.text_model.embeddings.x"]


@pytest.mark.parametrize("count", (1, PROBLEMS_SHOWN, PROBLEMS_SHOWN + 3))
def test_the_first_few_problems_are_shown_and_the_rest_counted(count):
    """Each problem has a line under the title, and one more line counts those that are left out."""
    with pytest.raises(NotFaithful) as stop:
        stop_on(f"problem {n}" for n in range(count))
    shown = [f"  problem {n}" for n in range(min(count, PROBLEMS_SHOWN))]
    more = [f"  ... and {count - PROBLEMS_SHOWN} more"] if count > PROBLEMS_SHOWN else []
    assert str(stop.value).splitlines() == ["cannot be converted faithfully:", *shown, *more]


def test_without_problems_nothing_stops():
    """An empty list of problems raises nothing."""
    stop_on([])
