"""Setting a node up: ``init``, ``check``, ``db upgrade``."""

import json
import re
import secrets
import shlex
import shutil
from pathlib import Path

import click

from node.cli.checks import Finding, check_node
from node.cli.options import json_option, node_options, print_fields, print_json, quiet_logs
from node.config import SETTINGS_FILE, Settings, load_settings
from node.contract.signing import fingerprint
from node.contract.times import format_time, now_us
from node.db import schema
from node.db.session import Database
from node.db.token_records import TokenRecords
from node.keys import KEY_FOLDER, NodeKeys, create_keys
from node.services.access import OPERATOR
from node.services.tokens import NewToken, TokenService
from node.web.private_files import write_private
from node.web.production import mark_as_demo

STORAGE_FOLDER = "storage"

_TEMPLATE = """\
# Settings of this node. Each can also be given in the environment, for example LOCKER_NODE_PORT for port.

# "production", or "demo" for trying things out; production refuses to serve by plain http, and what a demo has made.
environment = {environment}

# The node's identifier at its locker. Tickets are made out to it, so it stays as it is once the node is registered.
node_id = {node_id}

# The department's name, as people read it.
name = {name}

# The address at which others reach this node, without a slash at the end.
base_url = {base_url}

# Where the node listens. 127.0.0.1 is this machine only; a proxy in front of the node reaches it there.
host = {host}
port = {port}

# For https without a proxy, both of these:
# tls_certificate = "tls/certificate.pem"
# tls_key = "tls/key.pem"

# Proxies whose X-Forwarded-* headers are believed; nobody else's are.
# trusted_proxies = ["127.0.0.1/32"]

# The database: this file, or PostgreSQL as postgresql+psycopg://user:password@host/name
database_url = {database_url}

# The largest document, in bytes, and the space that stays free for the access log.
max_document_bytes = 1073741824
reserve_bytes = 67108864

# "direct": whoever holds a ticket may read here. "gateway-only": the locker's gateway alone may.
exposure = "direct"
{private}
# Where the documents lie. New ones go to the store named here.
default_store = "main"

[stores.main]
driver = "filesystem"
root = "storage"
"""


@click.command()
@click.argument("folder", type=click.Path(file_okay=True, path_type=Path))
@click.option("--name", default="My department", show_default=True, help="The department's name.")
@click.option("--node-id", help="The node's identifier at the locker; default: made from the name.")
@click.option("--base-url", help="The address at which others reach the node; default: this machine.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True)
@click.option("--database-url", default="sqlite:///node.db", show_default=True, help="SQLite or PostgreSQL.")
@click.option(
    "--environment", type=click.Choice(["production", "demo"]),
    help="Default: production when the base URL is https, else demo.",
)  # fmt: skip
@click.option("--allow-private", multiple=True, help="A network beyond public ones that a locker may lie in, as CIDR.")
@json_option
def init(
    folder: Path, name: str, node_id: str | None, base_url: str | None, host: str, port: int, database_url: str,
    environment: str | None, allow_private: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Make a new node in FOLDER: settings, keys, database, a folder for documents, and the first operator token.

    The token is shown once. FOLDER must be new or empty.
    """
    quiet_logs()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise click.UsageError(f"{folder} is not empty; give the name of a new folder.")
    private = f"\n# Private networks in which a locker may lie.\nallow_private = {json.dumps(list(allow_private))}\n"
    base_url = base_url or f"http://{host}:{port}"
    environment = environment or ("production" if base_url.startswith("https://") else "demo")
    values = {
        "environment": environment, "node_id": node_id or _slug(name), "name": name, "host": host, "port": port,
        "base_url": base_url, "database_url": database_url,
    }  # fmt: skip
    text = _TEMPLATE.format(
        **{key: _toml(value) for key, value in values.items()}, private=private if allow_private else ""
    )  # fmt: skip
    existed = folder.exists()
    try:
        settings, keys, token = _make(folder, text)
    except BaseException:
        # A half-made node would only be in the way of the next try.
        _remove(folder, keep=existed)
        raise
    _tell(settings, keys, token, as_json)


def _make(folder: Path, text: str) -> tuple[Settings, NodeKeys, NewToken]:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / SETTINGS_FILE
    write_private(file, text.encode("utf-8"))  # the database's password may be in it
    settings = load_settings(folder)
    if settings.environment == "demo":
        mark_as_demo(folder)
    (folder / STORAGE_FOLDER).mkdir(mode=0o700)
    keys = create_keys(folder)
    database = Database(settings.resolved_database_url)
    try:
        database.require_durable()
        schema.upgrade(database)
        return settings, keys, TokenService(TokenRecords(database), clock=now_us).create("First operator", OPERATOR)
    finally:
        database.close()


def _remove(folder: Path, *, keep: bool) -> None:
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    if not keep:
        folder.rmdir()


def _tell(settings: Settings, keys: NodeKeys, token: NewToken, as_json: bool) -> None:
    told = {
        "folder": str(settings.folder), "node_id": settings.node_id, "base_url": settings.base_url,
        "fingerprint": fingerprint(keys.public), "token": token.token, "token_expires_at": format_time(token.expires_us),
    }  # fmt: skip
    if as_json:
        print_json(told)
        return
    kind = "demo node" if settings.environment == "demo" else "node"
    click.echo(f"The {kind} is made. Settings are in {settings.folder / SETTINGS_FILE}\n")
    print_fields({
        "Operator token": token.token, "good until": format_time(token.expires_us)[:10],
        "Key fingerprint": told["fingerprint"],
    })  # fmt: skip
    click.echo(
        "\nThe token is not shown again. The fingerprint is what the locker's officer compares.\n"
        f"Keep a copy of {settings.folder / KEY_FOLDER} in a safe place.\n\nNext:\n"
        f"  export LOCKER_NODE_FOLDER={shlex.quote(str(settings.folder.resolve()))}\n"
        "  locker-node ingest YOUR-MANIFEST.csv\n  locker-node check\n  locker-node serve"
    )


def _slug(name: str) -> str:
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "node"
    return f"{plain}-{secrets.token_hex(3)}"


def _toml(value: object) -> str:
    """Write a TOML string or number; a JSON string is a TOML basic string, the DEL character apart."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


@click.command()
@node_options
def check(folder: Path, as_json: bool) -> int:
    """Look at every setting and everything the node depends on, and say in plain words what must be mended."""
    quiet_logs()
    findings = check_node(folder)
    mend = sum(finding.ok is False for finding in findings)
    if as_json:
        print_json([{"name": finding.name, "ok": finding.ok, "text": finding.text} for finding in findings])
        return 1 if mend else 0
    for finding in findings:
        _show(finding)
    click.echo(f"\n{mend} must be mended" if mend else "\nall is well")
    return 1 if mend else 0


def _show(finding: Finding) -> None:
    word, colour = {True: ("ok", "green"), False: ("MEND", "red"), None: ("note", "yellow")}[finding.ok]
    click.echo(f"{click.style(word.ljust(4), fg=colour)}  {finding.name}: {finding.text}")


@click.group()
def db() -> None:
    """The database."""


@db.command()
@node_options
def upgrade(folder: Path, as_json: bool) -> None:
    """Bring the database to the form that this release works with."""
    quiet_logs()
    database = Database(load_settings(folder).resolved_database_url)
    try:
        before = schema.current_revision(database)
        schema.upgrade(database)
        after = schema.current_revision(database)
    finally:
        database.close()
    if as_json:
        print_json({"before": before, "after": after})
    else:
        click.echo(
            f"the database was at {before or 'nothing'}, it is at {after}"
            if before != after
            else f"the database is at {after} already"
        )
