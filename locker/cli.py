"""The ``locker`` command. Every command takes ``--json``; what it prints then is for programs."""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from locker.config import (
    SETTINGS_FILE,
    Settings,
    SettingsRefused,
    load_settings,
)
from locker.db.migration import current_revision, require_current, upgrade
from locker.db.session import Database
from locker.http.handlers.answers import consent_document
from locker.key_commands import keys, root
from locker.keys import create_keys
from locker.logs import configure_logging
from locker.options import Output, plain_faults, with_options
from locker.services.consents import STATES
from locker.services.links import SELF_DECLARED, SOURCES, NewIdentifier
from locker.services.principal import AUDITOR, OPERATOR, RESIDENT, Principal
from locker.services.readiness import Check
from locker.wiring import Locker, build_locker
from node.contract.holders import Holder
from node.contract.times import DAY, format_time
from node.web.private_files import keep_others_out, write_private
from node.web.processes import ChildSpec, Supervisor, bind
from node.web.production import mark_as_demo, require_fit, unfit_for_production

_TEMPLATE = """\
# Settings of this locker. Each may also be given in the environment, as LOCKER_PORT for `port`.
environment = {environment}
name = {name}
base_url = {base_url}
host = {host}
port = {port}
database_url = {database_url}
allow_private = {allow_private}
"""


@contextmanager
def _opened(folder: Path) -> Iterator[Locker]:
    """A locker whose schema is the newest."""
    with plain_faults():
        locker = build_locker(load_settings(folder))
        try:
            require_current(locker.database)
            yield locker
        finally:
            locker.close()


@click.group()
def main() -> None:
    """Run a document locker: the registry that resolves document URIs and records consent."""
    keep_others_out()
    configure_logging("warning")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--name", default="Document locker", help="What people call this locker.")
