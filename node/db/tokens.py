"""Role tokens of people and tools; only their SHA-256 is stored."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Row, bindparam, insert, select, update

from node.contract.identifiers import uuid7
from node.db.models import AccessToken
from node.services.access import TokenGrant, TokenScope

_FIND = select(AccessToken.__table__).where(AccessToken.token_hash.in_(bindparam("hashes", expanding=True)))


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
    return {row.token_hash: _grant(row) for row in connection.execute(_FIND, {"hashes": wanted})}


def list_tokens(connection: Connection) -> list[TokenGrant]:
    """Return all tokens, oldest first."""
    rows = connection.execute(select(AccessToken.__table__).order_by(AccessToken.created_us, AccessToken.token_id))
    return [_grant(row) for row in rows]


def revoke_token(connection: Connection, token_id: str, now_us: int) -> bool:
    """End a token; returns False when there is no such token that is still good."""
    changed = connection.execute(
        update(AccessToken)
        .where(AccessToken.token_id == token_id, AccessToken.revoked_us.is_(None))
        .values(revoked_us=now_us)
    )
    return changed.rowcount == 1


def _grant(row: Row[Any]) -> TokenGrant:
    return TokenGrant(
        token_id=row.token_id, name=row.name, role=row.role, scope=TokenScope.from_json(json.loads(row.scope)),
        created_us=row.created_us, expires_us=row.expires_us, revoked_us=row.revoked_us,
    )  # fmt: skip
