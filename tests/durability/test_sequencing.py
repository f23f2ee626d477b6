"""The log's places when many write and several sequencers run at once, and when a row commits after a younger one."""

import pytest

from node.contract.times import now_us
from node.db import schema
from node.db.audit_log import LogFilter, append_events, read_log
from node.db.sequencer import sequence_once
from node.db.session import Database
from node.services.audit import encode_event
from tests.durability.appending import TAG_KEY, event, run_together
from tests.durability.log_checks import placed_events, require_whole_log


@pytest.fixture
def database(node_database_url):
    database = Database(node_database_url)
    yield database
    database.close()


@pytest.mark.timeout(600)
def test_many_writers_and_several_sequencers_make_no_gap_and_no_double(database, soak):
    writers, count = 16, soak.count(small=20, full=500)
    assert set(run_together(str(database.url.render_as_string(False)), writers, count, sequencers=3)) == {0}
    require_whole_log(database)
    placed = [event["read_id"] for event in placed_events(database)]
    assert sorted(placed) == sorted(f"{writer}-{number}" for writer in range(writers) for number in range(count))


def test_the_check_notices_a_lost_row(database):
    for number in range(6):
        with database.writing() as connection:
            append_events(connection, [encode_event(event(0, number), now_us())])
    assert sequence_once(database, TAG_KEY) == 6
    require_whole_log(database)
    with database.writing() as connection:
        append_events(connection, [encode_event(event(0, 6), now_us())])
    with pytest.raises(AssertionError):
        require_whole_log(database)


def test_a_row_that_commits_after_a_younger_one_is_not_passed_over(postgres_url):
    database = Database(postgres_url)
    schema.upgrade(database)
    seen: list[str] = []

    def follow() -> None:
        """Take what is new, as a reader does who pages by position."""
        while sequence_once(database, TAG_KEY):
            pass
        with database.reading() as connection:
            rows = read_log(connection, LogFilter(after=len(seen) - 1), 100)
        seen.extend(row.event["read_id"] for row in rows)

    with database.writing() as slow:
        append_events(slow, [encode_event(event(1, 0), now_us())])
        with database.writing() as fast:
            append_events(fast, [encode_event(event(2, 0), now_us())])
        follow()
        assert seen == ["2-0"]
    follow()
    assert seen == ["2-0", "1-0"]
    require_whole_log(database)
    database.close()