@click.option("--base-url", default=None, help="Where others reach it; default: http://127.0.0.1:PORT.")
@click.option("--host", default="127.0.0.1", help="Address to listen on.")
@click.option("--port", default=8400, help="Port to listen on.")
@click.option("--database-url", default="sqlite:///locker.db", help="SQLite or PostgreSQL, as a SQLAlchemy URL.")
@click.option("--allow-private", multiple=True, metavar="CIDR", help="A private network in which nodes may live.")
@click.option(
    "--environment",
    type=click.Choice(["demo", "production"]),
    help="Default: production when the base URL is https, else demo.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def init(folder: Path, as_json: bool, **values: Any) -> None:
    """Make a new locker in FOLDER: settings, keys, database, first operator token."""
    with plain_faults():
        file = folder / SETTINGS_FILE
        if file.exists():
            raise ValueError(f"{file} is there already")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        values["base_url"] = values["base_url"] or f"http://{values['host']}:{values['port']}"
        on_https = values["base_url"].startswith("https://")
        values["environment"] = values["environment"] or ("production" if on_https else "demo")
        if values["environment"] == "demo":
            mark_as_demo(folder)
        create_keys(folder / "keys")
        text = _TEMPLATE.format(**{name: json.dumps(value) for name, value in values.items()})
        write_private(file, text.encode("utf-8"))  # the database URL may hold a password
        locker = build_locker(load_settings(folder))
        try:
            upgrade(locker.database)
            issued = _new_token(locker, OPERATOR, "first-operator", 365)
            locker.services.revocations.keep_fresh(locker.clock())
        finally:
            locker.close()

    def lines() -> Iterator[str]:
        yield f"Made a locker in {folder}: {SETTINGS_FILE}, keys/, database."
        yield f"Operator token, shown this once: {issued['token']}"
        yield f"Start it with: locker serve --folder {folder}"

    Output(as_json).show({"folder": str(folder.resolve()), "operator_token": issued["token"]}, lines)


def _check_environment(settings: Settings) -> Iterator[Check]:
    if settings.environment == "demo":
        yield Check("environment", True, "this is a demo locker; production refuses what it makes")
    for key, text in unfit_for_production(settings):
        yield Check(key, False, text)


@main.command()
@with_options
def check(folder: Path, as_json: bool) -> None:
    """Look at every setting and dependency and say in plain words what is the matter."""
    with plain_faults():
        locker = build_locker(load_settings(folder))
        try:
            checks = [*_check_environment(locker.settings), *locker.readiness.checks()]
        finally:
            locker.close()
    ok = all(row.ok for row in checks)

    def lines() -> Iterator[str]:
        yield f"ok      settings: {(folder / SETTINGS_FILE).resolve()} can be used"
        for row in checks:
            yield f"{'ok      ' if row.ok else 'FAILED  '}{row.name}: {row.detail}"

    Output(as_json).show({"ok": ok, "checks": [asdict(row) for row in checks]}, lines)
    sys.exit(0 if ok else 1)


@main.group()
def db() -> None:
    """The database's schema."""


@db.command("upgrade")
@with_options
def db_upgrade(folder: Path, as_json: bool) -> None:
    """Bring the schema up to date, under a lock."""
    with plain_faults():
        database = Database(load_settings(folder).resolved_database_url)
        try:
            upgrade(database)
            revision = current_revision(database)
        finally:
            database.dispose()
    Output(as_json).show({"revision": revision}, lambda: iter([f"The schema is at revision {revision}."]))


@main.command()
@with_options
def serve(folder: Path, as_json: bool) -> None:
    """Serve until told to stop: web processes, and one process for jobs."""
    with _opened(folder) as locker:
        settings = locker.settings
        require_fit(settings, SETTINGS_FILE, SettingsRefused)
        locker.database.require_durable()
        configure_logging(settings.log_level)
        sockets = [bind(settings.host, settings.port)]
    sys.exit(_supervisor(settings, folder, sockets, as_json).run())


def _supervisor(settings: Settings, folder: Path, sockets: Any, as_json: bool) -> Supervisor:
    arguments = (str(folder.resolve()),)

    def announce(urls: list[str]) -> None:
        document = {"urls": urls, "base_url": settings.base_url}
        Output(as_json).show(document, lambda: iter([f"The locker answers at {', '.join(urls)}"]))
        sys.stdout.flush()

    return Supervisor(
        [
            ChildSpec("web", "locker.asgi", arguments, count=settings.web_processes),
            ChildSpec("jobs", "locker.jobs", arguments, listens=False),
        ],
        sockets,
        scheme="https" if settings.tls_certificate else "http",
        # Connexion imports what Starlette warns of at each start; an operator can do nothing about it.
        environment={"PYTHONWARNINGS": "ignore:::connexion.apps.abstract"},
        announce=announce,
    )


main.add_command(keys)
main.add_command(root)


@main.group()
def issuer() -> None:
    """Issuers and the nodes that answer for them."""


@issuer.command("add")
@click.argument("issuer_id")
@click.option("--name", required=True, help="The issuer's name.")
@with_options
def issuer_add(folder: Path, as_json: bool, issuer_id: str, name: str) -> None:
    """Put an issuer into the directory before its node registers."""
    with _opened(folder) as locker:
        locker.services.directory.add_issuer(issuer_id, name, locker.clock())
    Output(as_json).show({"issuer": issuer_id, "state": "expected"}, lambda: iter([f"{issuer_id} is expected."]))


@issuer.command("list")
@with_options
def issuer_list(folder: Path, as_json: bool) -> None:
    """List issuers, and registrations that wait for a decision."""
    with _opened(folder) as locker:
        issuers = locker.services.directory.issuers()
        waiting = [_readable(row) for row in locker.services.directory.registrations()]
        alerts = [_readable(row) for row in locker.services.records.alerts()]

    def lines() -> Iterator[str]:
        for row in issuers:
            node = f"node {row['node_id']} ({row['node_state']}, {row['health']})" if row["node_id"] else "no node yet"
            yield f"{row['issuer']}  {row['state']}  {node}  {row['name']}"
            if row["doc_types"]:
                yield f"  approved for {', '.join(row['doc_types'])}"
        for row in (row for row in waiting if row["asks"]):
            asked = "; ".join(f"{wanted['issuer']} ({', '.join(wanted['doc_types'])})" for wanted in row["asks"])
            yield f"registered: node {row['node_id']} at {row['base_url']} asks for {asked}"
            yield f"  fingerprint {row['fingerprint']}, received {row['received_at']}"
        for row in alerts:
            yield f"alert: node {row['node_id']}: {row['kind']} {row['detail']} at {row['at']}"

    Output(as_json).show({"issuers": issuers, "registrations": waiting, "alerts": alerts}, lines)


@issuer.command("approve")
@click.argument("issuer_id")
@click.option("--node", "node_id", required=True, help="The node's id.")
@click.option("--fingerprint", required=True, help="As the department reads it out.")
@click.option("--replace-keys", is_flag=True, help="The node has new keys: replace those it was approved with.")
@click.option("--resume-node", is_flag=True, help="Lift the node's suspension too.")
@with_options
def issuer_approve(
    folder: Path,
    as_json: bool,
    issuer_id: str,
    node_id: str,
    fingerprint: str,
    replace_keys: bool,
    resume_node: bool,
) -> None:
    """Bind a node's keys to an issuer after the fingerprint was compared out of band."""
    with _opened(folder) as locker:
        done = locker.services.directory.approve(
            issuer_id, node_id, fingerprint, locker.clock(), replace_keys=replace_keys, resume_node=resume_node
        )
    document = {
        "issuer": issuer_id, "node_id": node_id, "state": "approved", "doc_types": done.doc_types,
        "rekeyed": done.rekeyed,
    }  # fmt: skip

    def lines() -> Iterator[str]:
        yield f"Node {node_id} now answers for {issuer_id}: {', '.join(done.doc_types)}."
        yield from (f"{name} is reached with the node's new keys from now on." for name in done.rekeyed)

    Output(as_json).show(document, lines)


@issuer.command("reject")
@click.argument("node_id", metavar="NODE")
@click.option("--fingerprint", help="Reject the one registration with these keys.")
@with_options
def issuer_reject(folder: Path, as_json: bool, node_id: str, fingerprint: str | None) -> None:
    """Drop the registrations of a node that wait for a decision."""
    with _opened(folder) as locker:
        dropped = locker.services.directory.reject(node_id, fingerprint)
    text = f"{dropped} registrations of {node_id} are dropped."
    Output(as_json).show({"node_id": node_id, "rejected": dropped}, lambda: iter([text]))


@issuer.command("suspend")
@click.argument("issuer_id", required=False)
@click.option("--node", "node_id", help="Suspend a whole node instead of one issuer.")
@with_options
def issuer_suspend(folder: Path, as_json: bool, issuer_id: str | None, node_id: str | None) -> None:
    """Stop an issuer, or a whole node, at once.

    Tickets given under a consent are void at once. Tickets that residents were given for their own documents cannot be
    voided; they end by themselves, ten minutes after they were given at most (ticket_lifetime_seconds).
    """
    if (issuer_id is None) == (node_id is None):
        raise click.UsageError("name an issuer, or a node with --node")
    with _opened(folder) as locker:
        lifetime = locker.settings.ticket_lifetime_seconds
        if issuer_id is not None:
            voided = locker.services.suspensions.issuer(issuer_id)
        else:
            voided = locker.services.suspensions.node(str(node_id))
    name = issuer_id or node_id

    def lines() -> Iterator[str]:
        yield f"{name} is suspended as of now; tickets given under {voided} consents are void."
        yield f"Tickets for residents' own documents cannot be voided: the last one ends within {lifetime} seconds."

    Output(as_json).show({"suspended": name, "consents_voided": voided, "holder_tickets_end_within": lifetime}, lines)


@main.group()
def requester() -> None:
    """Those who ask residents for documents."""


@requester.command("add")
@click.argument("client_id")
@click.option("--name", required=True, help="What residents read.")
@click.option(
    "--jwks", type=click.Path(path_type=Path, exists=True), help="The requester's public keys; else a secret is made."
)
@with_options
def requester_add(folder: Path, as_json: bool, client_id: str, name: str, jwks: Path | None) -> None:
    """Register a requester; a client secret is shown this once."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._~:-]{0,127}", client_id):
        raise click.UsageError("a client id has 1 to 128 letters, digits, or . _ ~ : -")
    with _opened(folder) as locker:
        keys = None if jwks is None else json.loads(jwks.read_text("utf-8"))
        secret = locker.services.tokens.add_requester(client_id, name, keys, locker.clock())

    def lines() -> Iterator[str]:
        yield f"{name} is registered as {client_id}."
        if secret is not None:
            yield f"Client secret, shown this once: {secret}"

    Output(as_json).show({"client_id": client_id, "client_secret": secret}, lines)


@requester.command("list")
@with_options
def requester_list(folder: Path, as_json: bool) -> None:
    """List requesters."""
    with _opened(folder) as locker:
        rows = [_readable(row) for row in locker.services.tokens.requesters()]
    text = (f"{row['client_id']}  {row['state']}  {row['authentication']}  {row['name']}" for row in rows)
    Output(as_json).show({"requesters": rows}, lambda: iter(text))


@requester.command("suspend")
@click.argument("client_id")
@with_options
def requester_suspend(folder: Path, as_json: bool, client_id: str) -> None:
    """Stop a requester at once."""
    with _opened(folder) as locker:
        voided = locker.services.suspensions.requester(client_id)
    text = f"{client_id} is suspended as of now; tickets given to it under {voided} consents are void."
    Output(as_json).show({"suspended": client_id, "consents_voided": voided}, lambda: iter([text]))


@main.group()
def resident() -> None:
    """People with an account here."""


@resident.command("add")
@click.argument("name")
@click.option(
    "--holder",
    "holders",
    multiple=True,
    metavar="SCHEME:VALUE",
    help="An identifier; a VALUE of - is asked for, unseen.",
)
@click.option(
    "--holder-source", type=click.Choice(SOURCES), default="identity-provider-verified", help="Who vouches for them."
)
@click.option("--attribute", "attributes", multiple=True, metavar="NAME=VALUE[@SOURCE]", help="A fact of the profile.")
@click.option("--days", default=30, help="How long the token is good.")
@with_options
def resident_add(
    folder: Path,
    as_json: bool,
    name: str,
    holders: tuple[str, ...],
    holder_source: str,
    attributes: tuple[str, ...],
    days: int,
) -> None:
    """Open an account; documents that waited for this person are linked, and a token is shown this once."""
    with _opened(folder) as locker:
        identifiers = [NewIdentifier(_holder(text), holder_source) for text in holders]
        facts = dict(_attribute(text) for text in attributes)
        resident_id, linked = locker.services.links.add_resident(name, identifiers, facts, locker.clock())
        issued = _new_token(locker, RESIDENT, resident_id, days)

    def lines() -> Iterator[str]:
        yield f"{name} has the account {resident_id}; {linked} documents were waiting and are linked."
        yield f"Resident token, shown this once: {issued['token']}"

    Output(as_json).show({"resident_id": resident_id, "linked": linked, **issued}, lines)


def _holder(text: str) -> Holder:
    scheme, _, value = text.partition(":")
    return Holder.parse(scheme, click.prompt(scheme, hide_input=True) if value == "-" else value)


def _attribute(text: str) -> tuple[str, tuple[str, str]]:
    name, equals, rest = text.partition("=")
    if not equals or not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name):
        raise ValueError("an attribute is written name=value or name=value@source")
    value, at, source = rest.rpartition("@")
    return name, (value, source) if at and source in SOURCES else (rest, SELF_DECLARED)


@main.group()
def consent() -> None:
    """Consents that residents gave."""


@consent.command("list")
@click.option("--state", type=click.Choice(STATES))
@click.option("--client-id")
@click.option("--limit", default=100, help="The newest so many.")
@with_options
def consent_list(folder: Path, as_json: bool, state: str | None, client_id: str | None, limit: int) -> None:
    """List consents, newest first."""
    with _opened(folder) as locker:
        views, _ = locker.services.consents.list(
            Principal(AUDITOR, "cli"), state=state, client_id=client_id, limit=limit
        )
    rows = [consent_document(view) for view in views]
    text = (f"{r['consent_id']}  {r['state']}  {r['requester']['name']}  until {r['expires_at']}" for r in rows)
    Output(as_json).show({"consents": rows}, lambda: iter(text))


@consent.command("show")
@click.argument("consent_id")
@with_options
def consent_show(folder: Path, as_json: bool, consent_id: str) -> None:
    """Show a consent and everything that happened to it."""
    with _opened(folder) as locker:
        auditor = Principal(AUDITOR, "cli")
        row = consent_document(locker.services.consents.read(auditor, consent_id))
        events = [_readable(event) for event in locker.services.consents.events(auditor, consent_id)]

    def lines() -> Iterator[str]:
        yield f"{row['requester']['name']} may read, for {row['purpose']['text']}, until {row['expires_at']}:"
        yield from (f"  {item['uri']}" for item in row["items"])
        yield f"State: {row['state']}"
        yield from (f"{event['at']}  {event['kind']}  artefact {event['artefact']}" for event in events)

    Output(as_json).show({**row, "events": events}, lines)


@consent.command("revoke")
@click.argument("consent_id")
@with_options
def consent_revoke(folder: Path, as_json: bool, consent_id: str) -> None:
    """End a consent on a resident's behalf."""
    with _opened(folder) as locker:
        row = consent_document(locker.services.consents.revoke(None, consent_id))
    Output(as_json).show(row, lambda: iter([f"{consent_id} is revoked; tickets given under it are void."]))


@main.group()
def token() -> None:
    """Tokens of the operator's own people."""


@token.command("create")
@click.argument("subject")
@click.option("--role", type=click.Choice([AUDITOR, OPERATOR]), required=True)
@click.option("--days", default=90, help="How long it is good.")
@with_options
def token_create(folder: Path, as_json: bool, subject: str, role: str, days: int) -> None:
    """Make a token for SUBJECT, a name of your choice; it is shown this once."""
    with _opened(folder) as locker:
        issued = _new_token(locker, role, subject, days)
    document = {"role": role, "subject": subject, **issued}
    Output(as_json).show(document, lambda: iter([f"Token for {subject}, shown this once: {issued['token']}"]))


@token.command("revoke")
@click.argument("subject")
@with_options
def token_revoke(folder: Path, as_json: bool, subject: str) -> None:
    """End all tokens of SUBJECT at once."""
    with _opened(folder) as locker:
        ended = locker.services.tokens.revoke(subject)
    Output(as_json).show({"ended": ended}, lambda: iter([f"{ended} tokens ended."]))


def _new_token(locker: Locker, role: str, subject: str, days: int) -> dict[str, str]:
    now_us = locker.clock()
    issued = locker.services.tokens.create(role, subject, now_us + days * DAY, now_us)
    return {"token": issued.token, "expires_at": format_time(issued.expires_us)}


def _readable(row: Mapping[str, Any]) -> dict[str, Any]:
    """Write every time of a row for people: ``at_us`` becomes ``at``, ``received_us`` becomes ``received_at``."""
    named = {
        name: "at" if name == "at_us" else name.removesuffix("_us") + "_at" for name in row if name.endswith("_us")
    }
    return {named.get(name, name): format_time(value) if name in named else value for name, value in row.items()}
