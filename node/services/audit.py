"""Access events: what is written of every attempt, in one fixed vocabulary."""

from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Any

from node.contract.canonical import canonical_json
from node.contract.identifiers import random_bytes, uuid7
from node.contract.times import format_time
from node.services.ports import EncodedEvent

VERSION = 1


class Action(StrEnum):
    """What was attempted; the specification's ``x-audit`` names one of these for each operation, or ``none``."""

    READ = "read"
    HEAD = "head"
    METADATA = "metadata"
    SEARCH = "search"
    PUT = "put"
    STATUS = "status"
    LOG_QUERY = "log.query"
    HOLDER_LOOKUP = "holder.lookup"


class Outcome(StrEnum):
    """How it went. A read that sends a body first has ``allowed``, then a second row with one of the last four."""

    ALLOWED = "allowed"
    REFUSED = "refused"
    FAILED = "failed"
    COMPLETE = "complete"
    ABORTED = "aborted"
    INTERRUPTED = "interrupted"


PHASE_ATTEMPT = "attempt"
PHASE_END = "end"


_format_time = lru_cache(maxsize=16)(format_time)  # a batch's events have one time


def encode_event(fields: Mapping[str, Any], at_us: int) -> EncodedEvent:
    """Give an event its identifier, time (microseconds UTC) and nonce and write it as RFC 8785 JSON, without None fields.

    The payload is hashed as these bytes and read back from these bytes, so no later reading can differ from what was committed.
    """
    event_id = fields.get("event_id") or uuid7()
    event = {name: value for name, value in fields.items() if value is not None}
    event.update(v=VERSION, event_id=event_id, at=_format_time(at_us))
    return EncodedEvent(event_id, canonical_json(event), random_bytes(16))
