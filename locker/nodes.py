"""The locker's own requests to nodes: small answers, under the outbound policy."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from locker.config import Settings
from locker.services.pulls import MAX_ANSWER, NodeAnswer
from node.contract.problems import UnacceptableContent
from node.web.destinations import DestinationRefused, Destinations, DestinationUnreachable
from node.web.outbound import OutboundClient, OutboundLimits

ANSWER_SECONDS = 4.0
"""A search asks twice, for the descriptor and for the document: at most eight seconds of a thread's time."""


def outbound_limits(settings: Settings) -> OutboundLimits:
    """Return the settings' times for talking with nodes."""
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
        networks = private_networks(settings)
        self._destinations = Destinations(networks)
        self._client = OutboundClient(allow_private=networks, limits=replace(outbound_limits(settings), total=total))

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
            answer = self._client.request("GET", url, headers=headers)
        else:
            headers["content-type"] = "application/json"
            content = json.dumps(body, ensure_ascii=False).encode("utf-8")
            answer = self._client.request("POST", url, headers=headers, content=content)
        return NodeAnswer(answer.status, answer.content)

    def close(self) -> None:
        """Close the connections that are kept."""
        self._client.close()


def private_networks(settings: Settings) -> list[str]:
    """Return the networks that are not public in which nodes may live."""
    return [str(network) for network in settings.allow_private]
