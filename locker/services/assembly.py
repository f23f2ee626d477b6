"""All services over one database and one set of keys."""

from collections.abc import Callable
from dataclasses import dataclass

from locker.config import Settings
from locker.db.session import Database
from locker.keys import LockerKeys
from locker.services.attempts import Attempts
from locker.services.consents import Consents
from locker.services.directory import Directory
from locker.services.grants import LogGrants
from locker.services.links import Links
from locker.services.pulls import AskNode, Pulls
from locker.services.records import Records
from locker.services.revocations import Revocations
from locker.services.suspensions import Suspensions
from locker.services.tickets import Tickets
from locker.services.tokens import Tokens
from node.contract.signing import CONSENT, LOG_GRANT, REVOCATION, TICKET


@dataclass(frozen=True, slots=True)
class Services:
    """What a locker can do."""

    directory: Directory
    suspensions: Suspensions
    tokens: Tokens
    links: Links
    consents: Consents
    revocations: Revocations
    attempts: Attempts
    tickets: Tickets
    pulls: Pulls
    grants: LogGrants
    records: Records


def assemble(
    settings: Settings,
    database: Database,
    keys: LockerKeys,
    *,
    check_address: Callable[[str], None],
    ask: AskNode,
    clock: Callable[[], int],
) -> Services:
    """Build the services; ``check_address`` and ``ask`` are the locker's ways to the nodes."""
    iss = settings.base_url
    revocations = Revocations(
        database, iss=iss, key=keys.signing[REVOCATION], freshness=settings.revocation_freshness_seconds,
        revoked=keys.revoked,
    )  # fmt: skip
    attempts = Attempts(database, clock)
    return Services(
        directory=Directory(database, iss=iss, check_address=check_address),
        suspensions=Suspensions(database, revocations, clock=clock),
        tokens=Tokens(
            database, iss=iss, token_endpoint=settings.token_endpoint, lifetime=settings.access_token_lifetime_seconds
        ),
        links=Links(database, keys),
        consents=Consents(
            database, revocations, iss=iss, key=keys.signing[CONSENT], max_days=settings.consent_max_days, clock=clock
        ),
        revocations=revocations,
        attempts=attempts,
        tickets=Tickets(
            database, attempts, iss=iss, key=keys.signing[TICKET], lifetime=settings.ticket_lifetime_seconds,
            clock=clock,
        ),
        pulls=Pulls(database, keys, ask, iss=iss, per_hour=settings.pulls_per_hour, clock=clock),
        grants=LogGrants(database, iss=iss, key=keys.signing[LOG_GRANT]),
        records=Records(database),
    )  # fmt: skip
