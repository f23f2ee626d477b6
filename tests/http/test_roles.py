"""Every operation as every kind of caller, against the roles and the log rows that the contract declares."""

import copy

import pytest

from node.contract.times import now_us
from node.http.app import create_control_app
from node.web.specification import SpecificationError, operations, split_planes
from tests.http.plane import ISSUER, pull_body, specification

DECLARED = {operation.operation_id: operation for operation in operations(split_planes(specification())[0])}
URI = f"{ISSUER}-INCOM-1"
PULL = pull_body()

REQUESTS = {
    "list_documents": {},
    "get_document_metadata": {},
    "change_document_metadata": {"json": {"title": "Changed"}},
    "get_document_status": {},
    "set_document_status": {"json": {"status": "active"}},
    "list_doc_types": {},
    "pull_document": {"json": PULL},
    "lookup_holder": {"json": {"scheme": "mobile", "value": "9876543210"}},
    "query_access_log": {},
    "get_counts": {},
    "get_node_descriptor": {},
    "get_jwks": {},
    "get_health": {},
    "get_readiness": {},
    "get_metrics": {},
    "get_specification": {},
}


def callers(control):
    """Each kind of caller: role that the contract knows, reason of a refusal for want of a good credential, credential."""
    locker = control.locker
    return {
        "nobody": (None, "missing-credential", None),
        "operator": ("operator", None, control.token("operator")),
        "auditor": ("auditor", None, control.token("auditor")),
        "monitor": ("monitor", None, control.token("monitor")),
        "ticket": ("ticket", None, locker.ticket()),
        "locker": ("locker", None, locker.pull(PULL)),
        "resident": ("log-grant", None, locker.log_grant(scope="holder", holder_ref="h-1")),
        "requester": ("log-grant", None, locker.log_grant(scope="client", client_id="university")),
        "guess": (None, "unknown-token", "x" * 43),
        "revoked": (None, "token-revoked", control.revoked_token()),
        "expired": (None, "token-expired", control.token(expires_us=now_us() - 1)),
        "garbage": (None, "malformed", "a.b.c"),
    }


def test_the_walk_leaves_no_operation_out():
    assert REQUESTS.keys() == DECLARED.keys()


@pytest.mark.parametrize("name", REQUESTS)
def test_each_caller_gets_what_the_contract_says(control, name):
    operation = DECLARED[name]
    control.add()
    path = operation.path.replace("{uri}", URI)
    for number, (kind, (role, reason, credential)) in enumerate(callers(control).items()):
        before = len(control.events())
        client = f"198.51.100.{number}"
        answer = control.ask(operation.method, path, bearer=credential, client=client, **REQUESTS[name])
        rows = control.events()[before:]
        if "public" in operation.roles or role in operation.roles:
            expected = (200, "complete", None)
        elif role is None:
            expected = (401, "refused", reason)
        else:
            expected = (403, "refused", "role-not-allowed")
        assert answer.status_code == expected[0], (kind, answer.text)
        if operation.audit == "none":
            assert rows == [], kind
            continue
        [row] = rows
        assert (row["status"], row["outcome"], row.get("reason")) == expected, kind
        assert (row["action"], row["phase"], row["source"]) == (operation.audit, "attempt", client)
        assert row["request_id"] == answer.headers["x-request-id"]
        assert ("principal" in row) == (role is not None), kind
        if role is not None:
            principal = row["principal"]
            assert role in (principal.get("role"), principal["kind"])
        if "{uri}" in operation.path:
            assert row["uri"] == URI


def test_a_token_that_is_revoked_ends_at_once(control):
    from node.db.tokens import list_tokens, revoke_token

    token = control.token()
    assert control.ask("GET", "/v1/counts", bearer=token).status_code == 200
    with control.database.writing() as connection:
        revoke_token(connection, list_tokens(connection)[-1].token_id, now_us())
    assert control.ask("GET", "/v1/counts", bearer=token).status_code == 401


def test_head_is_asked_as_get_is(control):
    uri = control.add()
    control.build(validate_responses=False)
    assert control.ask("HEAD", f"/v1/documents/{uri}/metadata").status_code == 401
    assert control.ask("HEAD", f"/v1/documents/{uri}/metadata", bearer=control.token()).status_code == 200
    assert [row["outcome"] for row in control.events()] == ["refused", "complete"]


def test_a_gateway_only_node_tells_a_requester_nothing(control):
    from node.services.access import NodeRules
    from tests.http.plane import NODE_ID

    uri = control.add()
    control.build(rules=NodeRules(NODE_ID, gateway_only=True))
    path = f"/v1/documents/{uri}/metadata"
    assert control.ask("GET", path, bearer=control.locker.ticket()).status_code == 403
    assert control.events()[-1]["reason"] == "gateway-only"
    assert control.ask("GET", path, bearer=control.locker.ticket(act="gateway")).status_code == 200


def changed(**entries):
    contract = copy.deepcopy(specification())
    contract["paths"]["/v1/counts"]["get"].update(entries)
    return contract


def test_what_is_not_declared_does_not_start(control):
    for contract, complaint in (
        (changed(operationId="count_things"), "no handler for count_things; no operation for the handler get_counts"),
        (changed(**{"x-audit": "peek"}), "get_counts has an x-audit that is no action"),
        (changed(**{"x-audit": ""}), "no x-audit"),
        (changed(**{"x-roles": []}), "no x-roles"),
    ):
        with pytest.raises(SpecificationError, match=complaint):
            create_control_app(control.services, specification=contract)


def test_a_fault_inside_the_contract_stops_the_start(control):
    contract = copy.deepcopy(specification())
    contract["paths"]["/v1/counts"]["get"]["responses"] = {}
    with pytest.raises(Exception, match="responses"):
        create_control_app(control.services, specification=contract)
