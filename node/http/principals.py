"""Who calls the control plane: what each kind of credential proves once it has been checked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from node.services import access
from node.services.access import LockerScope, TokenGrant
from node.services.events import principal_fields, shown

LOCKER = "locker"
LOG_GRANT = "log-grant"
PUBLIC = "public"


@dataclass(frozen=True, slots=True)
class LockerRequest:
    """A request that a locker signed; ``claims`` are what it signed, to be compared with the body."""

    scope: LockerScope
    claims: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LogGrant:
    """A locker's word that the bearer may read the rows of one resident or of one requester: exactly one of the two is set."""

    scope: LockerScope
    jti: str
    holder_ref: str | None
    client_id: str | None


@dataclass(frozen=True, slots=True)
class ControlPrincipal:
    """Who asks: at most one of the credentials."""

    document_reader: access.Principal = field(default_factory=access.Principal)
    locker: LockerRequest | None = None
    log_grant: LogGrant | None = None

    @property
    def role(self) -> str:
        """The role as the specification's ``x-roles`` names it."""
        if self.locker is not None:
            return LOCKER
        return LOG_GRANT if self.log_grant is not None else self.document_reader.role

    @property
    def token(self) -> TokenGrant:
        """The role token; only for operations that take nothing else."""
        if self.document_reader.token is None:
            raise TypeError("this operation is called without a role token")
        return self.document_reader.token

    def fields(self) -> dict[str, Any]:
        """Return the fields of an access event that say who asked."""
        if self.locker is not None:
            kind = {"kind": LOCKER, "iss": self.locker.scope.iss}
            return {"principal": kind, "ticket": shown(str(self.locker.claims.get("jti")))}
        if self.log_grant is not None:
            grant = self.log_grant
            kind = {"kind": LOG_GRANT, "iss": grant.scope.iss}
            return {
                "principal": kind, "ticket": grant.jti, "client_id": grant.client_id, "holder_ref": grant.holder_ref
            }  # fmt: skip
        return principal_fields(self.document_reader)
