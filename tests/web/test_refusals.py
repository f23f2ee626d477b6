"""A real Connexion application: whatever it refuses is a problem document from our table that repeats nothing sent."""

import json

import connexion
import flask
import pytest
from connexion.exceptions import OAuthProblem
from connexion.middleware import MiddlewarePosition
from connexion.resolver import Resolver
from prometheus_client import CollectorRegistry
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from node.contract.problems import Conflict, DocumentNotFound
from node.web.bodies import validator_map
from node.web.metrics import Metrics, RouteFromOperation, render_metrics
from node.web.middleware import RequestId
from node.web.refusals import answer_refusals
from node.web.specification import operations

SECRET = "999941057058"
REGISTRY = CollectorRegistry()

PERSON = {
    "type": "object",
    "required": ["scheme", "value"],
    "additionalProperties": False,
    "properties": {
        "scheme": {"type": "string", "enum": ["aadhaar", "mobile"]},
        "value": {"type": "string", "pattern": "^[0-9]+$", "maxLength": 12},
        "rows": {"type": "array", "items": {"type": "object", "properties": {"size": {"type": "integer"}}}},
        "any": {},
    },
}


def operation(name, **more):
    return {
        "operationId": name,
        "x-roles": ["operator"],
        "x-audit": "none",
        "responses": {"200": {"description": "ok"}},
        **more,
    }


def body(media_type, schema, *, required=True):
    return {"requestBody": {"required": required, "content": {media_type: {"schema": schema}}}}


SPECIFICATION = {
    "openapi": "3.0.3",
    "info": {"title": "t", "version": "1"},
    "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer", "x-bearerInfoFunc": "unused"}}},
    "paths": {
        "/people": {
            "post": operation("post_person", **body("application/json", PERSON)),
            "get": operation(
                "get_people",
                parameters=[
                    {"name": "limit", "in": "query", "schema": {"type": "integer", "maximum": 9}},
                    {"name": "who", "in": "query", "schema": {"type": "string", "pattern": "^[a-z]+$"}},
                    {"name": "need", "in": "header", "schema": {"type": "string", "maxLength": 3}},
                ],
            ),
        },
        "/optional": {"post": operation("post_optional", **body("application/json", PERSON, required=False))},
        "/file": {"post": operation("post_file", **body("application/pdf", {"type": "string", "format": "binary"}))},
        "/form": {
            "post": operation(
                "post_form",
                **body(
                    "application/x-www-form-urlencoded",
                    {
                        "type": "object",
                        "required": ["grant"],
                        "properties": {"grant": {"type": "string", "maxLength": 5}},
                    },
                ),
            )
        },
        "/locked": {"get": operation("get_locked", security=[{"token": []}])},
        "/fails/{how}": {
            "get": operation(
                "get_failure",
                parameters=[{"name": "how", "in": "path", "required": True, "schema": {"type": "string"}}],
            )
        },
    },
}


def echo(**_):
    return {"length": len(flask.request.get_data())}


def fail(how):
    if how == "known":
        raise Conflict("Not now")
    if how == "lost":
        raise DocumentNotFound()
    if how == "abort":
        flask.abort(404, SECRET)
    raise KeyError(SECRET)


def check_token(token):
    if token == "none":
        raise OAuthProblem(SECRET)
    return None


HANDLERS = {
    "post_person": echo,
    "post_optional": echo,
    "post_file": echo,
    "post_form": echo,
    "get_people": echo,
    "get_locked": echo,
    "get_failure": fail,
    "unused": check_token,
}


@pytest.fixture(scope="module")
def client():
    app = connexion.FlaskApp(__name__)
    specification = json.loads(json.dumps(SPECIFICATION))
    specification["components"]["securitySchemes"]["token"]["x-bearerInfoFunc"] = f"{__name__}.check_token"
    app.add_api(
        specification,
        resolver=Resolver(HANDLERS.__getitem__),
        strict_validation=True,
        validator_map=validator_map(10_000),
        security_map={"bearer": TokenHandler},
    )
    answer_refusals(app, operations(SPECIFICATION))
    app.add_url_rule("/flask-only", view_func=lambda: "x", methods=["PUT", "DELETE"])
    app.add_middleware(
        RouteFromOperation, position=MiddlewarePosition.BEFORE_SECURITY, operations=operations(SPECIFICATION)
    )
    with TestClient(Metrics(RequestId(app), registry=REGISTRY), raise_server_exceptions=False) as client:
        yield client


