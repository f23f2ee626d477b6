"""Thirty-two clients read from one SQLite node while it takes in new documents: no 5xx, and every request has its rows."""

import random
import threading
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor

import httpx

from node.contract.identifiers import uuid7

BANK = "bank-of-example"
CLIENTS = 32
NAMES = ("anita", "anita2", "canary")


def test_reads_and_an_ingest_go_on_side_by_side(federation, tmp_path, soak):
    node = federation.alpha
    uris = [f"{node.issuer}-CERT-{name}" for name in NAMES]
    consent = federation.consent("anita", BANK, *uris)
    granted = federation.resolve(BANK, consent, *uris)
    place = node.place()
    count = soak.count(small=300, full=3000)
    ingesting = threading.Event()
    sent: dict[str, tuple[str, int]] = {}

    def read(client: httpx.Client, chance: random.Random) -> None:
        choice, asked = chance.choice(granted), uuid7()
        method = chance.choice(("GET", "GET", "GET", "HEAD"))
        # A ticket for one document is refused for another, which is a row as well.
        uri = choice["uri"] if chance.random() < 0.9 else chance.choice(uris)
        headers = {"authorization": f"Bearer {choice['ticket']}", "x-request-id": asked}
        answer = client.request(method, f"{node.url}/v1/documents/{uri}", headers=headers)
        assert answer.status_code == (200 if uri == choice["uri"] else 403), answer.text
        if answer.status_code == 200 and method == "GET":
            assert answer.content == node.documents[uri]
        sent[asked] = method, answer.status_code

    def client(seed: int) -> int:
        chance, reads = random.Random(seed), 0
        with httpx.Client(timeout=60) as connection:
            while ingesting.is_set() or reads < 3:
                read(connection, chance)
                reads += 1
        return reads

    rows = [("CERT", f"beside{number}", "mobile", "9811122266") for number in range(count)]
    contents = [b"%PDF-1.7\n" + b"%d" % number for number in range(count)]
    ingesting.set()
    with ThreadPoolExecutor(CLIENTS) as pool:
        reading = [pool.submit(client, seed) for seed in range(CLIENTS)]
        try:
            taken = node.ingest(tmp_path / "papers", rows, contents)
        finally:
            ingesting.clear()
        reads = [future.result() for future in reading]
    assert taken["created"] == count and not taken["refused"]
    assert sum(reads) == len(sent) >= 3 * CLIENTS

    node.place()
    found = defaultdict(list)
    for row in node.log(after=place):
        found[row.get("request_id")].append(row["outcome"])
    expected = {("GET", 200): ["allowed", "complete"], ("HEAD", 200): ["complete"]}
    wrong = {
        asked: (what, found[asked]) for asked, what in sent.items() if found[asked] != expected.get(what, ["refused"])
    }
    assert wrong == {}
    assert Counter(what for what in sent.values())[("GET", 200)] > 0
