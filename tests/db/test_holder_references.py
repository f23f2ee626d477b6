"""Each locker names a holder its own way, speaks of what it may speak of, and whoever asks finds the node's own rows too."""

import pytest
from sqlalchemy import select

from node.contract.uri import DocumentURI
from node.db import catalogue
from node.db.audit_log import LogFilter, append_events, read_log
from node.db.holder_references import note_references, related_references, take_link_changes
from node.db.models import HolderReference
from node.db.outbox import OutboxRecords
from node.db.sequencer import sequence_once
from node.db.session import Database
from node.services.access import LockerScope
from node.services.audit import encode_event
from node.services.cataloguing import HolderColumns
from node.services.push import LinkChange

NOW = 1_800_000_000_000_000
A, B = "https://a.example", "https://b.example"


@pytest.fixture
def database(node_database_url):
    database = Database(node_database_url)
    yield database
    database.close()


@pytest.fixture
def document(database):
    return add(database, "in.x", "INC")


def add(database, issuer, doc_type, doc_id="1", holder=True):
    uri = DocumentURI(issuer, doc_type, doc_id)
    fields = {"holder_scheme": "mobile", "holder_hash": "0" * 64, "holder_last4": "3210"} if holder else {}
    with database.writing() as connection:
        return catalogue.add_document(connection, catalogue.NewDocument(uri, **fields), NOW)


def own(database, document_id):
    with database.reading() as connection:
        (found,) = catalogue.documents_by_id(connection, [document_id])
    return found.holder_ref


def noted(database):
    with database.reading() as connection:
        rows = connection.execute(select(HolderReference.own_ref, HolderReference.iss, HolderReference.holder_ref))
        return {(row.own_ref, row.iss): row.holder_ref for row in rows}


def change(position, uri, outcome, reference):
    return LinkChange(position, uri, outcome, reference)


def take(database, iss, *changes, scope=None):
    with database.writing() as connection:
        take_link_changes(connection, iss, changes, (scope or LockerScope(iss, "active")).covers)


def test_a_second_lockers_reference_leaves_the_firsts_alone(database, document):
    take(database, A, change(1, "in.x-INC-1", "linked", "a-1"))
    take(database, B, change(1, "IN.X-inc-1", "linked", "b-1"))
    mine = own(database, document)
    assert noted(database) == {(mine, A): "a-1", (mine, B): "b-1"}
    take(database, B, change(2, "in.x-INC-1", "withdrawn", "b-1"), change(3, "in.x-INC-1", "withdrawn", "a-1"))
    assert noted(database) == {(mine, A): "a-1"}
    take(database, A, change(2, "in.x-INC-1", "linked", "a-2"))
    assert noted(database) == {(mine, A): "a-2"}


def test_a_reference_that_is_known_stays_when_a_search_names_another(database, document):
    with database.writing() as connection:
        note_references(connection, A, {document: "a-1"}, replace=False)
        note_references(connection, A, {document: "a-2"}, replace=False)
        note_references(connection, B, {document: "b-1"}, replace=False)
    assert sorted(noted(database).values()) == ["a-1", "b-1"]


def test_a_document_that_named_nobody_gets_a_reference_of_the_nodes_own(database):
    document = add(database, "in.x", "INC", holder=False)
    assert own(database, document) is None
    take(database, A, change(1, "in.x-INC-1", "linked", "a-1"))
    assert noted(database) == {(own(database, document), A): "a-1"}


