"""Canonical JSON against an independent writer; times; signed requests; the problem table."""

import datetime

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from node.contract.canonical import canonical_json
from node.contract.identifiers import uuid7
from node.contract.problems import DocumentNotFound, InternalError, ProblemError, as_problem, problem_types
from node.contract.records import RequestRefused, sign_request, verify_request
from node.contract.signing import PULL, KeySet, SigningKey
from node.contract.times import SECOND, format_time, parse_time

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(max_codepoint=126), max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(values)
def test_canonical_json_agrees_with_another_implementation(value):
    try:
        expected = rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError):
        return
    assert canonical_json(value) == expected


@pytest.mark.parametrize("value", [1.5, {"ключ": 1}, {1: 2}, {"a": {"b": [0.1]}}, 2**53, b"x", object()])
def test_what_others_would_read_differently_is_refused(value):
    with pytest.raises(ValueError, match=r"canonical|integer"):
        canonical_json(value)


@given(st.integers(0, 4_000_000_000 * SECOND))
def test_times_come_back_to_the_microsecond(moment):
    assert parse_time(format_time(moment)) == moment


def test_one_instant_in_two_zones():
    assert parse_time("2026-04-01T10:15:30+05:30") == parse_time("2026-04-01T04:45:30Z")
    for text in ("2026-04-01T10:15:30", "2026-04-01", "tomorrow", "2026-04-01T10:15:30 05:30"):
        with pytest.raises(ValueError, match=r".+"):
            parse_time(text)


def test_identifiers_sort_by_time():
    made = [uuid7() for _ in range(2000)]
    assert len(set(made)) == 2000
    assert made[0] < made[-1] and made[0][14] == "7" and made[0][19] in "89ab"
    stamp = int(made[0].replace("-", "")[:12], 16) / 1000
    assert abs(stamp - datetime.datetime.now(datetime.UTC).timestamp()) < 60


def test_a_signed_request_is_for_one_audience_and_a_short_time():
    key = SigningKey.generate(PULL)
    keys, now = KeySet([key.public]), 1_800_000_000 * SECOND
    token = sign_request({"iss": "l"}, key, audience="node-1", now_us=now)
    assert verify_request(token, PULL, keys, audience="node-1", now_us=now)["iss"] == "l"
    for audience, shift, reason in [
        ("node-2", 0, "wrong-audience"),
        ("node-1", 91, "expired"),
        ("node-1", -31, "not-yet-valid"),
    ]:
        with pytest.raises(RequestRefused) as caught:
            verify_request(token, PULL, keys, audience=audience, now_us=now + shift * SECOND)
        assert caught.value.reason == reason
    long = sign_request({}, key, audience="node-1", now_us=now, lifetime=301)
    with pytest.raises(RequestRefused) as caught:
        verify_request(long, PULL, keys, audience="node-1", now_us=now)
    assert caught.value.reason == "lifetime-too-long"


def test_every_problem_has_one_row_with_a_title_for_people():
    rows = problem_types()
    assert len({row.slug for row in rows}) == len(rows)
    assert all(400 <= row.status < 600 and len(row.title.split()) >= 3 for row in rows)


def test_a_problem_document_tells_nothing_of_an_unknown_error():
    problem = as_problem(RuntimeError("password=hunter2"))
    assert isinstance(problem, InternalError)
    assert "hunter2" not in str(problem.document("r-1"))
    assert as_problem(known := DocumentNotFound()) is known
    document = ProblemError("why", extra={"room": 5}).document("r-2")
    assert document["request_id"] == "r-2" and document["room"] == 5 and document["type"].endswith("internal-error")
