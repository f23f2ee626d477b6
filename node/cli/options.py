"""What every command has: the node's folder, ``--json``, and a node that is opened and closed again."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from node.db import schema
from node.logs import configure_logs
from node.services.candidates import shown
from node.wiring import Node, build_node

FOLDER_VARIABLE = "LOCKER_NODE_FOLDER"

_Command = TypeVar("_Command", bound=Callable[..., Any])

folder_option = click.option(
    "--folder", "-C", type=click.Path(file_okay=False, path_type=Path), default=Path(), envvar=FOLDER_VARIABLE,
    help=f"The node's folder; default: {FOLDER_VARIABLE}, or here.",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def node_options(command: _Command) -> _Command:
    """Give a command ``--folder`` and ``--json``."""
    return folder_option(json_option(command))


@contextmanager
def opened(folder: Path) -> Iterator[Node]:
    """Open a node whose database is as this release needs it; whatever goes wrong, it is closed again."""
    quiet_logs()
    node = build_node(folder)
    try:
        node.database.require_durable()
        schema.require_current(node.database)
        yield node
    finally:
        node.close()


def quiet_logs() -> None:
    """Keep the application's log to faults, on standard error: a command says what it has to say itself."""
    configure_logs("critical")


def print_json(value: Any) -> None:
    """Print one JSON value on one line."""
    click.echo(json.dumps(value, ensure_ascii=False))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table with columns as wide as they need; control characters are shown as escapes."""
    cells = [[shown("" if value is None else str(value)) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    for line in [list(headings), *cells]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_fields(fields: Mapping[str, Any]) -> None:
    """Print names and values one below the other, those without a value left out."""
    width = max(map(len, fields))
    for name, value in fields.items():
        if value not in (None, "", (), [], {}):
            click.echo(f"{name.ljust(width)}  {shown(str(value))}")
