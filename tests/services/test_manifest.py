"""Manifests as spreadsheets write them (FC-30)."""

import codecs
from pathlib import Path

import pytest

from node.services.errors import ManifestRefused
from node.services.manifest import MAX_LINE, Entry, open_manifest

HEADER = ["file", "issuer", "doc_type", "doc_id", "title", "param.roll_no"]
ROWS = [
    ["a.pdf", "in.gov.x", "INCOM", "00123", 'A "quoted"\nJosé', "7"],
    ["b.pdf", "in.gov.x", "INCOM", "AB-12-2024", "प्रमाणपत्र", ""],
]


def table(
    delimiter: str = ",", end: str = "\n", rows: list[list[str]] | None = None, header: list[str] | None = None
) -> str:
    lines = [header or HEADER, *(ROWS if rows is None else rows)]
    return end.join(
        delimiter.join(
            '"' + cell.replace('"', '""') + '"' if set(cell) & set('"\n' + delimiter) else cell for cell in line
        )
        for line in lines
    )


def read(path: Path, content: bytes | str, encoding: str | None = None) -> list[Entry]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(open_manifest(path, encoding))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "manifest.csv"


WRITTEN = {
    "excel-utf8-semicolon-crlf": codecs.BOM_UTF8 + (table(";", "\r\n") + "\r\n").encode(),
    "comma-lf": (table() + "\n").encode(),
    "tab": (table("\t") + "\n").encode(),
    "pipe": (table("|") + "\n").encode(),
    "utf-16le": codecs.BOM_UTF16_LE + (table("\t", "\r\n") + "\r\n").encode("utf-16-le"),
    "utf-16be": codecs.BOM_UTF16_BE + (table("\t", "\r\n") + "\r\n").encode("utf-16-be"),
    "no-final-newline": table().encode(),
    "old-mac-ends": table(end="\r").encode(),
    "blank-lines": (table(end="\n\n") + "\n,,,,,\n\n").encode(),
    "trailing-empty-columns": "\n".join(line + ",," if "José" not in line else line for line in [",".join(HEADER)]).encode()
    + b"\n" + table().split("\n", 1)[1].encode(),
}  # fmt: skip


@pytest.mark.parametrize("content", WRITTEN.values(), ids=WRITTEN.keys())
def test_every_spelling_of_one_table_gives_the_same_rows(file: Path, content: bytes) -> None:
    entries = read(file, content)
    assert [entry.refusal for entry in entries] == [None, None]
    assert [entry.cells["doc_id"] for entry in entries] == ["00123", "AB-12-2024"]
    assert entries[0].cells["title"].split() == ["A", '"quoted"', "José"]
    assert entries[1].cells["title"] == "प्रमाणपत्र"
    assert [dict(entry.parameters) for entry in entries] == [{"roll_no": "7"}, {}]


@pytest.mark.parametrize("first", ["sep=;", "SEP=;", '"sep=;"'])
def test_the_separator_line_of_excel_decides(file: Path, first: str) -> None:
    entries = read(file, f"{first}\r\n{table(';')}")
    assert [entry.place for entry in entries] == ["line 3", "line 5"]
    assert entries[0].cells["doc_id"] == "00123"


def test_the_separator_line_goes_before_what_the_header_looks_like(file: Path) -> None:
    with pytest.raises(ManifestRefused, match="no column"):
        read(file, "sep=,\n" + table(";"))


@pytest.mark.parametrize(
    "header",
    [
        ["title", "Doc_ID", " DOC TYPE ", "Issuer", "FILE", "Param.Roll No"],
        ["Title", "docid", "doc-type", "ISSUER", "File", "PARAM.roll-no"],
    ],
)
def test_order_capitals_and_spaces_of_the_header_do_not_matter(file: Path, header: list[str]) -> None:
    entries = read(file, table(header=header, rows=[["T", "1", "INCOM", "in.gov.x", "a.pdf", "7"]]))
    cells = {"title": "T", "doc_id": "1", "doc_type": "INCOM", "issuer": "in.gov.x", "file": "a.pdf"}
    assert (dict(entries[0].cells), dict(entries[0].parameters)) == (cells, {"roll_no": "7"})


