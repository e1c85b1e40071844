"""torch's dtypes as data, so that files can be read without importing torch.

That import takes longer than converting a checkpoint of the default size. `tests/files/test_dtypes.py`
compares this table with the installed torch.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..errors import InvalidInput


@dataclass(frozen=True, repr=False)
class Dtype:
    """A dtype, under the name that torch has for it.

    ``held_in`` is the numpy dtype that holds its elements. Where numpy has no such dtype, it is an
    unsigned integer that holds the element's bits.
    ``kind`` is ``float``, ``integer`` (booleans too), ``complex`` or ``other``. ``other`` are the packed,
    quantised and 8-bit float dtypes, which no weight of FLAVA can have.
    """

    name: str
    kind: str
    held_in: np.dtype
    aliases: tuple[str, ...] = ()
    safetensors: str = ""  # its name in a safetensors file
    storage: str = ""  # the storage class that stands for it in a torch file

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return self.held_in.itemsize

    def name_in(self, format: Literal["safetensors", "torch"]) -> str:
        """What a file of this format calls the dtype.

        Raises:
            InvalidInput: no name for it there is known.
        """
        if not (name := self.safetensors if format == "safetensors" else self.storage):
            raise InvalidInput(f"a tensor of dtype {self} cannot be written: we know no name for it in {format} files")
        return name

    def __repr__(self) -> str:
        return self.name


def _dtype(name: str, kind: str, held_in: str, *aliases: str, safetensors: str = "", storage: str = "") -> Dtype:
    return Dtype(name, kind, np.dtype(held_in), aliases, safetensors, storage)


FLOAT16 = _dtype("float16", "float", "<f2", "half", safetensors="F16", storage="HalfStorage")
BFLOAT16 = _dtype("bfloat16", "float", "<u2", safetensors="BF16", storage="BFloat16Storage")
FLOAT32 = _dtype("float32", "float", "<f4", "float", safetensors="F32", storage="FloatStorage")
FLOAT64 = _dtype("float64", "float", "<f8", "double", safetensors="F64", storage="DoubleStorage")
INT64 = _dtype("int64", "integer", "<i8", "long", safetensors="I64", storage="LongStorage")

FLOATS = (FLOAT16, BFLOAT16, FLOAT32, FLOAT64)  # the dtypes that weights may have

_ALL = (
    *FLOATS,
    INT64,
    _dtype("int32", "integer", "<i4", "int", safetensors="I32", storage="IntStorage"),
    _dtype("int16", "integer", "<i2", "short", safetensors="I16", storage="ShortStorage"),
    _dtype("int8", "integer", "i1", safetensors="I8", storage="CharStorage"),
    _dtype("uint8", "integer", "u1", safetensors="U8", storage="ByteStorage"),
    _dtype("uint16", "integer", "<u2"),
    _dtype("uint32", "integer", "<u4"),
    _dtype("uint64", "integer", "<u8"),
    _dtype("bool", "integer", "?", safetensors="BOOL", storage="BoolStorage"),
    _dtype("complex32", "complex", "<u4", "chalf"),
    _dtype("complex64", "complex", "<c8", "cfloat", safetensors="C64", storage="ComplexFloatStorage"),
    _dtype("complex128", "complex", "<c16", "cdouble", storage="ComplexDoubleStorage"),
    _dtype("qint8", "other", "u1", storage="QInt8Storage"),
    _dtype("quint8", "other", "u1", storage="QUInt8Storage"),
    _dtype("qint32", "other", "<u4", storage="QInt32Storage"),
    _dtype("quint4x2", "other", "u1", storage="QUInt4x2Storage"),
    _dtype("quint2x4", "other", "u1", storage="QUInt2x4Storage"),
    _dtype("bits16", "other", "<u2"),
    _dtype("uint1", "other", "u1", "bit"),
    *(_dtype(f"uint{bits}", "other", "u1") for bits in range(2, 8)),
    *(_dtype(f"int{bits}", "other", "u1") for bits in range(1, 8)),
    *(_dtype(f"bits{packing}", "other", "u1") for packing in ("1x8", "2x4", "4x2", "8")),
    *(_dtype(f"float8_{form}", "other", "u1") for form in ("e5m2", "e4m3fn", "e5m2fnuz", "e4m3fnuz", "e8m0fnu")),
    _dtype("float4_e2m1fn_x2", "other", "u1"),
)

DTYPES = {name: dtype for dtype in _ALL for name in (dtype.name, *dtype.aliases)}


def promoted(dtypes: Iterable[Dtype]) -> Dtype:
    """The narrowest float dtype that holds every value of the given float dtypes exactly; others are not considered.

    If none of them is a float dtype, the widest of them.
    """
    given = set(dtypes)
    floats = given & set(FLOATS)
    if {FLOAT16, BFLOAT16} <= floats:
        floats.add(FLOAT32)
    return max(floats or given, key=lambda dtype: dtype.itemsize)
