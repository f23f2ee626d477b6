"""No body byte leaves before its log row is on the disk, seen in the system calls of the running processes."""

import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.postgresql import PostgreSQLServer
from tests.delivery.conftest import ServedNode
from tests.durability.processes import NodeProcess, postmaster, read, strace, with_children
from tests.durability.traces import OPTIONS, Call, Incomplete, TracedRead, early_bodies, read_trace

SIZES = (900, 20_000, 20_000, 700_000)
ROUNDS = 4


def word() -> str:
    return "w" + secrets.token_hex(6)


def filled_with(body_word: str, size: int) -> bytes:
    return (body_word.encode() * (size // len(body_word) + 1))[:size]


def traced_reads(
    served: ServedNode, process: NodeProcess, roots: list[int], folder: Path
) -> tuple[list[Call], list[TracedRead]]:
    """Read documents, some at once, under strace of processes and their children; returns the calls and what was read."""
    reads = [(TracedRead(word(), word()), size) for size in SIZES * ROUNDS]
    uris = [served.add(f"doc-{n}", filled_with(wanted.body_word, size)) for n, (wanted, size) in enumerate(reads)]
    token = served.token()
    assert read(process.url, uris[0], token, "warm-up").status == 200

    def read_one(number: int) -> None:
        wanted, size = reads[number]
        answer = read(process.url, uris[number], token, f"{wanted.row_word}.{wanted.row_word}")
        assert answer.status == 200 and answer.body == filled_with(wanted.body_word, size)

    trace = folder / "trace"
    # Only now is the connection there, and with it the database's process that serves it.
    pids = [pid for root in roots for pid in with_children(root)]
    with strace(pids, "-o", str(trace), *OPTIONS):
        for number in range(len(SIZES)):
            read_one(number)
        with ThreadPoolExecutor(4) as clients:
            list(clients.map(read_one, range(len(SIZES), len(reads))))
    return read_trace(trace), [wanted for wanted, _ in reads]


@pytest.fixture
def early(new_node, run, tmp_path, crash_server: PostgreSQLServer) -> Callable[[str, str], list[str]]:
    """Serve with a fault and judge a trace of reads."""

    def judge(database: str, fault: str) -> list[str]:
        on_server = database == "postgresql"
        url = crash_server.create_database() if on_server else f"sqlite:///{tmp_path}/node.db"
        served = new_node(url)
        process = run("web", str(served.folder), fault)
        calls, reads = traced_reads(
            served, process, [process.pid, *([postmaster(crash_server)] if on_server else [])], tmp_path
        )
        return early_bodies(calls, reads)

    return judge


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_no_body_byte_leaves_before_its_row_is_on_the_disk(early, database):
    assert early(database, "none") == []


@pytest.mark.parametrize(
    ("database", "fault"),
    [
        ("sqlite", "sqlite-normal"),
        ("sqlite", "sqlite-off"),
        ("sqlite", "log-after-send"),
        ("postgresql", "postgresql-off"),
        ("postgresql", "log-after-send"),
    ],
)
def test_the_check_notices_what_is_not_durable(early, database, fault):
    assert early(database, fault) != []


def test_a_sync_that_failed_covers_nothing(tmp_path):
    trace = tmp_path / "trace"
    write = '7 1.0 pwrite64(6</n.db-wal>, "row-a", 5, 0) = 5'
    body = '8 1.0 write(9<TCP:[127.0.0.1:1->127.0.0.1:2]>, "body-a", 6) = 6'
    good = ["7 1.0 fdatasync(6</n.db-wal> <unfinished ...>", "7 1.0 <... fdatasync resumed>) = 0"]
    bad = [good[0], "7 1.0 <... fdatasync resumed>) = -1 EIO (Input/output error)"]

    def judged(*lines: str) -> list[str]:
        trace.write_text("\n".join(lines))
        return early_bodies(read_trace(trace), [TracedRead("row-a", "body-a")])

    assert judged(write, *good, body) == []
    assert judged(write, *bad, body) != []
    assert judged(write, good[0], body, good[1]) != []
    assert judged(*good, write, body) != []
    assert judged(good[0], write, good[1], body) != []
    with pytest.raises(Incomplete):
        judged(write, *good)
