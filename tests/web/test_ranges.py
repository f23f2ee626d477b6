"""The whole table of field case FC-14, and If-Range."""

import time

import pytest

from node.contract.problems import RangeNotSatisfiable
from node.web.ranges import select_range

ETAG = '"abc"'


def part(header, total=100, *, method="GET", if_range=None, etag=ETAG):
    selected = select_range(method, header, if_range, etag, total)
    return selected and (selected.content_range, selected.start, selected.length)


@pytest.mark.parametrize(
    ("header", "content_range"),
    [
        ("bytes=0-", "bytes 0-99/100"),
        ("bytes=-5", "bytes 95-99/100"),
        ("bytes=-500", "bytes 0-99/100"),
        ("bytes=90-200", "bytes 90-99/100"),
        ("bytes=0-0", "bytes 0-0/100"),
        ("bytes=99-99", "bytes 99-99/100"),
        ("bytes=99-", "bytes 99-99/100"),
        ("BYTES=0-9", "bytes 0-9/100"),
        (" bytes=0-9 ", "bytes 0-9/100"),
        ("bytes=0-" + "9" * 5000, "bytes 0-99/100"),
        ("bytes=-" + "9" * 5000, "bytes 0-99/100"),
        ("bytes=" + "0" * 5000 + "5-9", "bytes 5-9/100"),
    ],
)
def test_parts(header, content_range):
    selected = select_range("GET", header, None, ETAG, 100)
    assert selected.content_range == content_range
    first, last = content_range.removeprefix("bytes ").partition("/")[0].split("-")
    assert (selected.start, selected.length) == (int(first), int(last) - int(first) + 1)


@pytest.mark.parametrize(
    "header",
    [
        "bytes=5-4",
        "items=0-3",
        "bytes=0-9,20-29",
        "bytes=",
        "bytes=-",
        "bytes",
        "",
        "bytes=a-b",
        "bytes=1-2-3",
        "bytes=+1-2",
        "bytes=٣-٤",
    ],
)
def test_what_gets_the_whole(header):
    assert part(header) is None


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=" + "9" * 5000 + "-"])
def test_beyond_the_end_is_416_with_the_length(header):
    with pytest.raises(RangeNotSatisfiable) as refused:
        part(header)
    assert refused.value.headers["Content-Range"] == "bytes */100"


@pytest.mark.parametrize("header", ["bytes=0-0", "bytes=0-", "bytes=-5", "bytes=100-"])
def test_an_empty_document_is_sent_whole(header):
    assert part(header, 0) is None


def test_five_thousand_ranges_cost_nothing():
    header = "bytes=" + ",".join(f"{2 * n}-{2 * n}" for n in range(5000))
    began = time.perf_counter()
    assert part(header, 10_000) is None
    assert time.perf_counter() - began < 0.05


@pytest.mark.parametrize("method", ["HEAD", "PUT"])
def test_only_get_has_ranges(method):
    assert part("bytes=0-9", method=method) is None
    assert part("bytes=500-", method=method) is None


def test_no_range_header_is_the_whole():
    assert part(None) is None


@pytest.mark.parametrize(
    ("if_range", "etag", "applies"),
    [
        ('"abc"', '"abc"', True),
        ('"other"', '"abc"', False),
        ('W/"abc"', '"abc"', False),
        ('W/"abc"', 'W/"abc"', False),
        ("Wed, 21 Oct 2015 07:28:00 GMT", '"abc"', False),
        ("*", '"abc"', False),
    ],
)
def test_if_range_needs_the_present_strong_etag(if_range, etag, applies):
    assert (part("bytes=0-9", if_range=if_range, etag=etag) is not None) is applies


def test_a_stale_if_range_hides_even_an_unsatisfiable_range():
    assert part("bytes=500-", if_range='"old"') is None
