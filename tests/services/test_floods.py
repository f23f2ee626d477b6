"""Under which name an attempt is counted, and the row of a count."""

from node.contract.times import SECOND
from node.services.floods import counted_as, flood_event


def test_a_credential_that_was_issued_is_counted_by_itself():
    assert counted_as({"source": "10.0.0.1", "ticket": "t-1"}) == "ticket t-1"
    assert counted_as({"source": "10.0.0.1", "principal": {"kind": "token", "id": "k-1"}}) == "token k-1"
    assert counted_as({"source": "10.0.0.1"}) == "10.0.0.1"


def test_the_row_of_a_count_is_a_refusal_that_names_source_and_minute():
    row = flood_event("10.0.0.1", 60 * SECOND, 15)
    assert (row["outcome"], row["reason"], row["status"]) == ("refused", "flood", 429)
    assert (row["source"], row["minute_us"], row["count"]) == ("10.0.0.1", 60 * SECOND, 15)
