"""Where a locker is put together; nothing is built at import. The web application on top of it is ``application``'s."""

from collections.abc import Callable
from dataclasses import dataclass, field

from locker.config import Settings
from locker.db.session import Database
from locker.keys import LockerKeys, load_keys
from locker.nodes import NodeRequests
from locker.services.assembly import Services, assemble
from locker.services.readiness import Readiness
from node.contract.times import now_us


@dataclass(frozen=True, slots=True)
class Locker:
    """What every process of a locker stands on."""

    settings: Settings
    keys: LockerKeys
    database: Database
    nodes: NodeRequests
    services: Services
    readiness: Readiness
    clock: Callable[[], int] = field(default=now_us)

    def close(self) -> None:
        """Close database and connections."""
        self.nodes.close()
        self.database.dispose()


def build_locker(settings: Settings, *, clock: Callable[[], int] = now_us) -> Locker:
    """Build a locker from its settings; opens no connection yet. Raises KeysRefused."""
    keys = load_keys(settings.keys_path)
    database = Database(settings.resolved_database_url)
    nodes = NodeRequests(settings)
    services = assemble(
        settings, database, keys, check_address=nodes.check_address, ask=nodes.ask, clock=clock
    )  # fmt: skip
    readiness = Readiness(settings, database, services.revocations, clock)
    return Locker(settings, keys, database, nodes, services, readiness, clock)
