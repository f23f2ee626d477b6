"""Every route of both contracts as every role, against the table of readers, with the log row that each attempt leaves."""

import itertools
from importlib import resources

import pytest
from sqlalchemy import func, select

from locker.db.models import PullAttempt, TicketRecord
from node.contract.times import MINUTE, SECOND, now_us
from node.web.specification import load_specification, operations
from tests.architecture.readers import LOCKER_READERS, NODE_READERS, PUBLIC
from tests.http.plane import Locker
from tests.openapi.joined import (
    DOCUMENT,
    INCOME,
    ISSUER,
    LOCKER_ROLES,
    NODE_BODIES,
    NODE_ROLES,
    PULL,
    locker_bodies,
)

NODE = {row.operation_id: row for row in operations(load_specification(resources.files("openapi"), "node.yaml"))}
LOCKER = {row.operation_id: row for row in operations(load_specification(resources.files("openapi"), "locker.yaml"))}
NEW = f"{ISSUER}-INCOM-new"
LINKED_ISSUER = INCOME.partition("-")[0]
DELIVERY = {"get_document", "head_document", "put_document"}
TICKETED = {
    "resolve_documents", "get_gateway_document", "head_gateway_document", "get_own_document", "head_own_document",
    "issue_own_ticket",
}  # fmt: skip
ADDRESSES = (f"198.51.{third}.{last}" for third, last in itertools.product(range(256), range(1, 255)))


@pytest.mark.parametrize(("declared", "table"), [(NODE, NODE_READERS), (LOCKER, LOCKER_READERS)])
def test_the_contract_declares_the_table(declared, table):
    assert {(row.method, row.path): frozenset(row.roles) for row in declared.values()} == table


def request_of(operation, bodies, **names):
    """Method, address and body of a request that does what the operation is for."""
    path = operation.path
    for name, value in names.items():
        path = path.replace(f"{{{name}}}", value)
    assert "{" not in path, path
    if operation.operation_id not in bodies:
        return {"method": operation.method, "url": path}
    media_type, body = bodies[operation.operation_id]
    sent = {"json": body} if media_type == "application/json" else {"data": body}
    if isinstance(body, bytes):
        sent = {"content": body, "headers": {"content-type": media_type}}
    return {"method": operation.method, "url": path, **sent}


