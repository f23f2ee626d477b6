"""The locker's private keys: one file each, readable by the service alone, made once by ``locker init``.

``PURPOSE.pem`` is the key in use. ``PURPOSE.next.pem`` is one that is published before its first use, so that every node knows it by
then. What was in use before stays published until what it signed has ended: its public half is in ``rotation.json``, with the moments
of each change. Old opening keys lie in ``holder-opening.old/``. The file that is named decides; the moments only say when.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from node.contract.holders import Holder
from node.contract.key_revocation import MAX_KEY_LIST, KeyRevocationList, read_root
from node.contract.problems import ProblemError
from node.contract.sealing import CannotOpen, OpeningKey
from node.contract.signing import (
    CONSENT,
    LOCKER_PURPOSES,
    LOG_GRANT,
    PULL,
    REVOCATION,
    REVOKED_KEYS,
    TICKET,
    KeySet,
    SigningKey,
    VerifyingKey,
    decode_base64url,
    encode_base64url,
    verify,
)
from node.contract.times import HOUR
from node.web.private_files import locked, write_private

_Key = TypeVar("_Key")

SIGNING = {
    "ticket": TICKET,
    "consent": CONSENT,
    "revocation": REVOCATION,
    "pull": PULL,
    "log-grant": LOG_GRANT,
}
"""The purposes of signing keys, as operators and files name them, with the kind of token that each signs."""
OPENING = "holder-opening"
REFERENCE = "holder-reference"
ROTATION_FILE = "rotation.json"
ROOT_FILE = "root.json"
OLD_OPENING = "holder-opening.old"

KEPT: Mapping[str, int | None] = {TICKET: HOUR, PULL: HOUR, LOG_GRANT: HOUR, CONSENT: None, REVOCATION: None}
"""Microseconds for which a key stays published once another is in use; None: until it is dropped by hand.

No ticket lives longer than 15 minutes, no request longer than five. Artefacts and pages are read at any later time.
"""


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
class KeyMoments:
    """What happened to a key and when, in microseconds UTC; ``jwk`` is the public half, None for an opening key."""

    kid: str
    purpose: str
    jwk: Mapping[str, str] | None = None
    published_us: int | None = None
    in_use_us: int | None = None
    retired_us: int | None = None


@dataclass(frozen=True, slots=True)
class Root:
    """The public half of the offline root, and the newest list of revoked keys that it signed."""

    key: VerifyingKey
    token: str | None = None
    listed: KeyRevocationList | None = None

    @property
    def revoked(self) -> frozenset[str]:
        """The keys that count no more."""
        return self.listed.kids if self.listed else frozenset()


@dataclass(frozen=True, slots=True)
class LockerKeys:
    """All private keys and what is published beside them, loaded once."""

    signing: Mapping[str, SigningKey]
    opening: OpeningKey
    reference: ReferenceKey
    coming: tuple[VerifyingKey, ...] = ()
    retired: tuple[tuple[VerifyingKey, int], ...] = ()
    also_open: tuple[OpeningKey, ...] = ()
    coming_opening: OpeningKey | None = None
    root: Root | None = None

    @property
    def public(self) -> KeySet:
        """The public halves of the signing keys: those in use, those to come, and all old ones that are kept."""
        keys = [*(key.public for key in self.signing.values()), *self.coming, *(key for key, _ in self.retired)]
        return KeySet(key for key in keys if key.kid not in self.revoked)

    def published(self, now_us: int) -> KeySet:
        """Return what is published at a moment: as ``public``, without old keys whose tokens have all ended."""
        ended = {key.kid for key, since_us in self.retired if has_ended(key.typ, since_us, now_us)}
        return KeySet(key for key in self.public if key.kid not in ended)

    @property
    def revoked(self) -> frozenset[str]:
        """The keys that the root has revoked."""
        return self.root.revoked if self.root else frozenset()

    @property
    def encryption_keys(self) -> list[dict[str, str]]:
        """What values are sealed to, as public JWKs; the first is the one to use."""
        coming = [self.coming_opening] if self.coming_opening else []
        return [key.public.jwk() for key in (self.opening, *coming)]

    def opening_key(self, kid: str) -> OpeningKey | None:
        """Return the key that a value was sealed to; None when it is not, or no longer, this locker's."""
        coming = (self.coming_opening,) if self.coming_opening else ()
        return next((key for key in (self.opening, *coming, *self.also_open) if key.kid == kid), None)

    def open_own(self, sealed: str, context: str) -> bytes:
        """Open what this locker sealed for itself, now or under an earlier key; raises CannotOpen."""
        for key in (self.opening, *self.also_open):
            try:
                return key.open(sealed, context)
            except CannotOpen:
                continue
        raise CannotOpen("the sealed value opens with no key of this locker")


def has_ended(typ: str, retired_us: int, now_us: int) -> bool:
    """Tell whether everything that a key signed before a moment has ended by now."""
    kept = KEPT[typ]
    return kept is not None and now_us >= retired_us + kept


