"""Pulls on real databases: what is matched, what is told of what is not, how often it may be tried."""

import json
import subprocess
import sys
import textwrap
import threading

import pytest
from sqlalchemy import event, insert, select

from node.contract.holders import Holder
from node.contract.identifiers import uuid7
from node.contract.problems import Conflict, OutOfScope, TooManyRequests, UnacceptableContent
from node.contract.sealing import OpeningKey
from node.contract.times import HOUR
from node.contract.uri import DocumentURI
from node.db import catalogue
from node.db.models import Document, HolderReference, PendingMatch, PullTransaction, PullTry, SearchParameter
from node.db.pulls import PullRecords, purge_pulls
from node.db.session import Database
from node.services.access import LockerScope
from node.services.matching import parameter_hash
from node.services.ports import DocTypeRecord
from node.services.pulls import PullLimits, PullService

KEY = b"k" * 32
NOW = 1_800_000_000_000_000
LOCKER = LockerScope("https://locker.example", "active")
MOBILE = Holder.parse("mobile", "9876543210")
RULE = {"attributes": {"full_name": {}, "date_of_birth": {}}}
PARAMETERS = [
    {"name": "certificate_number", "label": "Certificate number", "required": True},
    {"name": "year", "label": "Year", "required": False},
]
OPENING = OpeningKey.generate()


@pytest.fixture
def database(node_database_url):
    database = Database(node_database_url)
    with database.writing() as connection:
        catalogue.add_issuer(connection, "in.x", "X", NOW)
        catalogue.add_doc_type(connection, DocTypeRecord("in.x", "INC", "Income", tuple(PARAMETERS), RULE), NOW)
        add_document(connection, "9606884969")
    yield database
    database.close()


def add_document(connection, number, *, holder=MOBILE, name="Sita Devi", born="1990-06-15", year="2026"):
    parameters = {"certificate_number": number, "year": year, "full_name": name, "date_of_birth": born}
    document_id = catalogue.add_document(
        connection,
        catalogue.NewDocument(
            DocumentURI("in.x", "INC", number), holder_scheme=holder.scheme, holder_hash=holder.keyed_hash(KEY),
            holder_last4=holder.last_four, parameters=parameters,
        ),
        NOW,
    )  # fmt: skip
    connection.execute(
        insert(SearchParameter),
        [
            {"document_id": document_id, "name": field, "value_hash": parameter_hash(KEY, field, parameters[field])}
            for field in ("certificate_number", "year")
        ],
    )
    return document_id


def service(database, *, per_resident=100, per_issuer=1000, now=NOW):
    limits = PullLimits(per_resident, per_issuer)
    return PullService(PullRecords(database), hash_key=KEY, opening=OPENING, limits=limits, clock=lambda: now)


def request(number="9606884969", *, name="Sita Devi", source="issuer-confirmed", holders=None, ref="r1", **changes):
    return {
        "txn": uuid7(), "issuer": "in.x", "doc_type": "INC", "parameters": {"certificate_number": number},
        "resident": {
            "resident_ref": ref,
            "attributes": {
                "full_name": {"value": name, "source": source},
                "date_of_birth": {"value": "15-06-1990", "source": "issuer-confirmed"},
            },
        },
        "holders": [{"scheme": "mobile", "value": "+91 98765 43210"}] if holders is None else holders,
        **changes,
    }  # fmt: skip


def test_the_holder_is_given_the_uri_and_the_document_knows_the_reference(database):
    asked = request("९६०६८८४९६९")
    answer = service(database).pull(LOCKER, asked)
    assert answer == {"txn": asked["txn"], "outcome": "matched", "uri": "in.x-INC-9606884969"}
    with database.reading() as connection:
        row = connection.execute(
            select(HolderReference.iss, HolderReference.holder_ref, Document.document_id).join(
                Document, Document.holder_ref == HolderReference.own_ref
            )
        ).one()
        assert tuple(row)[:2] == (LOCKER.iss, "r1")


def test_a_sealed_identifier_is_opened_and_one_for_another_request_is_not(database):
    asked = request()
    seal = OPENING.public.seal(MOBILE.value.encode(), asked["txn"])
    asked["holders"] = [{"scheme": "mobile", "sealed": seal, "key_id": OPENING.kid}]
    assert service(database).pull(LOCKER, asked)["outcome"] == "matched"
    with pytest.raises(UnacceptableContent):
        service(database).pull(LOCKER, {**asked, "txn": uuid7()})
    with pytest.raises(UnacceptableContent):
        service(database).pull(LOCKER, {**asked, "holders": [{"scheme": "mobile", "sealed": seal, "key_id": "other"}]})


@pytest.mark.parametrize(
    "asked",
    [
        request("9606884960"),
        request(name="Gita Devi"),
        request(source="self-declared"),
        request(holders=[{"scheme": "mobile", "value": "9876543211"}]),
        request(holders=[]),
        request(parameters={"certificate_number": "9606884969", "year": "2025"}),
        request(parameters={"certificate_number": "2026", "year": "9606884969"}),
    ],
    ids=["number", "name", "self-declared", "person", "nobody", "year", "swapped"],
)
def test_every_no_is_the_same_answer_after_the_same_statements(database, asked):
    right_number_wrong_person = request(holders=[{"scheme": "mobile", "value": "9000000000"}])
    seen = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def note(_connection, _cursor, statement, _parameters, _context, _many):
        seen.append(statement)

    first = service(database).pull(LOCKER, {**right_number_wrong_person, "txn": uuid7()})
    statements, seen = seen, []
    second = service(database).pull(LOCKER, {**asked, "txn": uuid7()})
    assert first.keys() == second.keys() == {"txn", "outcome"}
    assert first["outcome"] == second["outcome"] == "no"
    assert len(statements) == len(seen) > 4
    if len(asked["parameters"]) == 1:  # more parameters make another query, of the asker's own doing
        assert statements == seen


