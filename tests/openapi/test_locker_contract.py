"""The locker answers as its contract says, whatever is asked and whoever asks."""

import pytest

from tests.openapi.contract_walk import operations, walk
from tests.openapi.joined import INCOME, LOCKER_ROLES, locker_bodies

ISSUER = "in.gov.meeseva.ap"


@pytest.mark.parametrize("name", operations("locker"))
def test_every_answer_is_one_that_the_contract_has(locker, soak, name):
    consent_id = locker.fresh_consent_id() if name in ("narrow_consent", "revoke_consent") else locker.consent_id
    known = {
        "uri": [INCOME],
        "consent_id": [consent_id],
        "Consent-Id": [consent_id],
        "node_id": ["node-ap"],
        "issuer": [ISSUER],
        "sequence": [1],
    }
    bodies = locker_bodies(locker)
    if name in bodies:
        known["body"] = [bodies[name]]
    seen = walk(
        operations("locker")[name],
        url=locker.url,
        roles=LOCKER_ROLES,
        bearer=locker.bearer,
        known=known,
        examples=soak.count(small=5, full=100),
    )
    assert min(seen) < 300, f"nothing but refusals: {seen}"
