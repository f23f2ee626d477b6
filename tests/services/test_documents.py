"""Storing, superseding, revoking and describing documents, on both databases and a real folder."""

import hashlib
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from node.contract.problems import (
    Conflict,
    DocumentNotFound,
    PreconditionFailed,
    StorageFull,
    UnacceptableContent,
    UnknownIssuer,
)
from node.contract.uri import DocumentURI
from node.services.audit import Action
from node.services.documents import StoreResult, command_attempt
from node.services.pending_objects import PendingObjects
from node.services.storing import Fate

URI = DocumentURI("in.gov.x", "INCOM", "00123")
ATTEMPT = {"phase": "attempt", "action": "put", "read_id": "r", "principal": {"kind": "token", "name": "t"}}
ONE, TWO = b"%PDF-1.7\none", b"%PDF-1.7\ntwo"


@dataclass(frozen=True)
class Upload:
    file: io.BytesIO
    size: int
    sha256: str


def upload(content: bytes) -> Upload:
    return Upload(io.BytesIO(content), len(content), hashlib.sha256(content).hexdigest())


def etag(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()}"'


def put(place: Any, content: bytes = ONE, uri: DocumentURI = URI, **options: Any) -> StoreResult:
    given = {"media_type": "application/pdf", "language": None, "if_match": None, "if_none_match": None, **options}
    result: StoreResult = place.documents.store(uri, upload(content), attempt=ATTEMPT, **given)
    return result


@pytest.fixture(autouse=True)
def issuer(place: Any) -> None:
    place.add_issuer("in.gov.x")


def test_a_new_document_has_its_object_its_row_and_its_log_row(place: Any) -> None:
    result = put(place)
    assert (result.created, result.changed, result.placement.version) == (True, True, 1)
    assert place.content(URI) == [ONE]
    event = place.events()[0]
    assert (event["action"], event["outcome"], event["status"]) == ("put", "complete", 201)
    assert (event["uri"], event["issuer"], event["version"]) == (str(URI), "in.gov.x", 1)
    assert event["sha256"] == hashlib.sha256(ONE).hexdigest()


def test_the_same_bytes_again_change_nothing_and_are_logged(place: Any) -> None:
    put(place)
    again = put(place)
    assert (again.fate, again.placement.version) == (Fate.UNCHANGED, 1)
    assert len(place.objects()) == 1
    assert [event["status"] for event in place.events()] == [201, 200]
    assert place.documents.find(URI).revision == 1


def test_other_bytes_are_refused_and_leave_no_object(place: Any) -> None:
    put(place)
    with pytest.raises(Conflict):
        put(place, TWO)
    assert place.content(URI) == [ONE]
    assert len(place.objects()) == 1
    assert list((place.folder / "pending").glob("*.keys")) == []


def test_other_bytes_with_the_present_etag_are_the_next_version(place: Any) -> None:
    put(place)
    result = put(place, TWO, if_match=etag(ONE))
    assert (result.fate, result.placement.version) == (Fate.REPLACED, 2)
    assert place.content(URI) == [TWO]
    assert len(place.documents.find(URI).placements) == 2


def test_an_old_etag_is_refused_but_a_repeated_request_is_done_already(place: Any) -> None:
    put(place)
    put(place, TWO, if_match=etag(ONE))
    assert put(place, TWO, if_match=etag(ONE)).fate is Fate.UNCHANGED
    for header in (etag(ONE), "W/" + etag(TWO), "nonsense", ""):
        with pytest.raises(PreconditionFailed):
            put(place, b"%PDF-1.7\nthree", if_match=header)
    assert put(place, b"%PDF-1.7\nthree", if_match=f'"x", {etag(TWO)}').placement.version == 3


def test_preconditions_about_existence(place: Any) -> None:
    with pytest.raises(PreconditionFailed):
        put(place, if_match="*")
    assert put(place, if_none_match="*").created
    with pytest.raises(PreconditionFailed):
        put(place, if_none_match="*")
    assert place.objects() != []


def test_another_form_or_language_is_added_to_the_present_version(place: Any) -> None:
    put(place, language="en")
    assert put(place, TWO, language="TE-in").fate is Fate.ADDED
    assert put(place, b"<a/>", media_type="application/xml").fate is Fate.ADDED
    document = place.documents.find(URI)
    assert document.current_version == 1
    assert {(row.media_type, row.language) for row in document.placements} == {
        ("application/pdf", "en"), ("application/pdf", "te-IN"), ("application/xml", None),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("media_type", "content"),
    [
        ("application/pdf", b"<html>"), ("image/png", ONE), ("image/jpeg", b"\x89PNG\r\n\x1a\n"), ("application/json", b"x"),
        ("application/xml", b"{}"), ("application/pdf", b""), ("text/html", b"<html>"),
    ],
)  # fmt: skip
def test_content_of_another_kind_is_refused(place: Any, media_type: str, content: bytes) -> None:
    with pytest.raises(UnacceptableContent):
        put(place, content, media_type=media_type)
    assert place.objects() == []


