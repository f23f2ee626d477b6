"""Changing the locker's keys: a new one is published, put to use after a wait, and the old one stays until it is needed no more.

Each step can be cut short anywhere: what counts is which file has which name, renamed in one step, and every step may be repeated.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from locker.keys import (
    OLD_OPENING,
    OPENING,
    REFERENCE,
    SIGNING,
    KeyMoments,
    KeysRefused,
    has_ended,
    key_file,
    load_moments,
    load_root,
    new_key,
    next_file,
    old_opening_files,
    read_key,
    read_signing,
    save_moments,
)
from node.contract.sealing import OpeningKey
from node.contract.signing import CONSENT, REVOCATION, SigningKey
from node.contract.times import DAY, HOUR, MINUTE, format_time
from node.web.private_files import locked, private_folder, remove_file, replace_file, write_private

WAIT = 5 * MINUTE
"""Microseconds between publishing a key and using it: nodes fetch keys every minute, and caches keep them for one more."""
OPENING_KEPT = 30 * DAY
"""Values that a node sealed to an old key may wait this long to be pushed."""
LONGEST_BEHIND = 25 * HOUR
"""A node reads pages that are at most so old, unless it was away."""
MOST_PUBLISHED = 90
"""A node reads a JWKS of at most 100 keys; the rest is for keys that cannot wait."""
PURPOSES = (*SIGNING, OPENING)

PUBLISHED_NEXT = "published next"
IN_USE = "in use"
OLD = "old, still published"
ENDED = "ended"
REVOKED = "revoked"
LOST = "lost"
"""Its file is not there; the identifier is ``unknown`` unless it was noted at a change."""

_REFERENCE_STAYS = (
    "holder-reference cannot be changed: documents that wait for people who have not joined are known here by its hashes alone, "
    "and their holders' values are nowhere kept, so they would never be found again"
)


class CannotRotate(Exception):
    """A key cannot be changed now; the text says why, and when or how it can be."""


@dataclass(frozen=True, slots=True)
class ListedKey:
    """A key for the operator: ``since_us`` is when it came to its state (microseconds UTC), None when that is not known."""

    purpose: str
    kid: str
    state: str
    since_us: int | None


@dataclass(frozen=True, slots=True)
class Rotated:
    """What a step did: the new key was ``published next`` and may be used from ``ready_us`` on, or is ``in use`` now."""

    purpose: str
    kid: str
    state: str
    ready_us: int


def list_keys(folder: Path, now_us: int) -> list[ListedKey]:
    """Return every key with its state; raises KeysRefused."""
    moments, root = load_moments(folder), load_root(folder)
    revoked = root.revoked if root else frozenset()
    found: dict[str, ListedKey] = {}
    for purpose in PURPOSES:
        if key_file(folder, purpose).exists():
            kid = _read(folder, purpose).kid
            row = moments.get(kid)
            state = REVOKED if kid in revoked else IN_USE
            since_us = row.in_use_us if row and row.in_use_us else _made_us(folder, purpose)
            found[kid] = ListedKey(purpose, kid, state, since_us)
        else:
            row = _lost(moments, purpose)
            found[purpose] = ListedKey(purpose, row.kid if row else "unknown", LOST, None)
        if next_file(folder, purpose).exists():
            kid = _read(folder, purpose, ".next").kid
            row = moments.get(kid)
            state = REVOKED if kid in revoked else PUBLISHED_NEXT
            found[kid] = ListedKey(purpose, kid, state, row.published_us if row else None)
    old = {read_key(path, OpeningKey.from_pem).kid for path in old_opening_files(folder)}
    for row in moments.values():
        if row.kid not in found and row.retired_us is not None and (row.jwk is not None or row.kid in old):
            ended = row.jwk is not None and has_ended(SIGNING[row.purpose], row.retired_us, now_us)
            state = REVOKED if row.kid in revoked else ENDED if ended else OLD
            found[row.kid] = ListedKey(row.purpose, row.kid, state, row.retired_us)
    return sorted(found.values(), key=lambda row: PURPOSES.index(row.purpose))


def rotate(folder: Path, purpose: str, now_us: int, *, at_once: bool = False) -> Rotated:
    """Take the next step: publish a new key, or put the published one to use once every node can know it.

    ``at_once`` does both without waiting. Raises CannotRotate when it is too early, or for a purpose that cannot be changed.
    """
    if purpose == REFERENCE:
        raise CannotRotate(_REFERENCE_STAYS)
    with locked(folder):
        if not at_once and not next_file(folder, purpose).exists():
            _require_room(folder, now_us)
        published = _publish(folder, purpose, now_us)
        if at_once:
            return _put_to_use(folder, purpose, now_us)
        if published is not None:
            return published
        row = load_moments(folder)[_read(folder, purpose, ".next").kid]
        ready_us = (row.published_us or now_us) + WAIT
        if now_us < ready_us:
            raise CannotRotate(
                f"the new key {row.kid} was published {(now_us - (row.published_us or now_us)) // MINUTE} minutes ago, and not every "
                f"node need know it yet: run this again after {format_time(ready_us)}, or with --now when the old key was stolen"
            )
        return _put_to_use(folder, purpose, now_us)


def drop(folder: Path, kid: str, now_us: int, *, early: bool = False) -> ListedKey:
    """Stop publishing an old key, or give up one that was published next; opening keys are erased.

    Raises CannotRotate for a key in use, one that is not here, and, unless ``early``, one whose tokens may still have to be checked.
    """
    with locked(folder):
        listed = next((row for row in list_keys(folder, now_us) if row.kid == kid), None)
        if listed is None:
            raise CannotRotate("there is no such key here; locker keys list names them")
        if listed.state == LOST or _is_in_use(folder, listed):
            raise CannotRotate(f"this key is in use: locker keys rotate {listed.purpose}")
        if listed.state == OLD and not early:
            _require_ended(listed, now_us)
        if next_file(folder, listed.purpose).exists() and _read(folder, listed.purpose, ".next").kid == kid:
            remove_file(next_file(folder, listed.purpose))
        for path in old_opening_files(folder):
            if path.stem == kid:
                remove_file(path)
        save_moments(folder, {row.kid: row for row in load_moments(folder).values() if row.kid != kid})
        return listed


def replace_revoked(folder: Path, revoked: Iterable[str], now_us: int) -> list[Rotated]:
    """Put other keys in the place of those that the root has revoked, at once: published next ones, or new ones."""
    gone, done = set(revoked), []
    with locked(folder):
        for purpose in SIGNING:
            if key_file(folder, purpose).exists() and _read(folder, purpose).kid in gone:
                _publish(folder, purpose, now_us)
                done.append(_put_to_use(folder, purpose, now_us))
    return done


def _publish(folder: Path, purpose: str, now_us: int) -> Rotated | None:
    """Make a key to come and note the moment; None when there was one already, with its moment."""
    path, root = next_file(folder, purpose), load_root(folder)
    if path.exists() and root is not None and _read(folder, purpose, ".next").kid in root.revoked:
        remove_file(path)
    if not path.exists():
        write_private(path, new_key(SIGNING.get(purpose)))
    kid = _read(folder, purpose, ".next").kid
    moments = load_moments(folder)
    if kid in moments:
        return None
    # A key without a moment is one whose making was cut short: the wait begins now.
    moments[kid] = KeyMoments(kid, purpose, _jwk(folder, purpose, ".next"), published_us=now_us)
    save_moments(folder, moments)
    return Rotated(purpose, kid, PUBLISHED_NEXT, now_us + WAIT)


def _put_to_use(folder: Path, purpose: str, now_us: int) -> Rotated:
    """Rename the key to come to the one in use, which is the step that counts; before it the old one is kept where it goes on."""
    kid = _read(folder, purpose, ".next").kid
    before = _read(folder, purpose) if key_file(folder, purpose).exists() else None
    earlier = load_moments(folder)
    coming = earlier.get(kid) or KeyMoments(kid, purpose)
    moments = {row.kid: row for row in earlier.values() if not _is_over(row, purpose, now_us)}
    if before is not None:
        known = earlier.get(before.kid) or KeyMoments(before.kid, purpose, in_use_us=_made_us(folder, purpose))
        moments[before.kid] = replace(known, jwk=_jwk(folder, purpose), retired_us=now_us)
    elif (lost := _lost(earlier, purpose)) is not None:
        moments[lost.kid] = replace(lost, retired_us=now_us)
    moments[kid] = replace(coming, jwk=_jwk(folder, purpose, ".next"), in_use_us=now_us, retired_us=None)
    if isinstance(before, OpeningKey):
        private_folder(folder / OLD_OPENING)
        write_private(folder / OLD_OPENING / f"{before.kid}.pem", before.pem())
    save_moments(folder, moments)
    replace_file(next_file(folder, purpose), key_file(folder, purpose))
    return Rotated(purpose, kid, IN_USE, now_us)


def _require_room(folder: Path, now_us: int) -> None:
    counted = [row for row in list_keys(folder, now_us) if row.purpose != OPENING]
    published = sum(row.state in (IN_USE, PUBLISHED_NEXT, OLD) for row in counted)
    if published >= MOST_PUBLISHED:
        raise CannotRotate(
            f"{published} keys are published, and nodes read no list of more than 100: give up old ones first with locker keys drop KID"
        )


def _require_ended(listed: ListedKey, now_us: int) -> None:
    since_us = listed.since_us or now_us
    if listed.purpose == OPENING:
        ready_us, why = since_us + OPENING_KEPT, "nodes may still hold values that are sealed to it"
    elif SIGNING[listed.purpose] == CONSENT:
        raise CannotRotate(
            "consent artefacts that it signed could not be checked any more: --now drops it all the same"
        )
    elif SIGNING[listed.purpose] == REVOCATION:
        ready_us, why = since_us + LONGEST_BEHIND, "nodes still read pages that it signed"
    else:
        ready_us, why = since_us + HOUR, "what it signed may still be in use"
    if now_us < ready_us:
        raise CannotRotate(f"{why}: run this again after {format_time(ready_us)}, or with --now")


def _is_over(row: KeyMoments, purpose: str, now_us: int) -> bool:
    """Tell whether nothing has to be known of a key any more: what it signed has ended, or it was given up before its use."""
    if row.retired_us is None:
        return row.purpose == purpose
    return row.purpose in SIGNING and has_ended(SIGNING[row.purpose], row.retired_us, now_us)


def _is_in_use(folder: Path, listed: ListedKey) -> bool:
    path = key_file(folder, listed.purpose)
    return path.exists() and _read(folder, listed.purpose).kid == listed.kid


def _lost(moments: Mapping[str, KeyMoments], purpose: str) -> KeyMoments | None:
    """Return what is noted of a key in use whose file is not there."""
    in_use = (row for row in moments.values() if row.purpose == purpose and row.in_use_us and not row.retired_us)
    return next(in_use, None)


def _read(folder: Path, purpose: str, suffix: str = "") -> SigningKey | OpeningKey:
    if purpose == OPENING:
        return read_key(folder / f"{purpose}{suffix}.pem", OpeningKey.from_pem)
    return read_signing(folder, purpose, suffix)


def _jwk(folder: Path, purpose: str, suffix: str = "") -> dict[str, str] | None:
    return read_signing(folder, purpose, suffix).public.jwk() if purpose in SIGNING else None


def _made_us(folder: Path, purpose: str) -> int:
    """Return when a key was made that came with the locker: nothing else than its file says so."""
    try:
        return key_file(folder, purpose).stat().st_mtime_ns // 1000
    except OSError as error:
        raise KeysRefused(f"{key_file(folder, purpose)}: {error.strerror}") from error
