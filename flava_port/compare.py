"""The values part of the proof: every converted tensor against its original, and what a wrong one looks like.

Independent of how the folder was made: it needs the two files, the rename rules and nothing else.
"""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import torch

from .claims import Finding
from .output import WORKERS
from .tensors import TensorSource, bits, cast, dtype_name, load, raw_bytes

# A culprit larger than this is not searched for what it looks like beyond its digest.
_SEARCHED_ELEMENTS = 64 << 20


def compare_values(
    converted: Mapping[str, TensorSource], originals: Mapping[str, tuple[str, TensorSource]]
) -> tuple[list[Finding], dict[str, str]]:
    """Findings for every converted tensor that is not its original's values, and every tensor's digest.

    ``originals`` has, for each converted key, the original's key and tensor. Values are compared in the
    converted dtype, bit for bit; both key sets must be the same.
    """
    with ThreadPoolExecutor(WORKERS) as pool:
        compared = dict(zip(converted, pool.map(lambda key: _compare(converted[key], originals[key][1]), converted)))
    suspects = [key for key, (same, _, _) in compared.items() if not same]
    by_digest: dict[str, list[str]] = {}
    if suspects:
        for key, (_, _, original_digest) in compared.items():
            by_digest.setdefault(original_digest, []).append(key)
    findings = [_explain(key, converted[key], *originals[key], by_digest.get(compared[key][1], [])) for key in suspects]
    return findings, {key: digest for key, (_, digest, _) in compared.items()}


def _compare(converted: TensorSource, original: TensorSource) -> tuple[bool, str, str]:
    """Whether they are equal bit for bit, and the digests of both, in the converted dtype."""
    if converted.shape != original.shape:
        return False, _digest(converted), _digest(original)
    ours, theirs = hashlib.sha256(), None
    chunks = zip(converted.chunks(), cast(original, converted.dtype).chunks(), strict=True)
    for mine, other in chunks:
        if theirs is None and not torch.equal(bits(mine), bits(other)):
            theirs = ours.copy()
        ours.update(raw_bytes(mine))
        if theirs is not None:
            theirs.update(raw_bytes(other))
    return theirs is None, ours.hexdigest(), (theirs or ours).hexdigest()


def _digest(source: TensorSource) -> str:
    digest = hashlib.sha256()
    for chunk in source.chunks():
        digest.update(raw_bytes(chunk))
    return digest.hexdigest()


def _explain(key: str, converted: TensorSource, source: str, original: TensorSource, twins: list[str]) -> Finding:
    if converted.shape != original.shape:
        return Finding(key, source, f"shape {list(converted.shape)}, the original's is {list(original.shape)}", _as_names(twins))
    mine, theirs = load(converted), load(cast(original, converted.dtype))
    different = bits(mine) != bits(theirs)
    count = int(different.sum())
    at = tuple(different.reshape(mine.shape).nonzero()[0].tolist()) if mine.dim() else ()
    delta = (mine.double() - theirs.double()).abs()
    largest = float(delta.max()) if delta.numel() else 0.0
    what = (
        f"values differ: max |\u0394| {largest:.1e}, {count:,} of {mine.numel():,} elements; "
        f"first at {list(at)}: {mine[at].item():.9g}, the original has {theirs[at].item():.9g}"
    )
    return Finding(key, source, what, _as_names(twins) or (_resembles(mine, theirs) if mine.numel() <= _SEARCHED_ELEMENTS else ""))


def _as_names(twins: list[str]) -> str:
    return f"{twins[0]}'s" if twins else ""


def _resembles(mine: torch.Tensor, theirs: torch.Tensor) -> str:
    """How a wrong tensor was made from the right one, where it shows."""
    for description, candidate in _transformations(theirs):
        if candidate.shape == mine.shape and torch.equal(bits(mine), bits(candidate.contiguous())):
            return description
    different = bits(mine) != bits(theirs)
    if int(different.sum()) == 1:
        flipped = (int((bits(mine) ^ bits(theirs))[different].item()) & ((1 << 8 * mine.dtype.itemsize) - 1)).bit_count()
        return f"one element changed, in {flipped} bit" + ("" if flipped == 1 else "s")
    if mine.dim() >= 1 and torch.equal(mine.flatten().sort().values, theirs.flatten().sort().values):
        rows = {bytes(raw_bytes(row.reshape(-1))) for row in theirs}
        whole_rows = mine.dim() > 1 and all(bytes(raw_bytes(row.reshape(-1))) in rows for row in mine)
        return "its own rows in another order" if whole_rows else "its own elements in another order"
    return ""


def _transformations(original: torch.Tensor):
    yield "zeros", torch.zeros_like(original)
    yield "ones", torch.ones_like(original)
    yield "its negative", -original
    for dtype in (torch.float16, torch.bfloat16):
        yield f"itself rounded to {dtype_name(dtype)}", original.to(dtype).to(original.dtype)
    if original.dim() >= 2:
        yield (
            "its transpose",
            original.transpose(0, 1).reshape(original.shape) if original.shape[0] != original.shape[1] else original.transpose(0, 1),
        )
        yield "its last two axes transposed", original.transpose(-1, -2)
    for axis in range(original.dim()):
        yield f"itself flipped along axis {axis}", original.flip(axis)
        yield f"itself shifted by one along axis {axis}", original.roll(1, axis)
