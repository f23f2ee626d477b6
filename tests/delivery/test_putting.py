"""Storing a document by PUT: whole or not at all, checked, never overwritten, always in the log."""

import base64
import hashlib
import os
import socket
import threading
import time
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from node.contract.problems import Conflict
from node.services.access import TokenScope
from tests.delivery.conftest import make_node, serve

PDF = b"%PDF-1.7\n" + b"certificate " * 200
URI = "in.gov.example-INCOM-new"


def put(served, content=PDF, token=None, uri=URI, **headers):
    headers = {"authorization": f"Bearer {token or served.token()}", "content-type": "application/pdf", **headers}
    return httpx.put(f"{served.url}/v1/documents/{uri}", content=content, headers=headers, timeout=30)


def get(served, uri=URI):
    return httpx.get(f"{served.url}/v1/documents/{uri}", headers={"authorization": f"Bearer {served.token()}"})


def sha256(content):
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


def stored_files(served):
    return sorted(path.name for path in (served.folder / "storage").rglob("*") if path.is_file())


def slug(answer):
    return answer.json()["type"].rsplit("/", 1)[1]


def test_a_new_document_is_created_and_read_back(served):
    answer = put(served, **{"repr-digest": sha256(PDF)})
    assert answer.status_code == 201 and answer.headers["etag"] == f'"{hashlib.sha256(PDF).hexdigest()}"'
    assert answer.headers["location"] == f"/v1/documents/{answer.json()['uri']}"
    assert answer.json()["changed"] and answer.json()["size"] == len(PDF)
    assert get(served).content == PDF
    (row,) = [row for row in served.events(expected=3) if row["action"] == "put"]
    assert (row["outcome"], row["uri"]) == ("complete", URI)


def test_the_same_bytes_again_change_nothing(served):
    assert [put(served).status_code for _ in range(3)] == [201, 200, 200]
    assert len(stored_files(served)) == 1
    assert [row["outcome"] for row in served.events(expected=3)] == ["complete"] * 3


def test_other_bytes_need_the_etag_of_what_they_replace(served):
    etag = put(served).headers["etag"]
    other = PDF + b"corrected"
    assert (put(served, other).status_code, get(served).content) == (409, PDF)
    assert put(served, other, **{"if-match": '"' + "0" * 64 + '"'}).status_code == 412
    assert put(served, other, **{"if-none-match": "*"}).status_code == 412
    replaced = put(served, other, **{"if-match": etag})
    assert replaced.status_code == 200 and get(served).content == other
    assert get(served).headers["document-version"] == "2"
    assert len(stored_files(served)) == 2


@pytest.mark.parametrize(
    ("headers", "status", "problem"),
    [
        ({"repr-digest": sha256(b"other")}, 422, "digest-mismatch"),
        ({"content-digest": sha256(b"other")}, 422, "digest-mismatch"),
        ({"repr-digest": "sha-256=rubbish"}, 400, "bad-request"),
        ({"content-type": "text/plain"}, 415, "unsupported-media-type"),
        ({"content-type": ""}, 415, "unsupported-media-type"),
        ({"content-type": "image/png"}, 422, "unacceptable-content"),
        ({"if-match": '"abc"'}, 412, "precondition-failed"),
    ],
)
def test_what_is_refused_leaves_nothing(served, headers, status, problem):
    answer = put(served, **headers)
    assert (answer.status_code, slug(answer)) == (status, problem)
    assert stored_files(served) == [] and get(served).status_code == 404
    row = next(row for row in served.events(expected=2) if row["action"] == "put")
    assert (row["outcome"], row["status"]) == ("refused", status)


def test_an_empty_body_is_refused(served):
    assert put(served, b"").status_code == 400


def test_who_may_put(served):
    outside = served.token(scope=TokenScope(issuers=("in.gov.other",)))
    for token, status in [
        (served.token("auditor"), 403),
        (served.token("monitor"), 403),
        (served.ticket("new"), 403),
        (outside, 403),
        ("wrong", 401),
    ]:
        assert put(served, token=token).status_code == status
    assert put(served, uri="in.gov.elsewhere-INCOM-1").status_code == 404
    assert put(served, uri="in.gov.example--1").status_code == 400
    assert stored_files(served) == []
    assert {row["outcome"] for row in served.events(expected=7)} == {"refused"}


def raw_put(served, head, body=b""):
    address = urlsplit(served.url)
    connection = socket.create_connection((address.hostname, address.port))
    lines = [
        f"PUT /v1/documents/{URI} HTTP/1.1",
        "Host: n",
        f"Authorization: Bearer {served.token()}",
        "Content-Type: application/pdf",
        *head,
    ]
    connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    return connection


def test_a_body_that_is_too_large_is_cut_off_early(served, monkeypatch):
    with raw_put(served, ["Content-Length: 2147483648"], b"%PDF") as connection:
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 413")


