"""Where a node is put together: the only module that knows everything. Nothing is built at import."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from node.config import Settings, load_settings
from node.contract.times import now_us
from node.db.cataloguing import CatalogueStore
from node.db.control_records import ControlRecords
from node.db.lockers import LockerRecords
from node.db.offer import Offer
from node.db.outbox import OutboxRecords
from node.db.pulls import PullRecords
from node.db.session import Database
from node.keys import NodeKeys, load_keys
from node.services.access import LockerScope, NodeRules, locker_scopes
from node.services.documents import DocumentAdministration
from node.services.locker_client import LockerClient
from node.services.locker_lists import LockerLists
from node.services.locker_roots import LockerRoots
from node.services.lookups import HolderLookup
from node.services.pending_objects import PendingObjects
from node.services.pulls import PullLimits, PullService
from node.services.push import Push
from node.services.registration import Registration
from node.storage.guard import GuardedDriver
from node.storage.registry import DriverRegistry

if TYPE_CHECKING:
    # Its library is large and few commands talk to anybody.
    from node.web.outbound import OutboundClient

SPOOL_FOLDER = "spool"
PENDING_FOLDER = "pending"


@dataclass(frozen=True)
class Node:
    """What every process of a node stands on; services are made when they are first asked for."""

    settings: Settings
    keys: NodeKeys
    database: Database
    stores: Mapping[str, GuardedDriver]
    clock: Callable[[], int] = now_us

    @property
    def spool_folder(self) -> Path:
        """Where bodies lie while they are received; the files have no names."""
        return self.settings.folder / SPOOL_FOLDER

    @cached_property
    def rules(self) -> NodeRules:
        """What this node accepts at all."""
        return NodeRules(self.settings.node_id, self.settings.exposure == "gateway-only")

    @cached_property
    def limits(self) -> Mapping[str, LockerScope]:
        """What the settings let each locker give tickets for; empty when they list none."""
        return locker_scopes(self.settings.lockers)

    @cached_property
    def records(self) -> ControlRecords:
        """The database as the control plane reads it."""
        return ControlRecords(self.database)

    @cached_property
    def catalogue(self) -> CatalogueStore:
        """The catalogue as ingest and administration write it."""
        return CatalogueStore(
            self.database, hash_key=self.keys.holder_hash, waiting_key=self.keys.waiting_holders.public
        )

    @cached_property
    def pending_objects(self) -> PendingObjects:
        """Objects that are on their way into the catalogue."""
        return PendingObjects(
            self.settings.folder / PENDING_FOLDER, self.stores, self._referenced,
            reserve_bytes=self.settings.reserve_bytes,
        )  # fmt: skip

    @cached_property
    def administration(self) -> DocumentAdministration:
        """Changes to documents."""
        return DocumentAdministration(
            self.catalogue, self.stores, self.settings.default_store, self.pending_objects,
            hash_key=self.keys.holder_hash, max_document_bytes=self.settings.max_document_bytes, clock=self.clock,
        )  # fmt: skip

    @cached_property
    def holders(self) -> HolderLookup:
        """Search by person."""
        return HolderLookup(self.records, self.keys.holder_hash)

    @cached_property
    def pulls(self) -> PullService:
        """A locker's searches."""
        limits = PullLimits(self.settings.pull_tries_per_resident, self.settings.pull_tries_per_issuer)
        return PullService(
            PullRecords(self.database), hash_key=self.keys.holder_hash, opening=self.keys.waiting_holders,
            limits=limits, clock=self.clock,
        )  # fmt: skip

    @cached_property
    def lockers(self) -> LockerRecords:
        """The lockers that this node is registered with."""
        return LockerRecords(self.database)

    @cached_property
    def outbound(self) -> "OutboundClient":
        """The one client for outside addresses."""
        from node.web.outbound import OutboundClient

        return OutboundClient(allow_private=self.settings.allow_private)

    @cached_property
    def locker_client(self) -> LockerClient:
        """Requests to lockers in this node's name."""
        return LockerClient(self.outbound, node_id=self.settings.node_id, key=self.keys.client, clock=self.clock)

    @cached_property
    def locker_lists(self) -> LockerLists:
        """Keys and revocation lists of lockers."""
        return LockerLists(self.locker_client, self.lockers, clock=self.clock)

    @cached_property
    def locker_roots(self) -> LockerRoots:
        """The keys that lockers' roots have revoked."""
        return LockerRoots(self.locker_client, self.lockers)

    @cached_property
    def outbox(self) -> OutboxRecords:
        """Where announcements wait."""
        return OutboxRecords(self.database, self.keys.waiting_holders, self.clock, self.limits)

    @cached_property
    def push(self) -> Push:
        """Announces documents to lockers."""
        return Push(self.locker_client, self.outbox, clock=self.clock)

    @cached_property
    def registration(self) -> Registration:
        """Introduces this node to a locker."""
        return Registration(
            self.locker_client, self.lockers,
            introduction=self.settings,
            key=self.keys.registration, public=self.keys.public, offer=Offer(self.database), clock=self.clock,
            refused=self.outbox,
        )  # fmt: skip

    def _referenced(self, store: str, keys: Sequence[str]) -> set[str]:
        with self.catalogue.reading() as reader:
            return reader.referenced(store, keys)

    def sweep(self) -> None:
        """Remove what failed puts have left in the stores."""
        self.pending_objects.sweep()
        for store in self.stores.values():
            store.sweep()

    def close(self) -> None:
        """Close stores, database and outside connections."""
        if "outbound" in self.__dict__:
            self.outbound.close()
        for store in self.stores.values():
            store.close()
        self.database.close()


def build_node(folder: Path) -> Node:
    """Read a node's folder and build what it describes; opens no connection yet.

    Raises node.config.SettingsError, KeyFault, or the storage's SettingsError for a driver or an option that is not known.
    """
    settings = load_settings(folder)
    return Node(settings, load_keys(folder), Database(settings.resolved_database_url), build_stores(settings))


def build_stores(settings: Settings) -> dict[str, GuardedDriver]:
    """Make each named store's driver; relative paths among its options are taken from the node's folder."""
    registry = DriverRegistry.with_installed()
    return {
        name: GuardedDriver(registry.create(store.driver, store.options, settings.folder), name=name)
        for name, store in settings.stores.items()
    }
