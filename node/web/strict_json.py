"""JSON as it comes from outside, read strictly."""

import json
import re
from collections.abc import Iterable
from typing import Any

from node.contract.problems import BadRequest

DEEPEST = 50
_UNSTORABLE_ESCAPE = re.compile(r"\\u(?:0000|[dD][89abAB])")


def parse_json(text: str) -> Any:
    """Read JSON strictly; raises BadRequest, in words that repeat nothing of the text.

    Refused beside bad syntax: a key twice in one object, more than 50 levels, NaN and infinities, numbers of thousands of
    digits, and characters that no database keeps (NUL, half a surrogate pair).
    """
    try:
        value = _decoder.decode(text)
    except json.JSONDecodeError as error:
        raise BadRequest(
            f"The body is not JSON (line {error.lineno}, column {error.colno})", reason="bad-json"
        ) from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        raise BadRequest("The body has a number that is out of range", reason="bad-json") from None
    if _is_deeper(value, DEEPEST):
        raise _too_deep()
    if _UNSTORABLE_ESCAPE.search(text) and not _is_storable(value):
        raise BadRequest("The body holds a character that cannot be stored", reason="unstorable-text")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise BadRequest("A key stands in one object twice", reason="duplicate-key")
    return value


def _no_constant(_: str) -> float:
    raise ValueError


def _finite_float(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError
    return value


# Made once: ``json.loads`` with any option makes a decoder at each call.
_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite_float)


def _too_deep() -> BadRequest:
    return BadRequest(f"The body is nested more than {DEEPEST} levels deep", reason="too-deep")


def _is_deeper(value: Any, most: int) -> bool:
    level = [value]
    for _ in range(most):
        level = [child for node in level for child in _children(node)]
        if not level:
            return False
    return any(isinstance(node, dict | list) for node in level)


def _children(node: Any) -> Iterable[Any]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()


def _is_storable(value: Any) -> bool:
    pending = [value]
    while pending:
        node = pending.pop()
        if isinstance(node, str):
            if "\0" in node or any("\ud800" <= character <= "\udfff" for character in node):
                return False
        elif isinstance(node, dict):
            pending.extend(node)
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)
    return True