def create_keys(folder: Path) -> LockerKeys:
    """Make every key that is missing and return all of them; existing files stay as they are."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(folder):
        for purpose, typ in SIGNING.items():
            _write_once(key_file(folder, purpose), partial(new_key, typ))
        _write_once(key_file(folder, OPENING), partial(new_key, None))
        _write_once(folder / f"{REFERENCE}.json", _new_reference)
    return load_keys(folder)


def load_keys(folder: Path) -> LockerKeys:
    """Read all keys; raises KeysRefused naming the file that cannot be used, or a key in use that the root has revoked."""
    signing = {typ: read_signing(folder, purpose) for purpose, typ in SIGNING.items()}
    if len({key.kid for key in signing.values()}) != len(signing):
        raise KeysRefused(f"{folder}: two purposes share one key; make each its own")
    root = load_root(folder)
    for purpose, typ in SIGNING.items():
        if root is not None and signing[typ].kid in root.revoked:
            file = key_file(folder, purpose)
            raise KeysRefused(f"{file}: the root has revoked this key: run locker keys rotate {purpose} --now")
    in_use = {key.kid for key in signing.values()}
    coming = [read_signing(folder, purpose, ".next") for purpose in SIGNING if next_file(folder, purpose).exists()]
    retired = tuple(
        (_public(row), row.retired_us)
        for row in load_moments(folder).values()
        if row.retired_us is not None and row.jwk is not None and row.kid not in in_use
    )
    return LockerKeys(
        signing, read_key(key_file(folder, OPENING), OpeningKey.from_pem),
        read_key(folder / f"{REFERENCE}.json", _read_reference), tuple(key.public for key in coming), retired,
        tuple(read_key(path, OpeningKey.from_pem) for path in old_opening_files(folder)),
        read_key(next_file(folder, OPENING), OpeningKey.from_pem) if next_file(folder, OPENING).exists() else None,
        root,
    )  # fmt: skip


def load_root(folder: Path) -> Root | None:
    """Read the root and its list, None before a root was made; raises KeysRefused."""
    path = folder / ROOT_FILE
    return read_key(path, _read_root) if path.exists() else None


def load_moments(folder: Path) -> dict[str, KeyMoments]:
    """Read what happened to the keys by their identifiers; empty before the first change. Raises KeysRefused."""
    path = folder / ROTATION_FILE
    return read_key(path, _read_moments) if path.exists() else {}


def save_moments(folder: Path, moments: Mapping[str, KeyMoments]) -> None:
    """Write what happened to the keys."""
    rows = [
        {
            "kid": row.kid, "purpose": row.purpose, "jwk": row.jwk, "published_us": row.published_us,
            "in_use_us": row.in_use_us, "retired_us": row.retired_us,
        }
        for row in moments.values()
    ]  # fmt: skip
    write_private(folder / ROTATION_FILE, json.dumps({"keys": rows}, indent=1).encode("ascii"))


def save_root(folder: Path, key: VerifyingKey, token: str | None) -> None:
    """Write the root's public half and its list, both at once."""
    document = {"root": key.jwk(), "revoked_keys": token}
    write_private(folder / ROOT_FILE, json.dumps(document, indent=1).encode("ascii"))


def key_file(folder: Path, purpose: str) -> Path:
    """Return where the key in use for a purpose lies."""
    return folder / f"{purpose}.pem"


def next_file(folder: Path, purpose: str) -> Path:
    """Return where the key that is to come into use lies."""
    return folder / f"{purpose}.next.pem"


def old_opening_files(folder: Path) -> list[Path]:
    """Return the files of opening keys that are not in use any more."""
    return sorted((folder / OLD_OPENING).glob("*.pem"))


def new_key(typ: str | None) -> bytes:
    """Make a key for one kind of token, or an opening key for None, and return its PEM."""
    return OpeningKey.generate().pem() if typ is None else SigningKey.generate(typ).pem()


def read_signing(folder: Path, purpose: str, suffix: str = "") -> SigningKey:
    """Read a signing key, ``suffix`` ``.next`` for the one to come; raises KeysRefused."""
    return read_key(folder / f"{purpose}{suffix}.pem", partial(SigningKey.from_pem, SIGNING[purpose]))


def read_key(path: Path, read: Callable[[bytes], _Key]) -> _Key:
    """Read a file that nobody else may read; raises KeysRefused."""
    try:
        if path.stat().st_mode & 0o077:
            raise KeysRefused(f"{path}: others can read it; run chmod 600 on it")
        return read(path.read_bytes())
    except FileNotFoundError:
        another = (
            f", or make another key: locker keys rotate {path.stem} --now" if path.stem in (*SIGNING, OPENING) else ""
        )
        raise KeysRefused(f"{path} is not there: put it back from a copy{another}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise KeysRefused(f"{path}: {type(error).__name__}: {error}") from error


def _new_reference() -> bytes:
    return json.dumps({"version": 1, "key": encode_base64url(os.urandom(32))}).encode("ascii")


def _read_reference(data: bytes) -> ReferenceKey:
    document = json.loads(data)
    secret = decode_base64url(document["key"])
    if len(secret) < 32:
        raise ValueError("the key is shorter than 256 bits")
    return ReferenceKey(int(document["version"]), secret)


def _read_root(data: bytes) -> Root:
    document = json.loads(data)
    key, token = read_root(document["root"]), document["revoked_keys"]
    if token is None:
        return Root(key)
    try:
        claims = verify(token, REVOKED_KEYS, KeySet([key]), max_size=MAX_KEY_LIST)
        return Root(key, token, KeyRevocationList.from_claims(claims))
    except ProblemError as error:
        raise ValueError("the list of revoked keys is not signed by this root") from error


def _read_moments(data: bytes) -> dict[str, KeyMoments]:
    rows = [KeyMoments(**row) for row in json.loads(data)["keys"]]
    for row in rows:
        if row.jwk is not None and _public(row).kid != row.kid:
            raise ValueError("a key has another identifier than its row")
    return {row.kid: row for row in rows}


def _public(row: KeyMoments) -> VerifyingKey:
    (key,) = KeySet.from_jwks({"keys": [row.jwk]})
    if key.typ not in LOCKER_PURPOSES:
        raise ValueError("a key of no purpose of a locker's")
    return key


def _write_once(path: Path, make: Callable[[], bytes]) -> None:
    """Create a file that only its owner can read, whole or not at all; an existing one is left alone."""
    if not path.exists():
        write_private(path, make())
