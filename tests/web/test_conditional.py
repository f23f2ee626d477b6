"""If-Match and If-None-Match by strong and weak comparison."""

import time

import pytest

from node.contract.problems import PreconditionFailed
from node.web.conditional import matches, not_modified, parse_etags


@pytest.mark.parametrize(
    ("header", "listed"),
    [
        ('"a"', ('"a"',)),
        ('"a", W/"b" ,"c"', ('"a"', 'W/"b"', '"c"')),
        ('"a,b", "c"', ('"a,b"', '"c"')),
        ('""', ('""',)),
        (',"a",,', ('"a"',)),
        ("a", ()),
        ('"a" "b"', ()),
        ('w/"a"', ()),
        ('"a', ()),
        ("", ()),
        ("*", ()),
    ],
)
def test_lists(header, listed):
    assert parse_etags(header) == listed


@pytest.mark.parametrize(
    ("header", "etag", "weak", "strong"),
    [
        ('"a"', '"a"', True, True),
        ('W/"a"', '"a"', True, False),
        ('W/"a"', 'W/"a"', True, False),
        ('"b"', '"a"', False, False),
        ("*", '"a"', True, True),
        ("*", None, False, False),
        ('"a"', None, False, False),
        ("rubbish", '"a"', False, False),
    ],
)
def test_comparison(header, etag, weak, strong):
    assert matches(header, etag, weak=True) is weak
    assert matches(header, etag, weak=False) is strong


def test_304_for_reads_and_412_for_writes():
    assert not_modified("GET", None, 'W/"a"', '"a"')
    assert not_modified("HEAD", None, "*", '"a"')
    assert not not_modified("GET", None, '"b"', '"a"')
    assert not not_modified("PUT", None, "*", None)
    with pytest.raises(PreconditionFailed):
        not_modified("PUT", None, "*", '"a"')


def test_if_match_goes_first():
    with pytest.raises(PreconditionFailed):
        not_modified("GET", '"b"', '"a"', '"a"')
    with pytest.raises(PreconditionFailed):
        not_modified("PUT", "*", None, None)
    with pytest.raises(PreconditionFailed):
        not_modified("PUT", "unquoted", None, '"unquoted"')
    assert not not_modified("PUT", '"a"', None, '"a"')


def test_a_hostile_list_costs_little():
    began = time.perf_counter()
    parse_etags('"a",' * 20_000 + "x")
    parse_etags("," * 20_000 + "x")
    parse_etags('W/"' * 20_000)
    assert time.perf_counter() - began < 0.5
