"""Role tokens: made once, kept as hashes, bounded in scope and time."""

import hashlib
from typing import Any

import pytest

from node.contract.problems import InvalidCredential, UnacceptableContent
from node.contract.times import DAY
from node.db.token_records import TokenRecords
from node.db.tokens import find_tokens, token_hash
from node.services.access import TokenScope
from node.services.errors import TokenNotFound
from node.services.tokens import TokenService

NOW = 1_800_000_000_000_000


@pytest.fixture
def tokens(place: Any) -> TokenService:
    return TokenService(TokenRecords(place.database), clock=lambda: NOW)


def test_a_token_is_found_by_its_hash_and_nothing_else_of_it_is_kept(place: Any, tokens: TokenService) -> None:
    scope = TokenScope(("in.gov.x",), ("INCOM",), "Guntur", "2026-01-01", "2026-12-31")
    made = tokens.create("Audit office", "auditor", scope, days=7)
    assert len(made.token) >= 43
    assert made.token not in repr(made)
    assert made.token not in str(place.rows("SELECT * FROM access_token"))
    with place.database.reading() as connection:
        grant = find_tokens(connection, [token_hash(made.token)])[hashlib.sha256(made.token.encode()).hexdigest()]
    assert (grant.name, grant.role, grant.scope) == ("Audit office", "auditor", scope)
    assert (grant.created_us, grant.expires_us) == (NOW, NOW + 7 * DAY)


def test_the_usual_token_lasts_ninety_days(tokens: TokenService) -> None:
    assert tokens.create("x", "operator").expires_us == NOW + 90 * DAY


def test_a_revoked_token_is_refused_and_stays_in_the_list(tokens: TokenService) -> None:
    made = tokens.create("x", "monitor")
    tokens.create("y", "monitor")
    tokens.revoke(made.token_id)
    assert [grant.name for grant in tokens.all()] == ["x", "y"]
    with pytest.raises(InvalidCredential):
        tokens.all()[0].require_current(NOW)
    for unknown in (made.token_id, "nonsense"):
        with pytest.raises(TokenNotFound):
            tokens.revoke(unknown)


@pytest.mark.parametrize(
    "arguments",
    [
        {"role": "root"}, {"days": 0}, {"days": 366}, {"name": " "}, {"name": "a\nb"}, {"name": "x" * 201},
        {"scope": TokenScope(issuers=("in gov",))}, {"scope": TokenScope(doc_types=("IN-COM",))},
        {"scope": TokenScope(from_date="1.1.2026")}, {"scope": TokenScope(from_date="2026-02-01", until_date="2026-01-01")},
        {"scope": TokenScope(office=" ")},
    ],
)  # fmt: skip
def test_what_cannot_be_taken_is_refused(tokens: TokenService, arguments: dict[str, Any]) -> None:
    with pytest.raises(UnacceptableContent):
        tokens.create(**{"name": "x", "role": "operator", **arguments})
    assert tokens.all() == []
