"""Which outside addresses may be connected to."""

import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from node.contract.problems import NodeFault, NodeUnavailable

Address = IPv4Address | IPv6Address
Resolver = Callable[[str, int], Sequence[str]]

# Beside what the registries call not global: ranges that carry another address inside, or reach a cloud's own services.
_REFUSED = tuple(
    ip_network(text)
    for text in (
        "64:ff9b::/96",  # NAT64 (RFC 6052): carries any IPv4 address
        "64:ff9b:1::/48",  # NAT64 (RFC 8215)
        "2002::/16",  # 6to4
        "2001::/23",  # Teredo and other protocol assignments
        "192.88.99.0/24",  # 6to4 relays
        "168.63.129.16/32",  # a cloud's platform service, on a public address
        "::/96",  # IPv4-compatible, deprecated
    )
)


class DestinationRefused(NodeFault):
    """The address is one that this service does not connect to."""


class DestinationUnreachable(NodeUnavailable):
    """No connection could be made, or it broke."""


class Destinations:
    """Decides on addresses: public ones, and private ones only where the operator has listed their network."""

    def __init__(self, allow_private: Sequence[str] = (), resolver: Resolver | None = None) -> None:
        """Raises ValueError for a network that is no CIDR."""
        self._listed: tuple[IPv4Network | IPv6Network, ...] = tuple(ip_network(text) for text in allow_private)
        self._resolver = resolver or resolve

    def addresses(self, host: str, port: int, *, encrypted: bool) -> list[str]:
        """Resolve a host, once, and return the addresses to try, in order.

        Raises DestinationRefused when any of them may not be connected to: a name that stands for a public and a private address
        is an attack. Without encryption only listed networks may be connected to. Raises DestinationUnreachable for a name that
        does not resolve.
        """
        if _looks_numeric(host) and _literal(host) is None:
            raise DestinationRefused(reason="odd-host")
        literal = _literal(host)
        try:
            found = [str(literal)] if literal else list(self._resolver(host, port))
        except (OSError, UnicodeError):
            raise DestinationUnreachable(reason="no-such-host") from None
        if not found:
            raise DestinationUnreachable(reason="no-such-host")
        if not all(self._is_allowed(text, encrypted=encrypted) for text in found):
            raise DestinationRefused(reason="refused-address")
        return found

    def _is_allowed(self, text: str, *, encrypted: bool) -> bool:
        address = _literal(text)
        if address is None:
            return False
        if any(address in network for network in self._listed):
            return True
        return encrypted and is_public(address)


def is_public(address: Address) -> bool:
    """Tell whether an address is one on the public internet, and not a way to another one."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    return not any(address in network for network in _REFUSED)


def resolve(host: str, port: int) -> list[str]:
    """Ask the system for a host's addresses."""
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


def _literal(host: str) -> Address | None:
    """Read an address written in its one usual form; IPv4 inside IPv6 becomes IPv4; no zone."""
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id:
            return None
        return address.ipv4_mapped or address
    return address


def _looks_numeric(host: str) -> bool:
    """Tell whether the system might read a host as a number: 2130706433, 0x7f.1, 0177.0.0.1 are all loopback to it."""
    last = host.rstrip(".").rpartition(".")[2].lower()
    return ":" in host or "%" in host or last.isdigit() or last.startswith("0x")
