"""Tickets: every claim is needed, every moment outside the lifetime is refused by its own reason."""

from dataclasses import replace

import pytest

from node.contract.signing import TICKET, KeySet, SigningKey, sign
from node.contract.tickets import Ticket, TicketRefused, issue_ticket, verify_ticket
from node.contract.times import DAY, MINUTE, SECOND

NOW = 1_800_000_000 * SECOND
KEY = SigningKey.generate(TICKET)
KEYS = KeySet([KEY.public])
GOOD = Ticket(
    iss="https://locker.example", aud="node-1", client_id="university", act=None, issuer="in.gov.example",
    doc_type="INCOM", doc_id="1-2", version=None, representations=("application/pdf",), holder_ref="h-1",
    basis="consent", consent_id="c-1", artefact="ab" * 32, purpose="admission", jti="t-1",
    iat=NOW // SECOND, exp=NOW // SECOND + 600, issued_us=NOW,
)  # fmt: skip


def reason(call, *arguments):
    with pytest.raises(TicketRefused) as caught:
        call(*arguments)
    return caught.value.reason


@pytest.mark.parametrize(
    "ticket",
    [GOOD, replace(GOOD, basis="holder", consent_id=None, artefact=None, act="gateway", version=2, key_thumbprint="k")],
)
def test_a_ticket_comes_back_as_it_was_issued(ticket):
    assert verify_ticket(issue_ticket(ticket, KEY), KEYS) == ticket


@pytest.mark.parametrize(
    "name",
    [
        "iss",
        "aud",
        "client_id",
        "issuer",
        "doc_type",
        "doc_id",
        "basis",
        "purpose",
        "jti",
        "iat",
        "exp",
        "issued_us",
        "consent_id",
        "artefact",
    ],
)
@pytest.mark.parametrize("value", [None, "", 1.5, [], {}, True, "x" * 600, -1])
def test_a_missing_or_odd_claim_is_refused(name, value):
    claims = {**GOOD.claims(), name: value}
    assert reason(verify_ticket, sign(claims, KEY), KEYS) == "malformed-claims"


@pytest.mark.parametrize(
    "odd",
    [
        {"reps": "application/pdf"},
        {"reps": [1]},
        {"cnf": "x"},
        {"cnf": {}},
        {"ver": "1"},
        {"basis": "officer"},
        {"basis": "holder"},
        {"issued_us": NOW + SECOND},
    ],
)
def test_claims_that_do_not_fit_are_refused(odd):
    assert reason(verify_ticket, sign({**GOOD.claims(), **odd}, KEY), KEYS) == "malformed-claims"


@pytest.mark.parametrize(
    ("shift", "refusal"),
    [(-31 * SECOND, "not-yet-valid"), (-10 * MINUTE, "not-yet-valid"), (-DAY, "not-yet-valid"), (-30 * SECOND, None), (0, None),
     (600 * SECOND, None), (629 * SECOND, None), (630 * SECOND, "expired"), (20 * MINUTE, "expired"), (DAY, "expired")],
)  # fmt: skip
def test_clocks_may_differ_by_thirty_seconds_and_no_more(shift, refusal):
    if refusal is None:
        GOOD.require_current(NOW + shift)
    else:
        assert reason(GOOD.require_current, NOW + shift) == refusal


@pytest.mark.parametrize(
    ("lifetime", "bound", "good"),
    [
        (900, None, True),
        (901, None, False),
        (86_400, "k", True),
        (86_401, "k", False),
        (0, None, False),
        (-5, None, False),
    ],
)
def test_only_a_bound_ticket_may_live_long(lifetime, bound, good):
    ticket = replace(GOOD, exp=GOOD.iat + lifetime, key_thumbprint=bound)
    if good:
        ticket.require_current(NOW)
    else:
        assert reason(ticket.require_current, NOW) == "lifetime-too-long"


def test_only_a_ticket_key_signs_tickets():
    with pytest.raises(ValueError, match="ticket key"):
        issue_ticket(GOOD, SigningKey.generate("locker-consent+jwt"))