class TokenHandler(connexion.security.BearerSecurityHandler):
    def _get_function(self, *_, **__):
        return check_token


def assert_problem(answer, status, slug):
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    document = answer.json()
    assert document["type"].endswith("/" + slug)
    assert document["request_id"] == answer.headers["x-request-id"]
    assert SECRET not in answer.text
    return document


JSON = {"Content-Type": "application/json"}
GOOD = b'{"scheme":"mobile","value":"1"}'


def test_good_bodies_arrive_whole(client):
    assert client.post("/people", content=GOOD, headers=JSON).json() == {"length": len(GOOD)}
    assert client.post("/people", content=iter([GOOD[:5], GOOD[5:]]), headers=JSON).json() == {"length": len(GOOD)}
    assert client.post("/file", content=b"%PDF", headers={"Content-Type": "application/pdf"}).json() == {"length": 4}
    form = client.post("/form", data={"grant": "x"})
    assert form.status_code == 200, form.text
    assert client.post("/optional").json() == {"length": 0}
    assert (
        client.post("/people", content=GOOD, headers={"Content-Type": "application/json; charset=UTF-8"}).status_code
        == 200
    )


@pytest.mark.parametrize(
    ("content", "status", "slug", "detail"),
    [
        (b"", 400, "bad-request", "needs a body"),
        (b"{", 400, "bad-request", "not JSON (line 1"),
        (b"   ", 400, "bad-request", "not JSON"),
        (b'\xff\xfe{"a":1}', 400, "bad-request", "UTF-8"),
        (b"[" * 100_000, 413, "body-too-large", None),
        (b"[" * 9_000, 400, "bad-request", "deep"),
        (b"[" * 60 + b"]" * 60, 400, "bad-request", "deep"),
        (b'{"scheme":"mobile","value":"1","value":"%s"}' % SECRET.encode(), 400, "bad-request", "twice"),
        (b'{"scheme":"mobile","value":"1","any":NaN}', 400, "bad-request", "number"),
        (b'{"scheme":"mobile","value":"1","any":1e999}', 400, "bad-request", "number"),
        (b'{"scheme":"mobile","value":"1","any":%s}' % (b"9" * 5000), 400, "bad-request", "number"),
        (b'{"scheme":"mobile","value":"1","any":"\\ud800"}', 400, "bad-request", "stored"),
        (b'{"scheme":"mobile","value":"1","any":{"\\u0000":1}}', 400, "bad-request", "stored"),
        (b"null", 400, "bad-request", "(type)"),
        (b"[]", 400, "bad-request", "(type)"),
        (b'{"scheme":"mobile"}', 400, "bad-request", "The body lacks 'value'"),
        (b'{"scheme":"mobile","value":"x%s"}' % SECRET.encode(), 400, "bad-request", "'value' does not have the form"),
        (b'{"scheme":"mobile","value":"1","%s":1}' % SECRET.encode(), 400, "bad-request", "not known here"),
        (
            b'{"scheme":"mobile","value":"1","rows":[{"size":"%s"}]}' % SECRET.encode(),
            400,
            "bad-request",
            "'rows[].size' does not have the form",
        ),
    ],
)
def test_bad_json(client, content, status, slug, detail):
    document = assert_problem(client.post("/people", content=content, headers=JSON), status, slug)
    assert detail is None or detail in document["detail"]


def test_an_escaped_backslash_before_u0000_is_no_nul(client):
    content = b'{"scheme":"mobile","value":"1","any":"\\\\u0000"}'
    assert client.post("/people", content=content, headers=JSON).status_code == 200


