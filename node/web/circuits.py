"""What one host may cost us: how many requests at once, and how long we go on trying one that does not answer."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from node.contract.problems import NodeUnavailable
from node.contract.times import SECOND


class CircuitOpen(NodeUnavailable):
    """The host has failed so often that it is left alone for a while."""


class DestinationBusy(NodeUnavailable):
    """As many requests as one host may have are under way already."""


def monotonic_us() -> int:
    """Return a clock in microseconds that never goes back."""
    return time.monotonic_ns() // 1000


@dataclass
class _Host:
    running: int = 0
    failures: int = 0
    closed_until: int = 0


class Circuits:
    """A circuit breaker and a budget for each host.

    After ``failures`` in a row nothing is sent for ``pause_us``; then one request is let through, and what becomes of it decides.
    """

    def __init__(
        self,
        *,
        failures: int = 5,
        pause_us: int = 30 * SECOND,
        at_once: int = 32,
        clock: Callable[[], int] = monotonic_us,
    ) -> None:
        self._failures = failures
        self._pause_us = pause_us
        self._at_once = at_once
        self._clock = clock
        self._hosts: dict[str, _Host] = {}
        self._lock = threading.Lock()

    @contextmanager
    def request(self, host: str, counts: type[Exception] | tuple[type[Exception], ...]) -> Iterator[None]:
        """Hold a place for one request; raises CircuitOpen or DestinationBusy. Leaving with an error of ``counts`` is a failure of
        the host, leaving without an error a success, and any other error says nothing of it."""
        self._enter(host)
        try:
            yield
        except counts:
            self._leave(host, failed=True)
            raise
        except BaseException:
            self._leave(host, failed=None)
            raise
        self._leave(host, failed=False)

    def _enter(self, host: str) -> None:
        with self._lock:
            state = self._hosts.setdefault(host, _Host())
            if state.failures >= self._failures:
                now = self._clock()
                if now < state.closed_until:
                    raise CircuitOpen(headers={"Retry-After": str((state.closed_until - now) // SECOND + 1)})
                state.closed_until = now + self._pause_us  # the others wait for this one's fate
            if state.running >= self._at_once:
                raise DestinationBusy(headers={"Retry-After": "1"})
            state.running += 1

    def _leave(self, host: str, *, failed: bool | None) -> None:
        with self._lock:
            state = self._hosts[host]
            state.running -= 1
            if failed:
                state.failures += 1
                state.closed_until = self._clock() + self._pause_us
            elif failed is False:
                state.failures = 0
            if not state.running and not state.failures:
                del self._hosts[host]
