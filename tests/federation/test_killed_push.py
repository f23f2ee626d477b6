"""A push while processes are killed on both sides: no document is missing, none is doubled; and rows that wait or are refused."""

import json
import os
import signal
import threading
import time

from tests.federation.running import admit, eventually

ALPHA = "in.gov.alpha"
CHITRA, DEVI, ESHA = "9811122233", "9811122244", "9811122255"


def kill(federation, server, word):
    processes = federation.children(server, word)
    assert processes
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)


def pushed_rows(request):
    return len(json.loads(request.body)["rows"]) if request.path == "/v1/push" else 0


def waiting(node):
    return node.select("SELECT count(*) FROM outbox WHERE state = 'waiting'")[0][0]


def test_no_document_is_lost_or_doubled_when_both_sides_are_killed(federation, tmp_path, soak):
    node, count = federation.alpha, soak.count(small=300, full=5000)
    admit(federation, "chitra", f"mobile:{CHITRA}")
    killed: list[str] = []
    lock = threading.Lock()

    def meddle(request, forward):
        """Kill the locker's web process while it has a batch, then the node's job process before it hears what came of one."""
        if not pushed_rows(request):
            return forward()
        with lock:
            if len(killed) == 0:
                killed.append("locker")
                threading.Timer(0.03, kill, (federation, federation.locker, "locker.asgi")).start()
                forward()
                time.sleep(0.1)
                return None
            answer = forward()
            if len(killed) < 3 and answer.status == 200:
                killed.append("node")
                kill(federation, node.server, "jobs")
                return None
            return answer

    rows = [("CERT", f"kill{number}", "mobile", CHITRA) for number in range(count)]
    with federation.between.meddling(meddle):
        taken = node.ingest(tmp_path / "papers", rows, [b"%PDF-1.7\n" + b"%d" % number for number in range(count)])
        assert taken["created"] == count
        eventually(lambda: len(killed) == 3 and waiting(node) == 0, 90)

    wanted = {f"{ALPHA}-CERT-kill{number}" for number in range(count)}
    listed = [row["uri"] for row in federation.own_documents("chitra")]
    assert (len(listed), set(listed)) == (count, wanted)
    events = federation.at_locker("SELECT uri, kind FROM link_event WHERE uri LIKE ?", f"{ALPHA}-CERT-kill%")
    assert sorted(events) == sorted((uri, "linked") for uri in wanted)
    told = (
        "SELECT count(*), count(r.holder_ref), count(DISTINCT r.holder_ref) "
        "FROM document d LEFT JOIN holder_reference r ON r.own_ref = d.holder_ref WHERE d.doc_id LIKE 'kill%'"
    )
    assert node.select(told) == [(count, count, 1)]


def test_a_row_outside_the_approved_types_is_refused_alone(federation, tmp_path):
    node = federation.alpha
    admit(federation, "devi", f"mobile:{DEVI}")
    rows = [("CERT", "devi1", "mobile", DEVI), ("SECRET", "devi2", "mobile", DEVI), ("CERT", "devi3", "mobile", DEVI)]
    node.ingest(tmp_path / "papers", rows, [b"%PDF-1.7\n1", b"%PDF-1.7\n2", b"%PDF-1.7\n3"])
    good = {f"{ALPHA}-CERT-devi1", f"{ALPHA}-CERT-devi3"}
    eventually(lambda: {row["uri"] for row in federation.own_documents("devi")} == good)
    refused = "SELECT o.state, o.result FROM outbox o JOIN document d USING (document_id) WHERE d.doc_id = 'devi2'"
    eventually(lambda: [row[0] for row in node.select(refused)] == ["refused"])
    assert "out-of-scope" in node.select(refused)[0][1]
    assert federation.at_locker("SELECT count(*) FROM link WHERE uri_key LIKE '%devi2'") == [(0,)]
    alerts = federation.at_locker("SELECT node_id, kind FROM alert")
    assert (node.node_id, "out-of-scope") in alerts


def test_a_resident_who_joins_later_finds_what_waited_and_the_node_hears_of_it(federation, tmp_path):
    node = federation.alpha
    node.ingest(tmp_path / "papers", [("CERT", "esha", "mobile", ESHA)], [b"%PDF-1.7\nesha"])
    uri = f"{ALPHA}-CERT-esha"
    eventually(lambda: federation.at_locker("SELECT resident_id FROM link WHERE uri = ?", uri) == [(None,)])
    reference = "SELECT r.holder_ref FROM document d JOIN holder_reference r ON r.own_ref = d.holder_ref WHERE d.doc_id = 'esha'"
    assert node.select(reference) == []
    admit(federation, "esha", f"mobile:{ESHA}")
    assert [row["uri"] for row in federation.own_documents("esha")] == [uri]
    assert federation.own("esha", uri).content == node.documents[uri]
    eventually(lambda: node.select(reference))
    assert federation.at_locker("SELECT holder_ref FROM link WHERE uri = ?", uri) == node.select(reference)
