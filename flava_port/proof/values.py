"""Compares every converted tensor with its original, and says what a wrong one looks like.

It does not matter how the folder was made: only both sides' tensors are used.
"""

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np

from ..files.dtypes import BFLOAT16, FLOAT16, FLOAT32, Dtype
from ..files.tensors import TensorSource, are_equal, as_numbers, bits, cast, differing, for_each, raw_bytes, recast, sha256, whole
from .certificate import Finding

# A wrong tensor with more elements than this is compared with others by digest alone.
_SEARCHED_ELEMENTS = 64 << 20


def compare_values(
    converted: Mapping[str, TensorSource], originals: Mapping[str, tuple[str, TensorSource]]
) -> tuple[list[Finding], dict[str, str]]:
    """A finding for every converted tensor whose values are not its original's, and every converted tensor's sha256.

    ``originals`` has the original's name and tensor for each converted key; both key sets must be the same.
    Values are compared bit for bit, in the converted dtype.
    """
    compared = dict(for_each(lambda key: _compare(converted[key], originals[key][1]), converted))
    suspects = [key for key, (same, _, _) in compared.items() if not same]
    by_digest: dict[str, list[str]] = {}
    if suspects:
        for key, (_, _, original_digest) in compared.items():
            by_digest.setdefault(original_digest, []).append(key)
    findings = [_explain(key, converted[key], *originals[key], by_digest.get(compared[key][1], [])) for key in suspects]
    return findings, {key: digest for key, (_, digest, _) in compared.items()}


def _compare(converted: TensorSource, original: TensorSource) -> tuple[bool, str, str]:
    """Whether both are equal bit for bit, and both sha256, in the converted dtype."""
    if converted.shape != original.shape:
        return False, sha256(converted), sha256(original)
    ours, theirs = hashlib.sha256(), None
    chunks = zip(converted.chunks(), cast(original, converted.dtype).chunks(), strict=True)
    for mine, other in chunks:
        if theirs is None and not are_equal(mine, other):
            theirs = ours.copy()
        ours.update(raw_bytes(mine))
        if theirs is not None:
            theirs.update(raw_bytes(other))
    return theirs is None, ours.hexdigest(), (theirs or ours).hexdigest()


def _explain(key: str, converted: TensorSource, source: str, original: TensorSource, equal: list[str]) -> Finding:
    """What is wrong with a tensor. ``equal`` are the keys whose originals have exactly its values."""
    if converted.shape != original.shape:
        return Finding(key, source, f"shape {list(converted.shape)}, the original's is {list(original.shape)}", _as_names(equal))
    ours, theirs = whole(converted), whole(cast(original, converted.dtype))
    different = differing(ours, theirs)
    at = tuple(map(int, np.argwhere(different)[0]))
    actual, expected = (as_numbers(elements, converted.dtype) for elements in (ours, theirs))
    with np.errstate(over="ignore", invalid="ignore"):  # NaN and infinities are among what may differ
        largest = float(np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max())
    what = (
        f"values differ: max |\u0394| {largest:.1e}, {int(different.sum()):,} of {ours.size:,} elements; "
        f"first at {list(at)}: {actual[at].item():.9g}, the original has {expected[at].item():.9g}"
    )
    looks = "" if ours.size > _SEARCHED_ELEMENTS else _resembles(ours, theirs, converted.dtype)
    return Finding(key, source, what, _as_names(equal) or looks)


def _as_names(equal: list[str]) -> str:
    return f"{equal[0]}'s" if equal else ""


def _resembles(ours: np.ndarray, theirs: np.ndarray, dtype: Dtype) -> str:
    """How a wrong tensor was made from the right one; empty where that does not show."""
    for description, candidate in _transformations(theirs, dtype):
        if candidate.shape == ours.shape and are_equal(ours.reshape(-1), candidate.reshape(-1)):
            return description
    different = differing(ours, theirs)
    if int(different.sum()) == 1:
        flipped = int((bits(ours) ^ bits(theirs))[different].item()).bit_count()
        return f"one element changed, in {flipped} bit" + ("" if flipped == 1 else "s")
    if ours.ndim >= 1 and np.array_equal(np.sort(bits(ours), axis=None), np.sort(bits(theirs), axis=None)):
        rows = {row.tobytes() for row in theirs}
        whole_rows = ours.ndim > 1 and all(row.tobytes() in rows for row in ours)
        return "its own rows in another order" if whole_rows else "its own elements in another order"
    return ""


def _transformations(original: np.ndarray, dtype: Dtype) -> Iterator[tuple[str, np.ndarray]]:
    """What ports do to tensors by mistake: each in words, and the tensor that comes out."""
    numbers = as_numbers(original, dtype)
    yield "zeros", np.zeros_like(original)
    yield "ones", recast(np.ones(original.shape, np.float32), FLOAT32, dtype)
    yield "its negative", recast(-numbers, FLOAT32 if dtype == BFLOAT16 else dtype, dtype)
    for narrow in (FLOAT16, BFLOAT16):
        yield f"itself rounded to {narrow}", recast(recast(original, dtype, narrow), narrow, dtype)
    if original.ndim >= 2:
        transpose = original.swapaxes(0, 1)
        yield "its transpose", transpose.reshape(original.shape) if original.shape[0] != original.shape[1] else transpose
        yield "its last two axes transposed", original.swapaxes(-1, -2)
    for axis in range(original.ndim):
        yield f"itself flipped along axis {axis}", np.flip(original, axis)
        yield f"itself shifted by one along axis {axis}", np.roll(original, 1, axis)
