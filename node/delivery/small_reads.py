"""Reading small documents while their log rows are being made durable, several in one go."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field

from node.contract.problems import ProblemError, ServiceUnavailable
from node.delivery.stores import store_of
from node.services.ports import Placement
from node.storage.guard import GuardedDriver
from node.storage.interface import CHUNK

SMALL = CHUNK
"""The most bytes that are read in one piece."""
TOGETHER = 32
"""How many objects of a local store one thread reads in one go: a hop between threads costs more than such a read."""


@dataclass(frozen=True, slots=True)
class SmallRead:
    """A document of at most 256 KiB that is wanted whole; ``content`` becomes its checked bytes or the store's fault.

    Cancelling ``content`` spares the reading, unless it has begun.
    """

    placement: Placement
    content: "Future[bytes]" = field(default_factory=Future)


class SmallReads:
    """Reads small documents in a pool of threads.

    The admission thread asks for them before it commits: while the disk writes the log, the bytes are fetched. They wait in memory
    and go nowhere before the commit has returned. When it fails they are cancelled: readings that nobody waits for any more would
    else stand in a line that grows as long as the database is away.
    """

    def __init__(self, stores: Mapping[str, GuardedDriver], pool: Executor) -> None:
        self._stores = stores
        self._pool = pool

    def begin(self, reads: Sequence[SmallRead]) -> None:
        """Have documents read; returns at once."""
        by_store: dict[str, list[SmallRead]] = {}
        for read in reads:
            by_store.setdefault(read.placement.store, []).append(read)
        for name, wanted in by_store.items():
            try:
                store = store_of(self._stores, name)
            except ProblemError as error:
                _fail(wanted, error)
                continue
            size = TOGETHER if store.capabilities.local else 1
            for start in range(0, len(wanted), size):
                self._submit(store, wanted[start : start + size])

    def _submit(self, store: GuardedDriver, reads: Sequence[SmallRead]) -> None:
        def fail_when_dropped(reading: "Future[None]") -> None:
            if reading.cancelled():
                _fail(reads, ServiceUnavailable(reason="stopping"))

        try:
            self._pool.submit(_read_all, store, reads).add_done_callback(fail_when_dropped)
        except RuntimeError:  # the pool has been shut down: the process ends
            _fail(reads, ServiceUnavailable(reason="stopping"))


def _read_all(store: GuardedDriver, reads: Sequence[SmallRead]) -> None:
    for read in reads:
        if not read.content.set_running_or_notify_cancel():
            continue
        place = read.placement
        try:
            content = store.read_whole(place.object_key, place.size, place.sha256)
        except BaseException as error:
            read.content.set_exception(error)
        else:
            read.content.set_result(content)


def _fail(reads: Sequence[SmallRead], error: ProblemError) -> None:
    for read in reads:
        if read.content.set_running_or_notify_cancel():
            read.content.set_exception(error)
