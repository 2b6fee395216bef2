"""JSON into frozen dataclasses by their annotations, with errors that name the file and the field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from brim.core.errors import ConfigError


def read(kind: Any, value: Any, place: str, field: str = "") -> Any:
    """`value` as a `kind`: a dataclass, str, int, float, Literal, tuple, Mapping[str, ...] or `... | None`.

    Raises ConfigError that names `place` (the file) and the field, by its path of dots.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _dataclass(kind, value, place, field)
    if origin in (Union, UnionType):
        inner = next(part for part in parts if part is not NoneType)
        return None if value is None else read(inner, value, place, field)
    if origin is Literal:
        _require(value in parts, value, f"one of {', '.join(parts)}", place, field)
        return value
    if origin is tuple:
        return _tuple(parts, value, place, field)
    if origin is Mapping:
        _require(isinstance(value, dict), value, "an object", place, field)
        return {key: read(parts[1], item, place, f"{field}.{key}") for key, item in value.items()}
    allowed = (int, float) if kind is float else kind
    _require(isinstance(value, allowed) and not isinstance(value, bool), value, kind.__name__, place, field)
    return value


def _dataclass(kind: Any, value: Any, place: str, field: str) -> Any:
    _require(isinstance(value, dict), value, "an object", place, field)
    hints = get_type_hints(kind)
    inside = f"{field}." if field else ""
    unknown = sorted(value.keys() - hints.keys())
    if unknown:
        raise ConfigError(f"{place}: field {inside}{unknown[0]} is not known; remove it or update Brim")
    missing = [f.name for f in fields(kind) if f.default is MISSING and f.name not in value]
    if missing:
        raise ConfigError(f"{place}: field {inside}{missing[0]} is missing")
    try:
        return kind(**{name: read(hints[name], item, place, inside + name) for name, item in value.items()})
    except ConfigError as exc:
        if str(exc).startswith(place):
            raise
        raise ConfigError(f"{place}: field {field}: {exc}") from exc


def _tuple(parts: tuple[Any, ...], value: Any, place: str, field: str) -> tuple[Any, ...]:
    _require(isinstance(value, list), value, "a list", place, field)
    if len(parts) == 2 and parts[1] is Ellipsis:
        parts = (parts[0],) * len(value)
    _require(len(value) == len(parts), value, f"a list of {len(parts)}", place, field)
    pairs = enumerate(zip(parts, value, strict=True))
    return tuple(read(part, item, place, f"{field}[{index}]") for index, (part, item) in pairs)


def _require(holds: bool, value: Any, wanted: str, place: str, field: str) -> None:
    if not holds:
        raise ConfigError(f"{place}: field {field or 'at the top'} is {value!r}, and must be {wanted}")
