"""Which drivers there are. A driver's module, and with it the SDK that it needs, loads only when a store asks for it."""

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Self

from node.storage.errors import SettingsError
from node.storage.interface import StorageDriver

GROUP = "federated_locker.drivers"

Loader = Callable[[], type[StorageDriver]]


class DriverRegistry:
    """Drivers by the name that settings use."""

    def __init__(self) -> None:
        self._loaders: dict[str, Loader] = {}
        self._broken: dict[str, str] = {}

    @classmethod
    def with_installed(cls, installed: Iterable[EntryPoint] | None = None) -> Self:
        """Return a registry of the bundled drivers and those that other distributions offer by entry point."""
        registry = cls()
        registry.register("filesystem", _from_module("drivers.filesystem", "FilesystemDriver"))
        registry.register("memory", _from_module("drivers.memory", "MemoryDriver"))
        registry.offer(entry_points(group=GROUP) if installed is None else installed)
        return registry

    def register(self, name: str, loader: Loader) -> None:
        """Add a driver; raises SettingsError when the name is taken."""
        if name in self._loaders:
            raise SettingsError(f"{name}: two drivers have this name")
        self._loaders[name] = loader

    def offer(self, installed: Iterable[EntryPoint]) -> None:
        """Add drivers of other distributions; one whose name is taken is set aside as broken, the others stay."""
        offered: dict[str, list[EntryPoint]] = {}
        for point in installed:
            offered.setdefault(point.name, []).append(point)
        for name, points in offered.items():
            if len(points) > 1 or name in self._loaders:
                self._broken[name] = "two drivers have this name: " + ", ".join(sorted(point.value for point in points))
            else:
                self._loaders[name] = points[0].load

    @property
    def names(self) -> tuple[str, ...]:
        """The names that settings can use, in order."""
        return tuple(sorted(self._loaders))

    def load(self, name: str) -> type[StorageDriver]:
        """Import a driver; raises SettingsError naming it when there is none, or when it cannot be imported."""
        loader = self._loaders.get(name)
        if loader is None:
            trouble = self._broken.get(name) or f"there is no such driver; there are: {', '.join(self.names)}"
            raise SettingsError(f"{name}: {trouble}")
        try:
            driver = loader()
        except Exception as error:
            # Whatever a foreign module raises at import, its name is what the operator needs.
            raise SettingsError(f"{name}: the driver cannot be loaded: {type(error).__name__}: {error}") from error
        if not (isinstance(driver, type) and issubclass(driver, StorageDriver)):
            raise SettingsError(f"{name}: what is installed under this name is no storage driver")
        return driver

    def create(self, name: str, options: Mapping[str, object], folder: Path) -> StorageDriver:
        """Make a store's driver, its relative paths taken from ``folder``; raises SettingsError naming driver and option."""
        driver = self.load(name)
        paths = {
            option: str(folder / str(value))
            for option, value in options.items()
            if option in driver.path_options and isinstance(value, str | Path) and str(value)
        }
        return driver.from_settings({**options, **paths})

    def broken(self) -> dict[str, str]:
        """Try every driver; return a sentence for each that cannot be used, by name. For ``check``, since it imports all."""
        found = dict(self._broken)
        for name in self.names:
            try:
                self.load(name)
            except SettingsError as error:
                found[name] = str(error).removeprefix(f"{name}: ")
        return found


def _from_module(module: str, attribute: str) -> Loader:
    def load() -> type[StorageDriver]:
        driver: type[StorageDriver] = getattr(import_module(module), attribute)
        return driver

    return load
