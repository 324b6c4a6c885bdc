"""What the command line says of a job: its arguments as JSON, its options as texts."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from ropeway.cli.exits import usage
from ropeway.cli.input.quantity import moment, seconds


def read_json(text: str | bytes, *, what: str) -> Any:
    """Any JSON value. Raises a usage failure."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise usage(f"{what} is not JSON: {error}") from None


def read_object(text: str, *, what: str = "--args") -> dict[str, Any]:
    """A JSON object, parameter name -> value."""
    value = read_json(text, what=what)
    if not isinstance(value, dict):
        raise usage(f'{what} must be a JSON object, parameter name -> value: {{"n": 1}}')
    return cast("dict[str, Any]", value)


def as_call(value: Any, *, what: str) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """What a call with these arguments gives: an object is by name, an array by position."""
    if isinstance(value, dict):
        return (), cast("dict[str, Any]", value)
    if isinstance(value, list):
        return cast("list[Any]", value), {}
    raise usage(f"{what} must be a JSON object (name -> value) or an array (by position)")


_DURATIONS = frozenset({"delay", "timeout", "expires"})


def job_options(group: object, names: Sequence[str]) -> dict[str, Any]:
    """Those of the named options that were given, as `Task.opts` takes them."""
    options: dict[str, Any] = {}
    for name in names:
        value: Any = getattr(group, name)
        if value is None:
            continue
        if name in _DURATIONS:
            value = seconds(value, name=name)
        elif name == "at":
            value = moment(value, name=name)
        options[name] = value
    return options
