"""Times as the federation writes them: microseconds since 1970 in UTC inside, RFC 3339 with an offset outside."""

import time
from datetime import UTC, date, datetime, timedelta

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def now_us() -> int:
    """Return the wall clock in microseconds since 1970, UTC."""
    return time.time_ns() // 1000


def format_time(moment_us: int) -> str:
    """Write microseconds UTC as RFC 3339 with six decimals and ``Z``, so that text order is time order."""
    return (_EPOCH + timedelta(microseconds=moment_us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> int:
    """Read an RFC 3339 time with an offset into microseconds UTC.

    Raises ValueError for anything else, a time without an offset included: guessing a zone is how tokens live hours too long.
    """
    moment = datetime.fromisoformat(text.strip())
    if moment.tzinfo is None:
        raise ValueError("a time needs an offset, such as Z or +05:30")
    return (moment - _EPOCH) // timedelta(microseconds=1)


def parse_date(text: str) -> date:
    """Read a calendar date written ``YYYY-MM-DD``; raises ValueError for anything else."""
    if len(text) != 10:
        raise ValueError("a date is written YYYY-MM-DD")
    return date.fromisoformat(text)


def start_of_day(day: date) -> int:
    """Return the first microsecond of a calendar day in UTC."""
    return (datetime(day.year, day.month, day.day, tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
