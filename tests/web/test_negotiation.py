"""Accept and Accept-Language over a document's representations."""

import time

import pytest

from node.web.negotiation import choose

PDF_EN, PDF_HI, XML_EN, XML_ANY = (
    ("application/pdf", "en"),
    ("application/pdf", "hi"),
    ("application/xml", "en"),
    ("application/xml", None),
)
OFFERS = [PDF_EN, PDF_HI, XML_EN]


@pytest.mark.parametrize(
    ("accept", "language", "chosen"),
    [
        (None, None, PDF_EN),
        ("*/*", None, PDF_EN),
        ("", "", PDF_EN),
        ("application/xml", None, XML_EN),
        ("APPLICATION/XML", None, XML_EN),
        ("application/*", None, PDF_EN),
        ("application/pdf;q=0.5, application/xml", None, XML_EN),
        ("application/xml;q=0.5, application/pdf;q=0.4, */*;q=1", None, XML_EN),
        ("*/*;q=0.1, application/pdf;q=0", None, XML_EN),
        ("text/html, */*;q=0.001", None, PDF_EN),
        ("image/png", None, None),
        ("application/pdf;q=0, application/xml;q=0", None, None),
        ("*/*;q=0", None, None),
        (None, "hi", PDF_HI),
        (None, "hi-IN", PDF_HI),
        (None, "en;q=0.3, hi;q=0.8", PDF_HI),
        (None, "te, *;q=0.5", PDF_EN),
        (None, "en;q=0, *", PDF_HI),
        (None, "te", PDF_EN),
        (None, "en;q=0", PDF_HI),
        ("application/xml", "hi", XML_EN),
        ("rubbish", None, PDF_EN),
        ("application/xml;q=2, */*", None, PDF_EN),
        ("*/pdf", None, PDF_EN),
        ("application/pdf;q=abc, application/xml", None, XML_EN),
    ],
)
def test_choice(accept, language, chosen):
    index = choose(OFFERS, accept, language)
    assert (None if index is None else OFFERS[index]) == chosen


def test_the_order_decides_between_equals():
    assert choose([XML_EN, PDF_EN], "*/*") == 0
    assert choose([PDF_EN, XML_EN], "application/xml, application/pdf") == 0


def test_a_document_without_language_suits_between_the_named_and_the_refused():
    assert choose([XML_ANY, XML_EN], "*/*", "en") == 1
    assert choose([XML_EN, XML_ANY], "*/*", "en;q=0") == 1


def test_a_language_range_names_its_regions():
    assert choose([("a/b", "en"), ("a/b", "te-IN")], None, "te") == 1
    assert choose([("a/b", "ten"), ("a/b", "te")], None, "te") == 1


def test_parameters_make_a_range_more_specific():
    offers = [("text/xml;charset=utf-8", None), ("text/xml", None)]
    assert choose(offers, "text/xml;charset=utf-8;q=0.1, text/xml") == 1
    assert choose(offers, "text/xml;charset=utf-8, text/xml;q=0.1") == 0


def test_nothing_offered_is_no_match():
    assert choose([], "*/*") is None


def test_a_hostile_header_costs_little():
    began = time.perf_counter()
    choose(OFFERS, ",".join(f"a/{n};q=0.{n % 10}" for n in range(100_000)), "x-" * 100_000)
    assert time.perf_counter() - began < 0.5
