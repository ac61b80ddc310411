"""Plain values, as JSON and YAML give them, become a dataclass with every field checked against its annotation."""

import dataclasses
import functools
import operator
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from runs.errors import UserError

T = TypeVar("T")
INSIDE = {"at least": operator.ge, "above": operator.gt, "at most": operator.le, "below": operator.lt}
_NAMES = {str: "text", bool: "true or false", int: "a whole number", float: "a finite number"}


def build(kind: type[T], value: Any, where: str) -> T:
    """Make a dataclass of plain values.

    Args:
        kind: the dataclass; its fields may be annotated with plain types, `Any`, `X | None`, `list`, `tuple[X, ...]`,
            `dict`, and further dataclasses.
        value: a mapping of its fields.
        where: what the message begins with, e.g. the file.

    Raises:
        UserError: a field is unknown, missing, of another type or outside what `settings.choice` or `number` allows, a
            number is not finite, or the dataclass's own `__post_init__` refuses.
    """
    return typing.cast(T, _convert(kind, value, where))


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _union(arguments, value, where)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, where)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise UserError(f"{where} must be a mapping")
        return {_convert(arguments[0], k, f"{where}: key"): _convert(arguments[1], v, f"{where}.{k}")
                for k, v in value.items()}  # fmt: skip
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            raise UserError(f"{where} must be a list")
        return origin(_convert(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    # A truth value is an int to Python, and a whole number is a float to everyone.
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{where} must be {_NAMES.get(kind, kind.__name__)}, not {value!r:.60}")
    # Not a number compares with none, and a whole number beyond the largest float is none either.
    if kind is float and not abs(value) <= sys.float_info.max:
        raise UserError(f"{where} must be {_NAMES[float]}, not {value!r:.60}")
    return value


def _union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    complaint = None
    for kind in kinds:
        if kind is not type(None):
            try:
                return _convert(kind, value, where)
            except UserError as error:
                complaint = complaint or error
    assert complaint is not None
    raise complaint


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: must be a mapping with {', '.join(_hints(kind))}")
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    for key in value:
        if key not in fields:
            raise UserError(f"{where}: unknown field '{key}'; it may have {', '.join(fields)}")
    for name, field in fields.items():
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if name not in value and not optional:
            raise UserError(f"{where}: field '{name}' is missing")
    given = {key: _convert(_hints(kind)[key], entry, f"{where}: {key}") for key, entry in value.items()}
    for name, entry in given.items():
        if fault := choice_or_range_fault(fields[name], entry):
            raise UserError(f"{where}: {name}={entry!r:.60}: {fault}")
    try:
        return kind(**given)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def choice_or_range_fault(field: "dataclasses.Field[Any]", value: Any) -> str:
    """Why a value is none of its field's choices, or a number in it outside the field's range; empty if it is right."""
    if value not in field.metadata.get("choices", (value,)):
        return f"choose one of {', '.join(field.metadata['choices'])}"
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]:
        for words, limit in field.metadata.get("limits", {}).items():
            if item is not None and not INSIDE[words](item, limit):
                return f"must be {words} {limit:g}"
    return ""


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)