def test_unknown_columns_are_named_and_passed_over(file: Path) -> None:
    file.write_text(
        table(header=[*HEADER[:-1], "Remarks", "", "file_no"], rows=[["a.pdf", "i", "T", "1", "t", "x", "", "y"]])
    )
    manifest = open_manifest(file)
    assert manifest.columns.unknown == ("Remarks", "column 7, which has no name", "file_no")
    assert [entry.refusal for entry in manifest] == [None]


def test_short_and_long_rows_are_reported_by_line_and_the_rest_goes_on(file: Path) -> None:
    entries = read(file, "\n".join([",".join(HEADER), "a,b,c", "a,i,T,1,t,p,more", "a,i,T,1,t,p,,", "a,i,T,2,t,p"]))
    assert [(entry.place, entry.refusal is None) for entry in entries] == [
        ("line 2", False), ("line 3", False), ("line 4", True), ("line 5", True),
    ]  # fmt: skip
    assert "3 cells" in str(entries[0].refusal)


def test_a_row_is_named_by_the_line_it_begins_on(file: Path) -> None:
    entries = read(file, table(rows=[*ROWS, ["c.pdf", "i", "T", "3", "", ""]]))
    assert [entry.place for entry in entries] == ["line 2", "line 4", "line 5"]


def test_a_stray_quotation_mark_costs_its_row_only(file: Path) -> None:
    entries = read(file, ",".join(HEADER) + '\na,i,T,1,"x"y,p\na,i,T,2,t,p\n')
    assert [(entry.place, entry.refusal is None) for entry in entries] == [("line 2", False), ("line 3", True)]


def test_a_quotation_mark_that_is_never_closed_says_what_was_not_read(file: Path) -> None:
    entries = read(file, ",".join(HEADER) + '\na,i,T,1,t,p\na,i,T,2,"t,p\na,i,T,3,t,p\n')
    assert entries[0].refusal is None
    assert "line 4" in str(entries[1].refusal)
    assert len(entries) == 2


@pytest.mark.parametrize("missing", ["file", "issuer", "doc_type", "doc_id"])
def test_a_missing_column_stops_before_the_first_row(file: Path, missing: str) -> None:
    with pytest.raises(ManifestRefused, match=missing):
        read(file, table(header=["x" if name == missing else name for name in HEADER]))


@pytest.mark.parametrize("content", [b"", b"\n", codecs.BOM_UTF8])
def test_an_empty_file_names_the_missing_columns(file: Path, content: bytes) -> None:
    with pytest.raises(ManifestRefused, match="file, issuer, doc_type, doc_id"):
        read(file, content)


def test_a_column_given_twice_is_refused(file: Path) -> None:
    with pytest.raises(ManifestRefused, match="two columns"):
        read(file, table(header=["file", "issuer", "doc_type", "doc_id", "File ", "title"]))


def test_windows_1252_is_refused_or_read_when_declared(file: Path) -> None:
    content = table(rows=[["a.pdf", "i", "T", "1", "José", "holder-secret"]]).encode("windows-1252")
    with pytest.raises(ManifestRefused, match=r"line 2.*--encoding windows-1252") as refused:
        read(file, content)
    assert "holder-secret" not in repr(refused.value.__cause__) + str(refused.value)
    assert read(file, content, "windows-1252")[0].cells["title"] == "José"


def test_a_bad_byte_far_down_stops_before_the_first_row(file: Path) -> None:
    rows = [["a.pdf", "i", "T", str(number), "t", ""] for number in range(20_000)]
    with pytest.raises(ManifestRefused, match="not utf-8"):
        read(file, table(rows=rows).encode() + b"\nJos\xe9")


def test_utf_16_without_its_mark_is_not_guessed(file: Path) -> None:
    with pytest.raises(ManifestRefused, match="NUL"):
        read(file, table(rows=[["a.pdf", "i", "T", "1", "t", ""]]).encode("utf-16-le"))


def test_an_unknown_encoding_and_a_missing_file_are_named(file: Path) -> None:
    with pytest.raises(ManifestRefused, match="klingon"):
        read(file, table(), "klingon")
    with pytest.raises(ManifestRefused, match="No such file"):
        open_manifest(file.with_name("absent.csv"))


def test_a_file_without_line_ends_is_not_read_into_memory(file: Path) -> None:
    with pytest.raises(ManifestRefused, match="longer"):
        read(file, "x" * (MAX_LINE + 5))
