"""Role tokens as their service sees them: each call one transaction."""

from node.db import tokens
from node.db.session import Database
from node.services.access import TokenGrant, TokenScope


class TokenRecords:
    """The tokens in the node's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, token: str, *, name: str, role: str, scope: TokenScope, now_us: int, expires_us: int) -> str:
        """Store a new token's hash and return the token's identifier."""
        with self._database.writing() as connection:
            return tokens.add_token(
                connection, token, name=name, role=role, scope=scope, now_us=now_us, expires_us=expires_us
            )

    def all(self) -> list[TokenGrant]:
        """Return all tokens, oldest first."""
        with self._database.reading() as connection:
            return tokens.list_tokens(connection)

    def revoke(self, token_id: str, now_us: int) -> bool:
        """End a token; False when there is none that has not been ended."""
        with self._database.writing() as connection:
            return tokens.revoke_token(connection, token_id, now_us)
