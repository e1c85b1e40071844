"""The comparison of state dicts fails on every difference, and says which key it is and where."""

import pytest
import torch

from tests.comparing import assert_same_tensors

EXPECTED = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([float("nan"), 0.0])}


def test_equal_state_dicts_pass_in_any_order():
    """Equal bits are equal values, NaN included; views of another memory layout too."""
    columns = EXPECTED["a"].T.contiguous().T
    assert_same_tensors({"b": EXPECTED["b"].clone(), "a": columns}, EXPECTED)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"a": None}, "missing: a"),
        ({"c": torch.ones(1)}, "extra: c"),
        ({"a": EXPECTED["a"].double()}, r"a: torch.float64 \[2, 3\], expected torch.float32 \[2, 3\]"),
        ({"a": EXPECTED["a"].T}, r"a: torch.float32 \[3, 2\], expected torch.float32 \[2, 3\]"),
        ({"a": EXPECTED["a"].flip(1)}, r"a: values differ, first at \[0, 0\]: actual 2.0, expected 0.0; 4 of 6 differ"),
        ({"b": torch.tensor([float("nan"), -0.0])}, r"b: values differ, first at \[1\]: actual -0.0, expected 0.0; 1 of 2 differ"),
    ],
    ids=["missing", "extra", "dtype", "shape", "values", "the sign of zero"],
)
def test_each_difference_is_found(changed, message):
    """In keys, dtype, shape, values and their last bit."""
    actual = {key: value for key, value in (EXPECTED | changed).items() if value is not None}
    with pytest.raises(AssertionError, match=f"^{message}$"):
        assert_same_tensors(actual, EXPECTED)


def test_another_order_of_keys_is_found_where_the_order_counts():
    """With ``in_order``, the first key out of place is named."""
    with pytest.raises(AssertionError, match="^b: stands where a should$"):
        assert_same_tensors(dict(reversed(EXPECTED.items())), EXPECTED, in_order=True)