def test_a_language_that_is_no_tag_is_refused(place: Any) -> None:
    with pytest.raises(UnacceptableContent):
        put(place, language="not a tag")


def test_uris_in_other_capitals_are_one_document(place: Any) -> None:
    put(place)
    assert put(place, uri=DocumentURI("IN.gov.X", "incom", "00123")).fate is Fate.UNCHANGED
    assert str(place.documents.find(URI).uri) == "in.gov.x-INCOM-00123"


def test_a_type_seen_first_by_a_put_is_listed(place: Any) -> None:
    put(place)
    assert place.rows("SELECT issuer_key, doc_type FROM doc_type") == [("in.gov.x", "INCOM")]


def test_everything_is_announced_in_order_to_active_lockers(place: Any) -> None:
    place.add_active_locker()
    put(place)
    put(place, TWO, if_match="*")
    attempt = command_attempt(Action.STATUS, "documents", URI)
    place.documents.set_status(URI, "revoked", "Issued on the wrong form.", attempt)
    place.documents.set_status(URI, "revoked", "Again.", attempt)
    place.documents.set_status(URI, "active", None, attempt)
    rows = place.rows("SELECT kind, revision FROM outbox ORDER BY revision")
    assert rows == [("add", 1), ("change", 2), ("withdraw", 3), ("add", 4)]


def test_revoking_keeps_the_reason_and_stops_new_versions(place: Any) -> None:
    put(place)
    attempt = command_attempt(Action.STATUS, "documents", URI)
    document = place.documents.set_status(URI, "revoked", "Issued on the wrong form.", attempt)
    assert (document.status, document.status_reason) == ("revoked", "Issued on the wrong form.")
    with pytest.raises(Conflict, match="revoked"):
        put(place, TWO, if_match="*")
    assert place.documents.set_status(URI, "active", None, attempt).status_reason is None
    events = [event for event in place.events() if event["action"] == "status"]
    assert [event["change"] for event in events] == ["revoked", "active"]
    assert events[0]["principal"] == {"kind": "command", "name": "documents"}


@pytest.mark.parametrize(
    ("status", "reason"),
    [("revoked", None), ("revoked", ""), ("revoked", "x" * 301), ("revoked", "a\nb"), ("expired", "x")],
)
def test_a_status_that_cannot_be_set_is_refused(place: Any, status: str, reason: str | None) -> None:
    put(place)
    with pytest.raises(UnacceptableContent):
        place.documents.set_status(URI, status, reason, ATTEMPT)
    assert place.documents.find(URI).status == "active"


def test_metadata_changes_what_is_given_and_leaves_the_rest(place: Any) -> None:
    locker_key = place.add_active_locker()
    put(place)
    members = {
        "title": "Income certificate", "holder": {"scheme": "mobile", "value": "98765 43210"}, "language": "te",
        "issued_on": "2026-04-01", "parameters": {"roll_no": "7"},
    }  # fmt: skip
    document = place.documents.change_metadata(URI, members, ATTEMPT)
    assert (document.title, document.issued_on, document.holder_last4) == ("Income certificate", "2026-04-01", "3210")
    assert (dict(document.parameters), document.placements[0].language) == ({"roll_no": "7"}, "te")
    sealed = place.rows("SELECT sealed FROM holder_seal")[0][0]
    assert locker_key.open(sealed, URI.key) == b"+919876543210"
    changed = place.documents.change_metadata(URI, {"title": None, "parameters": {}}, ATTEMPT)
    assert (changed.title, changed.issued_on, dict(changed.parameters)) == ("", "2026-04-01", {})
    assert place.rows("SELECT count(*) FROM search_parameter") == [(0,)]
    assert changed.revision == 3
    assert "9876543210" not in str(place.events())


@pytest.mark.parametrize(
    "members",
    [
        {}, {"office": "x"}, {"title": "a\nb"}, {"title": "x" * 301}, {"issued_on": "01/04/2026"}, {"holder": None},
        {"holder": {"scheme": "aadhaar", "value": "123456789012"}}, {"expires_on": "2020-01-01", "issued_on": "2021-01-01"},
        {"parameters": {"a b": "x"}}, {"parameters": {f"p{n}": "x" for n in range(21)}}, {"language": "?"},
    ],
)  # fmt: skip
def test_metadata_that_cannot_be_taken_is_refused_and_nothing_changes(place: Any, members: dict[str, Any]) -> None:
    put(place)
    with pytest.raises(UnacceptableContent) as refused:
        place.documents.change_metadata(URI, members, ATTEMPT)
    assert "123456789012" not in str(refused.value)
    assert place.documents.find(URI).revision == 1


