"""Who the client is, when trusted proxies stand in front."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal

from starlette.types import ASGIApp, Receive, Scope, Send

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::[0-9]{1,5})?")
_FORWARDED_PAIR = re.compile(r'([A-Za-z]+)=("(?:[^"\\]|\\.)*"|[^;,"\s]*)')
_MOST_HOPS = 32


class TrustedProxies:
    """Take client address, scheme and host from forwarded headers, when the peer is in a configured network.

    The client is the rightmost address that is not itself a trusted proxy: whatever stands left of it may be made up.
    From anyone else the headers are ignored. Only the one kind of header that the proxies are known to set is read,
    since a proxy passes on the other kind as its client sent it. ``scope["state"]["from_proxy"]`` tells later layers that the
    peer was a trusted one.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        networks: Sequence[str] = (),
        header: Literal["x-forwarded", "forwarded"] = "x-forwarded",
    ) -> None:
        """Raises ValueError for a network that is no CIDR."""
        self._app = app
        self._networks = tuple(ip_network(network) for network in networks)
        self._read_hops = _forwarded if header == "forwarded" else _x_forwarded
        self._trusts = lru_cache(maxsize=4096)(self._is_trusted)

    # A coroutine, unlike the layers within: servers tell by it which ASGI the outermost application speaks.
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client")
        if self._networks and client and scope["type"] == "http" and self._trusts(client[0]):
            scope.setdefault("state", {})["from_proxy"] = True
            self._apply(scope)
        await self._app(scope, receive, send)

    def _is_trusted(self, text: str) -> bool:
        address = parse_address(text)
        return address is not None and any(address in network for network in self._networks)

    def _apply(self, scope: Scope) -> None:
        chosen = None
        for hop in reversed(self._read_hops(_values(scope))):
            if parse_address(hop.get("for", "")) is None:
                break
            chosen = hop
            if not self._trusts(hop["for"]):
                break
        if chosen is None:
            return
        scope["client"] = (str(parse_address(chosen["for"])), 0)
        if chosen.get("proto", "").lower() in ("http", "https"):
            scope["scheme"] = chosen["proto"].lower()
        if _HOST.fullmatch(chosen.get("host", "")):
            others = [pair for pair in scope["headers"] if pair[0] != b"host"]
            scope["headers"] = [(b"host", chosen["host"].encode()), *others]


def parse_address(text: str) -> Address | None:
    """Read an address as forwarded headers write it, a port allowed; IPv4 inside IPv6 becomes IPv4, anything else None."""
    bare = text.strip().strip('"')
    if bare.startswith("["):
        bare = bare[1:].partition("]")[0]
    elif bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        address = ip_address(bare)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _values(scope: Scope) -> dict[str, str]:
    """Collect the headers named *forwarded*, lines of one name joined in order (RFC 9110 section 5.3)."""
    values: dict[str, str] = {}
    for name, value in scope["headers"]:
        if b"forwarded" in name:
            key, text = name.decode("latin-1"), value.decode("latin-1")
            values[key] = f"{values[key]},{text}" if key in values else text
    return values


def _x_forwarded(values: Mapping[str, str]) -> list[dict[str, str]]:
    addresses, protocols, hosts = (
        [part.strip() for part in values.get(name, "").split(",")][-_MOST_HOPS:]
        for name in ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host")
    )
    return [
        {"for": address, "proto": _beside(index, protocols, addresses), "host": _beside(index, hosts, addresses)}
        for index, address in enumerate(addresses)
    ]


def _beside(index: int, values: list[str], addresses: list[str]) -> str:
    """Return the value of the same hop, or the nearest proxy's where not every hop wrote one."""
    return values[index] if len(values) == len(addresses) else values[-1]


def _forwarded(values: Mapping[str, str]) -> list[dict[str, str]]:
    elements = values.get("forwarded", "").split(",")[-_MOST_HOPS:]
    return [{name.lower(): text.strip('"') for name, text in _FORWARDED_PAIR.findall(element)} for element in elements]
