"""Looking up a person: only within the auditor's own scope, and the value goes no further than its hash."""

import pytest

from node.contract.holders import Holder
from node.contract.problems import UnacceptableContent
from node.contract.uri import DocumentURI
from node.db import catalogue
from node.db.holder_documents import HolderDocuments
from node.db.session import Database
from node.services.access import TokenScope
from node.services.lookups import MOST_MATCHES, HolderLookup

KEY = b"k" * 32
SITA = Holder.parse("mobile", "9876543210")


@pytest.fixture
def database(node_database_url):
    database = Database(node_database_url)
    with database.writing() as connection:
        for issuer in ("in.x", "in.y"):
            catalogue.add_issuer(connection, issuer, issuer, 1)
        add(connection, "in.x", "INC", "1", SITA, office="north")
        add(connection, "in.x", "DEG", "2", SITA)
        add(connection, "in.y", "INC", "3", SITA)
        add(connection, "in.x", "INC", "4", Holder.parse("mobile", "9000000000"))
        add(connection, "in.x", "INC", "5", Holder.parse("local", "+919876543210"))
        add(connection, "in.x", "INC", "6", None)
    yield database
    database.close()


def add(connection, issuer, doc_type, doc_id, holder, office=None):
    fields = {
        "holder_scheme": holder.scheme, "holder_hash": holder.keyed_hash(KEY), "holder_last4": holder.last_four,
    } if holder else {}  # fmt: skip
    uri = DocumentURI(issuer, doc_type, doc_id)
    catalogue.add_document(connection, catalogue.NewDocument(uri, office=office, **fields), 1)


@pytest.mark.parametrize(
    ("scope", "found"),
    [
        (TokenScope(), {"in.x-INC-1", "in.x-DEG-2", "in.y-INC-3"}),
        (TokenScope(issuers=("IN.X",)), {"in.x-INC-1", "in.x-DEG-2"}),
        (TokenScope(issuers=("in.x",), doc_types=("inc",)), {"in.x-INC-1"}),
        (TokenScope(office="north"), {"in.x-INC-1"}),
        (TokenScope(issuers=("in.z",)), set()),
    ],
)
def test_a_person_s_documents_are_found_within_the_scope(database, scope, found):
    lookup = HolderLookup(HolderDocuments(database), KEY)
    scheme, holder_hash = lookup.holder("mobile", "098765 43210")
    matches = lookup.find(scheme, holder_hash, scope)
    assert {match["uri"] for match in matches} == found
    assert all(match.keys() == {"issuer", "doc_type", "uri", "holder_ref", "last4"} for match in matches)
    assert {match["last4"] for match in matches} <= {"3210"}
    assert "9876543210" not in repr((scheme, holder_hash, matches))


def test_a_stranger_gives_an_empty_list_and_a_wrong_identifier_is_not_repeated(database):
    lookup = HolderLookup(HolderDocuments(database), KEY)
    assert lookup.find(*lookup.holder("mobile", "9111111111"), TokenScope()) == []
    with pytest.raises(UnacceptableContent) as refused:
        lookup.holder("aadhaar", "234567890123")
    assert "234567890123" not in str(refused.value) + repr(refused.value.__cause__)


def test_the_answer_is_bounded(database):
    class Many:
        def of_holder(self, scheme, holder_hash):
            with database.reading() as connection:
                return catalogue.documents_of_holder(connection, scheme, holder_hash) * MOST_MATCHES

    lookup = HolderLookup(Many(), KEY)
    assert len(lookup.find(*lookup.holder("mobile", SITA.value), TokenScope())) == MOST_MATCHES