def test_unknown_documents_and_issuers_are_not_found(place: Any) -> None:
    with pytest.raises(DocumentNotFound):
        place.documents.set_status(URI, "active", None, ATTEMPT)
    with pytest.raises(DocumentNotFound):
        place.documents.change_metadata(URI, {"title": "x"}, ATTEMPT)
    with pytest.raises(UnknownIssuer):
        place.documents.parse("in.gov.other-INCOM-1")
    assert place.events() == []


def test_a_file_supersedes_the_present_version(place: Any, tmp_path: Path) -> None:
    put(place)
    file = tmp_path / "new.PDF"
    file.write_bytes(TWO)
    attempt = command_attempt(Action.PUT, "documents", URI)
    assert place.documents.supersede(URI, file, language=None, attempt=attempt).placement.version == 2
    assert place.content(URI) == [TWO]
    with pytest.raises(DocumentNotFound):
        place.documents.supersede(DocumentURI("in.gov.x", "INCOM", "9"), file, language=None, attempt=attempt)
    with pytest.raises(UnacceptableContent):
        place.documents.supersede(URI, tmp_path / "new.exe", language=None, attempt=attempt)


def test_pages_come_in_the_order_of_the_uris(place: Any) -> None:
    for number in range(5):
        put(place, uri=DocumentURI("in.gov.x", "INCOM", str(number)))
    first = place.documents.page(limit=3)
    rest = place.documents.page(after=first[-1].uri.key, limit=3)
    assert [document.uri.doc_id for document in (*first, *rest)] == ["0", "1", "2", "3", "4"]
    assert place.documents.page(status="revoked") == []


def test_one_of_many_at_once_stores_and_the_others_find_it_stored(place: Any, soak: Any) -> None:
    tries = soak.count(small=12, full=200)
    barrier = threading.Barrier(4)

    def one(number: int) -> Fate:
        if number < 4:
            barrier.wait(10)
        return put(place).fate

    with ThreadPoolExecutor(4) as pool:
        fates = list(pool.map(one, range(tries)))
    assert sorted(fates).count(Fate.CREATED) == 1
    assert set(fates) == {Fate.CREATED, Fate.UNCHANGED}
    assert len(place.objects()) == 1
    assert place.content(URI) == [ONE]


def test_of_different_bytes_at_once_one_wins_and_no_object_is_left_over(place: Any) -> None:
    def one(number: int) -> str:
        try:
            return put(place, ONE + str(number).encode()).fate
        except Conflict:
            return "refused"

    with ThreadPoolExecutor(4) as pool:
        fates = list(pool.map(one, range(8)))
    assert sorted(fates) == ["created"] + ["refused"] * 7
    place.pending.sweep()
    assert len(place.objects()) == 1


def test_a_commit_that_fails_takes_the_object_away(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr("node.db.cataloguing.append_events", fail)
    with pytest.raises(RuntimeError):
        put(place)
    assert (place.objects(), place.rows("SELECT * FROM document")) == ([], [])


def test_an_object_left_by_a_killed_process_is_taken_over_or_removed(place: Any) -> None:
    class Killed(BaseException):
        """What no handler catches, as a kill."""

    def killed(content: bytes) -> None:
        def die(*_: Any) -> None:
            raise Killed

        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            patch.setattr("node.db.cataloguing.append_events", die)
            put(place, content)

    killed(ONE)
    killed(TWO)
    assert len(place.objects()) == 2
    assert put(place, ONE).created
    assert place.pending.sweep() == 1
    assert place.content(URI) == [ONE]
    assert len(place.objects()) == 1


def test_nothing_is_swept_while_somebody_stores(place: Any) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def store() -> None:
        with place.pending.holding("main", ["a/b"]):
            inside.set()
            go_on.wait(10)

    thread = threading.Thread(target=store)
    thread.start()
    inside.wait(10)
    try:
        assert place.pending.sweep(patience=0.1) is None
    finally:
        go_on.set()
        thread.join()
    assert place.pending.sweep() == 0


def test_below_the_reserve_nothing_is_stored(place: Any) -> None:
    place.documents._pending = PendingObjects(
        place.folder / "pending", place.stores, place.referenced, reserve_bytes=2**62
    )
    with pytest.raises(StorageFull):
        put(place)
    assert (place.objects(), place.rows("SELECT * FROM document")) == ([], [])
