"""Sinks fail open, each alone."""

import threading
import time
from collections.abc import Callable, Mapping

import structlog

from node.hooks.sinks import AuditSinks


class Keeping:
    def __init__(self) -> None:
        self.events: list[Mapping[str, object]] = []
        self.threads: set[str] = set()
        self.closed = 0

    def emit(self, event: Mapping[str, object]) -> None:
        self.events.append(event)
        self.threads.add(threading.current_thread().name)

    def close(self) -> None:
        self.closed += 1


class Failing(Keeping):
    def emit(self, event: Mapping[str, object]) -> None:
        super().emit(event)
        raise OSError(28, "No space left on device: /var/audit")


class Stuck:
    def __init__(self) -> None:
        self.release = threading.Event()

    def emit(self, event: Mapping[str, object]) -> None:
        self.release.wait(30)


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_every_sink_gets_every_event_in_order() -> None:
    one, two = Keeping(), Keeping()
    sinks = AuditSinks([("one", one), ("two", two)])
    events = [{"n": number} for number in range(500)]
    for event in events:
        sinks.emit(event)
    sinks.close()
    assert one.events == two.events == events
    assert one.threads == {"sink-one"}
    assert (one.closed, two.closed) == (1, 1)
    assert [(row.taken, row.failed, row.missed) for row in sinks.counts()] == [(500, 0, 0)] * 2


def test_a_failing_sink_stops_neither_the_others_nor_itself() -> None:
    good, bad = Keeping(), Failing()
    with structlog.testing.capture_logs() as logs:
        sinks = AuditSinks([("bad", bad), ("good", good)])
        for number in range(1500):
            sinks.emit({"n": number})
        sinks.close()
    assert len(good.events) == len(bad.events) == 1500
    assert [(row.taken, row.failed) for row in sinks.counts()] == [(0, 1500), (1500, 0)]
    assert [(row["plugin"], row["failed"]) for row in logs] == [("bad", 1), ("bad", 1001)]
    assert "/var/audit" not in str(logs)


def test_a_stuck_sink_costs_only_its_own_events() -> None:
    good, stuck = Keeping(), Stuck()
    sinks = AuditSinks([("stuck", stuck), ("good", good)], capacity=50)
    begun = time.monotonic()
    for number in range(200):
        sinks.emit({"n": number})
        wait_for(lambda number=number: len(good.events) > number)
    assert time.monotonic() - begun < 5
    slow = sinks.counts()[0]
    assert slow.taken == 0
    assert 149 <= slow.missed <= 150
    begun = time.monotonic()
    sinks.close(0.1)
    assert time.monotonic() - begun < 2
    stuck.release.set()


def test_a_sink_cannot_change_what_another_sees() -> None:
    class Meddling:
        def emit(self, event: Mapping[str, object]) -> None:
            event["n"] = 0  # type: ignore[index]  # that it cannot is the test

    good = Keeping()
    sinks = AuditSinks([("meddling", Meddling()), ("good", good)])
    original = {"n": 1}
    sinks.emit(original)
    sinks.close()
    assert good.events == [{"n": 1}]
    assert original == {"n": 1}
    assert sinks.counts()[0].failed == 1


def test_no_sinks_start_no_thread() -> None:
    before = threading.active_count()
    AuditSinks([]).emit({"n": 1})
    AuditSinks([("idle", Keeping())]).close()
    assert threading.active_count() == before
