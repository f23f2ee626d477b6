"""``documents``: list, show, revoke, supersede."""

from pathlib import Path
from typing import Any

import click

from node.cli.options import node_options, opened, print_fields, print_json, print_table
from node.contract.times import format_time
from node.services.access import is_expired
from node.services.audit import Action
from node.services.documents import REVOKED, command_attempt
from node.services.ports import CatalogueDocument, Placement

COMMAND = "documents"
PAGE = 500


@click.group()
def documents() -> None:
    """The documents that this node has."""


@documents.command("list")
@click.option("--issuer", multiple=True, help="Only this issuer's; may be given again.")
@click.option("--type", "doc_type", multiple=True, help="Only of this type; may be given again.")
@click.option("--status", type=click.Choice(["active", "revoked"]))
@click.option("--after", default="", help="Go on after this URI.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
@node_options
def list_documents(
    issuer: tuple[str, ...], doc_type: tuple[str, ...], status: str | None, after: str, limit: int, folder: Path,
    as_json: bool,
) -> None:  # fmt: skip
    """List documents in the order of their URIs."""
    with opened(folder) as node:
        now_us = node.clock()
        found: list[CatalogueDocument] = []
        after = after.lower()
        while len(found) < limit:
            page = node.administration.page(
                issuers=issuer, doc_types=doc_type, status=status, after=after, limit=min(PAGE, limit - len(found))
            )
            if not page:
                break
            found += page
            after = page[-1].uri.key
    if as_json:
        print_json([_json(document, now_us) for document in found])
        return
    rows = [
        (it.uri, _standing(it, now_us), it.current_version, ", ".join(_forms(it)), it.title) for it in found
    ]  # fmt: skip
    print_table(("URI", "STATUS", "VERSION", "FORMS", "TITLE"), rows)
    if len(found) == limit:
        click.echo(f"\nthere may be more: --after {found[-1].uri}", err=True)


@documents.command()
@click.argument("uri")
@node_options
def show(uri: str, folder: Path, as_json: bool) -> None:
    """Show what the catalogue says of a document."""
    with opened(folder) as node:
        document = node.administration.find(node.administration.parse(uri))
        now_us = node.clock()
    _print(document, now_us, as_json)


@documents.command()
@click.argument("uri")
@click.option("--reason", required=True, help="Why, in a sentence that everybody who asks may read.")
@node_options
def revoke(uri: str, reason: str, folder: Path, as_json: bool) -> None:
    """Revoke a document: from now on nobody is given it."""
    with opened(folder) as node:
        parsed = node.administration.parse(uri)
        document = node.administration.set_status(
            parsed, REVOKED, reason, command_attempt(Action.STATUS, COMMAND, parsed)
        )
        now_us = node.clock()
    _print(document, now_us, as_json)


@documents.command()
@click.argument("uri")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--language", help="The language of the file, as a tag such as te.")
@node_options
def supersede(uri: str, file: Path, language: str | None, folder: Path, as_json: bool) -> None:
    """Make FILE the next version of a document; the present one is superseded."""
    with opened(folder) as node:
        parsed = node.administration.parse(uri)
        attempt = command_attempt(Action.PUT, COMMAND, parsed)
        result = node.administration.supersede(parsed, file, language=language, attempt=attempt)
        document, now_us = node.administration.find(parsed), node.clock()
    if not as_json:
        click.echo("stored" if result.changed else "these very bytes are there already")
    _print(document, now_us, as_json)


def _print(document: CatalogueDocument, now_us: int, as_json: bool) -> None:
    value = _json(document, now_us)
    if as_json:
        print_json(value)
        return
    holder = value.pop("holder")
    value["holder"] = f"{holder['scheme']} …{holder['last4']}" if holder else None
    value["representations"] = ", ".join(_forms(document))
    value["parameters"] = ", ".join(f"{name}={text}" for name, text in value["parameters"].items())
    print_fields(value)


def _json(document: CatalogueDocument, now_us: int) -> dict[str, Any]:
    holder = {
        "scheme": document.holder_scheme, "last4": document.holder_last4, "holder_ref": document.holder_ref
    }  # fmt: skip
    return {
        "uri": str(document.uri), "issuer": document.uri.issuer, "doc_type": document.uri.doc_type,
        "title": document.title, "status": _standing(document, now_us), "reason": document.status_reason,
        "version": document.current_version, "issued_on": document.issued_on, "expires_on": document.expires_on,
        "office": document.office, "holder": holder if document.holder_scheme else None,
        "parameters": dict(document.parameters), "changed_at": format_time(document.changed_us),
        "representations": [_representation(it) for it in document.of_version(document.current_version)],
    }  # fmt: skip


def _representation(placement: Placement) -> dict[str, Any]:
    return {
        "media_type": placement.media_type, "language": placement.language, "size": placement.size,
        "sha256": placement.sha256, "store": placement.store,
    }  # fmt: skip


def _standing(document: CatalogueDocument, now_us: int) -> str:
    return "expired" if document.status == "active" and is_expired(document, now_us) else document.status


def _forms(document: CatalogueDocument) -> list[str]:
    return [
        it.media_type.partition("/")[2] + (f" {it.language}" if it.language else "")
        for it in document.of_version(document.current_version)
    ]  # fmt: skip