def strangers(node):
    """Callers without a good credential: what they send, and the reason that their log row gives."""
    early = now_us() - 20 * MINUTE
    return {
        "nobody": (None, "missing-credential"),
        "garbage": ("a.b.c", "malformed"),
        "a guess": ("x" * 43, "unknown-token"),
        "expired": (node.served.token("operator", expires_us=now_us() - 1), "token-expired"),
        "revoked": (node.revoked_token(), "token-revoked"),
        "expired ticket": (node.locker.ticket("1", issued_us=early, exp=early // SECOND + 600), "expired"),
        "other node's ticket": (node.locker.ticket("1", aud="node-2"), "other-audience"),
        "unknown locker's ticket": (Locker("https://other.example").ticket("1"), "unknown-locker"),
    }


def ask_node(node, operation, credential):
    request = request_of(operation, NODE_BODIES, uri=DOCUMENT if operation.operation_id != "put_document" else NEW)
    headers = {**request.pop("headers", {}), "x-forwarded-for": next(ADDRESSES)}
    if credential:
        headers["authorization"] = f"Bearer {credential}"
    answer = node.http.request(headers=headers, **request)
    rows = [row for row in node.events() if row["request_id"] == answer.headers["x-request-id"]]
    return answer, headers["x-forwarded-for"], rows


def expect_row(operation, rows, source, answer, outcome, reason):
    """One attempt, as it was answered; what is not audited leaves nothing."""
    if operation.audit == "none":
        assert rows == []
        return
    attempts = [row for row in rows if row["phase"] == "attempt"]
    assert len(attempts) == 1, rows
    row = attempts[0]
    assert (row["action"], row["source"]) == (operation.audit, source)
    assert (row["outcome"], row.get("reason")) == (outcome, reason)
    assert row.get("status", answer.status_code) == answer.status_code
    if "{uri}" in operation.path:
        assert row["uri"].startswith(ISSUER)


@pytest.mark.parametrize("name", NODE)
def test_the_node_lets_in_whom_the_table_names(node, name):
    operation = NODE[name]
    readers = NODE_READERS[operation.method, operation.path]
    for role in NODE_ROLES:
        answer, source, rows = ask_node(node, operation, node.bearer(role, PULL))
        if readers == PUBLIC or role in readers:
            statuses = {200, 503} if name == "get_readiness" else {200, 201}
            outcome, reason = "allowed" if name == "get_document" else "complete", None
        elif name in DELIVERY and role in ("locker", "log-grant"):
            # Signed for other purposes, so the data plane does not even ask whose they are.
            statuses, outcome, reason = {401}, "refused", "wrong-typ"
        else:
            statuses, outcome, reason = {403}, "refused", "role-not-allowed"
        assert answer.status_code in statuses, (role, answer.text)
        expect_row(operation, rows, source, answer, outcome, reason)


@pytest.mark.parametrize("name", NODE)
def test_the_node_lets_no_stranger_in(node, name):
    operation = NODE[name]
    public = NODE_READERS[operation.method, operation.path] == PUBLIC
    for kind, (credential, reason) in strangers(node).items():
        answer, source, rows = ask_node(node, operation, credential)
        if public:
            assert answer.status_code in {200, 503} and rows == [], kind
            continue
        assert answer.status_code == 401, (kind, answer.text)
        assert answer.headers["www-authenticate"].startswith("Bearer")
        expect_row(operation, rows, source, answer, "refused", reason)


def counts(locker):
    """How many tickets and searches are on record."""
    with locker.world.database.read() as session:
        return tuple(session.scalar(select(func.count()).select_from(table)) for table in (TicketRecord, PullAttempt))


def expect_attempt(locker, name, answer, source):
    """A refused attempt at what is recorded has left a row that says from where; nothing else has one."""
    rows = locker.world.attempts(request_id=answer.headers["x-request-id"])
    recorded = name in TICKETED or LOCKER[name].audit == "log.query"
    assert {(row["outcome"], row["source"]) for row in rows} == ({("refused", source)} if recorded else set())
    assert all(row["reason"] for row in rows)


def ask_locker(locker, name, credential):
    consent = locker.fresh_consent_id() if name in ("narrow_consent", "revoke_consent") else locker.consent_id
    names = {"uri": INCOME, "consent_id": consent, "node_id": "node-ap", "issuer": LINKED_ISSUER, "sequence": "1"}
    names = {key: value for key, value in names.items() if f"{{{key}}}" in LOCKER[name].path}
    request = request_of(LOCKER[name], locker_bodies(locker), **names)
    # The token endpoint takes one way to authenticate, and its form is one already.
    headers = {"x-forwarded-for": next(ADDRESSES)}
    if credential and name != "issue_token":
        headers["authorization"] = f"Bearer {credential}"
    if "gateway" in name:
        headers["consent-id"] = locker.consent_id
    before = counts(locker)
    answer = locker.http.request(headers=headers, **request)
    if answer.status_code in (401, 403):
        expect_attempt(locker, name, answer, headers["x-forwarded-for"])
    return answer, tuple(after - was for after, was in zip(counts(locker), before, strict=True))


@pytest.mark.parametrize("name", LOCKER)
def test_the_locker_lets_in_whom_the_table_names(locker, name):
    operation = LOCKER[name]
    readers = LOCKER_READERS[operation.method, operation.path]
    for role in LOCKER_ROLES:
        answer, (tickets, searches) = ask_locker(locker, name, locker.bearer(role))
        if readers == PUBLIC or role in readers:
            assert answer.status_code in {200, 201, 202}, (role, answer.text)
            assert (tickets, searches) == (int(name in TICKETED), int(name == "pull_own_document")), role
        else:
            assert (answer.status_code, tickets, searches) == (403, 0, 0), (role, answer.text)


@pytest.mark.parametrize("name", LOCKER)
def test_the_locker_lets_no_stranger_in(locker, name):
    operation = LOCKER[name]
    if LOCKER_READERS[operation.method, operation.path] == PUBLIC:
        return
    strange = (None, "a.b.c", "x" * 43, locker.expired_token(), locker.revoked_token())
    for credential in strange:
        answer, recorded = ask_locker(locker, name, credential)
        assert (answer.status_code, recorded) == (401, (0, 0)), (credential, answer.text)
        assert answer.headers["www-authenticate"].startswith("Bearer")
