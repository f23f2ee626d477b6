"""What plugins hand over, and what is known of a plugin."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


class AuditSink(Protocol):
    """Takes a copy of each access event after it is durable in the database, which stays the record.

    A sink is called by one thread, one event at a time, in the order of this process. It may be slow or fail: it then misses events
    that the database has, and neither another sink nor a reader notices. A sink that also has ``close()`` is closed at the end.
    """

    def emit(self, event: Mapping[str, object]) -> None:
        """Take one event; whatever this raises is counted against this sink and costs it this event alone."""


@dataclass(frozen=True, slots=True)
class PluginReport:
    """An installed plugin: its name, the distribution it came with, and why it is not used, or None when it is."""

    name: str
    distribution: str
    trouble: str | None = None
