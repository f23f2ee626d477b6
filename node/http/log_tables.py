"""Rows of the access log as text for other programs: NDJSON, and CSV that no spreadsheet takes for formulas."""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from node.http.log_rows import COLUMNS

# Control characters of both sets, line and paragraph separators, and what turns the direction of writing.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\\\\]")
_FORMULA = ("=", "+", "-", "@", "'", "＝", "＋", "－", "＠")


def ndjson_page(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return one JSON object a line, in ASCII, so that no character of a value can end a line."""
    return "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)


def csv_page(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a table (RFC 4180) with a header line."""
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(COLUMNS)
    writer.writerows([cell(row.get(column)) for column in COLUMNS] for row in rows)
    return table.getvalue()


def cell(value: Any) -> str:
    r"""Return a value as a cell that shows what was meant and runs nothing.

    Control characters are written as escapes and a backslash doubled, so that the original can be told. A text that a spreadsheet
    would take for a formula, or that begins with an apostrophe itself, gets an apostrophe before it. Numbers stay numbers.
    """
    if value is None:
        return ""
    if isinstance(value, int):
        return str(value)
    text = _UNSAFE.sub(_escape, str(value))
    return f"'{text}" if text.startswith(_FORMULA) else text


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    if character == "\\":
        return "\\\\"
    return {"\t": "\\t", "\r": "\\r", "\n": "\\n"}.get(character, f"\\u{ord(character):04x}")
