"""The random names under which a party knows a resident: one for each pair, so that two parties cannot join their records."""

import secrets

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from locker.db.models import ResidentReference


def reference_for(session: Session, party: str, resident_id: str) -> str:
    """Return the name under which a node or requester knows a resident, made at the first need."""
    query = select(ResidentReference.reference).where(
        ResidentReference.party == party, ResidentReference.resident_id == resident_id
    )
    found = session.scalar(query)
    if found is not None:
        return found
    reference = secrets.token_urlsafe(18)
    try:
        with session.begin_nested():
            session.add(ResidentReference(party=party, resident_id=resident_id, reference=reference))
    except IntegrityError:  # another transaction made it at the same moment
        return str(session.scalars(query).one())
    return reference
