"""What must not be in production, of a node and of a locker; ``check`` tells it and ``serve`` refuses it by the same rules."""

import ipaddress
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

DEMO_MARK = "MADE-FOR-A-DEMONSTRATION"
"""The file that ``init`` leaves in the folder of what it makes for a demonstration."""
_DEMO_TEXT = """\
The keys, tokens, people and documents of this folder were made for a demonstration. Nothing here serves with
environment = "production" while this file exists. Make a new folder with init for the real thing; delete this file
only when nothing of the demonstration is left.
"""

_WIDEST = {4: 8, 6: 7}
"""The shortest prefix that still names somebody's network (10.0.0.0/8, fc00::/7) and not the internet."""


class ServedSettings(Protocol):
    """What the rules look at in the settings of a node or a locker; networks are written as CIDR, or become so as text."""

    @property
    def environment(self) -> str:
        """``demo`` or ``production``."""

    @property
    def folder(self) -> Path:
        """Where settings, keys and data lie."""

    @property
    def base_url(self) -> str:
        """The public address."""

    @property
    def tls_certificate(self) -> Path | None:
        """The certificate that ``serve`` shows, None where it shows none."""

    @property
    def trusted_proxies(self) -> Sequence[object]:
        """Networks of the proxies in front."""

    @property
    def allow_private(self) -> Sequence[object]:
        """Private networks that may be asked."""

    def path(self, path: Path, /) -> Path:
        """Return a path as it is taken from the folder."""


def mark_as_demo(folder: Path) -> None:
    """Say of a folder that what is in it was made for a demonstration."""
    (folder / DEMO_MARK).write_text(_DEMO_TEXT, encoding="utf-8")


def require_fit(settings: ServedSettings, file: str, refused: type[Exception]) -> None:
    """Raise ``refused``, naming the settings file and each setting, for what must not be in production."""
    if faults := unfit_for_production(settings):
        raise refused("\n".join(f"{settings.folder / file}: {key}: {text}" for key, text in faults))


def unfit_for_production(settings: ServedSettings) -> list[tuple[str, str]]:
    """Return the setting and a sentence for each thing that must not be in production; none outside production."""
    return list(_faults(settings)) if settings.environment == "production" else []


def _faults(settings: ServedSettings) -> Iterator[tuple[str, str]]:
    mark = settings.folder / DEMO_MARK
    if mark.exists():
        yield "environment", f"this was made for a demonstration, as {mark} says; make a new one"
    if not settings.base_url.startswith("https://"):
        yield "base_url", f"production is reached by https only, and {settings.base_url} is not https"
    certificate = settings.tls_certificate and settings.path(settings.tls_certificate)
    if certificate is None and not settings.trusted_proxies:
        yield "tls_certificate", "production needs a certificate, or trusted_proxies naming the proxy that holds it"
    if certificate is not None and _is_self_made(certificate):
        yield "tls_certificate", f"{certificate} vouches for itself; production needs one by an authority"
    for key, networks in (("trusted_proxies", settings.trusted_proxies), ("allow_private", settings.allow_private)):
        for network in map(str, networks):
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
