"""``type`` and ``issuer``: how document types and issuers are named, searched and matched to residents."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from node.cli.options import node_options, opened, print_json, print_table
from node.contract.uri import require_doc_type, require_issuer
from node.db.catalogue import add_doc_type, add_issuer, doc_types, issuer_directory, issuer_names, name_issuer
from node.services.matching import MatchRule
from node.services.ports import DocTypeRecord

MOST_PARAMETERS = 20
LONGEST_NAME = 200
AGAIN = "Tell each locker: locker-node register URL, and have the change approved there."

_PARAMETER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}\Z")


@click.group("type")
def doc_type() -> None:
    """Document types: their names, search parameters and match rules."""


@doc_type.command("list")
@node_options
def list_types(folder: Path, as_json: bool) -> None:
    """List document types."""
    with opened(folder) as node, node.database.reading() as connection:
        found = doc_types(connection)
    if as_json:
        print_json([_json(record) for record in found])
        return
    rows = [
        (it.issuer, it.doc_type, it.name, ", ".join(_parameter_names(it)), _rule_text(it.match_rule)) for it in found
    ]  # fmt: skip
    print_table(("ISSUER", "TYPE", "NAME", "SEARCHED BY", "MATCHED BY"), rows)


@doc_type.command("set")
@click.argument("issuer")
@click.argument("code", metavar="TYPE")
@click.option("--name", help="What people read, for example Income certificate.")
@click.option("--search", multiple=True, metavar="NAME[:LABEL]", help="A parameter to search by; may be given again.")
@click.option(
    "--match-rule", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE.json",
    help="When a document that is found is the resident's own.",
)  # fmt: skip
@node_options
def set_type(
    issuer: str, code: str, name: str | None, search: tuple[str, ...], match_rule: Path | None, folder: Path,
    as_json: bool,
) -> None:  # fmt: skip
    """Name a document type, and say how its documents are searched and whose they are; what is not given stays."""
    changes: dict[str, Any] = {}
    if name is not None:
        changes["name"] = _name(name)
    if search:
        changes["search_parameters"] = _parameters(search)
    if match_rule is not None:
        changes["match_rule"] = _rule(match_rule)
    require_issuer(issuer)
    require_doc_type(code)
    with opened(folder) as node, node.database.writing() as connection:
        directory = issuer_directory(connection)
        if issuer not in directory:
            if conflict := directory.conflict(issuer):
                raise click.UsageError(f"the issuer would be mistaken for {conflict}, which is here already.")
            add_issuer(connection, issuer, issuer, node.clock())
        known = {(it.issuer.lower(), it.doc_type.lower()): it for it in doc_types(connection)}
        record = known.get((issuer.lower(), code.lower()), DocTypeRecord(issuer, code, code))
        record = replace(record, **changes)
        add_doc_type(connection, record, node.clock())
    if as_json:
        print_json(_json(record))
    else:
        click.echo(f"{record.issuer}-{record.doc_type} is {record.name}. {AGAIN}")


@click.group()
def issuer() -> None:
    """The issuers that this node answers for."""


@issuer.command("list")
@node_options
def list_issuers(folder: Path, as_json: bool) -> None:
    """List issuers."""
    with opened(folder) as node, node.database.reading() as connection:
        names = issuer_names(connection)
    if as_json:
        print_json([{"issuer": identifier, "name": name} for identifier, name in names.items()])
    else:
        print_table(("ISSUER", "NAME"), list(names.items()))


@issuer.command("set")
@click.argument("identifier", metavar="ISSUER")
@click.option("--name", required=True, help="What people read.")
@node_options
def set_issuer(identifier: str, name: str, folder: Path, as_json: bool) -> None:
    """Name an issuer."""
    name = _name(name)
    with opened(folder) as node, node.database.writing() as connection:
        if not name_issuer(connection, identifier, name):
            raise click.UsageError("there is no such issuer here; locker-node issuer list shows those that there are.")
    if as_json:
        print_json({"issuer": identifier, "name": name})
    else:
        click.echo(f"{identifier} is {name}. {AGAIN}")


def _name(text: str) -> str:
    if not 0 < len(text) <= LONGEST_NAME or not text.isprintable():
        raise click.UsageError(f"a name is one line of 1 to {LONGEST_NAME} characters.")
    return text


def _parameters(search: Sequence[str]) -> tuple[Mapping[str, Any], ...]:
    rows = []
    for written in search:
        name, _, label = written.partition(":")
        if not _PARAMETER.match(name):
            raise click.UsageError("a search parameter's name is a letter and then up to 63 letters, digits or _.")
        rows.append({"name": name, "label": _name(label or name), "required": True})
    if len({row["name"] for row in rows}) != len(rows) or len(rows) > MOST_PARAMETERS:
        raise click.UsageError(f"search parameters have different names and are at most {MOST_PARAMETERS}.")
    return tuple(rows)


def _rule(file: Path) -> Mapping[str, Any]:
    """Read a match rule; its own words say what is wrong with it."""
    try:
        members = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(members, dict):
            raise ValueError("a match rule is a JSON object")
        MatchRule.from_json(members)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise click.UsageError(f"{file}: {error}.") from None
    return members


def _json(record: DocTypeRecord) -> dict[str, Any]:
    return {
        "issuer": record.issuer, "doc_type": record.doc_type, "name": record.name,
        "search_parameters": [dict(row) for row in record.search_parameters], "match_rule": dict(record.match_rule),
    }  # fmt: skip


def _parameter_names(record: DocTypeRecord) -> list[str]:
    return [str(row["name"]) for row in record.search_parameters]


def _rule_text(members: Mapping[str, Any]) -> str:
    rule = MatchRule.from_json(members)
    return ", ".join(
        ["holder" if rule.holder == "required" else "holder if known", *(it.attribute for it in rule.attributes)]
    )
