"""Pushing to a locker over a socket: nothing lost, nothing doubled, whatever fails between."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from sqlalchemy import select

from node.config import Settings
from node.contract.holders import Holder
from node.contract.times import MINUTE
from node.contract.uri import DocumentURI
from node.db.catalogue import change_document
from node.db.holder_seals import WAITING, seal_holder
from node.db.models import Document, HolderReference, HolderSeal, OutboxRow
from node.db.outbox import LONGEST_DELAY, announce, backlog, refused_rows, retry_delay, retry_refused
from node.jobs.tasks import JobContext, follow_links
from node.services.locker_client import LockerFault

SITA = Holder.parse("mobile", "9876543210")


def seals(side):
    with side.database.reading() as connection:
        return {
            (row.document_id, row.iss) for row in connection.execute(select(HolderSeal.document_id, HolderSeal.iss))
        }


def rows(side):
    with side.database.reading() as connection:
        return connection.execute(select(OutboxRow.__table__).order_by(OutboxRow.row_id)).all()


def holder_refs(side):
    named = select(Document.doc_id, HolderReference.holder_ref).outerjoin(
        HolderReference, HolderReference.own_ref == Document.holder_ref
    )
    with side.database.reading() as connection:
        return {row.doc_id: row.holder_ref for row in connection.execute(named)}


def test_documents_from_before_the_locker_are_announced_with_their_holders(side, locker):
    side.offer_type()
    document_id = side.add("1")
    assert seals(side) == {(document_id, WAITING)}
    side.registration.register(locker.iss)
    side.add("2", mobile=None)
    assert rows(side) == []
    assert side.push.push_once(locker.iss).sent == 0
    locker.state, locker.residents[SITA] = "approved", "ref-1"
    side.registration.check(locker.iss)
    report = side.push.push_all(locker.iss)
    assert (report.sent, report.acknowledged, report.refused, report.failure) == (2, 2, 0, None)
    assert holder_refs(side) == {"1": "ref-1", "2": None}
    assert seals(side) == set()
    assert rows(side) == []
    assert locker.links["in.x-INC-1"]["document"] == {
        "title": "Income", "language": "te", "issued_on": None, "expires_on": None, "status": "active", "version": 1,
        "representations": [{"media_type": "application/pdf", "language": "te", "size": 3, "sha256": "0" * 64}],
    }  # fmt: skip


def test_changes_of_one_document_arrive_in_their_order(side, locker):
    side.join(locker)
    document_id = side.add("1")
    side.change(document_id, title="Second")
    side.change(document_id, "withdraw", status="revoked")
    side.push.push_all(locker.iss)
    sent = [(row["kind"], row["revision"]) for batch in locker.pushes for row in batch]
    assert sent == [("add", 1), ("change", 2), ("withdraw", 3)]
    assert locker.links["in.x-INC-1"]["kind"] == "withdraw"
    assert rows(side) == []


def test_a_later_change_does_not_overtake_one_that_waits(side, locker):
    side.join(locker)
    document_id = side.add("1")
    locker.refused["in.x-INC-1"] = 503
    side.push.push_all(locker.iss)
    side.change(document_id, title="Second")
    other = side.add("2")
    side.push.push_all(locker.iss)
    assert {row.document_id for row in rows(side)} == {document_id}
    assert len(rows(side)) == 2
    assert other not in {row.document_id for row in rows(side)}
    locker.refused.clear()
    side.ahead_us = 5 * MINUTE
    side.push.push_all(locker.iss)
    assert rows(side) == []
    assert locker.links["in.x-INC-1"]["revision"] == 2


def test_a_refused_row_stays_with_its_reason_until_it_is_sent_again_under_a_new_name(side, locker):
    side.join(locker)
    side.add("1")
    side.add("2")
    locker.refused["in.x-INC-1"] = 403
    report = side.push.push_all(locker.iss)
    assert (report.acknowledged, report.refused) == (1, 1)
    with side.database.writing() as connection:
        (row,) = refused_rows(connection)
        assert (row.uri, row.result["status"]) == ("in.x-INC-1", 403)
        assert backlog(connection).refused == 1
        assert len(seals(side)) == 1
        locker.refused.clear()
        assert retry_refused(connection, locker.iss, side.clock()) == 1
    side.push.push_all(locker.iss)
    assert rows(side) == []
    assert seals(side) == set()
    assert locker.links["in.x-INC-1"]["holder"] == SITA


def test_a_change_that_is_taken_settles_an_earlier_refusal(side, locker):
    side.join(locker)
    document_id = side.add("1")
    locker.refused["in.x-INC-1"] = 403
    side.push.push_all(locker.iss)
    locker.refused.clear()
    side.change(document_id, title="Second")
    side.push.push_all(locker.iss)
    assert rows(side) == []


@pytest.mark.parametrize("fault", [500, 503, 429, 403, "cut", "short"])
def test_a_failing_locker_is_left_alone_and_then_gets_every_row_once(side, locker, fault):
    side.join(locker)
    for number in range(5):
        side.add(str(number))
    locker.faults.append(fault)
    report = side.push.push_once(locker.iss)
    assert (report.failure is None) == (fault == "short")
    assert len(rows(side)) == (1 if fault == "short" else 5)
    row = side.lockers.find(locker.iss)
    assert row.push_failures == (0 if fault == "short" else 1)
    side.ahead_us = 2_000_000
    side.push.push_all(locker.iss)
    assert rows(side) == []
    assert len(locker.applied) == len(set(locker.applied)) == 5


def test_the_wait_grows_to_five_minutes_with_full_jitter(side, locker, free_port):
    assert all(0 <= retry_delay(attempts) <= LONGEST_DELAY == 5 * MINUTE for attempts in range(100))
    source = random.Random(1)
    drawn = [retry_delay(30, source) for _ in range(200)]
    assert min(drawn) < LONGEST_DELAY / 10
    assert max(drawn) > LONGEST_DELAY * 0.9
    assert max(retry_delay(0, source) for _ in range(50)) <= 1_000_000
    side.join(locker)
    side.add("1")
    locker.faults.append(503)
    side.push.push_once(locker.iss)
    side.lockers.change(locker.iss, push_next_us=side.clock() + MINUTE)
    asked = len(locker.requests)
    assert side.push.push_once(locker.iss).sent == 0
    assert len(locker.requests) == asked


def test_one_row_that_the_locker_cannot_read_does_not_hold_the_others_up(side, locker):
    side.join(locker)
    for name in ("1", "2", "unsendable", "3", "4"):
        side.add(f"doc-{name}")
    report = side.push.push_all(locker.iss)
    assert (report.acknowledged, report.refused) == (4, 1)
    with side.database.reading() as connection:
        assert [row.uri for row in refused_rows(connection)] == ["in.x-INC-doc-unsendable"]


def test_a_batch_that_is_too_large_is_halved(side, locker):
    side.join(locker)
    for number in range(9):
        side.add(str(number))
    locker.most_rows = 2
    assert side.push.push_all(locker.iss).acknowledged == 9
    assert max(len(batch) for batch in locker.pushes) == 2


def test_a_new_holder_sealed_while_the_old_one_is_under_way_is_not_erased(side, locker):
    side.join(locker)
    document_id = side.add("1")
    locker.faults.append("cut")
    side.push.push_once(locker.iss)  # the locker has the first holder, the node does not know it
    gita = Holder.parse("mobile", "9000000001")
    with side.database.writing() as connection:
        change_document(connection, document_id, 3)
        seal_holder(
            connection, document_id, DocumentURI("in.x", "INC", "1"), gita, side.keys.waiting_holders.public
        )  # fmt: skip
        announce(connection, document_id, "change", side.clock())
    side.ahead_us = 2_000_000
    side.push.push_all(locker.iss)
    assert locker.links["in.x-INC-1"]["holder"] == gita
    assert seals(side) == set()
    assert rows(side) == []


def test_later_links_are_followed_once_and_in_order(side, locker):
    side.join(locker)
    side.add("1")
    side.add("2")
    side.push.push_all(locker.iss)
    assert holder_refs(side) == {"1": None, "2": None}
    locker.changes = [
        {"position": 7, "uri": "in.x-INC-1", "outcome": "linked", "holder_ref": "a"},
        {"position": 9, "uri": "IN.X-INC-2", "outcome": "linked", "holder_ref": "b"},
        {"position": 12, "uri": "in.x-INC-1", "outcome": "withdrawn", "holder_ref": "a"},
        {"position": 13, "uri": "in.x-INC-2", "outcome": "withdrawn", "holder_ref": "other"},
        {"position": 14, "uri": "in.y-INC-2", "outcome": "linked", "holder_ref": "c"},
    ]
    assert side.push.follow_links(locker.iss) == 5
    assert holder_refs(side) == {"1": None, "2": "b"}
    assert side.push.follow_links(locker.iss) == 0
    assert side.lockers.find(locker.iss).links_after == 14


def test_the_job_holds_a_locker_to_what_the_settings_let_it_speak_of(side, locker, tmp_path):
    side.join(locker)
    side.add("1")
    side.push.push_all(locker.iss)

    def follow(position, issuers):
        locker.changes.append({"position": position, "uri": "in.x-INC-1", "outcome": "linked", "holder_ref": "a"})
        limit = {"iss": locker.iss, "issuers": issuers}
        settings = Settings(folder=tmp_path, node_id="n", name="N", base_url="https://n.example", lockers=[limit])
        follow_links(JobContext(settings, side.keys, side.client, side.client, side.clock, lambda: None), side.database)
        return holder_refs(side)["1"]

    assert follow(1, ["in.y"]) is None
    assert follow(2, ["in.x"]) == "a"


def test_links_out_of_order_are_not_taken(side, locker):
    side.join(locker)
    locker.changes = [
        {"position": 9, "uri": "in.x-INC-1", "outcome": "linked", "holder_ref": "a"},
        {"position": 7, "uri": "in.x-INC-1", "outcome": "linked", "holder_ref": "b"},
    ]
    with pytest.raises(LockerFault):
        side.push.follow_links(locker.iss)
    assert side.lockers.find(locker.iss).links_after == 0


PUSHER = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from node.contract.times import now_us
    from node.db.outbox import OutboxRecords
    from node.db.session import Database
    from node.keys import load_keys
    from node.services.locker_client import LockerClient
    from node.services.push import Push
    from node.web.outbound import OutboundClient
    url, folder, iss, node_id = sys.argv[1:]
    database, keys = Database(url), load_keys(Path(folder))
    client = LockerClient(OutboundClient(allow_private=["127.0.0.0/8"]), node_id=node_id, key=keys.client, clock=now_us)
    push = Push(client, OutboxRecords(database, keys.waiting_holders, now_us), clock=now_us, batch=7)
    print("up", flush=True)
    while True:
        push.push_once(iss)
    """
)