def test_a_revoked_document_is_not_found(database):
    with database.writing() as connection:
        document_id = connection.execute(select(Document.document_id)).scalar_one()
        catalogue.change_document(connection, document_id, NOW, status="revoked")
    assert service(database).pull(LOCKER, request())["outcome"] == "no"


def test_a_near_match_waits_for_an_officer_once(database):
    for _ in range(2):
        assert service(database).pull(LOCKER, request(name="S. Devi"))["outcome"] == "pending"
    with database.reading() as connection:
        rows = connection.execute(select(PendingMatch.locker, PendingMatch.resident_ref, PendingMatch.state)).all()
        assert connection.execute(select(HolderReference.holder_ref)).all() == []
    assert [tuple(row) for row in rows] == [(LOCKER.iss, "r1", "pending")]


def test_the_same_transaction_gets_the_same_answer_and_costs_one_try(database):
    asked = request()
    answering = service(database, per_resident=1)
    first = answering.pull(LOCKER, asked)
    with database.writing() as connection:
        document_id = connection.execute(select(Document.document_id)).scalar_one()
        catalogue.change_document(connection, document_id, NOW, status="revoked")
    assert answering.pull(LOCKER, json.loads(json.dumps(asked))) == first
    with pytest.raises(Conflict):
        answering.pull(LOCKER, {**asked, "parameters": {"certificate_number": "1"}})
    with pytest.raises(TooManyRequests) as refused:
        answering.pull(LOCKER, request())
    assert 0 < int(refused.value.headers["Retry-After"]) <= 3601


def test_tries_are_bounded_for_residents_and_for_the_issuer_and_come_back(database):
    answering = service(database, per_resident=2, per_issuer=3)
    for ref in ("r1", "r1", "r2"):
        answering.pull(LOCKER, request(ref=ref))
    for ref in ("r1", "r2", "r3"):
        with pytest.raises(TooManyRequests):
            answering.pull(LOCKER, request(ref=ref))
    assert service(database, per_resident=1, now=NOW + HOUR).pull(LOCKER, request(ref="r1"))["outcome"] == "matched"


def test_processes_together_give_no_more_tries_than_one(database):
    script = textwrap.dedent(
        """
        import sys
        from node.db.pulls import PullRecords
        from node.db.session import Database
        records, counted = PullRecords(Database(sys.argv[1])), 0
        for _ in range(20):
            with records.transaction() as transaction:
                counted += transaction.count_try("resident:x", 0, 15)
        print(counted)
        """
    )
    url = database.url.render_as_string(hide_password=False)
    processes = [
        subprocess.Popen([sys.executable, "-c", script, url], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    assert sum(int(process.communicate(timeout=60)[0]) for process in processes) == 15
    with database.reading() as connection:
        assert connection.execute(select(PullTry.tries)).scalar_one() == 15


def test_one_transaction_asked_twice_at_once_is_answered_once(database):
    asked = request()
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(service(database).pull(LOCKER, asked))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [answers[0]] * 4
    with database.reading() as connection:
        assert sorted(connection.execute(select(PullTry.tries)).scalars()) == [1, 1]


@pytest.mark.parametrize(
    "changes",
    [
        {"parameters": {}},
        {"parameters": {"certificate_number": " "}},
        {"parameters": {"year": "2026"}},
        {"parameters": {"certificate_number": "1", "colour": "red"}},
        {"doc_type": "OTHER"},
        {"issuer": "in.y"},
        {"holders": [{"scheme": "aadhaar", "value": "123456789012"}]},
        {"holders": [{"scheme": "mobile"}]},
    ],
)
def test_what_cannot_be_searched_is_refused_without_repeating_it(database, changes):
    with pytest.raises(UnacceptableContent) as refused:
        service(database).pull(LOCKER, request(**changes))
    assert "123456789012" not in str(refused.value)
    with database.reading() as connection:
        assert connection.execute(select(PullTransaction.txn)).all() == []


@pytest.mark.parametrize(
    "locker",
    [
        LockerScope(LOCKER.iss, "pending"),
        LockerScope(LOCKER.iss, "active", issuers=("in.y",)),
        LockerScope(LOCKER.iss, "active", doc_types=("OTHER",)),
    ],
)
def test_a_locker_asks_only_within_its_scope(database, locker):
    with pytest.raises(OutOfScope):
        service(database).pull(locker, request())
    allowed = LockerScope(LOCKER.iss, "active", issuers=("IN.X",), doc_types=("inc",))
    assert service(database).pull(allowed, request())["outcome"] == "matched"


def test_no_clear_value_of_a_person_is_stored(database):
    service(database).pull(LOCKER, request(name="S. Devi"))
    with database.reading() as connection:
        stored = [
            tuple(row)
            for table in (PullTransaction, PullTry, PendingMatch)
            for row in connection.execute(select(table.__table__))
        ]
    text = repr(stored)
    assert "9876543210" not in text
    assert "Devi" not in text


def test_old_tries_and_answers_are_purged(database):
    service(database).pull(LOCKER, request())
    with database.writing() as connection:
        assert purge_pulls(connection, NOW - HOUR, NOW - HOUR) == 0
        assert purge_pulls(connection, NOW + HOUR, NOW + HOUR) == 3
        assert connection.execute(select(PullTry.tries)).all() == []
