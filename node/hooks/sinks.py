"""Feeding audit sinks: each alone, on a thread and a bounded queue of its own, so that none can stop the service or another."""

import queue
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from types import MappingProxyType

import structlog

from node.hooks.types import AuditSink

log = structlog.get_logger()

CAPACITY = 10_000


@dataclass(frozen=True, slots=True)
class SinkCounts:
    """Events that one plugin's sink took, failed on, and missed because it was too slow."""

    name: str
    taken: int
    failed: int
    missed: int


class AuditSinks:
    """All sinks of one process. They fail open: the database's trail is the record."""

    def __init__(self, sinks: Iterable[tuple[str, AuditSink]], capacity: int = CAPACITY) -> None:
        """``capacity`` is how many events may wait for each sink."""
        self._feeds = [_Feed(name, sink, capacity) for name, sink in sinks]

    def emit(self, event: Mapping[str, object]) -> None:
        """Hand one durable event to every sink; returns at once and raises nothing."""
        if self._feeds:
            shown = MappingProxyType(dict(event))
            for feed in self._feeds:
                feed.offer(shown)

    def counts(self) -> tuple[SinkCounts, ...]:
        """Return what became of the events, a row for each sink."""
        return tuple(feed.counts() for feed in self._feeds)

    def close(self, seconds: float = 5) -> None:
        """Let the sinks finish what waits, for so many seconds together, and close them."""
        until = monotonic() + seconds
        for feed in self._feeds:
            feed.stop()
        for feed in self._feeds:
            feed.join(max(0.0, until - monotonic()))


class _Feed:
    """One sink with its queue; the thread starts with the first event, after any fork."""

    def __init__(self, name: str, sink: AuditSink, capacity: int) -> None:
        self._name = name
        self._sink = sink
        self._waiting: queue.Queue[Mapping[str, object]] = queue.Queue(capacity)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._taken = self._failed = self._missed = 0

    def offer(self, event: Mapping[str, object]) -> None:
        with self._lock:
            try:
                self._waiting.put_nowait(event)
            except queue.Full:
                self._missed += 1
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"sink-{self._name}", daemon=True)
                self._thread.start()

    def counts(self) -> SinkCounts:
        return SinkCounts(self._name, self._taken, self._failed, self._missed)

    def stop(self) -> None:
        self._stopping.set()

    def join(self, seconds: float) -> None:
        if self._thread is not None:
            self._thread.join(seconds)
        close = getattr(self._sink, "close", None)
        if close is not None and (self._thread is None or not self._thread.is_alive()):
            with suppress(Exception):
                close()

    def _run(self) -> None:
        while True:
            try:
                event = self._waiting.get(timeout=0.2)
            except queue.Empty:
                if self._stopping.is_set():
                    return
                continue
            try:
                self._sink.emit(event)
            except Exception as error:
                self._note_failure(error)
            else:
                self._taken += 1

    def _note_failure(self, error: Exception) -> None:
        """Log the first failure and every thousandth: a broken sink must not flood the log."""
        if self._failed % 1000 == 0:
            log.warning("audit_sink_failed", plugin=self._name, cause=type(error).__name__, failed=self._failed + 1)
        self._failed += 1