def test_a_chunked_body_over_the_limit_is_cut_off_while_it_comes(tmp_path, served_with):
    served = served_with(max_document_bytes=100_000)
    answer = b""
    with raw_put(served, ["Transfer-Encoding: chunked"]) as connection:
        try:
            for _ in range(200):
                connection.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
            answer = connection.recv(4096)
        except ConnectionError:
            answer = answer or connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 413")
    assert stored_files(served) == []


@pytest.mark.parametrize("leave", [True, False])
def test_a_body_that_stops_stores_nothing(served, leave):
    with raw_put(served, ["Content-Length: 100000"], PDF) as connection:
        if not leave:
            assert connection.recv(4096).startswith(b"HTTP/1.1 408")
    (row,) = served.events(expected=1)
    assert (row["action"], row["outcome"]) == ("put", "refused")
    assert stored_files(served) == [] and get(served).status_code == 404


class HeldPuts:
    """Stores as the node does, or fails, once it is let go."""

    def __init__(self, puts, error=None):
        self.puts, self.error = puts, error
        self.begun, self.go = threading.Event(), threading.Event()

    def require_room(self):
        self.puts.require_room()

    def store(self, *args, **options):
        self.begun.set()
        assert self.go.wait(10)
        if self.error:
            raise self.error
        return self.puts.store(*args, **options)


def stopping_at_once(served, puts=None):
    return threading.Thread(target=serve(served, puts, drain_seconds=0.1))


def test_a_put_that_a_stopping_server_breaks_off_is_in_the_log(tmp_path, node_database_url):
    served = make_node(tmp_path / "node", node_database_url)
    stop = stopping_at_once(served)
    connection = raw_put(served, ["Content-Length: 100000"], PDF)
    time.sleep(0.2)  # the body is being received
    stop.start()
    stop.join()
    (row,) = served.events(expected=1)
    assert (row["action"], row["uri"], row["phase"]) == ("put", URI, "attempt")
    assert (row["outcome"], row["reason"]) == ("aborted", "server-stopping")
    assert stored_files(served) == []
    connection.close()
    served.node.close()


@pytest.mark.parametrize("error", [None, Conflict(reason="other-content")])
def test_a_put_that_is_being_stored_when_the_server_stops_has_one_row_that_tells_the_truth(
    tmp_path, node_database_url, error
):
    served = make_node(tmp_path / "node", node_database_url)
    puts = HeldPuts(served.node.administration, error)
    stop = stopping_at_once(served, puts)
    connection = raw_put(served, [f"Content-Length: {len(PDF)}"], PDF)
    assert puts.begun.wait(5)
    stop.start()
    time.sleep(0.4)  # the request is cancelled by now
    puts.go.set()
    stop.join()
    answer = connection.recv(4096)
    (row,) = served.events(expected=1)
    if error:
        assert answer.startswith(b"HTTP/1.1 409")
        assert (row["outcome"], row["reason"], stored_files(served)) == ("refused", "other-content", [])
    else:
        assert answer.startswith(b"HTTP/1.1 201")
        assert (row["outcome"], len(stored_files(served))) == ("complete", 1)
    connection.close()
    served.node.close()


def test_many_puts_of_one_uri_at_once_store_one(served):
    token, answers = served.token(), []

    def one(number):
        answers.append(put(served, PDF + str(number).encode(), token=token).status_code)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [201, 409, 409, 409, 409, 409]
    # An object that lost while others were being stored is taken away by the next sweep, not under their feet.
    served.node.pending_objects.sweep()
    assert len(stored_files(served)) == 1


def test_reading_while_putting_sees_all_or_nothing(served):
    content = b"%PDF-1.7\n" + os.urandom(3_000_000)
    seen, stop = set(), threading.Event()

    def look():
        while not stop.is_set():
            answer = get(served)
            seen.add((answer.status_code, len(answer.content) if answer.status_code == 200 else 0))

    watcher = threading.Thread(target=look)
    watcher.start()

    def slowly():
        for start in range(0, len(content), 300_000):
            yield content[start : start + 300_000]
            time.sleep(0.03)

    assert put(served, slowly()).status_code == 201
    time.sleep(0.1)
    stop.set()
    watcher.join()
    assert seen == {(404, 0), (200, len(content))}


def test_a_large_upload_stays_out_of_memory(served, soak):
    size = soak.count(small=120, full=900) * 1024 * 1024
    process = psutil.Process()
    before, most = process.memory_info().rss, 0

    def body():
        nonlocal most
        yield b"%PDF-1.7\n"
        block = os.urandom(1024 * 1024)
        for _ in range(size // len(block)):
            most = max(most, process.memory_info().rss)
            yield block

    assert put(served, body()).status_code == 201
    assert most - before < 60 * 1024 * 1024


def test_below_the_reserve_puts_stop_and_reads_go_on(served_with):
    served = served_with(reserve_bytes=10**15)
    old = served.add("old", b"%PDF old")
    answer = put(served)
    assert (answer.status_code, slug(answer)) == (507, "storage-full")
    assert get(served, old).content == b"%PDF old"
    assert len(stored_files(served)) == 1
