"""Web, job and database processes are killed under load: nothing leaves without its row, and the log stays whole."""

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil
import pytest
from sqlalchemy import func, select

from bench.postgresql import PostgreSQLServer
from node.contract.identifiers import uuid7
from node.db.models import AccessUnsequenced, OpenRead, ServingProcess
from node.services.audit import Outcome
from tests.delivery.conftest import ServedNode
from tests.durability.log_checks import placed_events, require_whole_log
from tests.durability.processes import NodeProcess, away, postmaster, read, status_of, wait_for

SMALL = (300, 5_000, 20_000, 200_000)
LARGE = (1_000_000, 2_500_000, 5_000_000)
ENDS = {Outcome.COMPLETE, Outcome.ABORTED, Outcome.FAILED, Outcome.INTERRUPTED}


@dataclass
class Load:
    """Clients that read until they are told to stop, and note what each request brought."""

    node: NodeProcess
    documents: dict[str, tuple[bytes, str]]  # by URI: content, and a ticket for it
    received: dict[str, int] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)
    stop: threading.Event = field(default_factory=threading.Event)

    def client(self, seed: int) -> None:
        chance = random.Random(seed)
        uris = sorted(self.documents)
        while not self.stop.is_set():
            uri, request_id = chance.choice(uris), uuid7()
            content, ticket = self.documents[uri]
            # Some leave in the middle, as people do.
            most = chance.choice((None, None, None, len(content) // 2))
            answer = read(self.node.url, uri, ticket, request_id, most=most)
            if answer.status != 200:
                time.sleep(0.05)
                continue
            assert content.startswith(answer.body)
            self.received[request_id] = len(answer.body)
            if answer.whole:
                self.whole.add(request_id)

    @contextmanager
    def running(self, clients: int) -> Iterator[None]:
        threads = [threading.Thread(target=self.client, args=(seed,)) for seed in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()

    def require_reads(self, more: int = 15, timeout: float = 40.0) -> None:
        """Wait until some more reads have come through whole."""
        enough = len(self.whole) + more
        wait_for(lambda: len(self.whole) >= enough, timeout)


def fill(served: ServedNode) -> dict[str, tuple[bytes, str]]:
    chance = random.Random(1)
    documents = {}
    for number, size in enumerate((*SMALL * 3, *LARGE)):
        content = chance.randbytes(size)
        uri = served.add(f"doc-{number}", content)
        documents[uri] = (content, served.ticket(f"doc-{number}"))
    return documents


def kill_child(node: NodeProcess, kind: str) -> None:
    """Kill a child and wait for the one that the parent puts in its place."""
    killed = wait_for(lambda: node.child(kind))
    killed.kill()
    wait_for(lambda: (child := node.child(kind)) is not None and child.pid != killed.pid)


def kill_a_backend(server: PostgreSQLServer) -> None:
    """Kill a process that serves a connection, whereupon PostgreSQL ends all others and recovers."""
    main = psutil.Process(postmaster(server))
    backends = [child for child in main.children() if "locker test_" in " ".join(child.cmdline())]
    assert backends
    random.Random().choice(backends).kill()


def kill_the_server(server: PostgreSQLServer) -> None:
    """Kill PostgreSQL as a whole, and start it again."""
    with away(server):
        pass


def settle(served: ServedNode, timeout: float = 60.0) -> None:
    """Wait until the job process has placed every event and closed every read."""

    def left() -> bool:
        with served.node.database.reading() as connection:
            counts = [connection.execute(select(func.count()).select_from(t)) for t in (AccessUnsequenced, OpenRead)]
            return all(count.scalar_one() == 0 for count in counts)

    wait_for(left, timeout)


def require_rows_for_all_bytes(load: Load, events: list[dict[str, Any]]) -> None:
    granted = {event["request_id"]: event for event in events if event["outcome"] == Outcome.ALLOWED}
    assert set(load.received) <= set(granted)
    for request_id, size in load.received.items():
        assert size <= granted[request_id]["length"]


def require_one_end_each(events: list[dict[str, Any]]) -> None:
    begun = [event["read_id"] for event in events if event["outcome"] == Outcome.ALLOWED]
    ends = [event for event in events if event["phase"] == "end"]
    assert Counter(event["read_id"] for event in ends) == Counter(begun)
    assert {event["outcome"] for event in ends} <= ENDS


def require_checks_that_notice(load: Load, events: list[dict[str, Any]]) -> None:
    """Take single rows away, or write them twice, and see that it is noticed."""
    first = next(
        event for event in events if event["outcome"] == Outcome.ALLOWED and event["request_id"] in load.received
    )
    with pytest.raises(AssertionError):
        require_rows_for_all_bytes(load, [event for event in events if event is not first])
    end = next(event for event in events if event["phase"] == "end")
    with pytest.raises(AssertionError):
        require_one_end_each([event for event in events if event is not end])
    with pytest.raises(AssertionError):
        require_one_end_each([*events, end])


def test_processes_that_start_while_the_database_is_away_refuse_until_it_is_back(new_node, run, crash_server):
    served = new_node(crash_server.create_database())
    documents = fill(served)
    uri, (content, ticket) = next(iter(documents.items()))
    node = run("serve", str(served.folder))
    assert read(node.url, uri, ticket, "before").body == content
    served.node.close()
    with away(crash_server):
        for kind in ("jobs", "web"):
            kill_child(node, kind)
        wait_for(lambda: status_of(f"{node.url}/healthz") == 200)
        assert status_of(f"{node.url}/readyz") == 503
        assert read(node.url, uri, ticket, "refused").status == 503
    answer = wait_for(lambda: (answer := read(node.url, uri, ticket, "after")).status == 200 and answer)
    assert answer.body == content

    def outcomes() -> list[str]:
        return [event["outcome"] for event in placed_events(served.node.database) if event["request_id"] == "after"]

    wait_for(lambda: outcomes() == [Outcome.ALLOWED, Outcome.COMPLETE])
    node.signal(signal.SIGTERM)
    assert node.wait() == 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_kill_9_under_load(database, new_node, run, tmp_path, soak, request):
    server = request.getfixturevalue("crash_server") if database == "postgresql" else None
    served = new_node(server.create_database() if server else f"sqlite:///{tmp_path}/node.db")
    documents = fill(served)
    node = run("serve", str(served.folder))
    load = Load(node, documents)
    with load.running(clients=soak.count(small=4, full=8)):
        load.require_reads()
        for number in range(soak.count(small=2, full=20)):
            kill_child(node, "jobs")
            kill_child(node, "web")
            load.require_reads()
            if server:
                (kill_the_server if number % 2 else kill_a_backend)(server)
                load.require_reads()
    node.signal(signal.SIGTERM)
    assert node.wait() == 0
    # Reads whose ends could not be written while the database was away are closed once their process is gone.
    again = run("serve", str(served.folder))
    uri, (_, ticket) = next(iter(documents.items()))
    assert read(again.url, uri, ticket, "again").status == 200  # its process is registered with its first rows
    settle(served)

    events = placed_events(served.node.database)
    require_whole_log(served.node.database)
    require_rows_for_all_bytes(load, events)
    require_one_end_each(events)
    require_checks_that_notice(load, events)
    interrupted = [event for event in events if event["outcome"] == Outcome.INTERRUPTED]
    assert interrupted, "nothing was under way when processes were killed"
    if not server:
        # Without a database that goes away, only those who were killed leave reads open.
        with served.node.database.reading() as connection:
            last = connection.execute(
                select(ServingProcess.process_id).order_by(ServingProcess.started_us.desc()).limit(2)
            ).scalars()
            assert not {event["process"] for event in interrupted} & set(last)
