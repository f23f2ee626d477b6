"""RFC 8785 canonical JSON for the values that the federation signs or hashes."""

import json
from collections.abc import Iterable
from typing import Any

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False)
_LARGEST = 2**53 - 1


def canonical_json(value: Any) -> bytes:
    """Return the RFC 8785 form of a value made of objects, arrays, strings, integers, booleans and null.

    Floating-point numbers and integers beyond 2**53 raise ValueError: no record of ours needs them and other readers would
    round them. Object keys must be ASCII, so that code-point order is the UTF-16 order that section 3.2.3 asks for.
    """
    _refuse_unportable(value)
    return _ENCODER.encode(value).encode("utf-8")


def _refuse_unportable(value: Any) -> None:
    # Every access event passes here, so the commonest kinds come first.
    if value is None or isinstance(value, (str, bool)):
        return
    if isinstance(value, int):
        if not -_LARGEST <= value <= _LARGEST:
            raise ValueError("an integer is too large for canonical JSON")
    elif isinstance(value, dict):
        if not _ascii_text(value):
            raise ValueError("canonical JSON keys are ASCII text here")
        for item in value.values():
            if type(item) is not str:
                _refuse_unportable(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_unportable(item)
    else:
        raise ValueError(f"{type(value).__name__} has no canonical JSON form here")


def _ascii_text(keys: Iterable[Any]) -> bool:
    try:
        return "".join(keys).isascii()
    except TypeError:
        return False
