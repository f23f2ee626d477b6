"""The outbox in the database: written with the change, in order, once for each locker; holders sealed until acknowledged."""

import json
import threading

import pytest
from sqlalchemy import select

from node.contract.holders import Holder
from node.contract.problems import PROBLEM_BASE, OutOfScope
from node.contract.sealing import CannotOpen, OpeningKey
from node.contract.uri import DocumentURI
from node.db import catalogue
from node.db.fencing import FencedDatabase, give_up_leases
from node.db.holder_references import note_references
from node.db.holder_seals import WAITING, erase_seals, reseal_for, seal_holder, seals_for
from node.db.leases import LeaseLost, take_lease
from node.db.lockers import activate, change_locker, locker_rows, save_locker
from node.db.models import HolderReference, HolderSeal, OutboxRow
from node.db.outbox import (
    OutboxRecords,
    announce,
    announce_all,
    announce_page,
    backlog,
    due_rows,
    has_out_of_scope,
    refusals,
    retry_refused,
    settle,
)
from node.db.session import Database
from node.services.push import RowResult

NOW = 1_800_000_000_000_000
OWN = OpeningKey.generate()
KEYS = {"https://a.example": OpeningKey.generate(), "https://b.example": OpeningKey.generate()}
A, B = KEYS
SITA = Holder.parse("mobile", "9876543210")


@pytest.fixture
def database(node_database_url):
    database = Database(node_database_url)
    with database.writing() as connection:
        catalogue.add_issuer(connection, "in.x", "X", NOW)
    yield database
    database.close()


def add_locker(connection, iss, *, active=True):
    key = json.dumps(KEYS[iss].public.jwk())
    save_locker(connection, iss=iss, base_url=iss, jwks="{}", encryption_key=key, endpoints={}, now_us=NOW)
    if active:
        activate(connection, iss)
        change_locker(connection, iss, announced_after=None)


def add_document(connection, doc_id, holder=None):
    uri = DocumentURI("in.x", "INC", doc_id)
    fields = {"holder_scheme": holder.scheme, "holder_last4": holder.last_four} if holder else {}
    document_id = catalogue.add_document(connection, catalogue.NewDocument(uri, **fields), NOW)
    if holder:
        seal_holder(connection, document_id, uri, holder, OWN.public)
    return document_id


def queued(connection, iss=A):
    statement = select(OutboxRow.document_id, OutboxRow.kind, OutboxRow.revision).where(OutboxRow.iss == iss)
    return [tuple(row) for row in connection.execute(statement.order_by(OutboxRow.row_id))]


def sealed(connection):
    return {
        (row.document_id, row.iss): row.sealed for row in connection.execute(select(HolderSeal.__table__))
    }  # fmt: skip


def test_a_change_is_announced_to_each_active_locker_with_the_change_itself(database):
    with database.writing() as connection:
        add_locker(connection, A, active=False)
        document_id = add_document(connection, "1")
        announce(connection, document_id, "add", NOW)
        assert queued(connection) == []
        activate(connection, A)
        add_locker(connection, B)
        catalogue.change_document(connection, document_id, NOW, title="New")
        announce(connection, document_id, "change", NOW)
        assert queued(connection, A) == queued(connection, B) == [(document_id, "change", 2)]
        with pytest.raises(ValueError, match="kind"):
            announce(connection, document_id, "remove", NOW)
    with pytest.raises(RuntimeError), database.writing() as connection:
        announce(connection, document_id, "withdraw", NOW)
        raise RuntimeError("the change fails after all")
    with database.reading() as connection:
        assert len(queued(connection)) == 1


def test_a_document_added_while_a_locker_becomes_active_is_not_missed(database):
    with database.writing() as connection:
        add_locker(connection, A, active=False)
    activated = threading.Event()

    def approve():
        with database.writing() as connection:
            activate(connection, A)
        activated.set()
        announce_all(database, A, OWN, NOW)

    thread = threading.Thread(target=approve)
    with database.writing() as connection:
        document_id = add_document(connection, "1")
        announce(connection, document_id, "add", NOW)  # the locker is not active yet in this transaction
        thread.start()
        assert not activated.wait(0.3)
    thread.join(20)
    with database.reading() as connection:
        assert queued(connection) == [(document_id, "add", 1)]


