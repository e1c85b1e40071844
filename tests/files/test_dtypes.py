"""The table of dtypes agrees with torch, and casts give what torch's casts give."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flava_port.files.dtypes import BFLOAT16, DTYPES, FLOAT16, FLOAT32, FLOAT64, FLOATS, promoted
from flava_port.files.tensors import as_numbers, bits, count_nonfinite, recast
from flava_port.files.torch_tensors import as_array

INSTALLED = {name: dtype for name, dtype in vars(torch).items() if isinstance(dtype, torch.dtype)}


def torchs(dtype) -> torch.dtype:
    return getattr(torch, dtype.name)


@pytest.mark.parametrize("name", INSTALLED)
def test_every_dtype_of_torch_is_in_the_table(name):
    """Each dtype is found under each of its names, with torch's width and kind; floats of 8 bits are no weights."""
    ours, theirs = DTYPES[name], INSTALLED[name]
    assert torchs(ours) is theirs and ours.itemsize == theirs.itemsize
    assert (ours.kind == "complex") == theirs.is_complex
    assert (ours.kind == "float") == (theirs.is_floating_point and theirs.itemsize > 1)


@pytest.mark.parametrize("dtype", [dtype for dtype in dict.fromkeys(DTYPES.values()) if dtype.storage], ids=str)
def test_every_storage_is_named_as_torch_names_it(dtype):
    """The storage class that a torch file names has the table's dtype."""
    assert getattr(torch, dtype.storage).dtype is torchs(dtype)


@pytest.mark.parametrize("one", FLOATS, ids=str)
@pytest.mark.parametrize("other", FLOATS, ids=str)
def test_two_dtypes_are_promoted_as_torch_promotes_them(one, other):
    """`promoted` gives the dtype that `torch.promote_types` gives."""
    assert torchs(promoted([one, other])) is torch.promote_types(torchs(one), torchs(other))


@pytest.mark.parametrize("target", FLOATS, ids=str)
@pytest.mark.parametrize("source", [FLOAT16, BFLOAT16], ids=str)
def test_each_number_of_16_bits_is_cast_as_torch_casts_it(source, target):
    """All 65,536 bit patterns are cast to what torch gives."""
    assert_cast_as_torch_casts(np.arange(1 << 16, dtype=np.uint16).view(source.held_in), source, target)


@pytest.mark.parametrize("target", FLOATS, ids=str)
@pytest.mark.parametrize("source", [FLOAT32, FLOAT64], ids=str)
@given(seed=st.integers(0, (1 << 32) - 1))
def test_wider_numbers_are_cast_as_torch_casts_them(source, target, seed):
    """Random bits are cast to what torch gives, and so are numbers halfway between two of the target, where ties show."""
    some = np.random.default_rng(seed)
    anything = np.frombuffer(some.bytes(1 << 12), source.held_in)
    patterns = np.frombuffer(some.bytes(1 << 10), np.uint16)
    with np.errstate(all="ignore"):
        ties = [half_up(patterns, narrow).astype(source.held_in) for narrow in (FLOAT16, BFLOAT16, FLOAT32)]
    assert_cast_as_torch_casts(np.concatenate([anything, *ties]), source, target)


def half_up(patterns: np.ndarray, dtype) -> np.ndarray:
    """The number halfway between each number of a dtype, given by its upper 16 bits, and the next."""
    wide = patterns.astype(f"u{dtype.itemsize}") << 8 * (dtype.itemsize - 2)
    one, next_one = (as_numbers(number.view(dtype.held_in), dtype).astype(np.float64) for number in (wide, wide + 1))
    return (one + next_one) / 2


@pytest.mark.parametrize("target", FLOATS, ids=str)
@pytest.mark.parametrize("source", FLOATS, ids=str)
def test_a_scalar_is_cast_as_one_of_many_is(source, target):
    """An array without axes keeps its dtype and shape; numpy 1 likes to turn it into a number of another type."""
    many = recast(np.array([1.5, -0.1, np.inf], np.float64), FLOAT64, source)
    for element, expected in zip(many, recast(many, source, target)):
        actual = recast(np.array(element), source, target)
        assert bits(actual) == bits(expected) and actual.dtype == target.held_in and actual.shape == ()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_what_is_not_finite_is_counted(dtype):
    """NaN and infinities are counted in every float dtype, and there are none in an empty array."""

    def count(*numbers: float) -> int:
        return count_nonfinite(as_array(torch.tensor(numbers, dtype=torchs(dtype))), dtype)

    assert (count(), count(*[1.0] * 7), count(1, float("nan"), float("-inf"), 2)) == (0, 0, 2)


def assert_cast_as_torch_casts(elements: np.ndarray, source, target) -> None:
    """The bits are torch's; where numbers are narrowed, any NaN is as good as another."""
    __tracebackhide__ = True
    tensor = torch.frombuffer(bytearray(elements.tobytes()), dtype=torchs(source))
    actual, expected = recast(elements, source, target), as_array(tensor.to(torchs(target)))
    wrong = bits(actual) != bits(expected)
    if target.itemsize < source.itemsize or {source, target} == {FLOAT16, BFLOAT16}:
        are_nan = [np.isnan(as_numbers(found, target)) for found in (actual, expected)]
        wrong = np.where(are_nan[1], ~are_nan[0], wrong)
    if wrong.any():
        at = int(wrong.argmax())
        raise AssertionError(f"{source} {tensor[at].item()!r} in {target}: {bits(actual)[at]:#x}, torch gives {bits(expected)[at]:#x}")
