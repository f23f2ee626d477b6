"""Revocation pages: a gap, a fork, a replay and a page of another time are each refused by name."""

from dataclasses import replace

import pytest

from node.contract.revocation import PageRefused, RevocationEntry, RevocationPage, issue_page, page_digest, verify_page
from node.contract.signing import REVOCATION, KeySet, SigningKey, sign
from node.contract.times import SECOND

KEY = SigningKey.generate(REVOCATION)
KEYS = KeySet([KEY.public])
FIRST = RevocationPage(
    "https://l.example", 1, None, 1, 10 * SECOND, 20 * SECOND, (RevocationEntry("c-1", 9 * SECOND + 1),)
)


def test_a_page_comes_back_to_the_microsecond():
    assert verify_page(issue_page(FIRST, KEY), KEYS) == FIRST


def test_the_next_page_follows_and_nothing_else_does():
    digest = page_digest(issue_page(FIRST, KEY))
    second = replace(FIRST, sequence=2, previous=digest, issued_us=11 * SECOND)
    second.require_follows(1, digest, FIRST.issued_us)
    for page, expected in [
        (replace(second, sequence=3), "gap"),
        (replace(FIRST), "rollback"),
        (replace(second, sequence=1), "rollback"),
        (replace(second, previous="00" * 32), "broken-link"),
        (replace(second, issued_us=9 * SECOND), "rollback"),
    ]:
        with pytest.raises(PageRefused) as caught:
            page.require_follows(1, digest, FIRST.issued_us)
        assert caught.value.reason == expected


@pytest.mark.parametrize(
    "odd",
    [
        {"entries": None},
        {"entries": [{}]},
        {"entries": ["x"]},
        {"seq": 0},
        {"seq": "x"},
        {"seq": "1"},
        {"seq": 1.0},
        {"seq": True},
        {"seq": float("inf")},
        {"horizon": float("inf")},
        {"horizon": float("nan")},
        {"prev": "00"},
        {"horizon": 2},
        {"issued_at": "yesterday"},
        {"issued_at": float("inf")},
        {"issued_at": "2026-01-01T00:00:00"},
    ],
)
def test_claims_that_do_not_fit_are_refused(odd):
    with pytest.raises(PageRefused) as caught:
        verify_page(sign({**FIRST.claims(), **odd}, KEY), KEYS)
    assert caught.value.reason == "malformed-claims"
