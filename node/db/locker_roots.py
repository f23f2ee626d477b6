"""The offline roots of lockers, pinned when the node registers, and the lists of revoked keys that they have signed."""

import json
from collections.abc import Collection

from sqlalchemy import ColumnElement, Connection, select, true, update

from node.db.models import Locker
from node.services.locker_roots import LockerRoot

_COLUMNS = (
    Locker.root_key, Locker.root_offered, Locker.key_list_sequence, Locker.key_list_digest, Locker.key_list_refused,
    Locker.revoked_keys,
)  # fmt: skip


def locker_root(connection: Connection, iss: str) -> LockerRoot | None:
    """Return what is known of a locker's root; None for a locker that is not known."""
    row = connection.execute(select(*_COLUMNS).where(Locker.iss == iss)).first()
    if row is None:
        return None
    pinned, offered, sequence, digest, refused, revoked = row
    return LockerRoot(pinned, offered, sequence, digest, refused, frozenset(json.loads(revoked)))


def pin_root(connection: Connection, iss: str, root: str | None) -> None:
    """Trust a root from now on; under another one than before lists are counted anew, and what was revoked stays revoked."""
    anew = {"root_key": root, "key_list_sequence": 0, "key_list_digest": None, "key_list_refused": None}
    _change(connection, iss, Locker.root_key.is_distinct_from(root), **anew)
    _change(connection, iss, Locker.root_offered.is_not(None), root_offered=None)


def note_root(connection: Connection, iss: str, offered: str | None) -> None:
    """Note what a locker shows as its root when that is not the pinned one; None when it is."""
    _change(connection, iss, true(), root_offered=offered)


def refuse_key_list(connection: Connection, iss: str, reason: str | None) -> None:
    """Note why a list was not taken, None when there is no reason any more; what is known stays."""
    _change(connection, iss, true(), key_list_refused=reason and reason[:32])


def take_key_list(
    connection: Connection, iss: str, before: LockerRoot, *, sequence: int, digest: str, kids: Collection[str]
) -> bool:
    """Note the keys that a newer list names; False when another process has taken one, or another root is pinned, meanwhile."""
    same = (Locker.root_key == before.pinned) & (Locker.key_list_sequence == before.list_sequence)
    revoked = json.dumps(sorted(before.revoked.union(kids)))
    taken = {
        "key_list_sequence": sequence,
        "key_list_digest": digest,
        "key_list_refused": None,
        "revoked_keys": revoked,
    }
    return _change(connection, iss, same, **taken) == 1


def _change(connection: Connection, iss: str, where: ColumnElement[bool], **columns: object) -> int:
    return connection.execute(update(Locker).where(Locker.iss == iss, where).values(**columns)).rowcount
