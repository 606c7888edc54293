"""Lists of numbers as bytes, exactly: what a run measures takes less room, and is read faster, than as rows or JSON.

Eight bytes per number, little-endian. In traces the first bytes of all numbers come first, then all second bytes, and
so on, because neighbours are alike in their first bytes; then zlib compresses them.
"""

import math
import struct
import zlib
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from sqlalchemy import Dialect, LargeBinary
from sqlalchemy.types import TypeDecorator
from typing_extensions import override

_LEVEL = 1
"""Of zlib. A higher one takes longer and saves less than a hundredth."""


def pack_metrics(values: Sequence[float | None]) -> bytes:
    """The values as float64; NaN stands for null."""
    return _packed("d", [math.nan if value is None else value for value in values])


def unpack_metrics(data: bytes) -> list[float | None]:
    """What `pack_metrics` packed."""
    return [None if math.isnan(value) else value for value in _unpacked("d", data)]


class Steps(TypeDecorator[list[int]]):
    """Training steps, compressed: as differences, which repeat."""

    impl = LargeBinary
    cache_ok = True

    @override
    def process_bind_param(self, value: list[int] | None, dialect: Dialect) -> Any:
        steps = [0, *(value or ())]
        return _compressed(_packed("q", [after - before for before, after in pairwise(steps)]))

    @override
    def process_result_value(self, value: Any, dialect: Dialect) -> list[int]:
        return list(accumulate(_unpacked("q", _decompressed(value))))


class Values(TypeDecorator[list[float]]):
    """Finite numbers, compressed."""

    impl = LargeBinary
    cache_ok = True

    @override
    def process_bind_param(self, value: list[float] | None, dialect: Dialect) -> Any:
        if not all(map(math.isfinite, value or ())):
            raise ValueError("Out of range float values are not allowed in traces")
        return _compressed(_packed("d", value or ()))

    @override
    def process_result_value(self, value: Any, dialect: Dialect) -> list[float]:
        return list(_unpacked("d", _decompressed(value)))


def _packed(kind: str, values: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(values)}{kind}", *values)


def _unpacked(kind: str, data: bytes) -> tuple[Any, ...]:
    return struct.unpack(f"<{len(data) // 8}{kind}", data)


def _compressed(data: bytes) -> bytes:
    return zlib.compress(b"".join(data[place::8] for place in range(8)), _LEVEL)


def _decompressed(data: bytes) -> bytes:
    columns = zlib.decompress(data)
    found = bytearray(len(columns))
    for place in range(8):
        found[place::8] = columns[place * len(columns) // 8 : (place + 1) * len(columns) // 8]
    return bytes(found)