def test_older_documents_are_announced_once_in_steps_that_can_be_interrupted(database):
    with database.writing() as connection:
        document_ids = [add_document(connection, str(number)) for number in range(7)]
        catalogue.change_document(connection, document_ids[6], NOW, status="revoked")
        add_locker(connection, A, active=False)
        activate(connection, A)
        announce(connection, document_ids[5], "change", NOW)  # a change of its own in the meantime
    with database.writing() as connection:
        assert announce_page(connection, A, OWN, NOW, limit=2)
    with pytest.raises(RuntimeError), database.writing() as connection:
        announce_page(connection, A, OWN, NOW, limit=2)
        raise RuntimeError("killed")
    announce_all(database, A, OWN, NOW, limit=2, pause=0)
    announce_all(database, A, OWN, NOW)
    with database.reading() as connection:
        rows = queued(connection)
        assert sorted(row[0] for row in rows) == sorted(document_ids)
        assert {kind for document_id, kind, _ in rows if document_id == document_ids[6]} == {"withdraw"}
        assert locker_rows(connection, [A])[A].announced_after is None


def test_due_rows_are_bounded_and_never_two_of_one_document(database):
    with database.writing() as connection:
        add_locker(connection, A)
        first, second = add_document(connection, "1"), add_document(connection, "2")
        for document_id in (first, second):
            announce(connection, document_id, "add", NOW)
            catalogue.change_document(connection, document_id, NOW, title="New")
            announce(connection, document_id, "change", NOW)
    with database.writing() as connection:
        assert [(row.document_id, row.kind) for row in due_rows(connection, A, NOW)] == [
            (first, "add"), (second, "add"),
        ]  # fmt: skip
        assert due_rows(connection, A, NOW - 1) == []
        assert due_rows(connection, B, NOW) == []
        (row,) = due_rows(connection, A, NOW, limit=1)
        assert row.document.title == "New"  # what is told is what holds when it is told
        settle(connection, A, [row], [RowResult(row.row_id, "linked", "ref-1")], NOW)
        assert [(row.document_id, row.kind) for row in due_rows(connection, A, NOW)] == [
            (first, "change"), (second, "add"),
        ]  # fmt: skip
        assert backlog(connection).waiting == 3
        assert backlog(connection, B).waiting == 0


def test_the_same_results_stored_twice_change_nothing_more(database):
    with database.writing() as connection:
        add_locker(connection, A)
        document_id = add_document(connection, "1", SITA)
        announce(connection, document_id, "add", NOW)
        (row,) = due_rows(connection, A, NOW)
        results = [RowResult(row.row_id, "linked", "ref-1")]
        settle(connection, A, [row], results, NOW)
        note_references(connection, A, {document_id: "newer"})
        settle(connection, A, [row], results, NOW)
        settle(connection, A, [row], [RowResult(row.row_id, "refused", problem={"status": 403})], NOW)
        assert connection.execute(select(HolderReference.holder_ref)).scalars().all() == ["newer"]
        assert queued(connection) == []
        assert sealed(connection) == {}


def test_holders_are_sealed_to_each_active_locker_and_erased_for_one_at_a_time(database):
    with database.writing() as connection:
        for iss in KEYS:
            add_locker(connection, iss)
        document_id = add_document(connection, "1", SITA)
        found = sealed(connection)
        assert found.keys() == {(document_id, A), (document_id, B)}
        for (_, iss), text in found.items():
            assert KEYS[iss].open(text, "in.x-inc-1") == SITA.value.encode()
            with pytest.raises(CannotOpen):
                KEYS[iss].open(text, "in.x-inc-2")
        seal = seals_for(connection, A, [document_id])[document_id]
        assert (seal.scheme, seal.last4, seal.key_id) == ("mobile", "3210", KEYS[A].kid)
        seal_holder(connection, document_id, DocumentURI("in.x", "INC", "1"), SITA, OWN.public)
        erase_seals(connection, A, {document_id: seal.sealed})  # another has taken its place
        assert len(sealed(connection)) == 2
        erase_seals(connection, A, {document_id: sealed(connection)[document_id, A]})
        assert sealed(connection).keys() == {(document_id, B)}


