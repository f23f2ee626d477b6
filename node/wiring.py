"""Where a node is put together: the only module that knows everything. Nothing is built at import."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from node.config import Settings, load_settings
from node.contract.times import now_us
from node.db.session import Database
from node.keys import NodeKeys, load_keys
from node.storage.guard import GuardedDriver
from node.storage.registry import DriverRegistry

SPOOL_FOLDER = "spool"


@dataclass(frozen=True, slots=True)
class Node:
    """What every process of a node stands on: settings, keys, database, stores."""

    settings: Settings
    keys: NodeKeys
    database: Database
    stores: dict[str, GuardedDriver]
    clock: Callable[[], int] = now_us

    @property
    def spool_folder(self) -> Path:
        """Where bodies lie while they are received; the files have no names."""
        return self.settings.folder / SPOOL_FOLDER

    def close(self) -> None:
        """Close stores and database."""
        for store in self.stores.values():
            store.close()
        self.database.close()


def build_node(folder: Path) -> Node:
    """Read a node's folder and build what it describes; opens no connection yet.

    Raises SettingsError, KeyFault, or the registry's error for a driver or an option that is not known.
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
