"""The locker's own requests to nodes: small answers, under the outbound policy."""

import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from locker.config import Settings
from locker.services.pulls import MAX_ANSWER, NodeAnswer
from node.contract.problems import UnacceptableContent
from node.web.destinations import DestinationRefused, Destinations, DestinationUnreachable

if TYPE_CHECKING:
    # Its library is large, and of the commands none asks a node.
    from node.web.outbound import OutboundClient, OutboundLimits

ANSWER_SECONDS = 4.0
"""A search asks twice, for the descriptor and for the document: at most eight seconds of a thread's time."""


def outbound_limits(settings: Settings) -> "OutboundLimits":
    """Return the settings' times for talking with nodes."""
    from node.web.outbound import OutboundLimits

    return OutboundLimits(
        connect=settings.node_connect_timeout_seconds,
        first_byte=settings.node_first_byte_timeout_seconds,
        idle=settings.node_idle_timeout_seconds,
        most_bytes=MAX_ANSWER,
    )


class NodeRequests:
    """Asks nodes."""

    def __init__(self, settings: Settings, *, total: float = ANSWER_SECONDS) -> None:
        """``total`` is the seconds that one answer may take from first to last."""
        self._settings = settings
        self._total = total
        self._destinations = Destinations(private_networks(settings))
        self._client: OutboundClient | None = None
        self._making = threading.Lock()

    def check_address(self, url: str) -> None:
        """Raise UnacceptableContent for a base URL that the locker would not connect to; nothing is fetched."""
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            raise UnacceptableContent("base_url is not an address") from None
        extra = parts.username or parts.password or parts.query or parts.fragment or parts.path.strip("/")
        if parts.scheme not in ("http", "https") or not parts.hostname or extra:
            raise UnacceptableContent("base_url is written https://host or https://host:port")
        try:
            self._destinations.addresses(parts.hostname, port, encrypted=parts.scheme == "https")
        except (DestinationRefused, DestinationUnreachable):
            raise UnacceptableContent("base_url is an address that this locker does not connect to") from None

    def ask(self, node_id: str, url: str, bearer: str | None, body: Mapping[str, Any] | None) -> NodeAnswer:
        """Send a request to a node; raises NodeUnavailable or NodeFault."""
        headers = {"accept": "application/json"}
        if bearer is not None:
            headers["authorization"] = f"Bearer {bearer}"
        if body is None:
            answer = self._outbound().request("GET", url, headers=headers)
        else:
            headers["content-type"] = "application/json"
            content = json.dumps(body, ensure_ascii=False).encode("utf-8")
            answer = self._outbound().request("POST", url, headers=headers, content=content)
        return NodeAnswer(answer.status, answer.content)

    def close(self) -> None:
        """Close the connections that are kept."""
        if self._client is not None:
            self._client.close()

    def _outbound(self) -> "OutboundClient":
        """Return the one client, made when it is first needed."""
        from node.web.outbound import OutboundClient

        with self._making:
            if self._client is None:
                limits = replace(outbound_limits(self._settings), total=self._total)
                self._client = OutboundClient(allow_private=private_networks(self._settings), limits=limits)
            return self._client


def private_networks(settings: Settings) -> list[str]:
    """Return the networks that are not public in which nodes may live."""
    return [str(network) for network in settings.allow_private]
