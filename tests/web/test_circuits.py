"""Circuit breaker and budget, with the clock in the test's hand."""

import pytest

from node.web.circuits import CircuitOpen, Circuits, DestinationBusy


@pytest.fixture
def now():
    return [0]


@pytest.fixture
def circuits(now):
    return Circuits(failures=3, pause_us=10_000_000, at_once=2, clock=lambda: now[0])


def fail(circuits, times, host="a", error=OSError):
    for _ in range(times):
        with pytest.raises(error), circuits.request(host, OSError):
            raise error


def succeed(circuits, host="a"):
    with circuits.request(host, OSError):
        pass


def test_it_opens_after_failures_in_a_row_and_closes_by_a_success(circuits, now):
    fail(circuits, 2)
    succeed(circuits)
    fail(circuits, 3)
    with pytest.raises(CircuitOpen) as refused:
        succeed(circuits)
    assert refused.value.headers["Retry-After"] == "11"
    succeed(circuits, "b")
    now[0] = 10_000_001
    succeed(circuits)
    fail(circuits, 2)
    succeed(circuits)


def test_one_request_tries_for_all_and_its_failure_opens_again(circuits, now):
    fail(circuits, 3)
    now[0] = 10_000_001
    with pytest.raises(OSError), circuits.request("a", OSError):
        with pytest.raises(CircuitOpen):
            succeed(circuits)
        raise OSError
    with pytest.raises(CircuitOpen):
        succeed(circuits)


def test_errors_that_are_not_the_host_s_do_not_count(circuits):
    fail(circuits, 10, error=KeyError)
    succeed(circuits)


def test_the_budget(circuits):
    with circuits.request("a", OSError), circuits.request("a", OSError):
        with pytest.raises(DestinationBusy):
            succeed(circuits)
        succeed(circuits, "b")
    succeed(circuits)


def test_quiet_hosts_are_forgotten(circuits):
    for number in range(100):
        succeed(circuits, str(number))
    assert not circuits._hosts
