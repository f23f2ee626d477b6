"""Role tokens of people and tools; only their SHA-256 is stored."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update

from node.contract.identifiers import uuid7
from node.db.models import AccessToken
from node.db.prepared import PreparedSelect
from node.services.access import TokenGrant, TokenScope

_GRANT = (
    AccessToken.token_id, AccessToken.name, AccessToken.role, AccessToken.scope, AccessToken.created_us,
    AccessToken.expires_us, AccessToken.revoked_us,
)  # fmt: skip
_FIND = PreparedSelect(
    select(*_GRANT, AccessToken.token_hash).where(AccessToken.token_hash.in_(bindparam("hashes", expanding=True))),
    "hashes",
)


def token_hash(token: str) -> str:
    """Return what is stored of a token: a fast hash is right for 256 random bits."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def add_token(
    connection: Connection, token: str, *, name: str, role: str, scope: TokenScope, now_us: int, expires_us: int
) -> str:
    """Store a new token's hash and return the token's identifier."""
    token_id = uuid7()
    connection.execute(
        insert(AccessToken).values(
            token_id=token_id, token_hash=token_hash(token), name=name, role=role,
            scope=json.dumps(scope.as_json(), sort_keys=True), created_us=now_us, expires_us=expires_us,
        )
    )  # fmt: skip
    return token_id


def find_tokens(connection: Connection, hashes: Iterable[str]) -> dict[str, TokenGrant]:
    """Return what tokens grant, by hash; revoked and expired ones too, marked as such."""
    wanted = sorted(set(hashes))
    if not wanted:
        return {}
    return {row[7]: _grant(row) for row in _FIND.rows(connection, wanted)}


def list_tokens(connection: Connection) -> list[TokenGrant]:
    """Return all tokens, oldest first."""
    rows = connection.execute(select(*_GRANT).order_by(AccessToken.created_us, AccessToken.token_id))
    return [_grant(row) for row in rows]


def revoke_token(connection: Connection, token_id: str, now_us: int) -> bool:
    """End a token; returns False when there is no such token that is still good."""
    changed = connection.execute(
        update(AccessToken)
        .where(AccessToken.token_id == token_id, AccessToken.revoked_us.is_(None))
        .values(revoked_us=now_us)
    )
    return changed.rowcount == 1


def _grant(row: Sequence[Any]) -> TokenGrant:
    return TokenGrant(
        token_id=row[0], name=row[1], role=row[2], scope=TokenScope.from_json(json.loads(row[3])), created_us=row[4],
        expires_us=row[5], revoked_us=row[6],
    )  # fmt: skip
