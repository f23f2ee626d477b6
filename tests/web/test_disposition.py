"""Field case FC-15, and its whole kind: any name becomes one safe header line."""

import re
import unicodedata
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.web.disposition import content_disposition

NAMES = [
    "प्रमाणपत्र 2026.pdf",
    "José.pdf",
    'a"b.pdf',
    "a;b.pdf",
    "a\r\nX-Evil: 1.pdf",
    "../x.pdf",
    "",
    "क" * 300,
    "క" * 300 + ".pdf",
    ".pdf",
    "...",
    ":.0:",
    "a\\b\\c.pdf",
    "100%.pdf",
    "x\u202egpj.pdf",
    "\ud800.pdf",
    "日本.pdf",
    "😀.pdf",
]


def parts(header):
    match = re.fullmatch(r"attachment; filename=\"([^\"\\]*)\"; filename\*=UTF-8''([A-Za-z0-9!#$&+.^_`|~%-]*)", header)
    assert match, header
    return match[1], unquote(match[2])


def assert_safe(header):
    header.encode("ascii")
    fallback, full = parts(header)
    for text in (fallback, full):
        assert not set(text) & set("/\\\r\n\0")
        assert text.strip(" .")
    assert any(character.isalnum() for character in fallback.partition(".")[0])
    assert len(full.encode()) <= 255
    return fallback, full


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_one_safe_line(name):
    assert_safe(content_disposition(name))


@given(st.text(max_size=400))
def test_every_text_is_one_safe_line(name):
    assert_safe(content_disposition(name))


@pytest.mark.parametrize(
    ("name", "fallback", "full"),
    [
        ("प्रमाणपत्र 2026.pdf", "2026.pdf", "प्रमाणपत्र 2026.pdf"),
        ("José.pdf", "Jose.pdf", "José.pdf"),
        ("प्रमाणपत्र.pdf", "document.pdf", "प्रमाणपत्र.pdf"),
        ("", "document", "document"),
        ("../x.pdf", "_x.pdf", "_x.pdf"),
        ('a"b.pdf', "a_b.pdf", 'a"b.pdf'),
        ("report.final.pdf", "report.final.pdf", "report.final.pdf"),
    ],
)
def test_what_remains(name, fallback, full):
    assert parts(content_disposition(name)) == (fallback, unicodedata.normalize("NFC", full))


def test_a_long_name_keeps_its_extension():
    _, full = parts(content_disposition("క" * 300 + ".pdf"))
    assert full.endswith(".pdf") and full.startswith("కక")


def test_joiners_stay_and_overrides_go():
    _, full = parts(content_disposition("क्\u200dष\u202e.pdf"))
    assert full == "क्\u200dष.pdf"


def test_inline_and_another_fallback():
    assert content_disposition("", kind="inline", fallback="INCOM-1").startswith('inline; filename="INCOM-1";')