def test_a_chunked_body_over_the_limit_is_refused(client):
    chunks = iter([b"[" + b" " * 4000] * 4)
    assert_problem(client.post("/people", content=chunks, headers=JSON), 413, "body-too-large")


@pytest.mark.parametrize(
    ("path", "media_type", "content"),
    [
        ("/people", None, GOOD),
        ("/people", "text/plain", GOOD),
        ("/people", "application/json; charset=utf-16", GOOD),
        ("/people", "application/json; charset=nonsense", GOOD),
        ("/file", None, b"%PDF"),
        ("/file", "text/html", b"%PDF"),
        ("/form", None, b"grant=x"),
    ],
)
def test_bad_media_types(client, path, media_type, content):
    headers = {"Content-Type": media_type} if media_type else {}
    assert_problem(client.post(path, content=content, headers=headers), 415, "unsupported-media-type")


@pytest.mark.parametrize(
    "content", [b"", b"grant=x&grant=y", b"grant=%ff", b"grant=x&" + SECRET.encode(), b"grant=%00", b"grant=toolong"]
)
def test_bad_forms(client, content):
    answer = client.post("/form", content=content, headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert_problem(answer, 400, "bad-request")


def test_a_required_stream_may_not_be_empty_or_of_unknown_length(client):
    pdf = {"Content-Type": "application/pdf"}
    assert_problem(client.post("/file", content=b"", headers=pdf), 400, "bad-request")
    assert_problem(client.post("/file", content=iter([b"%PDF"]), headers=pdf), 400, "bad-request")


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        (f"limit={SECRET}", "query parameter 'limit'"),
        (f"limit=x{SECRET}", "query parameter 'limit'"),
        (f"who={SECRET}", "query parameter 'who'"),
        (f"{SECRET}=1", "not known here"),
    ],
)
def test_bad_parameters_are_named_and_not_repeated(client, query, detail):
    document = assert_problem(client.get(f"/people?{query}"), 400, "bad-request")
    assert detail in document["detail"]
    with capture_logs() as lines:
        client.get(f"/people?{query}")
    assert SECRET not in str(lines)


def test_a_bad_header_parameter(client):
    assert "'need'" in assert_problem(client.get("/people", headers={"need": SECRET}), 400, "bad-request")["detail"]


def test_good_parameters(client):
    assert client.get("/people?limit=3&who=abc").status_code == 200


def test_credentials(client):
    assert_problem(client.get("/locked"), 401, "missing-credential")
    answer = client.get("/locked", headers={"Authorization": "Bearer wrong"})
    assert_problem(answer, 401, "invalid-credential")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert_problem(client.get("/locked", headers={"Authorization": "Bearer none"}), 401, "invalid-credential")


def test_unknown_paths_and_methods(client):
    assert_problem(client.get(f"/{SECRET}"), 404, "not-found")
    answer = client.delete("/people")
    assert_problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "GET, HEAD, POST"
    answer = client.get("/flask-only")
    assert_problem(answer, 405, "method-not-allowed")
    assert set(answer.headers["allow"].split(", ")) == {"DELETE", "OPTIONS", "PUT"}


def test_errors_of_handlers(client):
    assert assert_problem(client.get("/fails/known"), 409, "conflict")["detail"] == "Not now"
    assert_problem(client.get("/fails/lost"), 404, "document-not-found")
    assert_problem(client.get("/fails/abort"), 404, "not-found")
    with capture_logs() as lines:
        answer = client.get("/fails/otherwise")
    assert_problem(answer, 500, "internal-error")
    assert [line["error"] for line in lines] == ["KeyError"]
    assert lines[0]["request_id"] == answer.headers["x-request-id"]


def test_metrics_name_the_operation_s_path(client):
    client.get("/fails/known")
    client.get(f"/{SECRET}")
    page = render_metrics(REGISTRY)[0].decode()
    assert 'http_requests_total{method="GET",route="/fails/{how}",status="409"}' in page
    assert 'route="other",status="404"' in page
    assert SECRET not in page
