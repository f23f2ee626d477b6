"""``ingest``: take documents in from a folder or a manifest."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click

from node.cli.options import node_options, opened, print_json
from node.services.candidates import shown
from node.services.ingest import Ingest, IngestOptions, IngestReport
from node.services.sources import Source, open_source
from node.wiring import Node

_FATES = (
    ("created", "new documents"), ("added", "further forms or languages"), ("replaced", "new versions"),
    ("changed", "with other metadata"), ("unchanged", "unchanged"), ("refused", "refused"),
)  # fmt: skip


@click.command()
@click.argument("source", type=click.Path(path_type=Path), metavar="FOLDER|MANIFEST.csv")
@click.option("--dry-run", is_flag=True, help="Check everything, store nothing.")
@click.option("--replace", is_flag=True, help="Take changed files as new versions, and changed metadata.")
@click.option("--map-id", "map_ids", is_flag=True, help="Write other characters of ids as ~ and two hex digits a byte.")
@click.option("--encoding", help="The manifest's encoding when it is not UTF-8, for example windows-1252.")
@node_options
def ingest(
    source: Path, dry_run: bool, replace: bool, map_ids: bool, encoding: str | None, folder: Path, as_json: bool
) -> int:
    """Take documents in. A second run adds nothing; an interrupted one goes on where it was.

    A folder is laid out as ISSUER/DOCTYPE/DOCID.ext. A manifest is a table with the columns file, issuer, doc_type and doc_id, and if
    wanted holder_scheme, holder_value, issued_on, expires_on, language, title, office, and param.NAME for each search parameter.
    Its files lie beneath its own folder. A row that cannot be taken is named with the reason and the rest goes on; a column that is
    not known is passed over. With --json, each refused row is one line and the last line has the counts.
    """
    opened_source = open_source(source, encoding)
    for column in opened_source.unknown_columns:
        click.echo(f"note: there is no such column as {shown(column)}; it is passed over", err=True)
    with opened(folder) as node, _shown_progress(opened_source, as_json) as (refused, progress):
        report = _ingest(node).run(opened_source, IngestOptions(replace, map_ids, dry_run), refused, progress)
    if as_json:
        print_json({**asdict(report), "dry_run": dry_run})
    else:
        click.echo(_summary(report, dry_run))
    return 1 if report.refused else 0


def _ingest(node: Node) -> Ingest:
    settings = node.settings
    return Ingest(
        node.catalogue, node.stores[settings.default_store], settings.default_store, node.pending_objects,
        hash_key=node.keys.holder_hash, max_document_bytes=settings.max_document_bytes, clock=node.clock,
    )  # fmt: skip


@contextmanager
def _shown_progress(
    source: Source, as_json: bool
) -> Iterator[tuple[Callable[[str, str], None], Callable[[IngestReport], None]]]:
    """Show a bar on a terminal and nowhere else; refused rows go above it."""
    # Imported by the one command that draws.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal or as_json)
    with bar:
        task = bar.add_task("taking in", total=source.total)

        def refused(place: str, reason: str) -> None:
            if as_json:
                print_json({"refused": shown(place), "reason": reason})
            elif bar.disable:
                click.echo(f"{shown(place)}: {reason}")
            else:
                console.file.flush()
                bar.console.print(f"{shown(place)}: {reason}", markup=False, highlight=False, soft_wrap=True)
                sys.stdout.flush()

        yield refused, lambda report: bar.update(task, completed=min(report.done, source.total))


def _summary(report: IngestReport, dry_run: bool) -> str:
    counted = asdict(report)
    parts = [f"{text}: {counted[name]}" for name, text in _FATES if counted[name] or name in ("created", "unchanged")]
    return ("nothing was stored; this would be " if dry_run else "") + ", ".join(parts)
