"""A database that cannot write to its disk stops serving, says so, and serving goes on by itself when the disk does."""

import json
import subprocess
from contextlib import suppress
from http.client import HTTPConnection
from urllib.parse import urlsplit

from bench.postgresql import PostgreSQLServer
from node.contract.problems import PROBLEM_BASE
from tests.durability.processes import NodeProcess, postmaster, read, strace, wait_for, with_children

DOCUMENT = b"%PDF- the bytes that nobody may get " * 600
FAILING_DISK = ("-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:error=EIO", "-o", "/dev/null")


def log_is_ready(process: NodeProcess) -> bool:
    """Ask the node whether its database and its access log are as they should be."""
    connection = HTTPConnection(urlsplit(process.url).netloc, timeout=30)
    connection.request("GET", "/readyz")
    response = connection.getresponse()
    content = json.loads(response.read())
    connection.close()
    checks = {check["name"]: check["result"] for check in content["checks"]}
    ready = checks["access log"] == checks["database"] == "ok"
    assert ready or response.status == 503
    return ready


def require_no_reads(process: NodeProcess, uri: str, token: str) -> None:
    """Ask several times, in different ways, and get the same refusal and not one byte."""
    for number in range(3):
        answer = read(process.url, uri, token, f"unwritten-{number}")
        assert answer.status == 503 and DOCUMENT[:16] not in answer.body
        assert json.loads(answer.body)["type"] == PROBLEM_BASE + "log-unavailable"
    assert not log_is_ready(process)


def request_ids(served) -> list[str]:
    return [event.get("request_id", "") for event in served.events()]


def test_eio_of_the_disk_under_sqlite(new_node, run, tmp_path):
    served = new_node(f"sqlite:///{tmp_path}/node.db")
    uri, token = served.add("doc", DOCUMENT), served.token()
    process = run("web", str(served.folder))
    assert read(process.url, uri, token, "before").body == DOCUMENT
    assert log_is_ready(process)
    with strace([process.pid], *FAILING_DISK):
        require_no_reads(process, uri, token)
    assert read(process.url, uri, token, "after").body == DOCUMENT
    assert log_is_ready(process)
    assert {"before", "after"} <= set(request_ids(served))


def test_eio_of_the_disk_under_postgresql(new_node, run, crash_server: PostgreSQLServer):
    served = new_node(crash_server.create_database())
    uri, token = served.add("doc", DOCUMENT), served.token()
    process = run("web", str(served.folder))
    assert read(process.url, uri, token, "before").body == DOCUMENT
    with strace(with_children(postmaster(crash_server)), *FAILING_DISK):
        # PostgreSQL stops itself when its log cannot be synced, and cannot recover for as long as that is so.
        require_no_reads(process, uri, token)
    with suppress(subprocess.CalledProcessError):
        crash_server.stop("immediate")
    crash_server.start()
    wait_for(lambda: read(process.url, uri, token, "after").body == DOCUMENT)
    assert log_is_ready(process)
    assert {"before", "after"} <= set(request_ids(served))
