"""FC-18: many threads read, store and change at once on one SQLite file; nothing fails, nothing is lost."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import text

import locker.db.session
import node.db.session
from tests.openapi.joined import DOCUMENT, ISSUER, joined_node

THREADS = 20
WRITERS = 4


def test_no_request_fails_and_each_has_its_row(tmp_path, soak):
    rounds = soak.count(small=3, full=50)
    with joined_node(tmp_path / "node", f"sqlite:///{tmp_path}/node.db") as node:
        headers = {"authorization": f"Bearer {node.bearer('operator')}"}

        def work(thread: int) -> list[tuple[str, int]]:
            with httpx.Client(base_url=node.url, headers=headers, timeout=60) as http:
                return [answer for turn in range(rounds) for answer in requests(http, f"{thread}-{turn}")]

        with ThreadPoolExecutor(THREADS) as pool:
            answers = [answer for listed in pool.map(work, range(THREADS)) for answer in listed]
        each = THREADS * rounds
        assert Counter(answers) == {("read", 200): each, ("put", 201): each, ("change", 200): each}
        rows = Counter(row["action"] for row in node.events() if row["phase"] == "attempt")
        assert rows == {"read": each, "put": 2 * each}


def requests(http: httpx.Client, name: str) -> list[tuple[str, int]]:
    uri = f"/v1/documents/{ISSUER}-INCOM-{name}"
    put = http.put(uri, content=b"%PDF-1.7 " + name.encode(), headers={"content-type": "application/pdf"})
    change = http.patch(f"{uri}/metadata", json={"title": name})
    read = http.get(f"/v1/documents/{DOCUMENT}")
    return [("put", put.status_code), ("change", change.status_code), ("read", read.status_code)]


@pytest.mark.parametrize("product", ["node", "locker"])
def test_who_reads_before_writing_is_not_refused(tmp_path, product):
    """A writer that has read, while another one wants to write, would be refused at once and whatever the time-out.

    Each thread has a database of its own, as processes have: within one, the locker's writers take turns anyway.
    """
    url = f"sqlite:///{tmp_path}/test.db"
    if product == "node":
        begins = [node.db.session.Database(url).writing for _ in range(WRITERS)]
    else:
        begins = [locker.db.session.Database(url).write for _ in range(WRITERS)]
    with begins[0]() as connection:
        connection.execute(text("CREATE TABLE counter (n INTEGER)"))
        connection.execute(text("INSERT INTO counter VALUES (0)"))

    def add_five(begin: Any) -> None:
        for _ in range(5):
            with begin() as connection:
                n = connection.execute(text("SELECT n FROM counter")).scalar_one()
                connection.execute(text("UPDATE counter SET n = :n"), {"n": n + 1})

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(add_five, begins))
    with begins[0]() as connection:
        assert connection.execute(text("SELECT n FROM counter")).scalar_one() == 5 * WRITERS
