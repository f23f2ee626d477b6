"""Each layer alone, then the whole stack and its price."""

import asyncio
import time

import pytest
from prometheus_client import CollectorRegistry
from structlog.contextvars import get_contextvars
from structlog.testing import capture_logs

from node.contract.problems import BodyTooLarge, DocumentNotFound, RequestTimeout
from node.web import limits
from node.web.metrics import render_metrics
from node.web.middleware import (
    BodyLimit,
    HeaderLimit,
    Metrics,
    RequestId,
    SecurityHeaders,
    StripHeaders,
    TrustedProxies,
    UnhandledErrors,
    WebSettings,
    web_stack,
)
from node.web.problems import ResponseBroken
from tests.web.asgi import Answer, ask, body_of, scope_for


async def hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


async def read_all(scope, receive, send):
    body, more = b"", True
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(len(body)).encode()})


def raising(error, after=()):
    async def app(scope, receive, send):
        for message in after:
            await send(message)
        raise error

    return app


# ---------------------------------------------------------------- request id


@pytest.mark.parametrize("given", ["abc-1.2_3", "x" * 64])
async def test_a_sane_request_id_is_kept(given):
    scope = scope_for(headers=[("X-Request-Id", given)])
    answer = await ask(RequestId(hello), scope)
    assert answer.all("x-request-id") == [given]
    assert scope["state"]["request_id"] == given
    assert get_contextvars()["request_id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", 'a"b', "a\nb", "आ".encode().decode("latin-1")])
async def test_any_other_is_replaced(given):
    answer = await ask(RequestId(hello), scope_for(headers=[("X-Request-Id", given)]))
    assert len(answer.headers["x-request-id"]) == 36


# ---------------------------------------------------------------- security headers


async def test_security_headers_and_no_server_name():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"Server", b"secret/1.0")]})
        await send({"type": "http.response.body", "body": b""})

    answer = await ask(SecurityHeaders(app), scope_for())
    assert "server" not in answer.headers
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "strict-transport-security" not in answer.headers
    answer = await ask(SecurityHeaders(app), scope_for(scheme="https"))
    assert "max-age=" in answer.headers["strict-transport-security"]


async def test_the_application_s_own_policy_and_a_prefix_s_policy():
    async def app(scope, receive, send):
        own = [(b"content-security-policy", b"default-src 'self'")] if scope["path"] == "/own" else []
        await send({"type": "http.response.start", "status": 200, "headers": own})

    layer = SecurityHeaders(app, content_policies={"/ui": "script-src 'self'"})
    assert (await ask(layer, scope_for(path="/own"))).all("content-security-policy") == ["default-src 'self'"]
    assert (await ask(layer, scope_for(path="/ui/x"))).all("content-security-policy") == ["script-src 'self'"]


# ---------------------------------------------------------------- limits


async def test_a_body_announced_too_large_is_refused_without_reading():
    receive = body_of(b"x" * 50)
    reached = []

    async def app(*_):
        reached.append(1)

    scope = scope_for("POST", headers=[("Content-Length", "5000000000")])
    refused = asyncio.create_task(ask(BodyLimit(app, limit=10), scope, receive))
    answer = await asyncio.wait_for(refused, 5)
    assert (answer.status, answer.headers["connection"], reached) == (413, "close", [])


async def test_the_refusal_is_sent_before_the_rest_is_dropped(monkeypatch):
    monkeypatch.setattr(limits, "LINGER_SECONDS", 0.05)
    answer = Answer()

    async def never():
        assert answer.status == 413 and answer.body  # the client can read it by now
        await asyncio.Event().wait()

    scope = scope_for("POST", headers=[("Content-Length", "99")])
    await BodyLimit(hello, limit=10)(scope, never, answer.send)
    assert answer.complete


async def test_a_chunked_body_is_cut_off_at_the_limit():
    receive = body_of(*[b"x" * 10] * 100)
    scope = scope_for("POST", headers=[("Transfer-Encoding", "chunked")])
    with pytest.raises(BodyTooLarge):
        await BodyLimit(read_all, limit=25)(scope, receive, Answer().send)
    assert receive.read == 3


async def test_a_body_that_lies_about_its_length_is_cut_off_too():
    scope = scope_for("POST", headers=[("Content-Length", "5"), ("Transfer-Encoding", "chunked")])
    with pytest.raises(BodyTooLarge):
        await BodyLimit(read_all, limit=25)(scope, body_of(b"x" * 26), Answer().send)


