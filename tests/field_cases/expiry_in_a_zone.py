"""Run as a process with its own ``TZ``: what a node and a locker say of tokens, tickets and consents around their ends.

Arguments: a folder, a node's database URL, a locker's, and the zone that the processes are "restarted" in. Prints JSON.
"""

import contextlib
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import httpx

from locker.db.migration import upgrade
from locker.db.session import Database
from node.asgi import build_web
from node.contract.problems import ProblemError
from node.contract.tickets import SKEW
from node.contract.times import MINUTE, SECOND, now_us, parse_time
from node.wiring import build_node
from tests.delivery.conftest import make_node
from tests.locker.conftest import make_world
from tests.openapi.joined import INCOME, MOBILE, serving


def restart_in(zone: str) -> None:
    os.environ["TZ"] = zone
    time.tzset()


def answers_of_a_node(folder: Path, database_url: str, zone: str) -> dict[str, object]:
    """Statuses just before and at the end of an operator's token and of a ticket, after a restart in another zone."""
    served = make_node(folder, database_url)
    uri = served.add("1", b"%PDF-1.7 one")
    issued = now_us()
    ends = {"token": issued + MINUTE, "ticket": (issued // SECOND + 600 + SKEW) * SECOND}
    given = {
        "token": served.token("operator", expires_us=ends["token"]),
        "ticket": served.ticket("1", issued_us=issued),
    }
    auditor = served.token("auditor")
    served.node.close()
    restart_in(zone)
    clock = [now_us()]
    node = replace(build_node(folder), clock=lambda: clock[0])
    found: dict[str, object] = {}
    with serving(build_web(node, "process-1", "tests")) as url, httpx.Client(base_url=url, timeout=20) as http:
        for name, end in ends.items():
            for when, at in (("before", end - 1), ("after", end)):
                clock[0] = at
                headers = {"authorization": f"Bearer {given[name]}"}
                for plane, path in (("data", f"/v1/documents/{uri}"), ("control", f"/v1/documents/{uri}/status")):
                    found[f"{name} {when} on the {plane} plane"] = http.get(path, headers=headers).status_code
        clock[0] = now_us()
        served.node = node
        served.events(expected=8)
        log = http.get("/v1/access-log", headers={"authorization": f"Bearer {auditor}"})
        found["log times"] = {row["recorded_at"][-1:] for row in log.json()["rows"]} == {"Z"}
        clocks = sorted(parse_time(row["recorded_at"]) - issued for row in log.json()["rows"])
        found["log within the hour"] = clocks[0] >= 0 and clocks[-1] < 60 * MINUTE
    node.close()
    return found


def answers_of_a_locker(folder: Path, database_url: str, zone: str) -> dict[str, object]:
    """Whether a token and a consent are good just before and at their ends, after a restart in another zone."""
    folder.mkdir()
    database = Database(database_url)
    upgrade(database)
    world = make_world(folder, database)
    resident, node = world.resident(), world.department()
    world.push(node, world.row(INCOME, MOBILE))
    token, began = world.requester(), now_us()
    end = began + 5 * MINUTE
    consent = world.consent(resident, INCOME, expires_us=end)
    database.dispose()
    restart_in(zone)
    found: dict[str, object] = {}
    for when, at in (("before", end - SECOND), ("after", end)):
        world.clock.offset = at - now_us()
        (outcome,) = world.tickets(token, consent.consent_id, INCOME)
        found[f"consent {when}"] = type(outcome).__name__
    for when, at in (("before", began + 590 * SECOND), ("after", began + 610 * SECOND)):
        try:
            world.services.tokens.authenticate(f"Bearer {token}", at)
            found[f"access token {when}"] = "good"
        except ProblemError as error:
            found[f"access token {when}"] = error.reason
    database.dispose()
    return found


def main() -> None:
    folder, node_url, locker_url, zone = Path(sys.argv[1]), *sys.argv[2:5]
    time.tzset()
    found = {"offset": time.timezone}
    with contextlib.redirect_stdout(sys.stderr):
        found.update(answers_of_a_node(folder / "node", node_url, zone))
        found.update(answers_of_a_locker(folder / "locker", locker_url, zone))
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
