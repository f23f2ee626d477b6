"""What the control plane reads, on both kinds of database."""

import pytest

from node.contract.problems import ServiceUnavailable
from node.contract.times import DAY, now_us
from node.contract.uri import DocumentURI
from node.db import catalogue
from node.db.audit_log import LogFilter, append_events
from node.db.control_records import COUNTED_DAYS, ControlRecords
from node.db.sequencer import sequence_once
from node.db.session import Database
from node.db.tokens import add_token, token_hash
from node.services.access import TokenScope
from node.services.audit import encode_event

ISSUER = "in.gov.example"


@pytest.fixture
def database(node_database_url):
    database = Database(node_database_url)
    yield database
    database.close()


def test_reads_are_counted_by_day_type_and_end(database):
    now = now_us()
    rows = [
        (now, {"issuer": ISSUER, "doc_type": "INCOM", "outcome": "allowed"}),
        (now, {"issuer": ISSUER.upper(), "doc_type": "incom", "outcome": "complete"}),
        (now, {"issuer": ISSUER, "doc_type": "INCOM", "outcome": "complete"}),
        (now - DAY, {"issuer": ISSUER, "doc_type": "INCOM", "outcome": "refused"}),
        (now - COUNTED_DAYS * DAY, {"issuer": ISSUER, "doc_type": "INCOM", "outcome": "complete"}),
        (now, {"issuer": ISSUER, "doc_type": "INCOM", "outcome": "complete", "action": "status"}),
        (now, {"outcome": "refused"}),
    ]
    with database.writing() as connection:
        append_events(connection, [encode_event({"action": "read", **fields}, at_us) for at_us, fields in rows])
    while sequence_once(database, b"k" * 32):
        pass
    today = now - now % DAY
    counts = ControlRecords(database).counts(now)
    assert [(row.day_us, row.issuer_key, row.doc_type_key, row.outcome, row.count) for row in counts.reads] == [
        (today, ISSUER, "incom", "complete", 2),
        (today - DAY, ISSUER, "incom", "refused", 1),
    ]
    assert (counts.waiting, counts.oldest_us) == (0, None)


def test_documents_are_counted_whatever_their_status(database):
    with database.writing() as connection:
        for number in range(3):
            new = catalogue.NewDocument(DocumentURI(ISSUER, "INCOM", str(number)))
            document_id = catalogue.add_document(connection, new, now_us())
            if number == 0:
                catalogue.change_document(connection, document_id, now_us(), status="revoked")
    assert dict(ControlRecords(database).counts(now_us()).documents) == {(ISSUER, "incom"): 3}


def test_each_look_up_sees_what_was_committed_before_it(database):
    records = ControlRecords(database)
    hashed = token_hash("secret")
    assert records.token(hashed) is None
    with database.writing() as connection:
        add_token(
            connection, "secret", name="n", role="operator", scope=TokenScope(), now_us=1, expires_us=now_us() + DAY
        )
    assert records.token(hashed).role == "operator"
    assert records.locker("https://nobody.example") is None
    assert records.void_before_us("https://nobody.example", "c") is None
    assert records.document(f"{ISSUER}-incom-1") is None
    assert records.log_rows(LogFilter(), 10) == []


def test_a_database_that_does_not_answer_is_unavailable(database):
    with database.writing() as connection:
        connection.exec_driver_sql("DROP TABLE access_token")
    with pytest.raises(ServiceUnavailable):
        ControlRecords(database).token("x")
