"""The node's own keys, as files that only the service can read."""

import secrets
from dataclasses import dataclass
from pathlib import Path

from node.contract.sealing import OpeningKey
from node.contract.signing import CLIENT_ASSERTION, REGISTRATION, KeySet, SigningKey
from node.web.private_files import locked, private_folder, write_private

KEY_FOLDER = "keys"
_REGISTRATION = "registration.pem"
_CLIENT = "client.pem"
_WAITING = "waiting-holders.pem"
_HOLDER_HASH = "holder-hash.key"
_LOG_TAG = "log-tag.key"


class KeyFault(Exception):
    """A key file is missing, of another kind, or open to other users; the text names the file."""


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A key for the operator: ``kid`` is None for a secret without a public half, ``since_us`` when its file was made."""

    name: str
    kid: str | None
    since_us: int


@dataclass(frozen=True, slots=True, repr=False)
class NodeKeys:
    """``docs/keys.md`` says of each: purpose, rotation, what its loss and its theft cost."""

    registration: SigningKey
    client: SigningKey
    waiting_holders: OpeningKey
    holder_hash: bytes
    log_tag: bytes

    @property
    def public(self) -> KeySet:
        """What the node publishes and an officer compares the fingerprint of."""
        return KeySet([self.registration.public, self.client.public])


def create_keys(folder: Path) -> NodeKeys:
    """Make all keys in a new folder; raises FileExistsError when there are keys already."""
    keys = NodeKeys(
        SigningKey.generate(REGISTRATION), SigningKey.generate(CLIENT_ASSERTION), OpeningKey.generate(),
        secrets.token_bytes(32), secrets.token_bytes(32),
    )  # fmt: skip
    place = folder / KEY_FOLDER
    if place.exists():
        raise FileExistsError(place)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    private_folder(place)
    files = {
        _REGISTRATION: keys.registration.pem(), _CLIENT: keys.client.pem(), _WAITING: keys.waiting_holders.pem(),
        _HOLDER_HASH: keys.holder_hash.hex().encode(), _LOG_TAG: keys.log_tag.hex().encode(),
    }  # fmt: skip
    for name, content in files.items():
        write_private(place / name, content)
    return keys


def load_keys(folder: Path) -> NodeKeys:
    """Read all keys; raises KeyFault."""
    place = folder / KEY_FOLDER
    try:
        return NodeKeys(
            SigningKey.from_pem(REGISTRATION, _read_private(place / _REGISTRATION)),
            SigningKey.from_pem(CLIENT_ASSERTION, _read_private(place / _CLIENT)),
            OpeningKey.from_pem(_read_private(place / _WAITING)),
            bytes.fromhex(_read_private(place / _HOLDER_HASH).decode("ascii")),
            bytes.fromhex(_read_private(place / _LOG_TAG).decode("ascii")),
        )
    except ValueError as error:
        raise KeyFault(f"a key file in {place} is damaged: {error}") from error


def key_files(folder: Path) -> list[KeyFile]:
    """Return what keys there are; raises KeyFault."""
    keys, place = load_keys(folder), folder / KEY_FOLDER
    kids = {
        _REGISTRATION: keys.registration.kid, _CLIENT: keys.client.kid, _WAITING: keys.waiting_holders.kid,
        _HOLDER_HASH: None, _LOG_TAG: None,
    }  # fmt: skip
    return [
        KeyFile(file.partition(".")[0], kid, (place / file).stat().st_mtime_ns // 1000) for file, kid in kids.items()
    ]


def replace_key(folder: Path, name: str) -> NodeKeys:
    """Put a new key in the place of ``registration``, ``client`` or ``waiting-holders``; the old one is gone.

    After a crash there is one or the other. Running processes hold the old one until they are started again.
    """
    made = {
        _REGISTRATION: lambda: SigningKey.generate(REGISTRATION).pem(),
        _CLIENT: lambda: SigningKey.generate(CLIENT_ASSERTION).pem(),
        _WAITING: lambda: OpeningKey.generate().pem(),
    }[f"{name}.pem"]()
    place = folder / KEY_FOLDER
    with locked(place):
        write_private(place / f"{name}.pem", made)
    return load_keys(folder)


def _read_private(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except OSError as error:
        raise KeyFault(f"{path}: {error.strerror}") from error
    if mode & 0o077:
        raise KeyFault(f"{path}: other users can read this key; set its mode to 600")
    return content
