"""What must not be in production, of a node and of a locker; ``check`` tells it and ``serve`` refuses it by the same rules."""

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

DEMO_MARK = "MADE-FOR-A-DEMONSTRATION"
"""The file that ``init`` leaves in the folder of what it makes for a demonstration."""
_DEMO_TEXT = """\
The keys, tokens, people and documents of this folder were made for a demonstration. Nothing here serves with
environment = "production" while this file exists. Make a new folder with init for the real thing; delete this file
only when nothing of the demonstration is left.
"""

_WIDEST = {4: 8, 6: 7}
"""The shortest prefix that still names somebody's network (10.0.0.0/8, fc00::/7) and not the internet."""


@dataclass(frozen=True, slots=True)
class Served:
    """What the rules look at; a certificate that is not set is None, networks are written as CIDR."""

    folder: Path
    base_url: str
    tls_certificate: Path | None
    trusted_proxies: Iterable[str]
    allow_private: Iterable[str]


def mark_as_demo(folder: Path) -> None:
    """Say of a folder that what is in it was made for a demonstration."""
    (folder / DEMO_MARK).write_text(_DEMO_TEXT, encoding="utf-8")


def production_faults(served: Served) -> Iterator[tuple[str, str]]:
    """Yield the setting and a sentence for each thing that must not be in production."""
    if (served.folder / DEMO_MARK).exists():
        yield "environment", f"this was made for a demonstration, as {served.folder / DEMO_MARK} says; make a new one"
    if not served.base_url.startswith("https://"):
        yield "base_url", f"production is reached by https only, and {served.base_url} is not https"
    trusted = list(served.trusted_proxies)
    if served.tls_certificate is None and not trusted:
        yield "tls_certificate", "production needs a certificate, or trusted_proxies naming the proxy that holds it"
    if served.tls_certificate is not None and _is_self_made(served.tls_certificate):
        yield "tls_certificate", f"{served.tls_certificate} vouches for itself; production needs one by an authority"
    for key, networks in (("trusted_proxies", trusted), ("allow_private", served.allow_private)):
        for network in networks:
            if _is_everything(network):
                yield key, f"{network} is no network of anybody; production lists the networks that are meant"


def _is_self_made(file: Path) -> bool:
    """Tell whether a certificate is signed by its own key; what cannot be read is not this rule's to judge."""
    # Imported here: few settings name a certificate, and every command reads settings.
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    try:
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
        certificate.verify_directly_issued_by(certificate)
    except (OSError, ValueError, TypeError, InvalidSignature):
        return False
    return True


def _is_everything(network: str) -> bool:
    parsed = ipaddress.ip_network(network)
    return parsed.prefixlen < _WIDEST[parsed.version]
