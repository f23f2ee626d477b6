"""A process that others hold for dead while it lives: its reads have been closed for it, and are not closed again."""

import time
from typing import Any

from sqlalchemy import update

from node.db.models import ServingProcess
from node.services.audit import Outcome
from tests.durability.log_checks import require_whole_log
from tests.durability.processes import SlowClient, wait_for

SIZE = 24_000_000


def test_a_living_process_that_was_declared_dead_does_not_end_its_reads_again(new_node, run, postgres_url):
    served = new_node(postgres_url)
    uri, token = served.add("large", bytes(SIZE)), served.token()
    node = run("serve", str(served.folder))
    client = SlowClient(node.url, uri, token, "slow")

    def rows_of(request_id: str) -> list[dict[str, Any]]:
        return [event for event in served.events() if event.get("request_id") == request_id]

    wait_for(lambda: rows_of("slow"))
    # As after a minute in which the machine, or the database, stood still.
    with served.node.database.writing() as connection:
        connection.execute(update(ServingProcess).values(heartbeat_us=0))
    interrupted = wait_for(lambda: rows_of("slow")[1:])
    assert [event["outcome"] for event in interrupted] == [Outcome.INTERRUPTED]

    assert client.take() and len(client.body) == SIZE
    time.sleep(1.0)  # time enough for the second end that must not come
    assert [event["outcome"] for event in rows_of("slow")] == [Outcome.ALLOWED, Outcome.INTERRUPTED]
    require_whole_log(served.node.database)
