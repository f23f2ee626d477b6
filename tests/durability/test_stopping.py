"""SIGTERM: reads under way are given time to end, and what does not end is broken off with its row saying so."""

import signal
import time

from node.services.audit import Outcome
from tests.durability.log_checks import require_whole_log
from tests.durability.processes import SlowClient

SIZE = 24_000_000
DRAIN_SECONDS = 1.0


def test_sigterm_drains_and_then_breaks_off(new_node, run, tmp_path):
    served = new_node(f"sqlite:///{tmp_path}/node.db", drain_seconds=DRAIN_SECONDS)
    content = bytes(range(256)) * (SIZE // 256)
    uri, token = served.add("large", content), served.token()
    node = run("serve", str(served.folder))
    steady = SlowClient(node.url, uri, token, "steady")
    asleep = SlowClient(node.url, uri, token, "asleep")

    begun = time.monotonic()
    node.signal(signal.SIGTERM)
    time.sleep(0.3)
    assert steady.take() and steady.body == content
    assert node.wait() == 0
    assert DRAIN_SECONDS * 0.9 < time.monotonic() - begun < DRAIN_SECONDS + 8
    assert not asleep.take()
    assert len(asleep.body) < len(content)

    ends = {event["request_id"]: event for event in served.events() if event["phase"] == "end"}
    assert ends["steady"]["outcome"] == Outcome.COMPLETE and ends["steady"]["bytes"] == len(content)
    assert ends["asleep"]["outcome"] == Outcome.ABORTED and ends["asleep"]["reason"] == "server-stopping"
    assert len(asleep.body) <= ends["asleep"]["bytes"] < len(content)
    require_whole_log(served.node.database)
