"""No body byte leaves before its log row is on the disk, seen in the system calls of the running processes."""

import itertools
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bench.postgresql import PostgreSQLServer
from tests.delivery.conftest import ServedNode
from tests.durability.processes import NodeProcess, postmaster, read, strace, with_children
from tests.durability.traces import OPTIONS, Incomplete, TracedRead, early_bodies, read_trace

SIZES = (900, 20_000, 20_000, 700_000)
TIMES = 4


def word() -> str:
    return "w" + secrets.token_hex(6)


def filled_with(body_word: str, size: int) -> bytes:
    return (body_word.encode() * (size // len(body_word) + 1))[:size]


@dataclass
class Traced:
    """A web process with its database, read from under strace as often as a test wants."""

    served: ServedNode
    process: NodeProcess
    server: PostgreSQLServer | None
    folder: Path
    rounds: Iterator[int] = field(default_factory=itertools.count)

    def early_bodies(self) -> list[str]:
        """Read documents, one at a time and then some at once, and judge the trace."""
        number = next(self.rounds)
        reads = [(TracedRead(word(), word()), size) for size in SIZES * TIMES]
        uris = [
            self.served.add(f"doc-{number}-{n}", filled_with(wanted.body_word, size))
            for n, (wanted, size) in enumerate(reads)
        ]
        token = self.served.token()
        assert read(self.process.url, uris[0], token, "warm-up").status == 200

        def read_one(n: int) -> None:
            wanted, size = reads[n]
            answer = read(self.process.url, uris[n], token, f"{wanted.row_word}.{wanted.row_word}")
            assert answer.status == 200 and answer.body == filled_with(wanted.body_word, size)

        trace = self.folder / f"trace-{number}"
        with strace(self._processes(), "-o", str(trace), *OPTIONS):
            for n in range(len(SIZES)):
                read_one(n)
            with ThreadPoolExecutor(4) as clients:
                list(clients.map(read_one, range(len(SIZES), len(reads))))
        return early_bodies(read_trace(trace), [wanted for wanted, _ in reads])

    def _processes(self) -> list[int]:
        """Return all that is to be traced; the database's process that serves the node is there once it has been asked."""
        return [self.process.pid, *(with_children(postmaster(self.server)) if self.server else [])]


@pytest.mark.parametrize(
    ("database", "faults"),
    [
        ("sqlite", ["sqlite-normal", "sqlite-off"]),
        ("postgresql", ["postgresql-off"]),
    ],
    ids=["sqlite", "postgresql"],
)
def test_no_body_byte_leaves_before_its_row_is_on_the_disk(database, faults, new_node, run, tmp_path, request):
    server = request.getfixturevalue("crash_server") if database == "postgresql" else None
    served = new_node(server.create_database() if server else f"sqlite:///{tmp_path}/node.db")
    process = run("web", str(served.folder))
    traced = Traced(served, process, server, tmp_path)
    assert traced.early_bodies() == []
    # The same check with the same process, once that is not what it should be.
    for fault in [*faults, "log-after-send"]:
        process.build_in(fault)
        assert traced.early_bodies() != [], fault
    process.build_in("none")
    assert traced.early_bodies() == []


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