def test_killing_the_pusher_at_any_moment_loses_and_doubles_nothing(side, locker, tmp_path, soak):
    side.join(locker)
    locker.residents[SITA] = "ref-1"
    kills = soak.count(small=4, full=40)
    added = 0
    url = side.database.url.render_as_string(hide_password=False)
    source = random.Random(5)
    for _ in range(kills):
        pusher = subprocess.Popen(
            [sys.executable, "-c", PUSHER, url, str(tmp_path / "node0"), locker.iss, "node-1"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert pusher.stdout.readline() == "up\n"
        for _ in range(soak.count(small=10, full=50)):
            side.add(f"doc-{added}")
            added += 1
        time.sleep(source.random() * 0.15)
        os.kill(pusher.pid, signal.SIGKILL)
        pusher.wait()
        pusher.stdout.close()
    side.lockers.change(locker.iss, push_next_us=0)
    side.ahead_us = 2_000_000
    side.push.push_all(locker.iss)
    assert rows(side) == []
    assert seals(side) == set()
    assert len(locker.applied) == len(set(locker.applied)) == added == len(locker.links)
    assert set(holder_refs(side).values()) == {"ref-1"}


def test_no_clear_holder_value_is_stored_or_logged(side, locker, capfd):
    side.join(locker)
    side.add("1")
    locker.faults.append(500)
    side.push.push_once(locker.iss)
    with side.database.reading() as connection:
        stored = repr(connection.execute(select(HolderSeal.__table__)).all()) + repr(rows(side))
    assert "9876543210" not in stored + capfd.readouterr().err + capfd.readouterr().out
