"""The offline root: made into a file for a removable medium, used only to sign the list of the locker's keys that count no more.

The list goes out with the locker's other public addresses; nodes take it under the root that they pinned, and under nothing else.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from locker.keys import OPENING, Root, load_moments, load_root, save_root
from locker.rotation import ListedKey, Rotated, list_keys, replace_revoked
from node.contract.key_revocation import (
    REASONS,
    KeyRevocationList,
    RevokedKey,
    issue_key_list,
    key_list_digest,
    verify_key_list,
)
from node.contract.signing import REVOKED_KEYS, SigningKey, VerifyingKey
from node.contract.times import SECOND
from node.web.private_files import locked, sync_folder


class RootUnusable(Exception):
    """The root cannot be made or used so; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """What a list did here: the list, and the keys that took the place of revoked ones, to be used after a restart."""

    listed: KeyRevocationList
    replaced: tuple[Rotated, ...]


def create_root(
    folder: Path, file: Path, passphrase: bytes | None, *, iss: str, now_us: int, replace_present: bool = False
) -> VerifyingKey:
    """Make a root, its private half in ``file`` alone and its public half among the locker's keys.

    Under a new root in the place of an earlier one all that was revoked stays revoked. Raises RootUnusable when there is a root and it
    is not to be replaced, or the file is there, in the folder of keys, or could be read by others without a passphrase.
    """
    if file.resolve().is_relative_to(folder.resolve()):
        raise RootUnusable(f"{file} is among the keys that the root is to revoke; give a file on a removable medium")
    with locked(folder):
        before = load_root(folder)
        if before is not None and not replace_present:
            raise RootUnusable("there is a root already; with --replace every node has to accept the new one by hand")
        root = SigningKey.generate(REVOKED_KEYS)
        _write_root(file, root, passphrase)
        token = None
        if before is not None and before.listed is not None:
            token = _sign(root, iss, before.listed, before.listed.keys, now_us)
        save_root(folder, root.public, token)
        return root.public


def open_root(file: Path, passphrase: bytes | None) -> SigningKey:
    """Read a root's private half; raises RootUnusable."""
    try:
        content = file.read_bytes()
        if passphrase is None and file.stat().st_mode & 0o077:
            raise RootUnusable(f"{file}: others can read it, and it has no passphrase; run chmod 600 on it")
        key = serialization.load_pem_private_key(content, passphrase)
    except OSError as error:
        raise RootUnusable(f"{file}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise RootUnusable(f"{file}: this is no root, or its passphrase is another") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise RootUnusable(f"{file}: this is not an Ed25519 key")
    return SigningKey.of(REVOKED_KEYS, key)


def is_encrypted(file: Path) -> bool:
    """Tell whether a root's file asks for a passphrase; False for one that cannot be read."""
    try:
        return b"ENCRYPTED" in file.read_bytes()
    except OSError:
        return False


def revoke(
    folder: Path, root: SigningKey, kids: Sequence[str], reason: str, *, iss: str, now_us: int, unknown: bool = False
) -> Revoked:
    """Sign a list with these keys on it beside all earlier ones, publish it, and replace those that were in use.

    Raises RootUnusable for a root that is not this locker's, and for a key that is not known here unless it may be ``unknown``.
    """
    if reason not in REASONS:
        raise RootUnusable(f"a reason is one of {', '.join(REASONS)}")
    known = _require_root(folder)
    if known.key.kid != root.kid:
        raise RootUnusable("this is another root than the one that the nodes were shown")
    _require_known(list_keys(folder, now_us), kids, unknown, {*load_moments(folder), *known.revoked})
    earlier = known.listed.keys if known.listed else ()
    new = [RevokedKey(kid, now_us, reason) for kid in dict.fromkeys(kids) if kid not in known.revoked]
    return publish(folder, _sign(root, iss, known.listed, (*earlier, *new), now_us), iss=iss, now_us=now_us)


def publish(folder: Path, token: str, *, iss: str, now_us: int) -> Revoked:
    """Publish a list that the root has signed, here or elsewhere, and replace the keys in use that it names.

    A second time it only does what was left undone. Raises RootUnusable for an older list, KeyListRefused and SignatureRefused for
    one that is not this locker's.
    """
    with locked(folder):
        known = _require_root(folder)
        listed = verify_key_list(token, known.key, iss)
        if known.listed is not None and known.token is not None:
            listed.is_after(known.listed.sequence, key_list_digest(known.token), key_list_digest(token))
            if not known.revoked <= listed.kids:
                raise RootUnusable("this list leaves out keys that were revoked before")
        save_root(folder, known.key, token)
    return Revoked(listed, tuple(replace_revoked(folder, listed.kids, now_us)))


def _require_root(folder: Path) -> Root:
    known = load_root(folder)
    if known is None:
        raise RootUnusable("there is no root yet: locker root create FILE")
    return known


def _require_known(listed: Sequence[ListedKey], kids: Sequence[str], unknown: bool, earlier: set[str]) -> None:
    purposes = {row.kid: row.purpose for row in listed}
    for kid in kids:
        if purposes.get(kid) == OPENING:
            raise RootUnusable(f"{kid} signs nothing: locker keys rotate {OPENING}")
        if kid not in purposes and kid not in earlier and not unknown:
            raise RootUnusable(
                f"{kid} is no key of this locker that is known here; locker keys list names them. With --unknown it is revoked all the same"
            )


def _sign(root: SigningKey, iss: str, before: KeyRevocationList | None, keys: Sequence[RevokedKey], now_us: int) -> str:
    # A locker that was restored from an old copy must not begin at a number that the nodes have seen.
    sequence = max((before.sequence if before else 0) + 1, now_us // SECOND)
    return issue_key_list(KeyRevocationList(iss, sequence, now_us, tuple(keys)), root)


def _write_root(file: Path, root: SigningKey, passphrase: bytes | None) -> None:
    protection = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    pem = root.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise RootUnusable(f"{file} is there already") from error
    with os.fdopen(descriptor, "wb") as opened:
        others = os.fstat(opened.fileno()).st_mode & 0o077
        if not others or passphrase:
            opened.write(pem)
            opened.flush()
            os.fsync(opened.fileno())
    if others and not passphrase:
        file.unlink()
        raise RootUnusable(f"{file} is on a medium where others can read it: protect the root with a passphrase")
    sync_folder(file.parent)
