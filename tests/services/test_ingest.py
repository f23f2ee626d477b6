"""Ingest of folders and manifests, on both databases and a real folder."""

import csv
import io
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from node.contract.times import now_us
from node.contract.uri import DocumentURI
from node.db.audit_log import append_events
from node.db.holder_seals import count_unsealed, seals_for, unsealed
from node.db.outbox import announce_page
from node.services.audit import Action, encode_event
from node.services.candidates import map_id, shown, unmap_id
from node.services.documents import command_attempt
from node.services.errors import IngestStopped, ManifestRefused
from node.services.ingest import BATCH, IngestOptions, IngestReport
from node.services.pending_objects import PendingObjects
from node.services.sources import open_source

AADHAAR = "234123412346"
PDF, PNG, XML = b"%PDF-1.7\n", b"\x89PNG\r\n\x1a\n", b"<?xml version='1.0'?><a/>"
COLUMNS = [
    "file", "issuer", "doc_type", "doc_id", "holder_scheme", "holder_value", "issued_on", "expires_on", "language", "title",
    "office", "param.roll_no",
]  # fmt: skip


@dataclass
class Outcome:
    report: IngestReport
    refused: dict[str, str] = field(default_factory=dict)


@dataclass
class Desk:
    """Files beside a manifest, and the ingest of both."""

    place: Any
    folder: Path

    def file(self, name: str, content: bytes = PDF) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def manifest(self, *rows: dict[str, str], columns: list[str] | None = None) -> Path:
        text = io.StringIO()
        writer = csv.DictWriter(text, columns or COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(
            {"file": "a.pdf", "issuer": "in.gov.x", "doc_type": "INCOM", "doc_id": "1", **row} for row in rows
        )
        path = self.folder / "manifest.csv"
        path.write_text(text.getvalue(), encoding="utf-8")
        return path

    def run(self, path: Path | None = None, **options: Any) -> Outcome:
        refused: dict[str, str] = {}
        report = self.place.ingest.run(open_source(path or self.folder), IngestOptions(**options), refused.__setitem__)
        return Outcome(report, refused)

    def find(self, doc_id: str = "1") -> Any:
        return self.place.documents.find(DocumentURI("in.gov.x", "INCOM", doc_id))


@pytest.fixture
def desk(place: Any, tmp_path: Path) -> Desk:
    folder = tmp_path / "incoming"
    folder.mkdir()
    return Desk(place, folder)


def test_a_folder_is_taken_in_and_a_second_run_adds_nothing(desk: Desk) -> None:
    for number in range(45):
        desk.file(f"in.gov.x/INCOM/00{number}.pdf", PDF + bytes([number]))
    desk.file("in.gov.x/INCOM/000.xml", XML)
    desk.file("in.gov.y/DEGREE/AB-12-2024.png", PNG)
    first = desk.run()
    assert first == Outcome(IngestReport(created=46, added=1))
    before = desk.place.objects(), desk.place.rows("SELECT * FROM document"), len(desk.place.events())
    assert desk.run() == Outcome(IngestReport(unchanged=47))
    assert (desk.place.objects(), desk.place.rows("SELECT * FROM document"), len(desk.place.events())) == before
    assert desk.find("000").current_version == 1
    assert len(desk.find("000").placements) == 2
    assert list((desk.place.folder / "pending").glob("*.keys")) == []


def test_each_put_has_its_log_row_and_its_announcement(desk: Desk) -> None:
    desk.place.add_active_locker()
    desk.file("in.gov.x/INCOM/1.pdf")
    desk.run()
    events = desk.place.events()
    assert [(it["action"], it["outcome"], it["principal"]) for it in events] == [
        ("put", "complete", {"kind": "command", "name": "ingest"})
    ]
    assert (events[0]["uri"], events[0]["version"]) == ("in.gov.x-INCOM-1", 1)
    assert desk.place.rows("SELECT kind, revision FROM outbox") == [("add", 1)]


def test_a_manifest_fills_in_everything_and_never_the_holder_in_clear(desk: Desk) -> None:
    key = desk.place.add_active_locker()
    desk.file("scans/a.pdf")
    row = {
        "file": "scans/a.pdf", "doc_id": "00123", "holder_scheme": "aadhaar", "holder_value": "2341 2341 2346",
        "issued_on": "2026-04-01", "expires_on": "2027-03-31", "language": "TE", "title": "Two\nlines", "office": "Guntur",
        "param.roll_no": "007",
    }  # fmt: skip
    assert desk.run(desk.manifest(row)).report == IngestReport(created=1)
    document = desk.find("00123")
    assert (document.title, document.issued_on, document.expires_on) == ("Two lines", "2026-04-01", "2027-03-31")
    assert (document.office, document.placements[0].language, dict(document.parameters)) == (
        "Guntur",
        "te",
        {"roll_no": "007"},
    )
    assert (document.holder_scheme, document.holder_last4) == ("aadhaar", AADHAAR[-4:])
    assert key.open(desk.place.rows("SELECT sealed FROM holder_seal")[0][0], document.uri.key) == AADHAAR.encode()
    assert len(desk.place.rows("SELECT value_hash FROM search_parameter")) == 1
    types = desk.place.rows("SELECT search_parameters FROM doc_type")
    assert '"roll_no"' in types[0][0]
    for table in ("document", "holder_seal", "outbox", "doc_type"):
        assert AADHAAR not in str(desk.place.rows(f"SELECT * FROM {table}"))
    assert AADHAAR not in str(desk.place.events())


REFUSED = {
    "no such file": ({"file": "absent.pdf"}, "no such file"),
    "outside": ({"file": "../outside.pdf"}, "outside the folder"),
    "absolute": ({"file": "/etc/hostname"}, "outside the folder"),
    "NUL in the name": ({"file": "a\x01.pdf"}, "no such file"),
    "a folder": ({"file": "."}, "not a plain file"),
    "extension": ({"file": "a.exe"}, "one of .jpeg"),
    "no issuer": ({"issuer": ""}, "no issuer"),
    "no id": ({"doc_id": " "}, "no doc id"),
    "issuer": ({"issuer": "in gov"}, "an issuer id has"),
    "type": ({"doc_type": "IN-COM"}, "a document type has"),
    "id": ({"doc_id": "A/B"}, "--map-id"),
    "scientific id": ({"doc_id": "1.23E+11"}, "rounded number"),
    "scientific id, comma": ({"doc_id": "1,23E+11"}, "rounded number"),
    "scientific parameter": ({"param.roll_no": "2E+10"}, "rounded number"),
    "scientific holder": ({"holder_scheme": "local", "holder_value": "1.23E+11"}, "rounded number"),
    "check digit": ({"holder_scheme": "aadhaar", "holder_value": "234123412347"}, "valid check digit"),
    "scheme": ({"holder_scheme": "passport", "holder_value": "x"}, "holder scheme is one of"),
    "half a holder": ({"holder_value": "x"}, "given together"),
    "date": ({"issued_on": "01/04/2026"}, "YYYY-MM-DD"),
    "no such day": ({"expires_on": "2026-02-30"}, "YYYY-MM-DD"),
    "dates": ({"issued_on": "2026-02-02", "expires_on": "2026-01-01"}, "before issued_on"),
    "language": ({"language": "not a tag"}, "tag"),
    "title": ({"title": "x" * 301}, "at most 300"),
    "control": ({"title": "a\x1b[2J"}, "control characters"),
    "parameter": ({"param.roll_no": "x" * 257}, "at most 256"),
    "empty file": ({"file": "empty.pdf"}, "empty"),
    "kind": ({"file": "fake.pdf"}, "extension"),
    "too large": ({"file": "large.pdf"}, "larger than"),
    "ambiguous issuer": ({"issuer": "in.gov.x-y"}, "mistaken for in.gov.x"),
}


def test_rows_that_cannot_be_taken_say_why_by_line_and_the_rest_goes_on(desk: Desk) -> None:
    desk.file("a.pdf")
    desk.file("a.exe")
    desk.file("empty.pdf", b"")
    desk.file("fake.pdf", b"<html>")
    desk.file("large.pdf", PDF + bytes(1024 * 1024))
    desk.file("../outside.pdf")
    bad = [{"doc_id": f"bad{number}", **row} for number, (row, _) in enumerate(REFUSED.values())]
    outcome = desk.run(desk.manifest({"doc_id": "first"}, *bad, {"doc_id": "last"}))
    reasons = dict(zip(REFUSED, outcome.refused.values(), strict=True))
    assert list(outcome.refused) == [f"line {number + 3}" for number in range(len(bad))]
    assert {name: wanted for name, (_, wanted) in REFUSED.items() if wanted not in reasons[name]} == {}
    assert all(value not in str(reasons) for value in ("234123412347", "1.23E+11"))
    assert (outcome.report.created, len(desk.place.objects())) == (2, 2)


def test_all_faults_of_a_row_are_told_at_once(desk: Desk) -> None:
    bad = {"doc_id": "a b", "file": "none.pdf", "issued_on": "1.4.2026", "holder_scheme": "mobile"}
    outcome = desk.run(desk.manifest(bad, {"issuer": "", "doc_type": ""}))
    told = outcome.refused["line 2"].split("; ")
    assert [any(word in part for part in told) for word in ("--map-id", "no such file", "YYYY", "together")] == [
        True
    ] * 4
    assert outcome.refused["line 3"] == "there is no issuer; there is no doc type"


def test_the_same_document_twice_is_reported_with_the_line_of_the_first(desk: Desk) -> None:
    desk.file("a.pdf")
    desk.file("b.pdf", PDF + b"b")
    outcome = desk.run(desk.manifest({}, {"file": "b.pdf", "issuer": "IN.gov.x"}, {"doc_type": "incom"}))
    assert outcome.report == IngestReport(created=1, refused=2)
    assert outcome.refused == {f"line {n}": "this document is on line 2 already" for n in (3, 4)}
    assert desk.place.content(desk.find().uri) == [PDF]


def test_far_apart_the_same_document_is_still_found(desk: Desk) -> None:
    desk.file("a.pdf")
    outcome = desk.run(desk.manifest({}, *({"doc_id": f"x{n}"} for n in range(30)), {}))
    assert outcome.refused == {"line 33": "this document is on line 2 already"}


def test_what_lies_elsewhere_in_a_folder_is_refused(desk: Desk, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.pdf").write_bytes(PDF)
    desk.file("in.gov.x/INCOM/1.pdf")
    desk.file("in.gov.x/INCOM/.hidden.pdf")
    desk.file("in.gov.x/INCOM/deep/2.pdf")
    desk.file("in.gov.x/loose.pdf")
    desk.file("loose.pdf")
    (desk.folder / "in.gov.x/INCOM/link.pdf").symlink_to(outside / "secret.pdf")
    (desk.folder / "in.gov.x/INCOM/inside.pdf").symlink_to("1.pdf")
    (desk.folder / "in.gov.x/INCOM/broken.pdf").symlink_to("absent.pdf")
    (desk.folder / "in.gov.x/LINKED").symlink_to(outside)
    (desk.folder / "in.gov.z").symlink_to(outside)
    outcome = desk.run()
    assert outcome.report.created == 2
    assert set(outcome.refused) == {
        "in.gov.x/INCOM/deep", "in.gov.x/loose.pdf", "loose.pdf", "in.gov.x/INCOM/link.pdf", "in.gov.x/INCOM/broken.pdf",
        "in.gov.x/LINKED", "in.gov.z",
    }  # fmt: skip


def test_a_pipe_in_the_folder_does_not_hang_the_ingest(desk: Desk) -> None:
    desk.file("in.gov.x/INCOM/1.pdf")
    os.mkfifo(desk.folder / "in.gov.x/INCOM/2.pdf")
    assert desk.run().refused == {"in.gov.x/INCOM/2.pdf": "this is not a plain file"}


@pytest.mark.parametrize(
    "text",
    [
        "A/B",
        "A%2FB",
        "A B",
        "A+B",
        "50%",
        "50%25",
        "a~b",
        "~7E",
        "é",
        "e\u0301",
        "प्रमाण",
        "a#b?c=d",
        "\udcff",
        "a.b_c-d",
    ],
)
def test_mapped_ids_are_plain_and_can_be_read_back(text: str) -> None:
    mapped = map_id(text)
    DocumentURI.build("in.gov.x", "INCOM", mapped)
    assert unmap_id(mapped) == text


def test_ids_with_other_characters_are_mapped_only_when_asked(desk: Desk) -> None:
    desk.file("in.gov.x/INCOM/A B.pdf")
    desk.file("in.gov.x/INCOM/A+B.pdf", PDF + b"plus")
    assert desk.run().report == IngestReport(refused=2)
    assert desk.run(map_ids=True).report == IngestReport(created=2)
    assert desk.place.content(desk.find("A~20B").uri) == [PDF]
    assert desk.place.content(desk.find("A~2BB").uri) == [PDF + b"plus"]
    desk.file("in.gov.x/INCOM/" + "é" * 43 + ".pdf")
    assert "258 characters" in desk.run(map_ids=True).refused["in.gov.x/INCOM/" + "é" * 43 + ".pdf"]


def test_a_name_that_is_not_utf_8_is_mapped_by_its_bytes(desk: Desk) -> None:
    (desk.folder / "in.gov.x/INCOM").mkdir(parents=True)
    with open(bytes(desk.folder) + b"/in.gov.x/INCOM/\xff.pdf", "wb") as file:
        file.write(PDF)
    assert desk.run().report == IngestReport(refused=1)
    assert desk.run(map_ids=True).report == IngestReport(created=1)
    assert desk.find("~FF")


def test_changed_bytes_are_refused_or_the_next_version(desk: Desk) -> None:
    desk.file("in.gov.x/INCOM/1.pdf")
    desk.run()
    desk.file("in.gov.x/INCOM/1.pdf", PDF + b"new")
    outcome = desk.run()
    assert outcome.report == IngestReport(refused=1)
    assert "--replace" in outcome.refused["in.gov.x/INCOM/1.pdf"]
    assert len(desk.place.objects()) == 1
    assert desk.run(replace=True).report == IngestReport(replaced=1)
    assert desk.place.content(desk.find().uri) == [PDF + b"new"]
    assert (desk.find().current_version, len(desk.find().placements)) == (2, 2)
    assert desk.run(replace=True).report == IngestReport(unchanged=1)


@pytest.mark.parametrize("between", [0, 30], ids=["one batch", "batches apart"])
@pytest.mark.parametrize("first_changed", [True, False])
def test_a_new_version_holds_what_the_run_names_in_whatever_order(
    desk: Desk, between: int, first_changed: bool
) -> None:
    desk.file("en.pdf")
    desk.file("te.pdf", PDF + b"te")
    desk.file("gone.pdf", PDF + b"gone")
    languages = [{"file": f"{name}.pdf", "language": name} for name in ("en", "te")]
    fillers = [{"doc_id": f"x{number}", "file": "en.pdf"} for number in range(between)]
    desk.run(desk.manifest(*languages, {"file": "gone.pdf", "language": "hi"}, *fillers))
    desk.file("en.pdf", PDF + b"corrected")
    rows = languages if first_changed else languages[::-1]
    fillers = [{**row, "file": "te.pdf", "doc_id": "y" + row["doc_id"]} for row in fillers]
    desk.run(desk.manifest(rows[0], *fillers, rows[1]), replace=True)
    document = desk.find()
    assert document.current_version == 2
    assert {it.language: (desk.place.root / it.object_key).read_bytes() for it in document.of_version(2)} == {
        "en": PDF + b"corrected", "te": PDF + b"te",
    }  # fmt: skip
    again = desk.run(desk.manifest(rows[0], *fillers, rows[1]), replace=True)
    assert again.report == IngestReport(unchanged=2 + between)


def test_other_metadata_is_refused_or_taken_over_once(desk: Desk) -> None:
    desk.file("a.pdf")
    desk.run(desk.manifest({"title": "Old", "param.roll_no": "7"}))
    new = desk.manifest(
        {"title": "New", "holder_scheme": "mobile", "holder_value": "9876543210", "param.roll_no": "8"}
    )  # fmt: skip
    refused = desk.run(new).refused["line 2"]
    assert "the title, the holder, search parameters are not the same as in the catalogue" in refused
    assert desk.find().revision == 1
    assert desk.run(new, replace=True).report == IngestReport(changed=1)
    document = desk.find()
    assert (document.title, document.holder_last4, dict(document.parameters)) == ("New", "3210", {"roll_no": "8"})
    assert (document.revision, document.current_version) == (2, 1)
    assert desk.run(new, replace=True).report == IngestReport(unchanged=1)
    assert desk.run(desk.manifest({})).report == IngestReport(unchanged=1), "an empty cell says nothing"


def test_rows_of_one_document_must_not_say_different_things(desk: Desk) -> None:
    desk.file("a.pdf")
    rows = [{"language": "en", "title": "One"}, {"language": "te", "title": "Two"}, {"language": "hi"}]
    outcome = desk.run(desk.manifest(*rows))
    assert (outcome.report.created, outcome.report.added, list(outcome.refused)) == (1, 1, ["line 3"])
    assert "the title is not the same as on line 2" in outcome.refused["line 3"]


def test_a_revoked_document_is_left_alone(desk: Desk) -> None:
    desk.file("in.gov.x/INCOM/1.pdf")
    desk.run()
    desk.place.documents.set_status(
        desk.find().uri, "revoked", "Wrong.", command_attempt(Action.STATUS, "t", desk.find().uri)
    )
    assert desk.run(replace=True).report == IngestReport(unchanged=1)
    desk.file("in.gov.x/INCOM/1.pdf", PDF + b"new")
    assert desk.run(replace=True).refused == {"in.gov.x/INCOM/1.pdf": "the document is revoked"}


def test_a_dry_run_tells_all_and_stores_nothing(desk: Desk) -> None:
    desk.file("a.pdf")
    manifest = desk.manifest({}, {"doc_id": "2"}, {"doc_id": "A/B"}, {"language": "te"}, {"issuer": "in.gov.x-y"})
    outcome = desk.run(manifest, dry_run=True)
    assert outcome.report == IngestReport(created=2, added=1, refused=2)
    for table in ("document", "issuer", "doc_type", "access_event", "outbox"):
        assert desk.place.rows(f"SELECT * FROM {table}") == []
    assert (desk.place.objects(), (desk.place.folder / "pending").exists()) == ([], False)


def test_an_object_left_by_a_killed_run_is_adopted_or_removed(desk: Desk) -> None:
    class Killed(BaseException):
        """What no handler catches, as a kill."""

    def die(*_: Any) -> None:
        raise Killed

    desk.file("in.gov.x/INCOM/1.pdf")
    desk.file("in.gov.x/INCOM/2.pdf")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr("node.db.cataloguing.append_events", die)
        # A killed process does not tidy up either.
        patch.setattr(PendingObjects, "sweep", lambda *_, **__: 0)
        desk.run()
    assert (len(desk.place.objects()), desk.place.rows("SELECT * FROM document")) == (2, [])
    desk.file("in.gov.x/INCOM/2.pdf", PDF + b"other by now")
    assert desk.run().report == IngestReport(created=2)
    assert len(desk.place.objects()) == 2


def test_a_file_that_changes_under_way_is_refused_and_the_rest_of_its_batch_goes_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    import node.services.ingest as ingest

    store_object = ingest.store_object
    for number in range(3):
        desk.file(f"in.gov.x/INCOM/{number}.pdf", PDF + b"as measured")

    def change_first(driver: Any, placement: Any, source: Any) -> None:
        if "/1.v1" in placement.object_key:
            desk.file("in.gov.x/INCOM/1.pdf", PDF + b"AS measured")
        store_object(driver, placement, source)

    monkeypatch.setattr(ingest, "store_object", change_first)
    outcome = desk.run()
    assert (outcome.report.created, list(outcome.refused)) == (2, ["in.gov.x/INCOM/1.pdf"])
    assert "changed while it was read" in outcome.refused["in.gov.x/INCOM/1.pdf"]
    assert len(desk.place.objects()) == 2


def test_without_room_it_stops_with_a_clear_sentence_and_goes_on_later(desk: Desk) -> None:
    desk.file("in.gov.x/INCOM/1.pdf")
    place = desk.place
    roomy = place.ingest.pending
    place.ingest.pending = PendingObjects(place.folder / "pending", place.stores, place.referenced, reserve_bytes=2**62)
    with pytest.raises(IngestStopped, match="no room"):
        desk.run()
    assert (place.objects(), place.rows("SELECT * FROM document")) == ([], [])
    place.ingest.pending = roomy
    assert desk.run().report == IngestReport(created=1)


def test_transactions_stay_small_so_that_the_log_never_waits_long(desk: Desk, soak: Any) -> None:
    count = soak.count(small=120, full=2000)
    desk.place.add_active_locker()
    for number in range(count):
        desk.file(f"in.gov.x/INCOM/{number}.pdf", PDF + str(number).encode())
    written, sizes = [0], []

    @event.listens_for(desk.place.database.engine, "after_cursor_execute")
    def count_rows(_c: Any, _u: Any, statement: str, parameters: Any, _x: Any, many: bool) -> None:
        if statement.startswith(("INSERT", "UPDATE", "DELETE")):
            written[0] += len(parameters) if many else 1

    @event.listens_for(desk.place.database.engine, "commit")
    def end(_connection: Any) -> None:
        sizes.append(written[0])
        written[0] = 0

    assert desk.run().report.created == count
    # Three rows a document; the two of the log do not pass SQLAlchemy's cursor: 500 rows with them.
    assert max(sizes) <= 300
    assert sum(sizes) >= count * 3


def test_a_missing_folder_and_a_broken_manifest_stop_before_anything(desk: Desk) -> None:
    desk.file("a.pdf")
    for path in (
        desk.folder / "absent",
        desk.manifest({}, columns=["file", "issuer", "doc_type", "doc_id"]).with_name("x.csv"),
    ):
        with pytest.raises(ManifestRefused):
            open_source(path)
    with pytest.raises(ManifestRefused, match="doc_id"):
        open_source(desk.file("bad.csv", b"file,issuer,doc_type\na.pdf,in.gov.x,INCOM\n"))
    assert desk.place.rows("SELECT * FROM document") == []


def test_places_and_names_are_shown_without_control_characters() -> None:
    assert shown("a\x1b[2J\nप्रमाण\u2028.pdf") == "a\\x1b[2J\\nप्रमाण\\u2028.pdf"


def test_log_rows_are_written_all_the_while(desk: Desk) -> None:
    stop, appended = threading.Event(), []

    def append() -> None:
        while not stop.is_set():
            row = encode_event({"action": "read", "outcome": "allowed", "phase": "attempt", "uri": "u"}, now_us())
            with desk.place.database.writing() as connection:
                append_events(connection, [row])
            appended.append(row.event_id)

    for number in range(60):
        desk.file(f"in.gov.x/INCOM/{number}.pdf")
    thread = threading.Thread(target=append)
    thread.start()
    try:
        report = desk.run().report
    finally:
        stop.set()
        thread.join()
    assert report == IngestReport(created=60)
    assert len(appended) >= 60 // BATCH, "the log waited for the whole ingest"
    events = desk.place.events()
    assert sorted(event["event_id"] for event in events if event["action"] == "read") == sorted(appended)
    assert len(events) == len(appended) + 60


def test_a_manifest_taken_in_again_brings_a_later_locker_the_holders_it_lacks(desk: Desk) -> None:
    first, second = "https://first.example", "https://second.example"
    desk.place.add_active_locker(first)
    desk.file("a.pdf")
    rows = [{"holder_scheme": "aadhaar", "holder_value": AADHAAR}, {"doc_id": "2", "file": "a.pdf"}]
    desk.run(desk.manifest(*rows))
    opening = desk.place.add_active_locker(second)
    with desk.place.database.writing() as connection:
        announce_page(connection, second, desk.place.opening, now_us())
        assert (count_unsealed(connection, first), count_unsealed(connection, second)) == (0, 1)
        assert seals_for(connection, second, unsealed(connection, _ids(desk))) == {}
    assert desk.run(desk.manifest(*rows), dry_run=True).report.changed == 1
    again = desk.run(desk.manifest(*rows)).report
    assert (again.changed, again.unchanged, again.refused) == (1, 1, 0)
    with desk.place.database.reading() as connection:
        assert count_unsealed(connection, second) == 0
        (seal,) = seals_for(connection, second, _ids(desk)).values()
    assert opening.open(seal.sealed, "in.gov.x-incom-1") == AADHAAR.encode()
    once_more = desk.run(desk.manifest(*rows)).report
    assert (once_more.changed, once_more.unchanged) == (0, 2)


def test_another_holder_in_place_of_one_that_is_lacking_is_refused(desk: Desk) -> None:
    desk.place.add_active_locker("https://first.example")
    desk.file("a.pdf")
    desk.run(desk.manifest({"holder_scheme": "mobile", "holder_value": "9876543210"}))
    desk.place.add_active_locker("https://second.example")
    with desk.place.database.writing() as connection:
        announce_page(connection, "https://second.example", desk.place.opening, now_us())
    other = desk.run(desk.manifest({"holder_scheme": "mobile", "holder_value": "9876543211"}))
    assert (other.report.changed, other.report.refused) == (0, 1)


def _ids(desk: Desk) -> list[str]:
    return [row[0] for row in desk.place.rows("SELECT document_id FROM document")]
