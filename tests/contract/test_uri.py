"""Document URIs: where they are cut, what is refused, and that building undoes parsing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.contract.problems import DocumentNotFound, MalformedURI, UnknownIssuer
from node.contract.uri import DocumentURI, IssuerDirectory

ISSUERS = IssuerDirectory(["in.gov.example", "in.gov.ex-ample", "in.gov.meeseva.ap"])


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("in.gov.meeseva.ap-INCOM-9606884969", ("in.gov.meeseva.ap", "INCOM", "9606884969")),
        ("in.gov.example-INCER-AB-12-2024", ("in.gov.example", "INCER", "AB-12-2024")),
        ("in.gov.ex-ample-INCER-1", ("in.gov.ex-ample", "INCER", "1")),
        ("in.gov.example-INCER-...", ("in.gov.example", "INCER", "...")),
        ("in.gov.example-INCER-a..b", ("in.gov.example", "INCER", "a..b")),
        ("in.gov.example-INCER--", ("in.gov.example", "INCER", "-")),
        ("IN.GOV.EXAMPLE-incer-1", ("IN.GOV.EXAMPLE", "incer", "1")),
    ],
)
def test_the_document_id_keeps_its_own_hyphens(text, parts):
    uri = DocumentURI.parse(text, ISSUERS)
    assert (uri.issuer, uri.doc_type, uri.doc_id) == parts
    assert str(uri) == text


def test_the_longest_known_issuer_wins():
    both = IssuerDirectory(["in.gov", "in.gov-ap"])
    assert DocumentURI.parse("in.gov-ap-T-1", both).issuer == "in.gov-ap"
    assert DocumentURI.parse("in.gov-T-ap-1", both).issuer == "in.gov"


@pytest.mark.parametrize(
    "text",
    [
        "", "in.gov.example", "in.gov.example-INCER", "in.gov.example-INCER-", "in.gov.example--1",
        "in.gov.example-INCER-A/B", "in.gov.example-INCER-A%2FB", "in.gov.example-INCER-A B",
        "in.gov.example-INCER-A+B", "in.gov.example-INCER-" + "x" * 129, "in.gov.example-INCER-a\x00b",
        "in.gov.example-INCER-प्रमाण", "in.gov.example-INCÉR-1", "../../etc/passwd", "x" * 5000,
        "in.gov.example-INCER-1\n",
    ],
)  # fmt: skip
def test_malformed_uris_are_told_apart_from_unknown_ones(text):
    with pytest.raises(MalformedURI) as caught:
        DocumentURI.parse(text, ISSUERS)
    assert caught.value.status == 400


def test_an_unknown_issuer_looks_like_any_unknown_document():
    with pytest.raises(UnknownIssuer) as caught:
        DocumentURI.parse("in.gov.elsewhere-INCER-1", ISSUERS)
    assert (caught.value.slug, caught.value.status) == (DocumentNotFound.slug, 404)


def test_case_is_kept_and_does_not_count():
    one, other = (DocumentURI.parse(text, ISSUERS) for text in ("in.gov.example-INCER-a", "In.gov.example-incer-A"))
    assert one == other and hash(one) == hash(other) and str(one) != str(other)


@pytest.mark.parametrize(
    ("candidate", "conflict"),
    [
        ("in.gov.example-x", "in.gov.example"), ("in.gov.ex", "in.gov.ex-ample"), ("IN.GOV.EX", "in.gov.ex-ample"),
        ("in.gov.exa", None), ("in.gov.example", None), ("in.gov.example.x", None),
    ],
)  # fmt: skip
def test_issuers_that_extend_each_other_at_a_hyphen_conflict(candidate, conflict):
    assert ISSUERS.conflict(candidate) == conflict


part = st.text("abcXYZ019", min_size=1, max_size=8)
identifier = st.text("abcXYZ019._~-", min_size=1, max_size=20)


@given(issuer=st.tuples(part, part).map(".".join), doc_type=part, doc_id=identifier)
def test_parsing_undoes_building(issuer, doc_type, doc_id):
    uri = DocumentURI.build(issuer, doc_type, doc_id)
    parsed = DocumentURI.parse(str(uri), IssuerDirectory([issuer]))
    assert (parsed.issuer, parsed.doc_type, parsed.doc_id) == (issuer, doc_type, doc_id)


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused_by_a_problem(text):
    try:
        uri = DocumentURI.parse(text, ISSUERS)
    except (MalformedURI, UnknownIssuer):
        return
    assert str(uri) == text
