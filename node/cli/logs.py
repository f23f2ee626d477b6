"""``log``: query and export the access log. Asking is itself a row of the log, written before anything is shown."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import click

from node.cli.options import node_options, opened, print_json, print_table
from node.contract.identifiers import uuid7
from node.contract.times import parse_time
from node.db.audit_log import LogFilter, read_log
from node.db.sequencer import sequence_once
from node.http.log_rows import FIRST_POSITION, shown_row
from node.http.log_tables import csv_page, ndjson_page
from node.services.audit import PHASE_ATTEMPT, Action, Outcome, encode_event
from node.wiring import Node

PAGE = 500
FORMATS = ("ndjson", "csv", "json")

# Headings with the members shown beneath them: the first that a row has.
_TABLE = (
    ("POSITION", ("position",)), ("RECORDED_AT", ("recorded_at",)), ("ACTION", ("action",)), ("OUTCOME", ("outcome",)),
    ("REASON", ("reason",)), ("URI", ("uri", "uri_text")), ("ROLE", ("role",)), ("WHO", ("client_id", "token_name")),
    ("PURPOSE", ("purpose",)), ("BYTES_SENT", ("bytes_sent",)),
)  # fmt: skip

Row = dict[str, Any]


class _Moment(click.ParamType[int]):
    """A time with an offset, as microseconds UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return value if isinstance(value, int) else parse_time(value)
        except (ValueError, OverflowError):
            self.fail("write a time with its offset, such as 2026-11-25T09:30:00+05:30", param, ctx)


def _filters(command: Callable[..., Any]) -> Callable[..., Any]:
    options = (
        click.option("--uri", help="Only rows about this document."),
        click.option("--holder-ref", help="Only rows about this resident's documents."),
        click.option("--client-id", help="Only this requester's."),
        click.option("--consent-id", help="Only under this consent."),
        click.option("--action", type=click.Choice([str(action) for action in Action])),
        click.option("--outcome", type=click.Choice([str(outcome) for outcome in Outcome])),
        click.option("--issuer", multiple=True, help="Only this issuer's; may be given again."),
        click.option("--type", "doc_type", multiple=True, help="Only of this type; may be given again."),
        click.option("--from", "from_us", type=_Moment(), help="Only from this time on, with its offset."),
        click.option("--to", "until_us", type=_Moment(), help="Only before this time, with its offset."),
        click.option("--after", type=click.IntRange(0), default=0, help="Go on after this position."),
    )
    for option in reversed(options):
        command = option(command)
    return node_options(command)


@click.group()
def log() -> None:
    """Who read what, when, why and under which consent."""


@log.command()
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@_filters
def query(limit: int, folder: Path, as_json: bool, **asked: Any) -> None:
    """Show rows in the order of their positions."""
    with opened(folder) as node:
        rows = list(_rows(node, "log query", asked, limit))
    if as_json:
        after = rows[-1]["position"] if len(rows) == limit else None
        print_json({"rows": rows, "next_after": after})
        return
    print_table(
        [heading for heading, _ in _TABLE],
        [[_short(heading, _first(row, names)) for heading, names in _TABLE] for row in rows],
    )
    if len(rows) == limit:
        click.echo(f"\nthere may be more: --after {rows[-1]['position']}", err=True)


@log.command()
@click.option("--format", "form", type=click.Choice(FORMATS), default="ndjson", show_default=True)
@click.option(
    "--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="A new file; default: the terminal."
)
@_filters
def export(form: str, output: Path | None, folder: Path, as_json: bool, **asked: Any) -> None:
    """Write all rows for other programs; CSV is safe to open in a spreadsheet."""
    with opened(folder) as node:
        if output is None:
            count = _write(sys.stdout, form, _rows(node, "log export", asked, None))
        else:
            with _new_file(output) as file:
                count = _write(file, form, _rows(node, "log export", asked, None))
    if output is not None:
        if as_json:
            print_json({"file": str(output), "rows": count})
        else:
            click.echo(f"{count} rows are in {output}")


@contextmanager
def _new_file(path: Path) -> Iterator[IO[str]]:
    """Open a file that is not there yet, and remove it when it does not come to be whole."""
    try:
        # Never over an earlier export: somebody may rely on it. UTF-8 whatever the terminal's language is.
        file = path.open("x", encoding="utf-8", newline="")
    except FileExistsError:
        raise click.UsageError(f"{path} exists already; name a new file.") from None
    try:
        with file:
            yield file
    except BaseException:
        path.unlink()
        raise


def _rows(node: Node, command: str, asked: dict[str, Any], limit: int | None) -> Iterator[Row]:
    """Yield rows page by page, once the asking itself is a durable row; an export ends where the log ended at its start."""
    wanted = _wanted(asked)
    _record(node, command, asked)
    # Without a running node nobody gives events their places; two that do it at once do no harm.
    while sequence_once(node.database, node.keys.log_tag):
        pass
    end = node.clock()
    left = limit
    while left is None or left > 0:
        with node.database.reading() as connection:
            page = read_log(connection, wanted, PAGE if left is None else min(PAGE, left))
        for row in page:
            yield shown_row(row.position, row.event)
        if not page or (limit is None and parse_time(page[-1].event["at"]) > end):
            return
        wanted = replace(wanted, after=page[-1].position)
        left = None if left is None else left - len(page)


def _record(node: Node, command: str, asked: dict[str, Any]) -> None:
    given = {name: list(value) if isinstance(value, tuple) else value for name, value in asked.items() if value}
    fields = {
        "phase": PHASE_ATTEMPT, "action": Action.LOG_QUERY, "outcome": Outcome.COMPLETE, "read_id": uuid7(),
        "principal": {"kind": "command", "name": command}, "uri": given.pop("uri", None),
        "holder_ref": given.pop("holder_ref", None), "filter": given or None,
    }  # fmt: skip
    with node.catalogue.writing() as writer:
        writer.append_events([encode_event(fields, node.clock())])


def _wanted(asked: dict[str, Any]) -> LogFilter:
    uri, holder_ref = asked["uri"], asked["holder_ref"]
    return LogFilter(
        uri_key=uri.lower() if uri else None, holder_ref=holder_ref or None,
        client_id=asked["client_id"], consent_id=asked["consent_id"], action=asked["action"], outcome=asked["outcome"],
        from_us=asked["from_us"], until_us=asked["until_us"],
        issuers=tuple(name.lower() for name in asked["issuer"]),
        doc_types=tuple(name.lower() for name in asked["doc_type"]), after=asked["after"] - FIRST_POSITION,
    )  # fmt: skip


def _write(file: IO[str], form: str, rows: Iterator[Row]) -> int:
    """Write rows one by one, so that the whole log need not fit in memory; returns how many."""
    count = 0
    if form == "csv":
        file.write(csv_page([]))
    elif form == "json":
        file.write("[")
    for row in rows:
        if form == "csv":
            file.write(csv_page([row]).partition("\r\n")[2])
        elif form == "json":
            file.write((",\n" if count else "\n") + ndjson_page([row]).rstrip("\n"))
        else:
            file.write(ndjson_page([row]))
        count += 1
    if form == "json":
        file.write("\n]\n")
    return count


def _first(row: Row, names: Sequence[str]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _short(name: str, value: Any) -> Any:
    return str(value)[:19].replace("T", " ") + "Z" if name == "RECORDED_AT" else value
