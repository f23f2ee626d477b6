"""One thread that does in batches what many requests ask for one at a time."""

import asyncio
import concurrent.futures
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import structlog

from node.contract.problems import ServiceUnavailable

log = structlog.get_logger("node.web.batches")

T = TypeVar("T")
R = TypeVar("R")

Waiter = asyncio.Future[R] | concurrent.futures.Future[R] | None


class BatchWorker(Generic[T, R]):
    """A named thread that takes everything waiting, up to a limit, and processes it with one call.

    A batch is whatever came in while the batch before was being processed, so a lone item never waits for company and a
    crowd shares one transaction. Items are processed in the order in which they were handed over. An item whose caller
    has gone away is still processed: what was asked for is in the log either way.

    ``setup`` and ``teardown`` run inside the thread, which therefore may own a database connection.
    """

    def __init__(
        self,
        name: str,
        process: Callable[[list[T]], Sequence[R | BaseException]],
        *,
        limit: int = 256,
        queue_size: int = 4096,
        setup: Callable[[], None] | None = None,
        teardown: Callable[[], None] | None = None,
    ) -> None:
        self._process = process
        self._limit = limit
        self._queue_size = queue_size
        self._setup = setup
        self._teardown = teardown
        self._waiting: deque[tuple[T, Waiter[R]]] = deque()
        self._signal: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._about_to_signal: asyncio.AbstractEventLoop | None = None
        self._about_to_look: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._accepting = False
        self._stopping = False
        self._ready: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread and wait for its ``setup``; raises what ``setup`` raised."""
        self._thread.start()
        self._ready.result()
        with self._lock:
            self._accepting = True

    def stop(self, timeout: float) -> bool:
        """Take nothing more, process what was queued, and tell whether that was done within ``timeout`` seconds."""
        with self._lock:
            self._accepting = False
            self._stopping = True
        self._wake()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    async def submit(self, item: T) -> R:
        """Have an item processed and return its result; raises what the processing raised, ServiceUnavailable when full.

        The thread is woken once for all items of one turn of the loop: woken for the first, it would fight with the loop over the
        interpreter's lock while the others come in.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._append(item, future)
        if self._about_to_signal is not loop:
            self._about_to_signal = loop
            loop.call_soon(self._signal_for_this_turn)
        return await future

    def call(self, item: T, timeout: float) -> R:
        """Do as ``submit`` from another thread; raises ServiceUnavailable when there is no result within ``timeout`` seconds."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("a batch worker cannot wait for itself")
        future: concurrent.futures.Future[R] = concurrent.futures.Future()
        self._append(item, future)
        self._wake()
        concurrent.futures.wait((future,), timeout)
        if not future.done():
            raise ServiceUnavailable(reason="batch-timeout")
        return future.result()

    def post(self, item: T) -> None:
        """Have an item processed in its turn without waiting; a failure is logged by its type's name."""
        self._append(item, None)
        self._wake()

    def post_within(self, item: T, seconds: float) -> None:
        """Have an item processed along with the next one that comes, or alone when none has come after some seconds.

        For what nobody waits for: it costs no batch of its own under load. To be called in an event loop.
        """
        self._append(item, None)
        loop = asyncio.get_running_loop()
        if self._about_to_look is not loop:
            self._about_to_look = loop
            loop.call_later(seconds, self._look)

    def waiting(self) -> int:
        """Return how many items are queued."""
        return len(self._waiting)

    def _append(self, item: T, waiter: Waiter[R]) -> None:
        with self._lock:
            if not self._accepting:
                raise ServiceUnavailable(reason="stopping")
            if len(self._waiting) >= self._queue_size:
                raise ServiceUnavailable(reason="queue-full", headers={"Retry-After": "1"})
            self._waiting.append((item, waiter))

    def _wake(self) -> None:
        """Have the thread look at what waits, after it was appended.

        One signal is enough for any number of items: the thread looks again after it has taken it. Under a load that never lets
        up it takes none, and they must not pile up.
        """
        if self._signal.empty():
            self._signal.put(None)

    def _signal_for_this_turn(self) -> None:
        self._about_to_signal = None
        self._wake()

    def _look(self) -> None:
        self._about_to_look = None
        self._wake()

    def _run(self) -> None:
        try:
            if self._setup:
                self._setup()
        except BaseException as error:
            self._ready.set_exception(error)
            return
        self._ready.set_result(None)
        try:
            while batch := self._take():
                self._complete(batch, self._outcomes([item for item, _ in batch]))
        finally:
            if self._teardown:
                self._teardown()

    def _take(self) -> list[tuple[T, Waiter[R]]]:
        """Wait for a signal and take what waits; an empty list means that the end has come."""
        while not self._waiting:
            # Nothing can be appended once this is set, so what waits then is all.
            if self._stopping and not self._waiting:
                return []
            self._signal.get()
        return [self._waiting.popleft() for _ in range(min(len(self._waiting), self._limit))]

    def _outcomes(self, items: list[T]) -> Sequence[R | BaseException]:
        try:
            outcomes = self._process(items)
        except BaseException as error:
            return [error] * len(items)
        if len(outcomes) != len(items):
            return [RuntimeError("the batch gave another number of results than it had items")] * len(items)
        return outcomes

    def _complete(self, batch: list[tuple[T, Waiter[R]]], outcomes: Sequence[R | BaseException]) -> None:
        """Hand out the results, waking each event loop once."""
        loops: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[R], R | BaseException]]] = {}
        for (_, waiter), outcome in zip(batch, outcomes, strict=True):
            if isinstance(waiter, asyncio.Future):
                loops.setdefault(waiter.get_loop(), []).append((waiter, outcome))
            elif waiter is not None:
                _resolve(waiter, outcome)
            elif isinstance(outcome, BaseException):
                log.error("posted item failed", worker=self._thread.name, error=type(outcome).__name__)
        for loop, results in loops.items():
            try:
                loop.call_soon_threadsafe(_resolve_all, results)
            except RuntimeError:
                log.warning("loop closed before its results came", worker=self._thread.name, results=len(results))


def _resolve_all(results: list[tuple[asyncio.Future[R], R | BaseException]]) -> None:
    for future, outcome in results:
        _resolve(future, outcome)


def _resolve(future: asyncio.Future[R] | concurrent.futures.Future[R], outcome: R | BaseException) -> None:
    if future.done():
        return
    if isinstance(outcome, StopIteration):  # no future can carry one
        future.set_exception(RuntimeError("the batch ended with StopIteration"))
    elif isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
