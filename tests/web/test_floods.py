"""Floods: twenty rows, then a count; one summary for each source and minute; bounded memory."""

from node.contract.times import MINUTE, SECOND
from node.web.floods import OTHER_SOURCES, Flood, FloodGate, network_of

NOW = 1_800_000_000 * SECOND - 1_800_000_000 * SECOND % MINUTE


def test_twenty_attempts_have_rows_and_the_rest_are_counted():
    gate = FloodGate()
    verdicts = [gate.admit("10.0.0.1", NOW + number) for number in range(35)]
    assert [verdict.flooded for verdict in verdicts] == [False] * 20 + [True] * 15
    problem = verdicts[-1].problem()
    assert problem.status == 429 and 0 < int(problem.headers["Retry-After"]) <= 61
    assert not gate.admit("10.0.0.2", NOW).flooded
    assert gate.due(NOW + SECOND) == []
    assert gate.due(NOW + MINUTE) == [Flood("10.0.0.1", NOW, 15)]
    assert gate.due(NOW + MINUTE) == []


def test_a_new_minute_starts_anew_and_keeps_the_old_ones_count():
    gate = FloodGate(rows_a_minute=2)
    for _ in range(5):
        gate.admit("a", NOW)
    assert not gate.admit("a", NOW + MINUTE).flooded
    assert [flood.count for flood in gate.due(NOW + MINUTE)] == [3]


def test_many_sources_share_one_entry_beyond_the_bound():
    gate = FloodGate(rows_a_minute=1, max_sources=3)
    for number in range(50):
        gate.admit(f"10.0.0.{number}", NOW)
    assert gate.due(NOW + MINUTE) == [Flood(OTHER_SOURCES, NOW, 46)]
    assert len(gate._sources) == 0


def test_all_of_an_ipv6_network_is_one_caller():
    gate = FloodGate(rows_a_minute=1)
    assert not gate.admit("2001:db8::1", NOW).flooded
    assert gate.admit("2001:db8::ffff:1", NOW).flooded
    assert not gate.admit("2001:db8:0:1::1", NOW).flooded
    assert gate.due(NOW + MINUTE) == [Flood("2001:db8::/64", NOW, 1)]
    assert network_of("unknown") == "unknown"
