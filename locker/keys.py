"""The locker's private keys: one file each, readable by the service alone, made once by ``locker init``."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from node.contract.holders import Holder
from node.contract.sealing import OpeningKey
from node.contract.signing import (
    CONSENT,
    LOCKER_PURPOSES,
    LOG_GRANT,
    PULL,
    REVOCATION,
    TICKET,
    KeySet,
    SigningKey,
    decode_base64url,
    encode_base64url,
)

_Key = TypeVar("_Key")

_SIGNING_FILES = {
    TICKET: "ticket.pem",
    CONSENT: "consent.pem",
    REVOCATION: "revocation.pem",
    PULL: "pull.pem",
    LOG_GRANT: "log-grant.pem",
}
_OPENING_FILE = "holder-opening.pem"
_REFERENCE_FILE = "holder-reference.json"


class KeysRefused(Exception):
    """A key file is missing, readable by others, or of another kind; the text names the file."""


@dataclass(frozen=True, slots=True)
class ReferenceKey:
    """The HMAC key under which holders are known here; the version stands beside every hash made with it."""

    version: int
    secret: bytes

    def reference(self, holder: Holder) -> str:
        """Return the keyed hash of a holder, in hex."""
        return holder.keyed_hash(self.secret)

    def __repr__(self) -> str:
        return f"ReferenceKey(version={self.version}, secret='***')"


@dataclass(frozen=True, slots=True)
class LockerKeys:
    """All private keys, loaded once."""

    signing: Mapping[str, SigningKey]
    opening: OpeningKey
    reference: ReferenceKey

    @property
    def public(self) -> KeySet:
        """The public halves of the signing keys."""
        return KeySet(key.public for key in self.signing.values())


def create_keys(folder: Path) -> LockerKeys:
    """Make every key that is missing and return all of them; existing files stay as they are."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for typ in LOCKER_PURPOSES:
        _write_once(folder / _SIGNING_FILES[typ], partial(_new_signing_key, typ))
    _write_once(folder / _OPENING_FILE, lambda: OpeningKey.generate().pem())
    _write_once(folder / _REFERENCE_FILE, _new_reference)
    return load_keys(folder)


def load_keys(folder: Path) -> LockerKeys:
    """Read all keys; raises KeysRefused naming the file that cannot be used."""
    signing = {typ: _load(folder / name, partial(SigningKey.from_pem, typ)) for typ, name in _SIGNING_FILES.items()}
    if len({key.kid for key in signing.values()}) != len(signing):
        raise KeysRefused(f"{folder}: two purposes share one key; make each its own")
    opening = _load(folder / _OPENING_FILE, OpeningKey.from_pem)
    return LockerKeys(signing, opening, _load(folder / _REFERENCE_FILE, _read_reference))


def _new_signing_key(typ: str) -> bytes:
    return SigningKey.generate(typ).pem()


def _new_reference() -> bytes:
    return json.dumps({"version": 1, "key": encode_base64url(os.urandom(32))}).encode("ascii")


def _read_reference(data: bytes) -> ReferenceKey:
    document = json.loads(data)
    secret = decode_base64url(document["key"])
    if len(secret) < 32:
        raise ValueError("the key is shorter than 256 bits")
    return ReferenceKey(int(document["version"]), secret)


def _write_once(path: Path, make: Callable[[], bytes]) -> None:
    """Create a file that only its owner can read, whole or not at all; an existing one is left alone."""
    if path.exists():
        return
    draft = path.with_suffix(".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(make())
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)


def _load(path: Path, read: Callable[[bytes], _Key]) -> _Key:
    try:
        if path.stat().st_mode & 0o077:
            raise KeysRefused(f"{path}: others can read it; run chmod 600 on it")
        return read(path.read_bytes())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KeysRefused(f"{path}: {type(error).__name__}: {error}") from error
