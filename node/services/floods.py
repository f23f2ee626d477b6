"""What the access log has of floods (see ``node.web.floods``): under which name an attempt is counted, and the row of a count."""

from collections.abc import Mapping
from typing import Any

from node.contract.problems import TooManyRequests
from node.services.audit import PHASE_ATTEMPT, Action, Outcome


def counted_as(event: Mapping[str, Any]) -> str:
    """Return under which name a refused attempt is counted: its own credential's, else its address's."""
    if event.get("ticket"):
        return f"ticket {event['ticket']}"
    principal = event.get("principal")
    if isinstance(principal, Mapping) and principal.get("id"):
        return f"token {principal['id']}"
    return str(event.get("source"))


def flood_event(source: str, minute_us: int, count: int) -> dict[str, Any]:
    """Return the row for the attempts of a source's minute that have none of their own."""
    return {
        "phase": PHASE_ATTEMPT, "action": Action.READ, "outcome": Outcome.REFUSED, "reason": "flood",
        "status": TooManyRequests.status, "source": source, "count": count, "minute_us": minute_us,
    }  # fmt: skip
