"""Plain JSON that another process wrote, as dataclasses: a value of another type or size is refused."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

_MAX = 2**63 - 1
"""The largest whole number that a database stores."""


def read(kind: Any, plain: object) -> Any:
    """The value of this type that `plain` stands for.

    Args:
        kind: a dataclass, or what its fields may be: `int`, `float`, `str`, `bool`, `dict`, `None`, `bytes` (as
            base64), a `StrEnum`, and mappings, tuples and unions of these; a sequence of numbers.
        plain: from `json.loads`.

    Raises:
        ValueError: it stands for none.
    """
    if get_origin(kind) is not None:
        return _generic(get_origin(kind), get_args(kind), plain)
    if is_dataclass(kind):
        return _dataclass(kind, _of(dict, plain))
    if kind in (int, float):
        return _numbers(kind, [plain])[0]
    if kind is bytes:
        return base64.b64decode(_of(str, plain), validate=True)
    if kind in (str, bool, dict, type(None)):
        return _of(kind, plain)
    return kind(plain)


def _generic(origin: Any, inner: Sequence[Any], plain: object) -> Any:
    if origin is UnionType:
        return _first(inner, plain)
    if origin in (Mapping, dict):
        return {key: read(inner[1], value) for key, value in _of(dict, plain).items()}
    if origin is tuple:
        return tuple(read(one, value) for one, value in zip(inner, _of(list, plain), strict=True))
    return _numbers(inner[0], _of(list, plain))


def _first(kinds: Sequence[Any], plain: object) -> Any:
    """The value of the first of these types that fits."""
    wrong = []
    for kind in kinds:
        try:
            return read(kind, plain)
        except ValueError as error:
            wrong.append(str(error))
    raise ValueError(", ".join(wrong))


def _dataclass(kind: Any, plain: Mapping[str, object]) -> Any:
    hints = _hints(kind)
    needed = {one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING}
    if wrong := plain.keys() - hints.keys() | needed - plain.keys():
        raise ValueError(f"no {kind.__name__} without or with {', '.join(sorted(wrong))}")
    return kind(**{name: read(hints[name], value) for name, value in plain.items()})


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _numbers(kind: type, plain: Sequence[Any]) -> Sequence[Any]:
    """These values, if they are numbers of this type, and not too large for it."""
    if not {type(value) for value in plain} <= {int, kind}:
        raise ValueError(f"no {kind.__name__}")
    if kind is float:
        try:
            return [float(value) for value in plain]
        except OverflowError as error:
            raise ValueError(str(error)) from None
    if plain and not -_MAX <= min(plain) <= max(plain) <= _MAX:
        raise ValueError("a whole number that is too large")
    return plain


def _of(kind: type, plain: Any) -> Any:
    if type(plain) is not kind:
        raise ValueError(f"{type(plain).__name__}, not {kind.__name__}")
    return plain
