"""Floods: twenty rows, then a count; one summary for each source and minute; bounded memory."""

from node.contract.times import MINUTE, SECOND
from node.services.floods import OTHER_SOURCES, FloodGate, counted_as

NOW = 1_800_000_000 * SECOND - 1_800_000_000 * SECOND % MINUTE


def test_twenty_attempts_have_rows_and_the_rest_are_counted():
    gate = FloodGate()
    verdicts = [gate.admit("10.0.0.1", NOW + number) for number in range(35)]
    assert [verdict.flooded for verdict in verdicts] == [False] * 20 + [True] * 15
    problem = verdicts[-1].problem()
    assert problem.status == 429 and 0 < int(problem.headers["Retry-After"]) <= 61
    assert not gate.admit("10.0.0.2", NOW).flooded
    assert gate.due_summaries(NOW + SECOND) == []
    rows = gate.due_summaries(NOW + MINUTE)
    assert [(row["source"], row["count"], row["minute_us"]) for row in rows] == [("10.0.0.1", 15, NOW)]
    assert gate.due_summaries(NOW + MINUTE) == []


def test_a_new_minute_starts_anew_and_keeps_the_old_ones_count():
    gate = FloodGate(rows_a_minute=2)
    for _ in range(5):
        gate.admit("a", NOW)
    assert not gate.admit("a", NOW + MINUTE).flooded
    assert [row["count"] for row in gate.due_summaries(NOW + MINUTE)] == [3]


def test_many_sources_share_one_entry_beyond_the_bound():
    gate = FloodGate(rows_a_minute=1, max_sources=3)
    for number in range(50):
        gate.admit(f"10.0.0.{number}", NOW)
    rows = gate.due_summaries(NOW + MINUTE)
    assert [(row["source"], row["count"]) for row in rows] == [(OTHER_SOURCES, 46)]
    assert len(gate._sources) == 0


def test_a_credential_that_was_issued_is_counted_by_itself():
    assert counted_as({"source": "10.0.0.1", "ticket": "t-1"}) == "ticket t-1"
    assert counted_as({"source": "10.0.0.1", "principal": {"kind": "token", "id": "k-1"}}) == "token k-1"
    assert counted_as({"source": "10.0.0.1"}) == "10.0.0.1"


def test_all_of_an_ipv6_network_is_one_caller():
    assert counted_as({"source": "2001:db8::1"}) == counted_as({"source": "2001:db8::ffff:1"}) == "2001:db8::/64"
    assert counted_as({"source": "2001:db8:0:1::1"}) != counted_as({"source": "2001:db8::1"})
    assert counted_as({"source": "unknown"}) == "unknown"
