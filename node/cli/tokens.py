"""``token``: create, list, revoke."""

from pathlib import Path

import click

from node.cli.options import node_options, opened, print_fields, print_json, print_table
from node.contract.times import format_time
from node.db.token_records import TokenRecords
from node.services.access import TOKEN_ROLES, TokenGrant, TokenScope
from node.services.tokens import DEFAULT_DAYS, MAX_DAYS, TokenService
from node.wiring import Node


@click.group()
def token() -> None:
    """Access tokens of people and tools at this node."""


@token.command()
@click.option("--name", required=True, help="Who uses it.")
@click.option("--role", type=click.Choice(TOKEN_ROLES), required=True)
@click.option("--issuer", "issuers", multiple=True, help="Limit it to this issuer; may be given again.")
@click.option("--type", "doc_types", multiple=True, help="Limit it to this document type; may be given again.")
@click.option("--office", help="Limit it to this office's documents.")
@click.option("--from", "from_date", help="An auditor sees rows from this day on, YYYY-MM-DD.")
@click.option("--until", "until_date", help="An auditor sees rows up to this day, YYYY-MM-DD.")
@click.option(
    "--days", type=click.IntRange(1, MAX_DAYS), default=DEFAULT_DAYS, show_default=True, help="It lasts so long."
)
@node_options
def create(
    name: str, role: str, issuers: tuple[str, ...], doc_types: tuple[str, ...], office: str | None,
    from_date: str | None, until_date: str | None, days: int, folder: Path, as_json: bool,
) -> None:  # fmt: skip
    """Make a token. It is shown once and not kept."""
    with opened(folder) as node:
        made = _service(node).create(name, role, TokenScope(issuers, doc_types, office, from_date, until_date), days)
    expires = format_time(made.expires_us)
    if as_json:
        print_json({"token_id": made.token_id, "token": made.token, "role": role, "expires_at": expires})
        return
    print_fields({"Token": made.token, "Identifier": made.token_id, "good until": expires[:10]})
    click.echo("\nThe token is not shown again.")


@token.command("list")
@node_options
def list_tokens(folder: Path, as_json: bool) -> None:
    """List tokens, ended ones too."""
    with opened(folder) as node:
        grants, now_us = _service(node).all(), node.clock()
    if as_json:
        print_json([_json(grant, now_us) for grant in grants])
        return
    rows = [
        (it.token_id, it.name, it.role, _scope(it.scope), format_time(it.expires_us)[:10], _state(it, now_us))
        for it in grants
    ]
    print_table(("IDENTIFIER", "NAME", "ROLE", "LIMITED TO", "UNTIL", "STATE"), rows)


@token.command()
@click.argument("token_id", metavar="IDENTIFIER")
@node_options
def revoke(token_id: str, folder: Path, as_json: bool) -> None:
    """End a token at once."""
    with opened(folder) as node:
        _service(node).revoke(token_id)
    if as_json:
        print_json({"token_id": token_id, "state": "revoked"})
    else:
        click.echo("the token is ended")


def _service(node: Node) -> TokenService:
    return TokenService(TokenRecords(node.database), clock=node.clock)


def _json(grant: TokenGrant, now_us: int) -> dict[str, object]:
    return {
        "token_id": grant.token_id, "name": grant.name, "role": grant.role, "scope": grant.scope.as_json(),
        "created_at": format_time(grant.created_us), "expires_at": format_time(grant.expires_us),
        "state": _state(grant, now_us),
    }  # fmt: skip


def _state(grant: TokenGrant, now_us: int) -> str:
    if grant.revoked_us is not None:
        return "revoked"
    return "expired" if grant.expires_us <= now_us else "good"


def _scope(scope: TokenScope) -> str:
    members = scope.as_json()
    return "; ".join(", ".join(value) if isinstance(value, list) else str(value) for value in members.values())
