"""The order of things around a call: first the durable row, then the answer."""

import asyncio
import json

import pytest

from node.contract.problems import LogUnavailable
from node.db.audit_log import DirectRecorder
from node.http import authorize
from node.web.problems import ResponseBroken
from tests.http.plane import ISSUER


class Watching:
    """A recorder that notes when a row is durable."""

    def __init__(self, control, timeline):
        self._recorder = DirectRecorder(control.database)
        self._timeline = timeline

    def record(self, event):
        self._recorder.record(event)
        self._timeline.append("durable")


async def no_more():
    return {"type": "http.request", "body": b""}


def scope_of(path, bearer):
    return {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": [(b"authorization", f"Bearer {bearer}".encode())], "scheme": "http", "client": ("203.0.113.7", 1),
        "server": ("x", 80), "http_version": "1.1", "asgi": {"version": "3.0"},
    }  # fmt: skip


def drive(control, path, bearer, timeline, *, leaves=False):
    """Send one request by hand, noting each message that leaves; ``leaves`` has the client go away at once."""
    asked = []

    async def receive():
        asked.append(1)
        return {"type": "http.disconnect"} if leaves or len(asked) > 1 else {"type": "http.request", "body": b""}

    async def send(message):
        timeline.append(message["type"])
        if message["type"] == "http.response.body" and message.get("body"):
            timeline.append(message["body"])

    asyncio.run(control.app(scope_of(path, bearer), receive, send))


@pytest.mark.parametrize("role", ["operator", "monitor"])
def test_the_row_is_durable_before_anything_leaves(control, role):
    uri, timeline = control.add(), []
    control.build(recorder=Watching(control, timeline))
    drive(control, f"/v1/documents/{uri}/metadata", control.token(role), timeline)
    assert timeline[:2] == ["durable", "http.response.start"]
    assert timeline.count("durable") == 1


def test_a_change_is_logged_once_and_with_it(control):
    uri, timeline = control.add(), []
    control.build(recorder=Watching(control, timeline))
    answer = control.ask("PATCH", f"/v1/documents/{uri}/metadata", bearer=control.token(), json={"title": "New"})
    assert answer.status_code == 200
    assert timeline == []
    assert len(control.events()) == 1


def test_a_client_that_has_left_has_its_row(control):
    uri, timeline = control.add(), []
    drive(control, f"/v1/documents/{uri}/metadata", control.token(), timeline, leaves=True)
    assert [row["action"] for row in control.events()] == ["metadata"]


def test_a_client_that_takes_nothing_is_left(control, monkeypatch):
    uri = control.add()
    monkeypatch.setattr(authorize, "SEND_SECONDS", 0.05)

    async def never(message):
        await asyncio.Event().wait()

    with pytest.raises(ResponseBroken):
        asyncio.run(control.app(scope_of(f"/v1/documents/{uri}/metadata", control.token()), no_more, never))
    assert [row["outcome"] for row in control.events()] == ["complete"]


def test_a_refusal_that_cannot_be_logged_is_not_told(control):
    class Full:
        def record(self, event):
            raise LogUnavailable(headers={"Retry-After": "5"})

    uri = control.add()
    control.build(recorder=Full())
    for bearer in (None, control.token("monitor"), control.token()):
        answer = control.ask("GET", f"/v1/documents/{uri}/metadata", bearer=bearer)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert ISSUER not in answer.text
    assert control.ask("GET", "/healthz").status_code == 200


def test_a_recorder_that_breaks_is_a_log_that_cannot_be_written(control):
    class Broken:
        def record(self, event):
            raise KeyError("secret")

    uri = control.add()
    control.build(recorder=Broken())
    for bearer in (None, control.token()):
        answer = control.ask("GET", f"/v1/documents/{uri}/metadata", bearer=bearer)
        assert answer.status_code == 503
        assert answer.json()["type"].endswith("/log-unavailable")


def test_answers_are_not_kept_on_the_way(control):
    uri = control.add()
    answer = control.ask("GET", f"/v1/documents/{uri}/metadata", bearer=control.token())
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_rows_name_routes_and_metrics_never_documents(control):
    from prometheus_client import CollectorRegistry, generate_latest

    from node.http.app import create_control_app
    from node.web.middleware import WebSettings, web_stack
    from tests.http.plane import specification

    registry = CollectorRegistry()
    uri = control.add()
    control.app = web_stack(
        create_control_app(control.services, specification=specification()), WebSettings(), registry
    )
    control.ask("GET", f"/v1/documents/{uri}/metadata", bearer=control.token())
    page = generate_latest(registry).decode()
    assert 'route="/v1/documents/{uri}/metadata"' in page
    assert uri not in page


def test_a_locker_whose_keys_cannot_be_read_is_our_fault(control):
    from node.db.lockers import change_locker

    uri = control.add()
    with control.database.writing() as connection:
        change_locker(connection, control.locker.iss, jwks="{}")
    answer = control.ask("GET", f"/v1/documents/{uri}/metadata", bearer=control.locker.ticket())
    assert answer.status_code == 503
    [row] = control.events()
    assert (row["outcome"], row["reason"]) == ("failed", "credentials-unavailable")
    assert "principal" not in json.dumps(row)
