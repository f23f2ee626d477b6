"""Log grants: a resident or requester may read their own rows in one node's access log, for five minutes."""

from dataclasses import dataclass

from sqlalchemy import select

from locker.db.models import Node, ResidentReference
from locker.db.session import Database
from locker.services.directory import APPROVED
from locker.services.principal import REQUESTER, RESIDENT, Principal
from node.contract.problems import Forbidden, NotFound
from node.contract.records import sign_request
from node.contract.signing import LOG_GRANT, SigningKey
from node.contract.times import SECOND

LIFETIME = 300


@dataclass(frozen=True, slots=True)
class Grant:
    """A signed log grant and the node that takes it."""

    token: str
    expires_us: int
    node_id: str
    base_url: str


class LogGrants:
    """Signs log grants."""

    def __init__(self, database: Database, *, iss: str, key: SigningKey) -> None:
        if key.typ != LOG_GRANT:
            raise ValueError("not a log grant key")
        self._database = database
        self._iss = iss
        self._key = key

    def issue(self, principal: Principal, node_id: str, now_us: int) -> Grant:
        """Sign a grant for the caller's own rows; raises NotFound when the node does not know the caller."""
        with self._database.read() as session:
            node = session.get(Node, node_id)
            reference = session.scalar(
                select(ResidentReference.reference).where(
                    ResidentReference.party == node_id, ResidentReference.resident_id == principal.subject
                )
            )
        if node is None or node.state != APPROVED:
            raise NotFound("no such node is in the directory")
        claims = {"iss": self._iss, **_scope(principal, reference)}
        token = sign_request(claims, self._key, audience=node_id, now_us=now_us, lifetime=LIFETIME)
        return Grant(token, (now_us // SECOND + LIFETIME) * SECOND, node_id, node.base_url)


def _scope(principal: Principal, reference: str | None) -> dict[str, str]:
    if principal.role == REQUESTER:
        return {"scope": "client", "client_id": principal.subject}
    if principal.role != RESIDENT:
        raise Forbidden("only residents and requesters have own rows")
    if reference is None:
        raise NotFound("this node has no documents of yours")
    return {"scope": "holder", "holder_ref": reference}
