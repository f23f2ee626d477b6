"""``keys``: list, rotate, and a locker's list of revoked keys taken by hand."""

from pathlib import Path

import click

from node.cli.options import node_options, opened, print_json, print_table
from node.config import load_settings
from node.contract.signing import fingerprint
from node.contract.times import format_time
from node.db.holder_seals import count_waiting
from node.db.lockers import ACTIVE
from node.keys import key_files, replace_key
from node.services.locker_client import LockerFault
from node.wiring import Node

_STAYS = {
    "holder-hash": (
        "holder-hash cannot be changed: the database knows holders and search parameters by its hashes alone. A node that must have "
        "another one is made anew, and everything is ingested again"
    ),
    "log-tag": "log-tag is never changed: the tags in the access log's leaves would fit no document any more",
}
_OF_REGISTRATION = ("registration", "client")


@click.group()
def keys() -> None:
    """This node's keys, and the keys of lockers that count no more."""


@keys.command("list")
@node_options
def list_keys(folder: Path, as_json: bool) -> None:
    """List keys: what each is for, its identifier, and since when it is there."""
    rows = [(row.name, row.kid, format_time(row.since_us)) for row in key_files(load_settings(folder).folder)]
    if as_json:
        print_json([{"name": name, "kid": kid, "since": since} for name, kid, since in rows])
        return
    print_table(("KEY", "IDENTIFIER", "SINCE"), [(name, kid or "(secret)", since) for name, kid, since in rows])


@keys.command()
@click.argument("name", type=click.Choice([*_OF_REGISTRATION, "waiting-holders", *_STAYS]))
@node_options
def rotate(name: str, folder: Path, as_json: bool) -> None:
    """Put a new key in the place of one; those that cannot be changed say why."""
    if name in _STAYS:
        raise click.ClickException(_STAYS[name])
    with opened(folder) as node:
        if name == "waiting-holders":
            _require_nothing_waits(node)
        lockers = [row.iss for row in node.lockers.all()]
        made, node_id = replace_key(node.settings.folder, name), node.settings.node_id
    told = {"rotated": name, "fingerprint": fingerprint(made.public), "lockers": lockers}
    if as_json:
        print_json(told)
        return
    click.echo(f"The {name} key is new. Stop serve and start it again.")
    if name in _OF_REGISTRATION and lockers:
        click.echo("Lockers take nothing from this node until they know its new key, and what is to be pushed waits:")
        for iss in lockers:
            click.echo(f"  locker-node register {iss}")
        click.echo(
            f"Tell each locker's officer the new fingerprint {told['fingerprint']} over the telephone. The officer runs:\n"
            f"  locker issuer approve ISSUER --node {node_id} --fingerprint {told['fingerprint']} --replace-keys"
        )


@keys.command("take-list")
@click.argument("locker_url")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@node_options
def take_list(locker_url: str, file: Path, folder: Path, as_json: bool) -> None:
    """Take a locker's list of revoked keys from a file, when the locker itself cannot be reached or believed.

    It is taken only when the root that is pinned here has signed it, so it may come by any way.
    """
    with opened(folder) as node:
        report = node.locker_roots.take(locker_url.rstrip("/"), file.read_bytes())
        root = node.lockers.root(locker_url.rstrip("/"))
    if report.refused:
        raise LockerFault(f"{file}: the list is not to be taken ({report.refused})")
    revoked = sorted(root.revoked) if root else []
    if as_json:
        print_json({"newly_revoked": sorted(report.revoked), "revoked": revoked})
    else:
        click.echo(f"{len(report.revoked)} keys are revoked as of now; {len(revoked)} in all")


def _require_nothing_waits(node: Node) -> None:
    """A value that is sealed to this key and to none of a locker's would be lost with it."""
    with node.database.reading() as connection:
        waiting = count_waiting(connection)
    if waiting:
        raise click.ClickException(
            f"{waiting} holders' values wait for a locker, sealed to this key: register, have it approved, and push first"
        )
    if not node.lockers.all(ACTIVE):
        raise click.ClickException("no locker is active, so serve may seal a value to this key at any moment")