def test_waiting_holders_are_sealed_anew_for_the_first_locker_and_the_waiting_copy_goes(database):
    with database.writing() as connection:
        document_id = add_document(connection, "1", SITA)
        other = add_document(connection, "2", SITA)
        assert sealed(connection).keys() == {(document_id, WAITING), (other, WAITING)}
        add_locker(connection, A)
        locker = locker_rows(connection, [A])[A]
        with pytest.raises(CannotOpen):
            reseal_for(connection, locker, OpeningKey.generate(), [document_id])
        assert reseal_for(connection, locker, OWN, [document_id]) == 1
        assert reseal_for(connection, locker, OWN, [document_id]) == 0
        found = sealed(connection)
        assert found.keys() == {(document_id, A), (other, WAITING)}
        assert KEYS[A].open(found[document_id, A], "in.x-inc-1") == SITA.value.encode()


def test_a_job_that_was_overtaken_cannot_write(database):
    first = take_lease(database, "push", "first", NOW, 10)
    fenced = FencedDatabase(database, first)
    with fenced.writing() as connection:
        add_locker(connection, A)
    assert take_lease(database, "push", "second", NOW + 5, 10) is None
    second = take_lease(database, "push", "second", NOW + 11, 10)
    with pytest.raises(LeaseLost), fenced.writing() as connection:
        add_locker(connection, B)
    with FencedDatabase(database, second).reading() as connection:
        assert locker_rows(connection, KEYS).keys() == {A}
    give_up_leases(database, "second")
    assert take_lease(database, "push", "first", NOW + 12, 10).fence == 3


def refuse(connection, iss, problem):
    due = due_rows(connection, iss, NOW)
    settle(connection, iss, due, [RowResult(row.row_id, "refused", problem=problem) for row in due], NOW)


def test_what_was_out_of_scope_is_sent_again_within_the_scope_and_nothing_else_is(database):
    out_of_scope = {"type": PROBLEM_BASE + OutOfScope.slug, "title": "The document type is not approved", "status": 403}
    with database.writing() as connection:
        for iss in (A, B):
            add_locker(connection, iss)
        announce(connection, add_document(connection, "1"), "add", NOW)
        refuse(connection, A, out_of_scope)
        refuse(connection, B, out_of_scope)
        announce(connection, add_document(connection, "2"), "add", NOW)
        refuse(connection, A, {"title": "out-of-scope", "status": 422})
        assert [row.count for row in refusals(connection, A)] == [2]
        assert retry_refused(connection, A, NOW, scope={("in.x", "other")}) == 0
        assert retry_refused(connection, A, NOW, scope={("in.x", "inc")}) == 1
        assert [row.document.uri.doc_id for row in due_rows(connection, A, NOW)] == ["1"]
        assert not has_out_of_scope(connection, A)
        assert has_out_of_scope(connection, B)
        assert (backlog(connection, A).refused, backlog(connection, B).refused) == (1, 1)


def test_refusals_are_counted_by_type_and_reason(database):
    with database.writing() as connection:
        add_locker(connection, A)
        for number in range(3):
            announce(connection, add_document(connection, str(number)), "add", NOW)
        refuse(connection, A, {"type": PROBLEM_BASE + OutOfScope.slug, "status": 403})
        announce(connection, add_document(connection, "3"), "add", NOW)
        refuse(connection, A, {"title": "No room"})
    records = OutboxRecords(database, OWN, lambda: NOW)
    counted = [(row.issuer, row.doc_type, row.reason, row.count) for row in records.refusals(A)]
    assert counted == [("in.x", "INC", "No room", 1), ("in.x", "INC", "out-of-scope", 3)]
    assert records.retry_refused(A) == 4
    assert records.refusals(A) == []
