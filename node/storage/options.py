"""Reading a store's options with errors that name the option."""

from collections.abc import Mapping
from pathlib import Path

from node.storage.errors import SettingsError


class Options:
    """The options of one store; each is asked for once, and ``finish`` refuses those that nobody asked for."""

    def __init__(self, options: Mapping[str, object]) -> None:
        self._left = dict(options)
        self._known: list[str] = []

    def folder(self, name: str) -> Path:
        """Return the path of a folder that exists."""
        path = Path(self.text(name))
        if not path.is_dir():
            raise SettingsError(f"{name}: there is no such folder")
        return path

    def text(self, name: str) -> str:
        """Return a text that must be given."""
        value = self._take(name)
        if isinstance(value, Path):
            value = str(value)
        if not isinstance(value, str) or not value or "\0" in value:
            raise SettingsError(f"{name}: {'this option is missing' if value is None else 'write a text'}")
        return value

    def count(self, name: str, default: int) -> int:
        """Return a whole number of zero or more."""
        value = self._take(name)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise SettingsError(f"{name}: write a whole number of 0 or more")
        return value

    def finish(self) -> None:
        """Raise SettingsError naming the first option that this driver does not have."""
        if self._left:
            known = ", ".join(sorted(self._known)) or "none"
            raise SettingsError(f"{min(self._left)}: there is no such option; this driver's options are: {known}")

    def _take(self, name: str) -> object:
        self._known.append(name)
        return self._left.pop(name, None)