async def test_bodies_within_the_limit_and_the_override_for_a_prefix():
    layer = BodyLimit(read_all, limit=10, overrides={"/v1/documents/": 1000})
    for path, size, status in (
        ("/", 10, 200),
        ("/", 11, 413),
        ("/v1/documents/x", 1000, 200),
        ("/v1/documents/x", 1001, 413),
    ):
        scope = scope_for("PUT", path, headers=[("Content-Length", str(size))])
        assert (await ask(layer, scope, body_of(b"x" * size))).status == status


async def test_a_stalled_body_times_out_but_waiting_for_the_client_to_leave_does_not():
    async def stalled():
        await asyncio.Event().wait()

    scope = scope_for("POST", headers=[("Content-Length", "5")])
    with pytest.raises(RequestTimeout):
        await BodyLimit(read_all, limit=10, stall_seconds=0.02)(scope, stalled, Answer().send)

    async def watcher(scope, receive, send):
        assert not (await receive())["more_body"]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(receive(), 0.1)
        await hello(scope, receive, send)

    layer = BodyLimit(watcher, limit=10, stall_seconds=0.02)
    assert (await ask(layer, scope, body_of(b"12345"))).status == 200


async def test_too_many_and_too_long_headers():
    layer = HeaderLimit(hello, total_bytes=1000, count=10)
    assert (await ask(layer, scope_for(headers=[("a", "b")] * 10))).status == 200
    assert (await ask(layer, scope_for(headers=[("a", "b")] * 11))).status == 431
    assert (await ask(layer, scope_for(headers=[("a", "b" * 1000)]))).status == 431
    assert (await ask(layer, scope_for(path="/" + "a" * 1000))).status == 431


# ---------------------------------------------------------------- errors


async def test_known_and_unknown_errors():
    answer = await ask(UnhandledErrors(raising(DocumentNotFound())), scope_for())
    assert answer.status == 404
    with capture_logs() as lines:
        answer = await ask(RequestId(UnhandledErrors(raising(KeyError("secret")))), scope_for())
    assert answer.status == 500 and b"secret" not in answer.body and "secret" not in str(lines)
    assert answer.headers["x-request-id"].encode() in answer.body


async def test_an_error_after_the_start_breaks_the_connection_and_tells_nothing():
    start = {"type": "http.response.start", "status": 200, "headers": []}
    with pytest.raises(ResponseBroken) as broken:
        await ask(UnhandledErrors(raising(KeyError("secret"), after=[start])), scope_for())
    assert broken.value.args == () and broken.value.__suppress_context__


# ---------------------------------------------------------------- proxies


def seen_by(**options):
    seen = {}

    async def app(scope, receive, send):
        seen.update(client=scope["client"][0], scheme=scope["scheme"], host=dict(scope["headers"]).get(b"host"))

    async def run(headers, peer="10.0.0.1"):
        await TrustedProxies(app, **options)(scope_for(headers=headers, client=(peer, 1)), body_of(b""), Answer().send)
        return seen

    return run


async def test_forwarded_headers_from_anyone_else_are_ignored():
    headers = [("X-Forwarded-For", "8.8.8.8"), ("X-Forwarded-Proto", "https"), ("Host", "a")]
    for networks in ((), ("192.168.0.0/16",)):
        seen = await seen_by(networks=networks)(headers)
        assert seen == {"client": "10.0.0.1", "scheme": "http", "host": b"a"}


@pytest.mark.parametrize(
    ("forwarded_for", "client"),
    [
        ("8.8.8.8", "8.8.8.8"),
        ("1.1.1.1, 8.8.8.8", "8.8.8.8"),
        ("1.1.1.1, 8.8.8.8, 10.0.0.7", "8.8.8.8"),
        ("10.0.0.9, 10.0.0.7", "10.0.0.9"),
        ("1.1.1.1, rubbish, 10.0.0.7", "10.0.0.7"),
        ("rubbish", "10.0.0.1"),
        ("", "10.0.0.1"),
        ("8.8.8.8:4711", "8.8.8.8"),
        ("[2001:db8::1]:80", "2001:db8::1"),
        ("::ffff:8.8.4.4", "8.8.4.4"),
    ],
)
async def test_the_rightmost_untrusted_address_is_the_client(forwarded_for, client):
    seen = await seen_by(networks=["10.0.0.0/8"])([("X-Forwarded-For", forwarded_for)])
    assert seen["client"] == client