@pytest.mark.parametrize(
    ("scope", "taken"),
    [
        (LockerScope(A, "active"), {"in.x-INC-1", "in.x-DEG-1", "in.y-INC-1"}),
        (LockerScope(A, "active", issuers=("IN.X",)), {"in.x-INC-1", "in.x-DEG-1"}),
        (LockerScope(A, "active", doc_types=("inc",)), {"in.x-INC-1", "in.y-INC-1"}),
        (LockerScope(A, "active", ("in.x",), ("DEG",)), {"in.x-DEG-1"}),
    ],
)
def test_a_locker_names_holders_within_its_limits_only(database, scope, taken):
    uris = {}
    for issuer, doc_type in [("in.x", "INC"), ("in.x", "DEG"), ("in.y", "INC")]:
        uris[f"{issuer}-{doc_type}-1"] = add(database, issuer, doc_type)
    take(database, A, *(change(n, uri, "linked", f"r-{uri}") for n, uri in enumerate(uris, 1)), scope=scope)
    assert set(noted(database).values()) == {f"r-{uri}" for uri in taken}


def test_the_outbox_holds_a_locker_to_the_settings_limits(database, document):
    """Settings that list one locker shut out those that they do not list."""
    lockers = {A: LockerScope(A, "active", issuers=("in.x",))}
    records = OutboxRecords(database, None, lambda: NOW, lockers)
    assert records._may_name(A)("in.x", "INC") and not records._may_name(A)("in.y", "INC")
    assert not records._may_name(B)("in.x", "INC")
    assert OutboxRecords(database, None, lambda: NOW)._may_name(B)("in.x", "INC")


def test_rows_are_found_under_each_lockers_reference_and_the_nodes_own(database, document):
    take(database, A, change(1, "in.x-INC-1", "linked", "a-1"))
    take(database, B, change(1, "in.x-INC-1", "linked", "b-1"))
    mine = own(database, document)
    with database.writing() as connection:
        for reference in ("a-1", "b-1", mine, "somebody-else"):
            event = {"action": "read", "outcome": "complete", "uri": "in.x-INC-1", "holder_ref": reference}
            append_events(connection, [encode_event(event, NOW)])
    while sequence_once(database, b"key"):
        pass

    def found(reference, iss=None):
        with database.reading() as connection:
            rows = read_log(connection, LogFilter(holder_ref=reference, holder_iss=iss), 100)
        return {row.event["holder_ref"] for row in rows}

    assert found("a-1", A) == {"a-1", mine}
    assert found("b-1", B) == {"b-1", mine}
    assert found("a-1", B) == {"a-1"}, "nothing of the node's own under a reference that is not this locker's"
    assert found("a-1") == {"a-1", mine}
    assert found(mine) == {"a-1", "b-1", mine}


def test_the_longest_names_that_a_ticket_may_have_are_found(database, document):
    """A locker chooses the reference, the requester's name and the consent's; two that differ at their end are two."""
    names = {"holder_ref": "h" * 127, "client_id": "c" * 254, "consent_id": "k" * 254}
    with database.writing() as connection:
        note_references(connection, A, {document: names["holder_ref"] + "1"})
        for end in "12":
            event = {"action": "read", "outcome": "complete", "uri": "in.x-INC-1", "purpose": end}
            event.update((name, value + end) for name, value in names.items())
            append_events(connection, [encode_event(event, NOW)])
    while sequence_once(database, b"key"):
        pass
    for name, value in names.items():
        with database.reading() as connection:
            rows = read_log(connection, LogFilter(**{name: value + "1"}), 100)
        assert [row.event["purpose"] for row in rows] == ["1"], name


def test_a_new_holder_has_another_reference_and_none_of_the_rows_before(database, document):
    take(database, A, change(1, "in.x-INC-1", "linked", "a-1"))
    before = own(database, document)
    columns = HolderColumns("mobile", "1" * 64, "0000").as_changes()
    with database.writing() as connection:
        catalogue.change_document(connection, document, NOW, **columns)
    take(database, A, change(2, "in.x-INC-1", "linked", "a-2"))
    after = own(database, document)
    assert after != before
    with database.reading() as connection:
        assert related_references(connection, "a-2", A) == tuple(sorted(["a-2", after]))
        assert related_references(connection, "a-1", A) == tuple(sorted(["a-1", before]))
