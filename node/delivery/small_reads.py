"""Reading small documents while their log rows are being made durable, several in one go."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from node.contract.problems import ServiceUnavailable, StoreFault
from node.services.ports import Placement
from node.storage.guard import GuardedDriver
from node.storage.interface import CHUNK

log = structlog.get_logger()

SMALL = CHUNK
"""The most bytes that are read in one piece."""
TOGETHER = 32
"""How many objects of a local store one thread reads in one go: a hop between threads costs more than such a read."""


@dataclass(frozen=True, slots=True)
class SmallRead:
    """A document of at most 256 KiB that is wanted whole; ``content`` becomes its checked bytes or the store's fault."""

    placement: Placement
    content: "Future[bytes]" = field(default_factory=Future)


class SmallReads:
    """Reads small documents in a pool of threads.

    The admission thread asks for them before it commits: while the disk writes the log, the bytes are fetched. They wait in memory
    and go nowhere before the commit has returned; when it fails they are dropped.
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
            store = self._stores.get(name)
            if store is None:
                log.error("store_not_configured", store=name)
                _fail(wanted, StoreFault(reason="store-not-configured"))
                continue
            size = TOGETHER if store.capabilities.local else 1
            for start in range(0, len(wanted), size):
                self._submit(store, wanted[start : start + size])

    def _submit(self, store: GuardedDriver, reads: Sequence[SmallRead]) -> None:
        try:
            self._pool.submit(_read_all, store, reads)
        except RuntimeError:  # the pool has been shut down: the process ends
            _fail(reads, ServiceUnavailable(reason="stopping"))


def _read_all(store: GuardedDriver, reads: Sequence[SmallRead]) -> None:
    for read in reads:
        place = read.placement
        try:
            content = store.read_whole(place.object_key, place.size, place.sha256)
        except BaseException as error:
            _fail([read], error)
        else:
            with suppress(Exception):  # whoever asked may have gone
                read.content.set_result(content)


def _fail(reads: Sequence[SmallRead], error: BaseException) -> None:
    for read in reads:
        with suppress(Exception):
            read.content.set_exception(error)