async def test_several_lines_are_one_list():
    run = seen_by(networks=["10.0.0.0/8"])
    assert (await run([("X-Forwarded-For", "8.8.8.8"), ("X-Forwarded-For", "9.9.9.9")]))["client"] == "9.9.9.9"


async def test_scheme_and_host_come_along_and_rubbish_does_not():
    run = seen_by(networks=["10.0.0.0/8"])
    base = [("X-Forwarded-For", "8.8.8.8"), ("Host", "inner")]
    seen = await run([*base, ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "node.example")])
    assert (seen["scheme"], seen["host"]) == ("https", b"node.example")
    seen = await run([*base, ("X-Forwarded-Proto", "gopher"), ("X-Forwarded-Host", "a/b")])
    assert (seen["scheme"], seen["host"]) == ("http", b"inner")


async def test_the_standard_header_when_that_is_the_one_configured():
    run = seen_by(networks=["10.0.0.0/8", "::1/128"], header="forwarded")
    value = 'for=1.1.1.1, for="[2001:db8::7]:99";proto=https;host="node.example", for=10.0.0.5'
    seen = await run([("Forwarded", value), ("X-Forwarded-For", "6.6.6.6")], peer="::1")
    assert seen["client"] == "2001:db8::7"
    assert (seen["scheme"], seen["host"]) == ("https", b"node.example")
    assert (await run([("Forwarded", "for=_hidden")]))["client"] == "10.0.0.1"


async def test_edge_headers_stay_only_when_a_trusted_proxy_sent_them():
    seen = []

    async def app(scope, receive, send):
        seen.append(sorted(name for name, _ in scope["headers"]))

    layer = TrustedProxies(StripHeaders(app, names=["X-Client-Cert"], prefixes=["x-edge-"]), networks=["10.0.0.0/8"])
    headers = [("X-Client-Cert", "a"), ("x_client_cert", "b"), ("X-Edge-Who", "c"), ("Accept", "d")]
    await ask(layer, scope_for(headers=headers))
    await ask(layer, scope_for(headers=headers, client=("10.1.1.1", 1)))
    assert seen[0] == [b"accept"]
    assert len(seen[1]) == 4


def test_a_network_that_is_none_stops_the_start():
    with pytest.raises(ValueError):
        TrustedProxies(hello, networks=["proxy.example"])


# ---------------------------------------------------------------- metrics


async def test_metrics_by_route_template_and_never_by_path():
    async def app(scope, receive, send):
        if "documents" in scope["path"]:
            scope.setdefault("state", {})["route"] = "/v1/documents/{uri}"
        await hello(scope, receive, send)

    registry = CollectorRegistry()
    layer = Metrics(app, registry=registry)
    await ask(layer, scope_for(path="/v1/documents/in.gov.a-INCOM-999941057058"))
    await ask(layer, scope_for(path="/999941057058"))
    await ask(layer, scope_for(method="BREW"))
    with pytest.raises(KeyError):
        await ask(Metrics(raising(KeyError()), registry=CollectorRegistry()), scope_for())
    page = render_metrics(registry)[0].decode()
    assert 'http_requests_total{method="GET",route="/v1/documents/{uri}",status="200"} 1.0' in page
    assert 'http_requests_total{method="GET",route="other",status="200"} 1.0' in page
    assert 'method="other"' in page
    assert "http_request_seconds_count" in page
    assert "999941057058" not in page and "BREW" not in page


# ---------------------------------------------------------------- the whole


async def test_a_refusal_of_an_inner_layer_has_id_headers_and_a_count():
    registry = CollectorRegistry()
    app = web_stack(hello, WebSettings(body_limit=10), registry)
    answer = await ask(app, scope_for("POST", headers=[("Content-Length", "11")]), body_of(b"x" * 11))
    assert answer.status == 413
    assert answer.headers["x-request-id"].encode() in answer.body
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert 'status="413"' in render_metrics(registry)[0].decode()


async def test_the_stack_costs_tens_of_microseconds():
    app = web_stack(hello, WebSettings(trusted_proxies=("10.0.0.0/8",)), CollectorRegistry())
    headers = [("Host", "node.example"), ("Accept", "*/*"), ("Authorization", "Bearer x"), ("User-Agent", "test")]

    async def send(message):
        pass

    best = 1.0
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(500):
            await app(scope_for(headers=headers), body_of(b""), send)
        best = min(best, (time.perf_counter() - began) / 500)
    assert best < 100e-6
