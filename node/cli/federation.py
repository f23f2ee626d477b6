"""``register`` and ``push``: the node and its lockers."""

from dataclasses import asdict
from pathlib import Path

import click

from node.cli.checks import refusal_lines
from node.cli.options import node_options, opened, print_fields, print_json
from node.contract.problems import NodeFault, NodeUnavailable, ProblemError
from node.db.lockers import LockerRow
from node.services.locker_client import LockerFault
from node.services.push import PushReport
from node.wiring import Node


@click.command()
@click.argument("locker_url")
@click.option("--accept-root", metavar="FINGERPRINT", help="Pin the locker's root, if it has this fingerprint.")
@node_options
def register(locker_url: str, accept_root: str | None, folder: Path, as_json: bool) -> None:
    """Introduce this node to a locker; doing it again brings what the locker knows up to date.

    The locker's officer compares the fingerprint shown here with the one that the locker received, and approves. Compare the root's
    fingerprint with the one that the locker's operator tells you: only that root can revoke the locker's keys here.
    """
    with opened(folder) as node:
        try:
            registered = node.registration.register(locker_url, accept_root)
        except ProblemError as error:
            # The client's words are about some node or other; here it is the locker.
            raise LockerFault(f"{locker_url}: {_fault(error)}") from error
    if as_json:
        print_json(asdict(registered))
        return
    print_fields({
        "Locker": registered.name, "Address": registered.iss, "Fingerprint": registered.fingerprint,
        "State": registered.state, "Locker's root": registered.root_fingerprint,
    })  # fmt: skip
    if registered.state != "approved":
        click.echo(
            "\nTell the locker's officer the fingerprint over the telephone; the officer compares it and approves."
        )


@click.command()
@click.option("--locker", "only", help="Only to this locker, by its address.")
@click.option("--retry-refused", is_flag=True, help="Send again what was refused before, whatever the reason was.")
@node_options
def push(only: str | None, retry_refused: bool, folder: Path, as_json: bool) -> int:
    """Send what waits to the lockers now; serve does this by itself every few seconds.

    What a locker refused stays, and is told with the reason. It is sent again when the locker has approved its document type, or
    with --retry-refused.
    """
    with opened(folder) as node:
        lockers = [row for row in node.lockers.all() if only in (None, row.iss, row.base_url)]
        if not lockers:
            raise LockerFault("this node is not registered with that locker" if only else "this node has no locker yet")
        told = {row.iss: _push(node, row, retry_refused) for row in lockers}
        refused = {iss: node.outbox.refusals(iss) for iss in told}
    if as_json:
        print_json({
            iss: {"state": state, **asdict(report), "refusals": [asdict(row) for row in refused[iss]]}
            for iss, (state, report) in told.items()
        })  # fmt: skip
    else:
        for iss, (state, report) in told.items():
            click.echo(f"{iss}: {_sentence(state, report)}")
            for line in refusal_lines(iss, refused[iss]):
                click.echo(f"  {line}")
    return 1 if any(report.failure for _, report in told.values()) or any(refused.values()) else 0


def _push(node: Node, locker: LockerRow, retry_refused: bool) -> tuple[str, PushReport]:
    """Ask for the approval if it has not come yet, or for a wider one, then send."""
    iss, state = locker.iss, locker.state
    if retry_refused:
        node.outbox.retry_refused(iss)
    try:
        if state == "pending":
            node.registration.check(iss)
        else:
            node.registration.check_scope(iss)
    except (LockerFault, ProblemError) as error:
        return state, PushReport(failure=_fault(error))
    found = node.lockers.find(iss)
    return found.state if found else state, node.push.push_all(iss)


def _fault(error: Exception) -> str:
    if isinstance(error, NodeUnavailable):
        return "the locker cannot be reached"
    if isinstance(error, NodeFault) and not error.detail:
        return (
            f"the locker's address or answer cannot be used ({error.reason}). In a private network it must be listed under "
            "allow_private"
        )
    return str(error)


def _sentence(state: str, report: PushReport) -> str:
    if report.failure:
        return f"the locker cannot take it now: {report.failure}; what waits is sent later"
    if state != "active":
        return f"the registration is {state}, so nothing is sent yet"
    refused = f", {report.refused} refused" if report.refused else ""
    return f"{report.acknowledged} announced{refused}"
