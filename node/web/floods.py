"""Floods of requests without a valid credential: a row each up to a number, then one row a minute with a count.

A credential that was really issued and is refused for another reason is counted by itself and not with the strangers of its
address: nobody can hide a stolen one's attempts behind a flood of their own.

Without this, anybody could fill the log's disk; with it, the log still tells that somebody tried, from where and how often. The
state is per process and bounded: sources beyond the bound share one entry.
"""

import ipaddress
import threading
from dataclasses import dataclass

from node.contract.problems import TooManyRequests
from node.contract.times import MINUTE

ROWS_A_MINUTE = 20
MAX_SOURCES = 10_000
OTHER_SOURCES = "other sources"


@dataclass(frozen=True, slots=True)
class FloodVerdict:
    """Whether a refused attempt gets a row of its own, or is only counted and answered with 429."""

    flooded: bool
    retry_after_seconds: int = 0

    def problem(self) -> TooManyRequests:
        """Return the answer to an attempt that is only counted."""
        return TooManyRequests(reason="flood", headers={"Retry-After": str(self.retry_after_seconds)})


@dataclass(frozen=True, slots=True)
class Flood:
    """A source's minute that is over, and how many of its attempts have no row of their own."""

    source: str
    minute_us: int
    count: int


@dataclass(slots=True)
class _Source:
    window_us: int
    attempts: int = 0


class FloodGate:
    """Counts refused attempts by source and minute; may be used from several threads."""

    def __init__(self, rows_a_minute: int = ROWS_A_MINUTE, max_sources: int = MAX_SOURCES) -> None:
        self._rows = rows_a_minute
        self._max_sources = max_sources
        self._sources: dict[str, _Source] = {}
        self._due: list[Flood] = []
        self._lock = threading.Lock()

    def admit(self, source: str, now_us: int) -> FloodVerdict:
        """Count one attempt whose credential was refused; ``source`` is an address, or the name of a credential that was issued."""
        window_us = now_us - now_us % MINUTE
        with self._lock:
            entry = self._entry(network_of(source), window_us)
            entry.attempts += 1
            if entry.attempts <= self._rows:
                return FloodVerdict(flooded=False)
        return FloodVerdict(flooded=True, retry_after_seconds=1 + (window_us + MINUTE - now_us) // 1_000_000)

    def due(self, now_us: int) -> list[Flood]:
        """Return, once each, the minutes that are over and had attempts without a row."""
        window_us = now_us - now_us % MINUTE
        with self._lock:
            for source in [name for name, entry in self._sources.items() if entry.window_us < window_us]:
                self._close(source, self._sources.pop(source))
            due, self._due = self._due, []
        return due

    def _entry(self, source: str, window_us: int) -> _Source:
        if source not in self._sources and len(self._sources) >= self._max_sources:
            source = OTHER_SOURCES
        entry = self._sources.get(source)
        if entry is not None and entry.window_us < window_us:
            self._close(source, entry)
            entry = None
        if entry is None:
            entry = self._sources[source] = _Source(window_us)
        return entry

    def _close(self, source: str, entry: _Source) -> None:
        uncounted = entry.attempts - self._rows
        if uncounted > 0:
            self._due.append(Flood(source, entry.window_us, uncounted))


def network_of(source: str) -> str:
    """Return what an address is counted as: an IPv6 address stands for its /64, which one caller has all of."""
    try:
        address = ipaddress.ip_address(source)
    except ValueError:
        return source
    if address.version == 4:
        return source
    return str(ipaddress.ip_network((address, 64), strict=False))
