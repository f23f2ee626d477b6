"""The node answers as its contract says, whatever is asked and whoever asks."""

import pytest

from tests.openapi.contract_walk import operations, walk
from tests.openapi.joined import DOCUMENT, ISSUER, NODE_BODIES, NODE_ROLES

CHANGED = f"{ISSUER}-INCOM-changed"
URIS = {
    "put_document": f"{ISSUER}-INCOM-new",
    "change_document_metadata": CHANGED,
    "set_document_status": CHANGED,
}


@pytest.mark.parametrize("name", operations("node"))
def test_every_answer_is_one_that_the_contract_has(node, soak, name):
    known = {"uri": [URIS.get(name, DOCUMENT)]}
    if name in NODE_BODIES:
        known["body"] = [NODE_BODIES[name]]
    seen = walk(
        operations("node")[name],
        url=node.url,
        roles=NODE_ROLES,
        bearer=node.bearer,
        known=known,
        examples=soak.count(small=5, full=100),
    )
    assert name == "get_readiness" or min(seen) < 300, f"nothing but refusals: {seen}"
