"""RFC 8785 canonical JSON for the values that the federation signs or hashes."""

import json
from typing import Any


def canonical_json(value: Any) -> bytes:
    """Return the RFC 8785 form of a value made of objects, arrays, strings, integers, booleans and null.

    Floating-point numbers and integers beyond 2**53 raise ValueError: no record of ours needs them and other readers would
    round them. Object keys must be ASCII, so that code-point order is the UTF-16 order that section 3.2.3 asks for.
    """
    _refuse_unportable(value)
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return text.encode("utf-8")


def _refuse_unportable(value: Any) -> None:
    if value is None or isinstance(value, str | bool):
        return
    if isinstance(value, int):
        if abs(value) > 2**53 - 1:
            raise ValueError("an integer is too large for canonical JSON")
    elif isinstance(value, dict):
        for key, item in value.items():
            if not (isinstance(key, str) and key.isascii()):
                raise ValueError("canonical JSON keys are ASCII text here")
            _refuse_unportable(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_unportable(item)
    else:
        raise ValueError(f"{type(value).__name__} has no canonical JSON form here")
